//go:build linux

package edge

import (
	"bufio"
	"context"
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
	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/shard"
)

// onLoops runs fn on each loop, and waits.
func (s *site) onLoops(fn func(*loop)) {
	s.Helper()
	x := s.srv.reactor
	x.mu.Lock()
	n := len(x.loops)
	x.mu.Unlock()
	var wg sync.WaitGroup
	wg.Add(n)
	x.each(func(l *loop) {
		defer wg.Done()
		fn(l)
	})
	wg.Wait()
}

// inReactor is how many readers the loops have.
func (s *site) inReactor() (n int) {
	var mu sync.Mutex
	s.onLoops(func(l *loop) {
		mu.Lock()
		defer mu.Unlock()
		n += len(l.conns) - len(l.free)
	})
	return n
}

func (s *site) eventually(what string, ok func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			s.Fatalf("not within 20 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// raw is an event stream on a connection of its own.
func (s *site) raw(path string) (net.Conn, *http.Response) {
	s.Helper()
	var d net.Dialer
	c, err := d.DialContext(s.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = c.Close() })
	if _, err := fmt.Fprintf(c, "GET %s HTTP/1.1\r\nHost: x\r\n\r\n", path); err != nil {
		s.Fatal(err)
	}
	resp, err := http.ReadResponse(bufio.NewReaderSize(c, 16), nil)
	if err != nil || resp.StatusCode != 200 {
		s.Fatal(resp, err)
	}
	return c, resp
}

// dataOf is the data of a whole event stream.
func dataOf(t *testing.T, r io.Reader) (string, error) {
	b, err := io.ReadAll(r)
	es, rest, perr := parseSSE(b)
	if perr != nil || len(rest) > 0 {
		t.Errorf("ends inside an event: %q %v", rest, perr)
	}
	var text strings.Builder
	for _, e := range es {
		if e.name == "data" {
			text.WriteString(e.data)
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
func TestReactor(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	const streams, perStream, messages = 20, 15, 60
	path := func(i int) string { return fmt.Sprintf("/v1/stream/s%d", i) }
	var wg sync.WaitGroup
	for i := range streams {
		s.put(path(i), "", text)
		for range perStream {
			_, resp := s.raw(path(i) + "?live=sse&offset=-1")
			wg.Go(func() {
				got, err := dataOf(t, resp.Body)
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
	s.onLoops(func(l *loop) {
		if len(l.channels)+len(l.blocked)+len(l.ending)+len(l.dirty)+len(l.again)+len(l.pages) != 0 {
			t.Errorf("left behind: %d channels, %d blocked, %d ending, %d dirty", len(l.channels), len(l.blocked), len(l.ending), len(l.dirty))
		}
	})
}

// A reader that takes nothing for a while, and falls out of the Tail, gets all of it by
// pages once it reads again; the others wait for nothing.
func TestReactorSlow(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	_, slow := s.raw("/v1/stream/x?live=sse&offset=-1")
	_, fast := s.raw("/v1/stream/x?live=sse&offset=-1")
	got := make(chan int)
	go func() {
		d, err := dataOf(t, fast.Body)
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
	s.onLoops(func(l *loop) {
		for r := range l.blocked {
			if r.state != connStuck || !r.armed {
				t.Errorf("%+v", r)
			}
		}
	})
	if w := ask(t, s.srv, "POST", "/v1/stream/x", nil, header{"Stream-Closed": "true"}); w.Code != 204 {
		t.Fatalf("%d %s", w.Code, w.Body)
	}
	if n := <-got; n != messages*size {
		t.Errorf("the fast one got %d bytes", n)
	}
	d, err := dataOf(t, slow.Body)
	if err != nil || len(d) != messages*size {
		t.Fatalf("the slow one got %d bytes of %d: %v", len(d), messages*size, err)
	}
	for i := range messages {
		if part := d[i*size : (i+1)*size]; part != strings.Repeat(string(rune('a'+i%26)), size) {
			t.Fatalf("message %d is not it", i)
		}
	}
}

// Who takes nothing for too long is cut, and counted.
func TestReactorStall(t *testing.T) {
	s, reg := reactorSite(t, Config{Stall: 300 * time.Millisecond})
	s.put("/v1/stream/x", "", text)
	s.raw("/v1/stream/x?live=sse&offset=-1")
	body := strings.Repeat("x", 8<<20)
	for range 3 {
		if w := ask(t, s.srv, "POST", "/v1/stream/x", strings.NewReader(body), text); w.Code != 204 {
			t.Fatalf("%d %s", w.Code, w.Body)
		}
	}
	s.eventually("it is cut", func() bool { return s.inReactor() == 0 })
	want := `# HELP fantail_readers_cut_total Readers cut because they took nothing, by reason.
# TYPE fantail_readers_cut_total counter
fantail_readers_cut_total{reason="memory"} 0
fantail_readers_cut_total{reason="stalled"} 1
`
	if err := testutil.GatherAndCompare(reg, strings.NewReader(want), "fantail_readers_cut_total"); err != nil {
		t.Error(err)
	}
}

// Of readers that are stuck and hold too much, those are cut that are stuck for longest.
func TestReactorPins(t *testing.T) {
	s, reg := reactorSite(t, Config{PinnedBytes: 4 << 20})
	for i := range 12 {
		path := fmt.Sprintf("/v1/stream/p%d", i)
		s.put(path, "", text)
		s.raw(path + "?live=sse&offset=-1")
		for range 2 { // more than the kernel takes
			if w := ask(t, s.srv, "POST", path, strings.NewReader(strings.Repeat("x", 6<<20)), text); w.Code != 204 {
				t.Fatalf("%d %s", w.Code, w.Body)
			}
		}
	}
	var cut float64
	s.eventually("some are cut", func() bool {
		s.srv.frames.pins.relieve()
		cut = testutil.ToFloat64(s.srv.m.cut.WithLabelValues(string(cutMemory)))
		return s.srv.frames.pins.bytes.Load() <= 4<<20
	})
	if left := s.inReactor(); cut < 8 || left != 12-int(cut) {
		t.Errorf("%v were cut, %d are left", cut, left)
	}
	_ = reg
}

// A quiet reader hears a comment now and then; one that hangs up, or half of it, is
// forgotten.
func TestReactorQuiet(t *testing.T) {
	s, _ := reactorSite(t, Config{Heartbeat: 320 * time.Millisecond})
	s.put("/v1/stream/x", "", text)
	c, resp := s.raw("/v1/stream/x?live=sse&offset=-1")
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
func TestReactorDrain(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one;", text)
	var ends sync.WaitGroup
	open := func(n int) {
		for range n {
			_, resp := s.raw("/v1/stream/x?live=sse&offset=-1")
			ends.Go(func() {
				b, err := io.ReadAll(resp.Body)
				es, rest, perr := parseSSE(b)
				if err != nil || perr != nil || len(rest) > 0 || len(es) < 2 || !strings.Contains(string(b), "retry: ") {
					t.Errorf("%d events, then %q: %v %v", len(es), rest, err, perr)
				}
			})
		}
	}
	older := func() {
		s.onLoops(func(l *loop) {
			for _, r := range l.conns {
				if r != nil {
					r.began -= time.Hour
				}
			}
		})
	}
	open(40)
	older()
	ctx, cancel := context.WithCancel(t.Context())
	drained := make(chan error)
	go func() { drained <- s.srv.Drain(ctx, 2*time.Second) }()
	s.eventually("some are gone", func() bool { return s.inReactor() < 30 })
	cancel()
	if err := <-drained; !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	s.srv.Undrain()
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
	older()
	n := s.inReactor()
	s.eventually("two are sent away", func() bool {
		for range 2 {
			select {
			case s.srv.shed <- struct{}{}:
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
func TestReactorTakesOnlyPlain(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "a body", nil)
	s.events(resp, 2)
	if n := s.inReactor(); n != 0 || s.srv.Readers() != 1 {
		t.Errorf("%d in the reactor", n)
	}
}

// Nothing is allocated for a delivery.
func TestReactorAllocates(t *testing.T) {
	s := New(Config{}, nil)
	defer s.Close()
	l, err := newLoop(s.reactor)
	if err != nil {
		t.Fatal(err)
	}
	defer l.end()
	tails := shard.NewTails(0, 0)
	info := shard.Info{Exists: true, Life: 7, Type: "text/plain"}
	tail := tails.Open("default/x", info, 0)
	defer tail.Release()
	const readers = 500
	var clients []int
	defer func() {
		for _, fd := range clients {
			_ = unix.Close(fd)
		}
	}()
	for range readers {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		clients = append(clients, pair[1])
		if err := s.admit(modeSSE); err != nil {
			t.Fatal(err)
		}
		d := &driver{server: s, release: func() {}, c: newCursor(tail, s.frames.open(tail, framingText), framingText, place{}, 0)}
		l.enter(&conn{d: d, fd: int32(pair[0])})
	}
	turn := func() {
		l.receive()
		for l.work() {
			continue
		}
	}
	turn()
	buf := make([]byte, 64<<10)
	empty := func() (n int) {
		for _, fd := range clients {
			m, _ := unix.Read(fd, buf)
			n += max(m, 0)
		}
		return n
	}
	empty()
	pos, got := uint64(0), 0
	deliver := func() {
		m := shard.Message{Pos: pos, Next: pos + 1, Body: []byte("hello")}
		pos++
		if err := tail.Extend(buildRange(t, m.Pos, m.Next, m.Next, false, []shard.Message{m})); err != nil {
			t.Fatal(err)
		}
		turn()
		got += empty()
	}
	per := testing.AllocsPerRun(50, deliver) / readers
	if got < 51*readers*len("hello") {
		t.Errorf("%d bytes were delivered", got)
	}
	if per > 0.1 {
		t.Errorf("%.2f allocations for a delivery", per)
	}
}
