package edge

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"
)

// request sends one request and returns the connection and its answer.
func (s *site) request(request string) (net.Conn, *http.Response) {
	s.Helper()
	c := s.dial()
	if _, err := io.WriteString(c, request); err != nil {
		s.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil || resp.StatusCode != 200 {
		s.Fatal(resp, err)
	}
	return c, resp
}

// An event stream over HTTP/1.1 says where it ends, whatever ends it; one that is cut does not.
func TestEventStreamEndsWithItsLastChunk(t *testing.T) {
	for name, end := range map[string]struct {
		by    func(s *site)
		clean bool
	}{
		"closed": {func(s *site) {
			s.want(s.do("POST", "/v1/stream/x", "two;", header{"Content-Type": "text/plain", hClosed: "true"}), 204)
		}, true},
		"closed with nothing": {func(s *site) { s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204) }, true},
		"deleted":             {func(s *site) { s.want(s.do("DELETE", "/v1/stream/x", "", nil), 204) }, true},
		"drained": {func(s *site) {
			if err := s.srv.Drain(s.Context(), 0); err != nil {
				s.Fatal(err)
			}
		}, true},
		"cut": {func(s *site) { s.srv.Close() }, false},
	} {
		t.Run(name, func(t *testing.T) {
			s, _ := reactorSite(t, Config{})
			s.put("/v1/stream/x", "one;", text)
			_, resp := s.request("GET /v1/stream/x?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n")
			if len(resp.TransferEncoding) != 1 || resp.TransferEncoding[0] != "chunked" || resp.ContentLength >= 0 || !resp.Close {
				t.Fatalf("%v, length %d, close %v", resp.TransferEncoding, resp.ContentLength, resp.Close)
			}
			s.eventually("it is in the reactor", func() bool { return s.inReactor() == 1 })
			end.by(s)
			b, err := io.ReadAll(resp.Body)
			if end.clean != (err == nil) || !end.clean && !errors.Is(err, io.ErrUnexpectedEOF) {
				t.Errorf("it ends with %v", err)
			}
			if _, rest, err := parseSSE(b); err != nil || len(rest) > 0 {
				t.Errorf("in the middle of an event: %q, %v", rest, err)
			}
		})
	}
}

// A client that knows no chunks gets none, beside one of the same stream that does.
func TestEventStreamOverHTTP10HasNoChunks(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one;", text)
	_, old := s.request("GET /v1/stream/x?live=sse&offset=-1 HTTP/1.0\r\n\r\n")
	_, young := s.request("GET /v1/stream/x?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if len(old.TransferEncoding) > 0 || len(young.TransferEncoding) != 1 {
		t.Fatalf("%v and %v", old.TransferEncoding, young.TransferEncoding)
	}
	for n := range 20 {
		s.want(s.do("POST", "/v1/stream/x", fmt.Sprint(n, ";"), text), 204)
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	want, got := "", [2]string{}
	for n, resp := range []*http.Response{old, young} {
		got[n] = s.sse(resp, "text/plain")
	}
	for n := range 20 {
		want += fmt.Sprint(n, ";")
	}
	if want = "one;" + want; got[0] != want || got[1] != want {
		t.Errorf("%q and %q, want %q", got[0], got[1], want)
	}
}

// What a slow client is sent in many writes is the same chunks, read strictly.
func TestChunksOfASlowReader(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	c, resp := s.request("GET /v1/stream/x?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n")
	if tcp, ok := c.(*net.TCPConn); ok {
		if err := tcp.SetReadBuffer(64 << 10); err != nil {
			t.Fatal(err)
		}
	}
	want := strings.Builder{}
	for n := range 60 {
		m := fmt.Sprint(n, ":", strings.Repeat("x", 1+n*n*40), ";")
		want.WriteString(m)
		s.want(s.do("POST", "/v1/stream/x", m, text), 204)
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	if got := s.sse(resp, "text/plain"); got != want.String() {
		t.Errorf("%d bytes, want %d", len(got), want.Len())
	}
}

// A heartbeat is a chunk of its own.
func TestHeartbeatIsAChunk(t *testing.T) {
	s, _ := reactorSite(t, Config{Heartbeat: 50 * time.Millisecond})
	s.put("/v1/stream/x", "one;", text)
	_, resp := s.request("GET /v1/stream/x?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(resp.Body)
	for beats := 0; beats < 3; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == ":\n" {
			beats++
		}
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	if _, err := io.Copy(io.Discard, r); err != nil {
		t.Error(err)
	}
}

// A client that sends nothing more gets what there is, and the end of the stream.
func TestHalfClosedReaderHearsTheEnd(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one;", text)
	c, resp := s.request("GET /v1/stream/x?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\n\r\n")
	s.eventually("it is in the reactor", func() bool { return s.inReactor() == 1 })
	half, ok := c.(interface{ CloseWrite() error })
	if !ok {
		t.Fatalf("%T", c)
	}
	if err := half.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(resp.Body)
	if err != nil || !strings.Contains(string(b), "one;") {
		t.Errorf("%q, %v", b, err)
	}
}
