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

	"github.com/fantail-dev/fantail/shard"
)

// A body that does not come is waited for as long as Stall, whatever the request: it has an
// answer then, and no other client waits.
func TestBodyThatDoesNotArriveIsAnswered(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{Stall: time.Second})
	s.put("/v1/stream/x", large, text)
	tail := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	requests := []string{
		"POST /v1/stream/x", "POST /v1/stream/x?y=%zz", "POST /v1/none", "PUT /v1/stream/y", "DELETE /v1/stream/y",
		"OPTIONS /v1/stream/x", "HEAD /v1/stream/x", "PATCH /v1/stream/x", "GET /v1/stream/x?live=sse&offset=" + tail,
		"GET /v1/stream/x?live=long-poll&offset=" + tail,
	}
	for range cap(s.srv.writeSlots) + 1 {
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
		refused := resp != nil && resp.StatusCode >= 400
		if strings.HasPrefix(requests[i], "OPTIONS") { // a preflight has no use for a body, and does not wait for it
			refused = resp != nil && resp.StatusCode == http.StatusNoContent
		}
		if err != nil || !refused || !resp.Close {
			t.Errorf("%s: %v %v", requests[i], resp, err)
		}
	}
	s.eventually("nothing is held", s.nothingHeld)
	if n := s.srv.writesBudget.held.Load(); n != 0 {
		t.Errorf("%d bytes of bodies are held", n)
	}
}

// A client that asks and never reads an answer is given up, though answers that are short have no
// deadline.
func TestClientThatNeverReadsIsDisconnected(t *testing.T) {
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

// unreadConn is a connection that a client stops reading from.
type unreadConn struct {
	net.Conn
	on  atomic.Bool
	end chan struct{}
}

func (d *unreadConn) Read(b []byte) (int, error) {
	if d.on.Load() {
		<-d.end
	}
	return d.Conn.Read(b)
}

// openUnread returns a connection of HTTP/2 with so many answers whose bodies are not read.
func (s *site) openUnread(streams int) *unreadConn {
	s.Helper()
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	c := &unreadConn{Conn: s.dial(), end: make(chan struct{})}
	tr := &http.Transport{Protocols: &p, DisableCompression: true, DialContext: func(context.Context, string, string) (net.Conn, error) {
		return c, nil
	}}
	s.Cleanup(tr.CloseIdleConnections)
	s.Cleanup(func() { close(c.end) })
	for range streams {
		req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.url+"/v1/stream/x", nil)
		if err != nil {
			s.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.ProtoMajor != 2 {
			s.Fatal(resp, err)
		}
		s.Cleanup(func() { _ = resp.Body.Close() })
	}
	return c
}

// A stream of HTTP/2 that takes nothing is cut and counted, and not its connection.
func TestStalledHTTP2StreamIsCut(t *testing.T) {
	t.Parallel()
	s := newSiteOver(t, Config{Stall: 300 * time.Millisecond}, false)
	s.put("/v1/stream/x", large, text)
	s.openUnread(2)
	s.eventually("both are cut", func() bool { return s.disconnected(reasonStalled) == 2 })
	s.eventually("nothing is held", s.nothingHeld)
}

// Over HTTP/2 a stream does not end while its connection takes nothing: that is given up
// with it, and what its streams held is free.
func TestStalledHTTP2ConnectionIsGivenUp(t *testing.T) {
	t.Parallel()
	s := newSiteOver(t, Config{ChunkBytes: 17 << 20}, false)
	s.put("/v1/stream/x", large, text)
	s.put("/v1/stream/small", "hello", text)
	const streams = 8 // each takes 4 MiB, the kernel less than that of all
	c := s.openUnread(streams)
	c.on.Store(true)
	s.eventually("they are stuck", func() bool { return s.catchUpsInProgress() == streams })
	s.srv.catchUpBudget.Charge(16 << 20) // too much is held from now on
	defer s.srv.catchUpBudget.Charge(-16 << 20)
	if got := s.want(s.do("GET", "/v1/stream/small", "", nil), 200); got != "hello" {
		t.Errorf("%q", got)
	}
	if n := s.catchUpsInProgress(); n != 0 || s.disconnected(reasonMemory) == 0 {
		t.Errorf("%d are still stuck, %v were cut", n, s.disconnected(reasonMemory))
	}
}

// downBackend is a node whose storage has no more pages after the first, until it is up.
type downBackend struct {
	Backend
	reads atomic.Int32
	up    atomic.Bool
}

func (d *downBackend) ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error) {
	if d.reads.Add(1) > 1 && !d.up.Load() {
		return shard.RecordBatch{}, shard.ErrStoreDown
	}
	return d.Backend.ReadPage(ctx, id, info, from)
}

// A reader that waits for a page that storage does not give hears a heartbeat, as others do,
// and goes on where it was once there is the page.
func TestReaderThatWaitsForAPageGetsHeartbeats(t *testing.T) {
	t.Parallel()
	s := newSite(t, Config{Heartbeat: 50 * time.Millisecond})
	store := &downBackend{Backend: s.srv.streams}
	s.srv.streams = store
	s.put("/v1/stream/x", large, text)
	s.want(s.do("POST", "/v1/stream/x", large, text), 204) // both are more than a tail buffer holds
	s.want(s.do("POST", "/v1/stream/x", "the end", text), 204)
	c, resp := s.openRaw("/v1/stream/x?live=sse&offset=-1")
	if err := c.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	r := bufio.NewReader(resp.Body)
	messages, beats := 0, 0
	for end := false; !end; {
		line, err := r.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		switch line {
		case ":\n":
			beats++
			store.up.Store(store.up.Load() || beats == 3)
		case "data:" + large + "\n", "data: " + large + "\n":
			messages++
		default:
			end = strings.Contains(line, "the end")
		}
	}
	if messages != 2 || beats < 3 {
		t.Errorf("%d messages and %d heartbeats", messages, beats)
	}
}
