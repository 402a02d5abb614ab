package edge

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

// Text in a charset that an event stream cannot carry comes as its bytes.
func TestOtherCharset(t *testing.T) {
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
		want := framingText
		if other {
			want = framingBase64
		}
		if got := framingOf(typ); got != want {
			t.Errorf("%s: framing %d", typ, got)
		}
	}
	if framingOf("application/json; charset=latin1") != framingJSON {
		t.Error("JSON is UTF-8, whatever it says")
	}
	s := newSite(t, Config{})
	latin := header{"Content-Type": "text/plain; charset=iso-8859-1"}
	s.put("/v1/stream/x", "", latin)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	if resp.Header.Get(hEncoding) != "base64" {
		t.Errorf("%v", resp.Header)
	}
	s.events(resp, 1)
	body := "D\xe9j\xe0 vu, un caf\xe9"
	s.want(s.do("POST", "/v1/stream/x", body, latin), http.StatusNoContent)
	for _, e := range s.events(resp, 2) {
		if got, err := base64.StdEncoding.DecodeString(e.data); e.name == "data" && (err != nil || string(got) != body) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Half a character whose rest does not come is shown as U+FFFD after a second, and the reader
// goes on at the next character. A client that catches up gets the bytes.
func TestHalfACharacterIsLetGo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "a", 201)
		s := b.get("offset=-1", nil)
		s.next(2)
		b.write("POST", "/v1/stream/x", "caf\xe2", 204)
		<-time.After(maxHeldTime - time.Millisecond)
		b.write("POST", "/v1/stream/x", "\x82", 204) // there is still news
		start := time.Now()
		es := s.next(2)
		if d := time.Since(start); es[0].data != "caf\ufffd" || es[1].id != es[0].id || !strings.Contains(es[1].data, "upToDate") || d != maxHeldTime {
			t.Errorf("%+v after %v", es, d)
		}
		again := b.get("offset="+es[0].id, nil)
		again.next(1)
		b.write("POST", "/v1/stream/x", "\xac!", 204)
		for _, s := range []*stream{s, again} {
			if next := s.next(2); next[0].data != "!" {
				t.Errorf("%+v", next)
			}
		}
		if w := ask(t, b.srv, "GET", "/v1/stream/x", nil, nil); w.Body.String() != "acaf€!" {
			t.Errorf("%q", w.Body)
		}
		start = time.Now() // and heartbeats go on
		p := make([]byte, 16)
		n, err := s.resp.Body.Read(p)
		if d := time.Since(start); err != nil || string(p[:n]) != ":\n\n" || d > 25*time.Second {
			t.Errorf("%q after %v, %v", p[:n], d, err)
		}
	})
}

// The same of the reactor, which has no timer for it.
func TestReactorLetsGo(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "a", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	s.events(resp, 2)
	start := time.Now()
	s.want(s.do("POST", "/v1/stream/x", "caf\xe2\x82", text), http.StatusNoContent)
	if es := s.events(resp, 2); es[0].data != "caf\ufffd" || time.Since(start) < maxHeldTime {
		t.Errorf("%+v", es)
	}
	s.want(s.do("POST", "/v1/stream/x", "\xac!", text), http.StatusNoContent)
	if es := s.events(resp, 2); es[0].data != "!" {
		t.Errorf("%+v", es)
	}
}

// A line break that lies across two messages is one, for a reader that is there, for one that
// comes late, for one that resumes between the two, and for one of a fork that begins there;
// and what is none stays none.
func TestSplitLineBreak(t *testing.T) {
	for _, messages := range [][]string{
		{"a\r", "\nb"},
		{"a\r", "\n", "\nb"},
		{"a\r", "\r", "\nb\r", "c"},
		{"a", "\nb"},
		{"\n\r", "\n"},
		{"\r\n", "\n\r\n"},
		{"é\r", "\né"},
		{"a\r", "\n\xe2", "\x82\xac"},
		{strings.Repeat("x", 3<<20) + "\r", "\nb"},
	} {
		s := newSite(t, Config{})
		s.put("/v1/stream/x", "", text)
		whole := oneBreak.Replace(strings.Join(messages, ""))
		live := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
		ends := []string{}
		for _, m := range messages {
			s.want(s.do("POST", "/v1/stream/x", m, text), http.StatusNoContent)
			ends = append(ends, s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset))
		}
		fork := s.do("PUT", "/v1/stream/f", "", header{hForkedFrom: "/v1/stream/x", hForkOffset: ends[0]})
		s.want(fork, http.StatusCreated)
		for _, m := range messages[1:] {
			s.want(s.do("POST", "/v1/stream/f", m, text), http.StatusNoContent)
		}
		for _, path := range []string{"/v1/stream/x", "/v1/stream/f"} {
			s.want(s.do("POST", path, "", header{hClosed: "true"}), http.StatusNoContent)
			if got := s.sse(s.do("GET", path+"?live=sse&offset=-1", "", nil), "text/plain"); got != whole {
				t.Errorf("%.20q: late %.20q", messages, got)
			}
		}
		if got := s.sse(live, "text/plain"); got != whole {
			t.Errorf("%.20q: live %.20q", messages, got)
		}
		before := oneBreak.Replace(messages[0])
		for _, path := range []string{"/v1/stream/x", "/v1/stream/f"} {
			for _, node := range []*site{s, newSiteOn(t, Config{}, overTLS, s.log)} { // which knows nothing of it
				if got := before + node.sse(node.do("GET", path+"?live=sse&offset="+ends[0], "", nil), "text/plain"); got != whole {
					t.Errorf("%.20q of %s: before and after %.20q", messages, path, got)
				}
			}
		}
	}
}

// Where text is cut changes nothing of it but what lies inside a character.
func FuzzJoined(f *testing.F) {
	for _, s := range []string{"a\r\nb", "\r\r\n\n\r", "€\r", "\xe2\x82", "\xf0\x9f\x98\n", "\x80\x80", "\xff\r\n"} {
		f.Add(s, uint8(1), uint8(2))
	}
	f.Fuzz(func(t *testing.T, s string, one, two uint8) {
		i := min(int(one), len(s))
		k := min(i+int(two), len(s))
		got, j := "", textBoundary{}
		for _, m := range []string{s[:i], s[i:k], s[k:]} {
			var b []byte
			b, j = joinText([][]byte{[]byte(m)}, j)
			if size, _ := unfinishedCharacter(b); size > 0 {
				t.Fatalf("%q ends inside a character", b)
			}
			got += oneBreak.Replace(string(b))
		}
		if utf8.ValidString(s[:i]) && utf8.ValidString(s[i:k]) && utf8.ValidString(s[k:]) {
			if want := oneBreak.Replace(s); got != want {
				t.Fatalf("%q: %q, want %q", s, got, want)
			}
		}
	})
}
