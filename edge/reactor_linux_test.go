//go:build linux

package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/reactor"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
)

// inReactor returns the number of readers in the loops.
func (s *site) inReactor() int { return s.srv.reactor.Stats().Readers }

// openRaw opens an event stream on a TCP connection of its own.
func (s *site) openRaw(path string) (net.Conn, *http.Response) {
	s.Helper()
	tcp, _, resp := s.openRawConn(path)
	return tcp, resp
}

// dial connects to the site.
func (s *site) dial() net.Conn {
	s.Helper()
	var d net.Dialer
	scheme, addr, _ := strings.Cut(s.url, "://")
	c, err := d.DialContext(s.Context(), "tcp", addr)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = c.Close() })
	if scheme == "https" {
		return tls.Client(c, trusting)
	}
	return c
}

// openRawConn is the same, and c is what the client writes to: its TLS, if the site has that.
func (s *site) openRawConn(path string) (tcp, c net.Conn, resp *http.Response) {
	s.Helper()
	c = s.dial()
	tcp = c
	if t, ok := c.(*tls.Conn); ok {
		tcp = t.NetConn()
	}
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		s.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil || resp.StatusCode != 200 {
		s.Fatal(resp, err)
	}
	return tcp, c, resp
}

// Under TLS a client that says it closes is answered, and forgotten, before its connection
// is closed; one that says anything else is not heard, and gets its events.
func TestReactorAnswersCloseNotify(t *testing.T) {
	if handlers {
		t.Skip("this is the reactor's")
	}
	s := newSiteOver(t, Config{}, true)
	s.put("/v1/stream/x", "", text)
	_, c, resp := s.openRawConn("/v1/stream/x?live=sse&offset=-1")
	s.events(resp, 1)
	_, loud, more := s.openRawConn("/v1/stream/x?live=sse&offset=-1")
	s.events(more, 1)
	if n := s.inReactor(); n != 2 {
		t.Errorf("%d in the reactor", n)
	}
	for range 3 {
		if _, err := io.WriteString(loud, "GET / HTTP/1.1\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
	}
	half, _ := c.(*tls.Conn)
	if err := half.CloseWrite(); err != nil { // and no FIN
		t.Fatal(err)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) > 0 {
		t.Errorf("%q, then %v", b, err)
	}
	s.eventually("it is forgotten", func() bool { return s.inReactor() == 1 && s.srv.Readers() == 1 })
	s.want(s.do("POST", "/v1/stream/x", "heard", text), 204)
	if e := s.events(more, 2); e[0].Data != "heard" {
		t.Errorf("%+v", e)
	}
}

// eventDataOf returns the data of a whole event stream.
func eventDataOf(t *testing.T, r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	es, rest, perr := ssetest.Parse(b)
	if perr != nil || len(rest) > 0 {
		t.Errorf("ends inside an event: %q %v", rest, perr)
	}
	var text strings.Builder
	for _, e := range es {
		if e.Name == "data" {
			text.WriteString(e.Data)
		}
	}
	return text.String(), err
}

func reactorSite(t *testing.T, cfg Config) (*site, *prometheus.Registry) {
	t.Helper()
	if handlers {
		t.Skip("this is the reactor's")
	}
	reg := prometheus.NewRegistry()
	cfg.Metrics = reg
	return newSite(t, cfg), reg
}

// Hundreds of readers, of one stream and of many: each gets everything once, in order,
// and its connection ends after the end of the stream.
func TestReactorDeliversOnceInOrder(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	const streams, perStream, messages = 20, 15, 60
	path := func(i int) string { return fmt.Sprintf("/v1/stream/s%d", i) }
	var wg sync.WaitGroup
	for i := range streams {
		s.put(path(i), "", text)
		for range perStream {
			_, resp := s.openRaw(path(i) + "?live=sse&offset=-1")
			wg.Go(func() {
				got, err := eventDataOf(t, resp.Body)
				var want strings.Builder
				for n := range messages {
					fmt.Fprintf(&want, "%d-%d;", i, n)
				}
				if got != want.String() || err != nil {
					t.Errorf("stream %d: %d bytes of %d, %v", i, len(got), want.Len(), err)
				}
			})
		}
	}
	if n := s.inReactor(); n != streams*perStream || s.srv.Readers() != n {
		t.Errorf("%d readers in the reactor, %d in all", n, s.srv.Readers())
	}
	for i := range streams {
		wg.Go(func() {
			for n := range messages {
				if w := ask(t, s.srv, "POST", path(i), strings.NewReader(fmt.Sprintf("%d-%d;", i, n)), text); w.Code != 204 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
			}
			if w := ask(t, s.srv, "POST", path(i), nil, header{"Stream-Closed": "true"}); w.Code != 204 {
				t.Errorf("%d %s", w.Code, w.Body)
			}
		})
	}
	wg.Wait()
	s.eventually("nobody is left", func() bool { return s.inReactor() == 0 && s.srv.Readers() == 0 })
	if left := s.srv.reactor.Stats(); left != (reactor.Stats{}) {
		t.Errorf("left behind: %+v", left)
	}
}

// A reader that takes nothing for a while, and falls out of the tail buffer, gets all of it by
// pages once it reads again; the others wait for nothing.
func TestReactorSlowReaderCatchesUpByPages(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	_, slow := s.openRaw("/v1/stream/x?live=sse&offset=-1")
	_, fast := s.openRaw("/v1/stream/x?live=sse&offset=-1")
	got := make(chan int)
	go func() {
		d, err := eventDataOf(t, fast.Body)
		if err != nil {
			t.Error(err)
		}
		got <- len(d)
	}()
	const messages, size = 160, 256 << 10
	for i := range messages {
		body := strings.Repeat(string(rune('a'+i%26)), size)
		if w := ask(t, s.srv, "POST", "/v1/stream/x", strings.NewReader(body), text); w.Code != 204 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	if w := ask(t, s.srv, "POST", "/v1/stream/x", nil, header{"Stream-Closed": "true"}); w.Code != 204 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if n := <-got; n != messages*size {
		t.Errorf("the fast one got %d bytes", n)
	}
	d, err := eventDataOf(t, slow.Body)
	if err != nil || len(d) != messages*size {
		t.Fatalf("the slow one got %d bytes of %d: %v", len(d), messages*size, err)
	}
	for i := range messages {
		if part := d[i*size : (i+1)*size]; part != strings.Repeat(string(rune('a'+i%26)), size) {
			t.Fatalf("message %d is not it", i)
		}
	}
}

// A reader that takes nothing for too long is disconnected, and counted.
func TestReactorDisconnectsStalledReaders(t *testing.T) {
	s, reg := reactorSite(t, Config{Stall: 300 * time.Millisecond})
	s.put("/v1/stream/x", "", text)
	s.openRaw("/v1/stream/x?live=sse&offset=-1")
	body := strings.Repeat("x", 8<<20)
	for range 3 {
		if w := ask(t, s.srv, "POST", "/v1/stream/x", strings.NewReader(body), text); w.Code != 204 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	s.eventually("it is cut", func() bool { return s.inReactor() == 0 })
	want := `# HELP fantail_readers_cut_total Readers disconnected because they accepted nothing, or too little after their right was over, by reason.
# TYPE fantail_readers_cut_total counter
fantail_readers_cut_total{reason="memory"} 0
fantail_readers_cut_total{reason="permit"} 0
fantail_readers_cut_total{reason="stalled"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fantail_readers_cut_total"); err != nil {
		t.Error(err)
	}
}

// Of readers that are stuck and hold too much, those are cut that are stuck for longest.
func TestReactorDisconnectsTheLongestBlockedForMemory(t *testing.T) {
	s, reg := reactorSite(t, Config{PinnedBytes: 4 << 20})
	for i := range 12 {
		path := fmt.Sprintf("/v1/stream/p%d", i)
		s.put(path, "", text)
		s.openRaw(path + "?live=sse&offset=-1")
		for range 2 { // more than the kernel takes
			if w := ask(t, s.srv, "POST", path, strings.NewReader(strings.Repeat("x", 6<<20)), text); w.Code != 204 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
	}
	var cut float64
	s.eventually("some are cut", func() bool {
		cut = s.disconnected(reasonMemory)
		return s.srv.readerBudget.Held() <= 4<<20
	})
	if left := s.inReactor(); cut < 8 || left != 12-int(cut) {
		t.Errorf("%v were cut, %d are left", cut, left)
	}
	_ = reg
}

// A quiet reader hears a comment now and then; one that hangs up, or half of it, is
// forgotten.
func TestReactorHeartbeatsAndHangUps(t *testing.T) {
	s, _ := reactorSite(t, Config{Heartbeat: 320 * time.Millisecond})
	s.put("/v1/stream/x", "", text)
	c, resp := s.openRaw("/v1/stream/x?live=sse&offset=-1")
	b := bufio.NewReader(resp.Body)
	beats := 0
	for beats < 3 {
		line, err := b.ReadString('\n')
		if err != nil {
			t.Fatal(err)
		}
		if line == ":\n" {
			beats++
		}
	}
	tcp, _ := c.(*net.TCPConn)
	if err := tcp.CloseWrite(); err != nil {
		t.Fatal(err)
	}
	s.eventually("it is forgotten", func() bool { return s.inReactor() == 0 && s.srv.Readers() == 0 })
}

// A drain ends each reader after a complete event, in its turn; one taken back ends no
// more of them. A node that has too many sends some away that have been here for long.
func TestReactorDrainsAndRebalances(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one;", text)
	var ends sync.WaitGroup
	open := func(n int) {
		for range n {
			_, resp := s.openRaw("/v1/stream/x?live=sse&offset=-1")
			ends.Go(func() {
				b, err := io.ReadAll(resp.Body)
				es, rest, perr := ssetest.Parse(b)
				if err != nil || perr != nil || len(rest) > 0 || len(es) < 2 || !strings.Contains(string(b), "retry: ") {
					t.Errorf("%d events, then %q: %v %v", len(es), rest, err, perr)
				}
			})
		}
	}
	open(40)
	s.srv.rules.MinDrainAge = 0
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error)
	go func() { drained <- s.srv.Drain(ctx, 2*time.Second) }()
	s.eventually("some are gone", func() bool { return s.inReactor() < 30 })
	cancel()
	if err := <-drained; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.srv.CancelDrain()
	left := s.inReactor()
	if left == 0 {
		t.Fatal("nobody is left")
	}
	for range 5 {
		if w := ask(t, s.srv, "POST", "/v1/stream/x", strings.NewReader("two;"), text); w.Code != 204 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	open(1)
	if n := s.inReactor(); n < left || n > left+1 {
		t.Errorf("%d were left, %d are here", left, n)
	}
	s.srv.rules.MinMoveAge = 0
	n := s.inReactor()
	s.eventually("two are sent away", func() bool {
		for range 2 {
			select {
			case s.srv.rebalanceSignals <- struct{}{}:
			case <-time.After(time.Second):
				t.Error("nobody listens")
			}
		}
		return s.inReactor() <= n-2
	})
	if err := s.srv.Drain(t.Context(), 100*time.Millisecond); err != nil {
		t.Error(err)
	}
	ends.Wait()
	if n := s.inReactor(); n != 0 {
		t.Errorf("%d readers after the drain", n)
	}
}

// What requires a handler is served by one: HTTP/1.0 is fine, a request with a body is not.
func TestReactorLeavesRequestsWithABody(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "a body", nil)
	s.events(resp, 2)
	if n := s.inReactor(); n != 0 || s.srv.Readers() != 1 {
		t.Errorf("%d in the reactor", n)
	}
}

// A message that reaches a reader that was up to date is timed; history is not.
func TestDeliveryIsTimed(t *testing.T) {
	reg := prometheus.NewRegistry()
	s := newSite(t, Config{Metrics: reg})
	count := func() uint64 {
		all, err := reg.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, f := range all {
			if f.GetName() == "fantail_delivery_latency_seconds" {
				return f.GetMetric()[0].GetHistogram().GetSampleCount()
			}
		}
		t.Fatal("no such metric")
		return 0
	}
	s.put("/v1/stream/x", "one", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	s.events(resp, 2)
	if n := count(); n != 0 {
		t.Errorf("%d, of history", n)
	}
	s.want(s.do("POST", "/v1/stream/x", "two", text), 204)
	s.events(resp, 2)
	s.eventually("it is timed", func() bool { return count() == 1 })
	s.want(s.do("POST", "/v1/stream/x", strings.Repeat("x", sse.MaxSharedBytes+1), text), 204) // not sent in one piece
	s.events(resp, 2)
	s.eventually("a large one is, too", func() bool { return count() == 2 })
	s.events(s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil), 2) // now it is in memory
	if n := count(); n != 2 {
		t.Errorf("%d, with history in memory", n)
	}
}

// A goroutine's reader of many small appends in memory gets them and the end of the stream.
func TestReactorWritesManyFramesAndTheEnd(t *testing.T) {
	s := newSite(t, Config{NoReactor: true})
	s.put("/v1/stream/x", "", text)
	first := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil) // keeps them in memory
	s.events(first, 1)
	const messages = 128 // more than a session keeps buffers for
	want := strings.Repeat("x;", messages)
	for range messages {
		s.want(s.do("POST", "/v1/stream/x", "x;", text), 204)
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{"Stream-Closed": "true", "Content-Type": "text/plain"}), 204)
	if got, err := eventDataOf(t, s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil).Body); err != nil || got != want {
		t.Errorf("%q, then %v", got, err)
	}
}
