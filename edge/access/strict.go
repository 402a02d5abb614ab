package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"unicode/utf8"
)

// maxNesting bounds the levels of a token's JSON.
const maxNesting = 8

var (
	errNotUTF8   = errors.New("it is not valid UTF-8")
	errNesting   = errors.New("it is nested too deeply")
	errTrailing  = errors.New("something follows the JSON value")
	errNotObject = errors.New("it is not a JSON object")
)

// decodeObject decodes one JSON object. It refuses what parsers disagree about: a member
// that is there twice, at any depth, invalid UTF-8 (an unpaired surrogate included), and
// anything behind the object. Numbers stay json.Number, as they were written.
func decodeObject(b []byte) (map[string]any, error) {
	if !utf8.Valid(b) {
		return nil, errNotUTF8
	}
	d := json.NewDecoder(bytes.NewReader(b))
	d.UseNumber()
	v, err := decodeValue(d, 0)
	if err != nil {
		return nil, err
	}
	if _, err := d.Token(); !errors.Is(err, io.EOF) {
		return nil, errTrailing
	}
	object, ok := v.(map[string]any)
	if !ok {
		return nil, errNotObject
	}
	return object, nil
}

func decodeValue(d *json.Decoder, depth int) (any, error) {
	t, err := d.Token()
	if err != nil {
		return nil, err
	}
	switch t := t.(type) {
	case json.Delim:
		if depth == maxNesting {
			return nil, errNesting
		}
		if t == '{' {
			return decodeMembers(d, depth+1)
		}
		return decodeElements(d, depth+1)
	case string:
		return t, checkString(t)
	default:
		return t, nil // json.Number, bool, nil
	}
}

func decodeMembers(d *json.Decoder, depth int) (any, error) {
	object := map[string]any{}
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		name, ok := t.(string)
		if !ok {
			return nil, errNotObject
		}
		if err := checkString(name); err != nil {
			return nil, err
		}
		if _, twice := object[name]; twice {
			return nil, fmt.Errorf("the member %.64q is there twice", name)
		}
		if object[name], err = decodeValue(d, depth); err != nil {
			return nil, err
		}
	}
	_, err := d.Token() // the closing brace
	return object, err
}

func decodeElements(d *json.Decoder, depth int) (any, error) {
	array := []any{}
	for d.More() {
		v, err := decodeValue(d, depth)
		if err != nil {
			return nil, err
		}
		array = append(array, v)
	}
	_, err := d.Token() // the closing bracket
	return array, err
}

// checkString refuses U+FFFD: encoding/json puts it in the place of an unpaired surrogate,
// which would make two different strings equal.
func checkString(s string) error {
	for _, r := range s {
		if r == utf8.RuneError {
			return errNotUTF8
		}
	}
	return nil
}
