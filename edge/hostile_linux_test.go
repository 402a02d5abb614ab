package edge

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
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

// Who asks and never reads an answer is given up, though answers that are short have no
// deadline.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	s := newSiteOver(t, Config{Stall: time.Second}, false)
	s.put("/v1/stream/x", "hello", text)
	c, _ := s.dial().(*net.TCPConn)
	if err := c.SetReadBuffer(4 << 10); err != nil {
		t.Fatal(err)
	}
	if err := c.SetWriteDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	ask := []byte(strings.Repeat("HEAD /v1/stream/x HTTP/1.1\r\nHost: x\r\n\r\n", 100))
	for {
		if _, err := c.Write(ask); err != nil {
			if n, ok := err.(net.Error); ok && n.Timeout() { //nolint:errorlint // as it comes
				t.Error(err)
			}
			return
		}
	}
}

// deaf is a connection that a client stops reading from.
type deaf struct {
	net.Conn
	on  atomic.Bool
	end chan struct{}
}

func (d *deaf) Read(b []byte) (int, error) {
	if d.on.Load() {
		<-d.end
	}
	return d.Conn.Read(b)
}

// Over HTTP/2 a stream does not end while its connection takes nothing: that is given up
// with it, and what its streams held is free.
func TestDeafHTTP2(t *testing.T) {
	t.Parallel()
	s := newSiteOver(t, Config{ChunkBytes: 17 << 20}, false)
	s.put("/v1/stream/x", large, text)
	s.put("/v1/stream/small", "hello", text)
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	c := &deaf{end: make(chan struct{})}
	tr := &http.Transport{Protocols: &p, DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		c.Conn = s.dial()
		return c, nil
	}}
	defer tr.CloseIdleConnections()
	defer close(c.end)
	const streams = 8 // each takes 4 MiB, the kernel less than that of all
	for range streams {
		req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, s.url+"/v1/stream/x", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.ProtoMajor != 2 {
			t.Fatal(resp, err)
		}
		defer func() { _ = resp.Body.Close() }()
	}
	c.on.Store(true)
	s.eventually("they are stuck", func() bool { return s.stuck() == streams })
	s.srv.chunks.hold(16 << 20) // too much is held from now on
	defer s.srv.chunks.hold(-16 << 20)
	if got := s.want(s.do("GET", "/v1/stream/small", "", nil), 200); got != "hello" {
		t.Errorf("%q", got)
	}
	if n := s.stuck(); n != 0 || s.cuts(cutMemory) == 0 {
		t.Errorf("%d are still stuck, %v were cut", n, s.cuts(cutMemory))
	}
}
