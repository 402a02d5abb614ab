package edge

import (
	"bufio"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"
)

// A body that does not come is waited for as long as Stall, whatever the request: it has an
// answer then, and nobody else waits.
func TestBodyThatDoesNotCome(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{Stall: time.Second})
	s.put("/v1/stream/x", large, text)
	tail := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	requests := []string{
		"POST /v1/stream/x", "POST /v1/stream/x?y=%zz", "POST /v1/none", "PUT /v1/stream/y", "DELETE /v1/stream/y",
		"OPTIONS /v1/stream/x", "HEAD /v1/stream/x", "PATCH /v1/stream/x", "GET /v1/stream/x?live=sse&offset=" + tail,
		"GET /v1/stream/x?live=long-poll&offset=" + tail,
	}
	for range cap(s.srv.turns) + 1 {
		requests = append(requests, "GET /v1/stream/x")
	}
	var conns []net.Conn
	for _, req := range requests {
		c := s.dial()
		if _, err := fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n12345", req); err != nil {
			t.Fatal(err)
		}
		conns = append(conns, c)
	}
	if got := s.want(s.do("GET", "/v1/stream/x", "", nil), 200); got != large {
		t.Errorf("%d bytes", len(got))
	}
	for i, c := range conns {
		resp, err := http.ReadResponse(bufio.NewReader(c), nil)
		if err != nil || resp.StatusCode < 400 || !resp.Close {
			t.Errorf("%s: %v %v", requests[i], resp, err)
		}
	}
	s.eventually("nothing is held", s.nothingHeld)
	if n := s.srv.bodies.Load(); n != 0 {
		t.Errorf("%d bytes of bodies are held", n)
	}
}
