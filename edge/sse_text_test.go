package edge

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
)

// Text in a charset that an event stream cannot carry comes as its bytes.
func TestOtherCharset(t *testing.T) {
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
		if got, err := base64.StdEncoding.DecodeString(e.Data); e.Name == "data" && (err != nil || string(got) != body) {
			t.Errorf("%q, %v", got, err)
		}
	}
}

// Half a character whose rest does not come is shown as U+FFFD after a second, and the reader
// goes on at the next character. A client that catches up gets the bytes.
func TestHalfACharacterIsReleased(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "a", 201)
		s := b.get("offset=-1", nil)
		s.next(2)
		b.write("POST", "/v1/stream/x", "caf\xe2", 204)
		<-time.After(sse.MaxHeldTime - time.Millisecond)
		b.write("POST", "/v1/stream/x", "\x82", 204) // there is still news
		start := time.Now()
		es := s.next(2)
		if d := time.Since(start); es[0].Data != "caf\ufffd" || es[1].ID != es[0].ID || !strings.Contains(es[1].Data, "upToDate") || d != sse.MaxHeldTime {
			t.Errorf("%+v after %v", es, d)
		}
		again := b.get("offset="+es[0].ID, nil)
		again.next(1)
		b.write("POST", "/v1/stream/x", "\xac!", 204)
		for _, s := range []*stream{s, again} {
			if next := s.next(2); next[0].Data != "!" {
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
func TestReactorReleasesHalfACharacter(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "a", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	s.events(resp, 2)
	start := time.Now()
	s.want(s.do("POST", "/v1/stream/x", "caf\xe2\x82", text), http.StatusNoContent)
	if es := s.events(resp, 2); es[0].Data != "caf\ufffd" || time.Since(start) < sse.MaxHeldTime {
		t.Errorf("%+v", es)
	}
	s.want(s.do("POST", "/v1/stream/x", "\xac!", text), http.StatusNoContent)
	if es := s.events(resp, 2); es[0].Data != "!" {
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
		whole := ssetest.OneBreak.Replace(strings.Join(messages, ""))
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
			if got := s.textOfEvents(s.do("GET", path+"?live=sse&offset=-1", "", nil), "text/plain"); got != whole {
				t.Errorf("%.20q: late %.20q", messages, got)
			}
		}
		if got := s.textOfEvents(live, "text/plain"); got != whole {
			t.Errorf("%.20q: live %.20q", messages, got)
		}
		before := ssetest.OneBreak.Replace(messages[0])
		for _, path := range []string{"/v1/stream/x", "/v1/stream/f"} {
			for _, node := range []*site{s, newSiteOn(t, Config{}, overTLS, s.log)} { // which knows nothing of it
				if got := before + node.textOfEvents(node.do("GET", path+"?live=sse&offset="+ends[0], "", nil), "text/plain"); got != whole {
					t.Errorf("%.20q of %s: before and after %.20q", messages, path, got)
				}
			}
		}
	}
}
