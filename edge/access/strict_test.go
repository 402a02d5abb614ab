package access

import (
	"strings"
	"testing"
)

// What two parsers may read differently is refused, at any depth.
func TestDecodeObjectRefusesWhatParsersDisagreeAbout(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		json string
		good bool
	}{
		"an object":               {`{"a":1,"b":[true,null,"x",{"c":1.5e3}]}`, true},
		"space around":            {" {\"a\":1}\n", true},
		"names by case":           {`{"sub":"a","Sub":"b"}`, true},
		"a member twice":          {`{"sub":"a","sub":"b"}`, false},
		"twice by escape":         {`{"sub":"a","s\u0075b":"b"}`, false},
		"twice in depth":          {`{"a":[{"b":1,"b":2}]}`, false},
		"invalid UTF-8":           {"{\"a\":\"\xff\"}", false},
		"half a surrogate":        {`{"a":"\ud800"}`, false},
		"half in a name":          {`{"\udc00":1}`, false},
		"a pair of surrogates":    {`{"a":"\ud83d\ude00"}`, true},
		"something behind":        {`{"a":1}{}`, false},
		"a comma behind":          {`{"a":1},`, false},
		"a trailing comma":        {`{"a":1,}`, false},
		"a comment":               {`{"a":1/**/}`, false},
		"an array":                {`[1]`, false},
		"a string":                {`"a"`, false},
		"nothing":                 {``, false},
		"cut":                     {`{"a":`, false},
		"a number with a zero":    {`{"a":01}`, false},
		"not a number":            {`{"a":NaN}`, false},
		"eight deep":              {strings.Repeat(`{"a":`, 7) + `{}` + strings.Repeat(`}`, 7), true},
		"nine deep":               {strings.Repeat(`{"a":`, 8) + `{}` + strings.Repeat(`}`, 8), false},
		"nine deep with arrays":   {`{"a":` + strings.Repeat(`[`, 8) + strings.Repeat(`]`, 8) + `}`, false},
		"an unquoted name":        {`{a:1}`, false},
		"a mark at the beginning": {"\uFEFF{}", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, err := decodeObject([]byte(row.json)); (err == nil) != row.good {
				t.Errorf("%s: %v", row.json, err)
			}
		})
	}
}
