package edge

import (
	"bytes"
	"io"
	"net/http"
	"slices"
	"strings"
	"testing"
)

// client is an EventSource: what it was told, and the id that it comes back with.
type client struct {
	early bool // it takes an id when its line comes, and not with the event
	id    string
	data  []string
}

// receive takes what came of one connection. inside: the last line was an event's id, and its
// end has not come.
func (c *client) receive(b []byte) (inside bool) {
	id, name := c.id, ""
	var data []string
	for len(b) > 0 {
		n := bytes.IndexByte(b, '\n')
		if n < 0 {
			break
		}
		field, value, _ := strings.Cut(string(b[:n]), ":")
		value, b = strings.TrimPrefix(value, " "), b[n+1:]
		inside = field == "id"
		switch field {
		case "":
			c.id = id
			if name == "data" {
				c.data = append(c.data, strings.Join(data, "\n"))
			}
			name, data = "", nil
		case "id":
			if id = value; c.early {
				c.id = id
			}
		case "event":
			name = value
		case "data":
			data = append(data, value)
		}
	}
	return inside
}

// A connection may break at any byte. A client that resumes with its last id, whether it takes that
// when its line comes, as eventsource 1 and 2 and fetch-event-source do, or with the whole
// event, as the HTML standard says, gets every message once. One byte of an event is out of
// reach of an early client: between the end of the id's line and the empty one.
func TestClientThatIsCutOffResumesExactly(t *testing.T) {
	for typ, messages := range map[string][]string{
		"text/plain":               {"one\ntwo\r\nthree", "\n", "four", " five\r", "six"},
		"application/json":         {`{"n":1}`, `{"n":2}`, `"three"`},
		"application/octet-stream": {"one", "\x00\xff", "three"},
	} {
		for _, early := range []bool{false, true} {
			t.Run(strings.ReplaceAll(typ, "/", "-"), func(t *testing.T) {
				s := newSite(t, Config{})
				wire := s.recordEvents(typ, messages)
				var all client
				all.receive(wire)
				if len(all.data) != len(messages) {
					t.Fatalf("%q", all.data)
				}
				rest, lost := map[string][]string{"": all.data}, 0
				for cut := range wire {
					c := client{early: early}
					if c.receive(wire[:cut]) && early {
						lost++
						continue
					}
					if _, ok := rest[c.id]; !ok {
						rest[c.id] = s.messagesAfter(c.id)
					}
					if !slices.Equal(slices.Concat(c.data, rest[c.id]), all.data) {
						t.Fatalf("cut after %q: %q, and after %s %q", wire[:cut], c.data, c.id, rest[c.id])
					}
				}
				if ids := bytes.Count(wire, []byte("\nid: ")); early && lost != ids {
					t.Errorf("%d bytes are out of reach, of %d ids", lost, ids)
				}
			})
		}
	}
}

// recordEvents returns the bytes that a live reader gets for these messages, each an event of its
// own, and for the end.
func (s *site) recordEvents(typ string, messages []string) []byte {
	s.Helper()
	h := header{"Content-Type": typ}
	s.put("/v1/stream/x", "", h)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	defer resp.Body.Close()
	var wire bytes.Buffer
	said := io.TeeReader(resp.Body, &wire)
	await := func(n int) {
		for b := make([]byte, 1); bytes.Count(wire.Bytes(), []byte("event: control")) < n || !bytes.HasSuffix(wire.Bytes(), []byte("\n\n")); {
			if _, err := said.Read(b); err != nil {
				s.Fatalf("%q: %v", wire.Bytes(), err)
			}
		}
	}
	await(1)
	for i, m := range messages {
		s.want(s.do("POST", "/v1/stream/x", m, h), http.StatusNoContent)
		await(i + 2)
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), http.StatusNoContent)
	if _, err := io.Copy(io.Discard, said); err != nil {
		s.Fatal(err)
	}
	return wire.Bytes()
}

// messagesAfter returns what an EventSource gets that resumes with an id.
func (s *site) messagesAfter(id string) []string {
	s.Helper()
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", header{"Last-Event-ID": id})
	if resp.StatusCode == http.StatusNoContent {
		return nil
	}
	var c client
	c.receive([]byte(s.want(resp, http.StatusOK)))
	return c.data
}
