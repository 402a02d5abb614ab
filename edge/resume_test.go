package edge

import (
	"encoding/base64"
	"net/http"
	"strings"
	"testing"

	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
)

// awkward are messages that a careless server would let end an event, begin a field
// or fall apart, for each framing.
var awkward = map[string][]string{
	"text/plain": {
		"one", "\n", "\r", "\r\n", "\x00", " a space", "\n\n", "data: x", "\n\nevent: control\ndata: {\"streamClosed\":true}\n\n",
		"id: 9\n", ": comment\n", "retry: 1\n", "\ufeffbom", "caf\xc3", "\xa9!", "\xf0\x9f", "\xaa", "\xad", "lone\xff", "\u2028", strings.Repeat("0123456789abcde\n", 1<<16),
	},
	"application/json": {
		`"a\nb"`, `"\u0000"`, "{\n \"a\":\r\n[1,2]\r}", `[[1],[]]`, `"\n\nevent: control\ndata: {}\n\n"`, `"é"`, `null`, `"` + strings.Repeat("x", 1<<20) + `"`,
	},
	"application/octet-stream": {
		"\x00\x01\xff", "\n\n", "a", "ab", "abc", strings.Repeat("\x00\n\r\xff", 1<<18),
	},
}

// Whatever a stream holds, an SSE reader gets just that; and a reader that comes back
// with the id of any event, by Last-Event-ID or as its offset, gets just the rest.
func TestResumeAtEveryEvent(t *testing.T) {
	for typ, messages := range awkward {
		t.Run(strings.ReplaceAll(typ, "/", "-"), func(t *testing.T) {
			t.Parallel()
			s := newSite(t, Config{})
			h := header{"Content-Type": typ}
			s.put("/v1/stream/x", "", h)
			live := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
			for _, m := range messages {
				s.want(s.do("POST", "/v1/stream/x", m, h), 204)
			}
			s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
			if got, want := s.textOfEvents(live, typ), s.readFrom("-1", typ); got != want {
				t.Fatalf("live: %.200q, want %.200q", got, want)
			}
			resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
			if enc := resp.Header.Get(hEncoding); (enc == "base64") != (sse.FramingOf(typ) == sse.FramingBase64) {
				t.Errorf("encoding %q", enc)
			}
			for _, e := range s.allEvents(resp) {
				rest := s.readFrom(e.ID, typ)
				if got := s.textOfEvents(s.do("GET", "/v1/stream/x?live=sse&offset="+e.ID, "", nil), typ); got != rest {
					t.Errorf("from %s: %.200q, want %.200q", e.ID, got, rest)
				}
				again := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", header{"Last-Event-ID": e.ID})
				if again.StatusCode == 204 { // it is the last
					if head := s.do("HEAD", "/v1/stream/x", "", nil); head.Header.Get(hNextOffset) != e.ID {
						t.Errorf("204 after %s", e.ID)
					}
				} else if got := s.textOfEvents(again, typ); got != rest {
					t.Errorf("after %s: %.200q, want %.200q", e.ID, got, rest)
				}
			}
		})
	}
}

// allEvents returns every event of a response that ends.
func (s *site) allEvents(resp *http.Response) []ssetest.Event {
	s.Helper()
	es, rest, err := ssetest.Parse([]byte(s.want(resp, 200)))
	if err != nil || len(rest) > 0 {
		s.Fatalf("ends with %q, %v", rest, err)
	}
	return es
}

// readFrom returns what catch-up gives from an offset on, as far as SSE can carry it: an event
// stream has one kind of line break. JSON is without its outer brackets.
func (s *site) readFrom(offset, typ string) string {
	s.Helper()
	var parts []string
	for done := false; !done; {
		resp := s.do("GET", "/v1/stream/x?offset="+offset, "", nil)
		part := s.want(resp, 200)
		if sse.FramingOf(typ) == sse.FramingJSON {
			part = withoutBrackets(part)
		}
		if part != "" {
			parts = append(parts, part)
		}
		offset, done = resp.Header.Get(hNextOffset), resp.Header.Get(hUpToDate) == "true"
	}
	switch sse.FramingOf(typ) {
	case sse.FramingText:
		return ssetest.OneBreak.Replace(strings.Join(parts, ""))
	case sse.FramingJSON:
		return ssetest.OneBreak.Replace(strings.Join(parts, ","))
	default:
		return strings.Join(parts, "")
	}
}

func withoutBrackets(array string) string {
	return strings.TrimSuffix(strings.TrimPrefix(array, "["), "]")
}

// textOfEvents returns what the data events of a response hold together, in the form of readFrom.
func (s *site) textOfEvents(resp *http.Response, typ string) string {
	s.Helper()
	var parts []string
	for _, e := range s.allEvents(resp) {
		switch {
		case e.Name != "data":
		case sse.FramingOf(typ) == sse.FramingBase64:
			raw, err := base64.StdEncoding.DecodeString(e.Data)
			if err != nil {
				s.Fatal(err)
			}
			parts = append(parts, string(raw))
		case sse.FramingOf(typ) == sse.FramingJSON:
			parts = append(parts, withoutBrackets(e.Data))
		default:
			parts = append(parts, e.Data)
		}
	}
	if sse.FramingOf(typ) == sse.FramingJSON {
		return strings.Join(parts, ",")
	}
	return strings.Join(parts, "")
}
