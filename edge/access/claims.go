package access

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// Claims are the members of a token's payload: string, json.Number, bool, nil, []any or
// map[string]any.
type Claims map[string]any

// lookup returns the claim of a name: a member at the top by its name as it is, or, if the
// name begins with "/", what a JSON pointer (RFC 6901) leads to.
func (c Claims) lookup(name string) (any, bool) {
	if !strings.HasPrefix(name, "/") {
		v, ok := c[name]
		return v, ok
	}
	var at any = map[string]any(c)
	for step := range strings.SplitSeq(name[1:], "/") {
		step = strings.ReplaceAll(strings.ReplaceAll(step, "~1", "/"), "~0", "~")
		switch v := at.(type) {
		case map[string]any:
			next, ok := v[step]
			if !ok {
				return nil, false
			}
			at = next
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(v) || strconv.Itoa(i) != step {
				return nil, false
			}
			at = v[i]
		default:
			return nil, false
		}
	}
	return at, true
}

// text returns the claim of a name if it is a string.
func (c Claims) text(name string) (string, bool) {
	v, _ := c.lookup(name)
	s, ok := v.(string)
	return s, ok
}

// Condition maps the names of claims to the values of which each must have one. A claim
// that is an array has a value if one of its elements is that value.
type Condition map[string][]any

// missing returns the name of a claim that has none of its values, the first in order; ""
// if all hold.
func (c Condition) missing(claims Claims) string {
	return c.first(claims, false)
}

// present returns the name of a claim that has one of its values, the first in order; "" if
// none has.
func (c Condition) present(claims Claims) string {
	return c.first(claims, true)
}

func (c Condition) first(claims Claims, has bool) string {
	found := ""
	for name, values := range c {
		v, _ := claims.lookup(name)
		if hasValue(v, values) == has && (found == "" || name < found) {
			found = name
		}
	}
	return found
}

// hasValue reports whether a claim is one of the values, or an array with one of them.
func hasValue(claim any, values []any) bool {
	if array, ok := claim.([]any); ok {
		return slices.ContainsFunc(array, func(v any) bool { return isOneOf(v, values) })
	}
	return isOneOf(claim, values)
}

func isOneOf(v any, values []any) bool {
	return slices.ContainsFunc(values, func(want any) bool { return equalValues(v, want) })
}

// equalValues compares strings, booleans and numbers, each with its own kind only: "1", 1
// and true are three values.
func equalValues(a, b any) bool {
	x, ok := a.(json.Number)
	y, also := b.(json.Number)
	if ok && also {
		return equalNumbers(x, y)
	}
	if ok != also {
		return false
	}
	switch a.(type) {
	case string, bool:
		return a == b
	}
	return false
}

// equalNumbers compares integers exactly and other numbers as IEEE 754 doubles, which is
// what the two sides can be expected to hold.
func equalNumbers(x, y json.Number) bool {
	if x == y {
		return true
	}
	i, err := strconv.ParseInt(x.String(), 10, 64)
	j, err2 := strconv.ParseInt(y.String(), 10, 64)
	if err == nil && err2 == nil {
		return i == j
	}
	f, err := strconv.ParseFloat(x.String(), 64)
	g, err2 := strconv.ParseFloat(y.String(), 64)
	exact := func(f float64) bool { return f > -1<<53 && f < 1<<53 }
	return err == nil && err2 == nil && f == g && exact(f)
}

// seconds returns a claim that is a time: a JSON number in (0, 2³³), in seconds since 1970,
// rounded down. ok is false if the claim is absent.
func (c Claims) seconds(name string) (at int64, ok bool, err error) {
	v, ok := c[name]
	if !ok {
		return 0, false, nil
	}
	n, isNumber := v.(json.Number)
	if !isNumber {
		return 0, true, fmt.Errorf("%s is not a number", name)
	}
	f, err := strconv.ParseFloat(n.String(), 64)
	if err != nil || f <= 0 || f >= 1<<33 {
		return 0, true, fmt.Errorf("%s is not a time in seconds since 1970", name)
	}
	return int64(f), true, nil
}
