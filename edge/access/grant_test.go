package access

import (
	"encoding/json"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// A pattern matches whole segments, and nothing by accident.
func TestPatternMatches(t *testing.T) {
	t.Parallel()
	for _, row := range []struct {
		pattern, name string
		want          bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a", "a/b", false},
		{"*", "a", true},
		{"*", "a/b", false},
		{"**", "a", true},
		{"**", "a/b/c", true},
		{"a/**", "a", true}, // "**" is none or more
		{"a/**", "a/b/c", true},
		{"a/**", "ab", false},
		{"**/b", "b", true},
		{"**/b", "a/a/b", true},
		{"**/b", "a/b/c", false},
		{"a/*/c", "a/b/c", true},
		{"a/*/c", "a/c", false},
		{"a/**/c", "a/c", true},
		{"a/**/c", "a/b/b/c", true},
		{"a/**/c/**/e", "a/c/c/d/e", true},
		{"a/**/*", "a", false},
		{"a*", "ab", false}, // no partial wildcards
		{"a*", "a*", true},
		{"***", "a", false},
		{"users/4", "users/42", false},
		{"A", "a", false},
		{"é", "e\u0301", false}, // bytes, not forms
		{"%2A", "*", false},     // no escapes
	} {
		t.Run(row.pattern+" on "+row.name, func(t *testing.T) {
			t.Parallel()
			p, err := ParsePattern(row.pattern, false)
			if err != nil {
				t.Fatal(err)
			}
			if got := p.Match(row.name); got != row.want {
				t.Errorf("got %v", got)
			}
		})
	}
}

// Match agrees with the plainest matcher that there is.
func TestPatternMatchesAsDefined(t *testing.T) {
	t.Parallel()
	var match func(p, n []string) bool
	match = func(p, n []string) bool {
		switch {
		case len(p) == 0:
			return len(n) == 0
		case p[0] == "**":
			return match(p[1:], n) || len(n) > 0 && match(p, n[1:])
		}
		return len(n) > 0 && (p[0] == "*" || p[0] == n[0]) && match(p[1:], n[1:])
	}
	rapid.Check(t, func(t *rapid.T) {
		pattern := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*", "**"}), 1, 7).Draw(t, "pattern")
		name := rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "*"}), 1, 8).Draw(t, "name")
		p, err := ParsePattern(strings.Join(pattern, "/"), false)
		if err != nil {
			t.Skip() // too many "**"
		}
		if got, want := p.Match(strings.Join(name, "/")), match(pattern, name); got != want {
			t.Fatalf("got %v, want %v", got, want)
		}
	})
}

// A pattern that cannot mean what was meant is an error when it is parsed.
func TestParsePatternRefuses(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("a/", 64) + "a"
	for name, row := range map[string]struct {
		pattern   string
		templates bool
	}{
		"nothing":                   {"", false},
		"a leading slash":           {"/a", false},
		"a trailing slash":          {"a/", false},
		"an empty segment":          {"a//b", false},
		"too many segments":         {long, false},
		"too many bytes":            {strings.Repeat("a", 513), false},
		"five deep":                 {"**/a/**/a/**/a/**/a/**", false},
		"part of a segment":         {"user-{sub}", true},
		"an unknown placeholder":    {"{name}/**", true},
		"a claim without a name":    {"{claim:}/**", true},
		"an open brace":             {"{sub", true},
		"two in one segment":        {"{sub}{sub}", true},
		"a claim with braces in it": {"{claim:{a}}", true},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := ParsePattern(row.pattern, row.templates); err == nil {
				t.Error("it is parsed")
			}
		})
	}
	if p, err := ParsePattern("{sub}", false); err != nil || !p.Match("{sub}") || p.Match("x") {
		t.Error("a token's own pattern has a placeholder")
	}
}

// A claim fills one literal segment, whatever it says.
func TestTemplateIsFilledWithOneLiteralSegment(t *testing.T) {
	t.Parallel()
	claims := Claims{
		"sub": "ada", "org": map[string]any{"id": "o1"}, "teams": []any{"x", "y"}, "n": json.Number("4"), "none": []any{},
		"star": "*", "deep": "**", "up": "..", "slash": "a/b", "own": "__ds", "empty": "", "line": "a\nb", "long": strings.Repeat("a", 129),
	}
	for _, row := range []struct {
		pattern string
		matches string // empty: it cannot be filled
		not     string
	}{
		{"users/{sub}/**", "users/ada/x", "users/bob/x"},
		{"{claim:/org/id}/**", "o1/a", "o2/a"},
		{"t/{claim:teams}", "t/y", "t/z"},
		{"users/{claim:star}/**", "", ""},
		{"users/{claim:deep}", "", ""},
		{"users/{claim:up}", "", ""},
		{"users/{claim:slash}", "", ""},
		{"{claim:own}/**", "", ""},
		{"{claim:empty}", "", ""},
		{"{claim:line}", "", ""},
		{"{claim:long}", "", ""},
		{"{claim:n}", "", ""},
		{"{claim:none}", "", ""},
		{"{claim:absent}", "", ""},
	} {
		t.Run(row.pattern, func(t *testing.T) {
			t.Parallel()
			p, err := ParsePattern(row.pattern, true)
			if err != nil {
				t.Fatal(err)
			}
			filled, why := p.fill(claims)
			if row.matches == "" {
				if len(filled) > 0 || why == "" {
					t.Fatalf("it is filled: %+v", filled)
				}
				return
			}
			gs := grants{{Actions: Read, Patterns: filled}}
			if gs.allow(Read, row.matches) == 0 || gs.allow(Read, row.not) != 0 {
				t.Errorf("%+v", filled)
			}
		})
	}
}

// Nothing that is granted reaches the server's own streams.
func TestGrantsDoNotReachReservedNames(t *testing.T) {
	t.Parallel()
	all, err := ParsePattern("**", false)
	if err != nil {
		t.Fatal(err)
	}
	gs := grants{{Actions: allActions, Patterns: []Pattern{all}, Names: []string{"__ds/revocations"}}}
	for _, name := range []string{"__ds", "__ds/revocations", "__ds/a/b"} {
		if gs.allow(Read, name) != 0 {
			t.Errorf("%s is granted", name)
		}
	}
	if gs.allow(Read|Delete, "__dsx") != Read|Delete {
		t.Error("__dsx is an ordinary name")
	}
}

// A name that looks like a pattern is granted by names, and grants itself alone.
func TestNamesAreNoPatterns(t *testing.T) {
	t.Parallel()
	gs := grants{{Actions: Read, Names: []string{"room/*", "**"}}}
	all, err := ParsePattern("halls/**", false)
	if err != nil {
		t.Fatal(err)
	}
	gs = append(gs, Grant{Actions: Read, Patterns: []Pattern{all}})
	for name, want := range map[string]Actions{"room/*": Read, "**": Read, "room/a": 0, "a": 0, "halls/a": Read, "halls/*": 0, "halls/a/**/b": 0, "halls/a*": Read} {
		if got := gs.allow(Read, name); got != want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
