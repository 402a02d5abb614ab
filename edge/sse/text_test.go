package sse

import (
	"bytes"
	"encoding/json"
	"testing"
	"unicode/utf8"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
)

// Where text is cut changes nothing of it but what lies inside a character.
func FuzzJoined(f *testing.F) {
	for _, s := range []string{"a\r\nb", "\r\r\n\n\r", "€\r", "\xe2\x82", "\xf0\x9f\x98\n", "\x80\x80", "\xff\r\n"} {
		f.Add(s, uint8(1), uint8(2))
	}
	f.Fuzz(func(t *testing.T, s string, one, two uint8) {
		i := min(int(one), len(s))
		k := min(i+int(two), len(s))
		got, boundary := "", textBoundary{}
		for _, m := range []string{s[:i], s[i:k], s[k:]} {
			var b []byte
			b, boundary = joinText([][]byte{[]byte(m)}, boundary)
			if size, _ := unfinishedCharacter(b); size > 0 {
				t.Fatalf("%q ends inside a character", b)
			}
			got += ssetest.OneBreak.Replace(string(b))
		}
		if utf8.ValidString(s[:i]) && utf8.ValidString(s[i:k]) && utf8.ValidString(s[k:]) {
			if want := ssetest.OneBreak.Replace(s); got != want {
				t.Fatalf("%q: %q, want %q", s, got, want)
			}
		}
	})
}

// Invariant of renderData: no message ends its event or begins a field, and a client
// gets the text back but for the kind of its line breaks.
func FuzzAppendLines(f *testing.F) {
	for _, s := range []string{
		"a", " a", "  a\n  b\r\n c", "\n", "\r", "\r\n", "\n\r", "\r\r\n\n", "a\n\nevent: control\ndata:{}\n\n", "a\r", "\nb",
		":\n\n", "id: 9\n", "\ufeffa", "\x00", "\u2028", "data: x",
	} {
		f.Add([]byte(s), []byte("\n id: 1\n\n"))
	}
	f.Fuzz(func(t *testing.T, a, b []byte) {
		for _, messages := range [][][]byte{{a}, {b}, {a, b}} {
			whole := string(bytes.Join(messages, nil))
			es, rest, err := ssetest.Parse(renderData(FramingText, 3, 9, messages))
			want := ssetest.Event{ID: position.FormatOffset(3, 9), Name: "data", Data: ssetest.OneBreak.Replace(whole)}
			if err != nil || len(rest) > 0 || len(es) != 1 || es[0] != want {
				t.Fatalf("%q: %+v, rest %q, %v", messages, es, rest, err)
			}
		}
		if json.Valid(a) && utf8.Valid(a) {
			es, rest, err := ssetest.Parse(renderData(FramingJSON, 3, 9, [][]byte{a, a}))
			if err != nil || len(rest) > 0 || len(es) != 1 {
				t.Fatalf("%q: %+v, rest %q, %v", a, es, rest, err)
			}
			var got, want any
			if json.Unmarshal([]byte(es[0].Data), &got) != nil || json.Unmarshal([]byte("["+string(a)+","+string(a)+"]"), &want) != nil {
				t.Fatalf("%q: %q", a, es[0].Data)
			}
			g, _ := json.Marshal(got)
			w, _ := json.Marshal(want)
			if !bytes.Equal(g, w) {
				t.Fatalf("%q: %q", a, es[0].Data)
			}
		}
	})
}

// A charset that an event stream cannot carry makes base64 of text.
func TestFramingOfCharset(t *testing.T) {
	for typ, other := range map[string]bool{
		"text/plain":                                     false,
		"text/plain; charset=utf-8":                      false,
		`text/html;CHARSET="UTF-8"`:                      false,
		"text/plain; charset=us-ascii":                   false,
		"text/plain; format=flowed":                      false,
		"text/plain; charset=":                           true,
		"text/plain; charset=iso-8859-1":                 true,
		`text/plain; format=flowed; Charset="Shift_JIS"`: true,
		"text/plain; charset*=us-ascii'en'utf-16":        true,
		"text/plain; charset=utf-8; charset=utf-16":      true,
		"text/plain; charset=utf-8; =":                   true,
		"text/plain; charset=utf-16le":                   true,
	} {
		t.Run(typ, func(t *testing.T) {
			want := FramingText
			if other {
				want = FramingBase64
			}
			if got := FramingOf(typ); got != want {
				t.Errorf("%s: framing %d", typ, got)
			}
		})
	}
	if FramingOf("application/json; charset=latin1") != FramingJSON {
		t.Error("JSON is UTF-8, whatever it says")
	}
}
