//go:build linux

package edge

import (
	"bufio"
	"bytes"
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
	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
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
	x.postToAll(func(l *loop) {
		defer wg.Done()
		fn(l)
	})
	wg.Wait()
}

// inReactor returns the number of readers in the loops.
func (s *site) inReactor() (n int) {
	var mu sync.Mutex
	s.onLoops(func(l *loop) {
		mu.Lock()
		defer mu.Unlock()
		n += l.conns.used
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

// raw is an event stream on a TCP connection of its own.
func (s *site) raw(path string) (net.Conn, *http.Response) {
	s.Helper()
	tcp, _, resp := s.rawWithin(path)
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

// rawWithin is the same, and c is what the client writes to: its TLS, if the site has that.
func (s *site) rawWithin(path string) (tcp, c net.Conn, resp *http.Response) {
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
func TestReactorHearsTLS(t *testing.T) {
	if handlers {
		t.Skip("this is the reactor's")
	}
	s := newSiteOver(t, Config{}, true)
	s.put("/v1/stream/x", "", text)
	_, c, resp := s.rawWithin("/v1/stream/x?live=sse&offset=-1")
	s.events(resp, 1)
	_, loud, more := s.rawWithin("/v1/stream/x?live=sse&offset=-1")
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

// dataOf is the data of a whole event stream.
func dataOf(t *testing.T, r io.Reader) (string, error) {
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
		if len(l.streams)+len(l.blocked)+len(l.ending)+len(l.withNews)+len(l.unfinished)+len(l.pageQueue) != 0 {
			t.Errorf("left behind: %d channels, %d blocked, %d ending, %d dirty", len(l.streams), len(l.blocked), len(l.ending), len(l.withNews))
		}
	})
}

// A reader that takes nothing for a while, and falls out of the TailBuffer, gets all of it by
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
			if r.state != connBlocked || !r.wantsWritable {
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

// A reader that takes nothing for too long is disconnected, and counted.
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
	want := `# HELP fantail_readers_cut_total Readers disconnected because they accepted nothing, by reason.
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
		cut = s.cuts(reasonMemory)
		return s.srv.readerBudget.Held() <= 4<<20
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
				es, rest, perr := ssetest.Parse(b)
				if err != nil || perr != nil || len(rest) > 0 || len(es) < 2 || !strings.Contains(string(b), "retry: ") {
					t.Errorf("%d events, then %q: %v %v", len(es), rest, err, perr)
				}
			})
		}
	}
	older := func() {
		s.onLoops(func(l *loop) {
			for r := range l.conns.all() {
				r.connectedAt -= time.Hour
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
	older()
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
func TestReactorTakesOnlyPlain(t *testing.T) {
	s, _ := reactorSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "a body", nil)
	s.events(resp, 2)
	if n := s.inReactor(); n != 0 || s.srv.Readers() != 1 {
		t.Errorf("%d in the reactor", n)
	}
}

// bareLoop is a loop without its goroutines, and readers of one text stream in it.
type bareLoop struct {
	*testing.T
	*loop
	tail    *shard.TailBuffer
	pos     shard.Pos
	ours    []int // the loop's ends of the connections
	clients []int
	buf     []byte
}

func newBareLoop(t *testing.T, readers int) *bareLoop {
	s := New(Config{}, nil)
	t.Cleanup(s.Close)
	l, err := newLoop(s.reactor)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.closeAll)
	b := &bareLoop{T: t, loop: l, buf: make([]byte, 64<<10)}
	b.tail = shard.NewTailBuffers(0, 0).Open("default/x", shard.Info{Exists: true, Generation: 7, Type: "text/plain"}, 0)
	t.Cleanup(b.tail.Release)
	for range readers {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		b.ours, b.clients = append(b.ours, pair[0]), append(b.clients, pair[1])
		t.Cleanup(func() { _ = unix.Close(pair[1]) })
		if err := s.admitReader(modeSSE, false); err != nil {
			t.Fatal(err)
		}
		c := sse.NewSession(s.frames, b.tail, sse.FramingText, sse.Start{FromStart: true})
		l.addConn(&eventStream{server: s, release: func() {}, session: c}, pair[0], nil, nil)
	}
	b.turn()
	return b
}

func (b *bareLoop) turn() {
	b.receiveMail()
	for b.runTurn() {
		continue
	}
}

// message adds one more message. Readers whose connections accept it get it immediately.
func (b *bareLoop) message(body string) {
	b.Helper()
	m := shard.Message{Pos: b.pos, Next: b.pos + 1, Body: []byte(body)}
	b.pos++
	if err := b.tail.Extend(ssetest.Batch(b.T, m.Pos, m.Next, m.Next, false, []shard.Message{m})); err != nil {
		b.Fatal(err)
	}
	b.turn()
}

// read returns what has reached a client; it is valid until the next call.
func (b *bareLoop) read(client int) []byte {
	n, _ := unix.Read(b.clients[client], b.buf)
	return b.buf[:max(n, 0)]
}

// fill leaves a reader's connection no room, by as many bytes as it says.
func (b *bareLoop) fill(reader int) (junk int) {
	b.Helper()
	if err := unix.SetsockoptInt(b.ours[reader], unix.SOL_SOCKET, unix.SO_SNDBUF, 1); err != nil {
		b.Fatal(err)
	}
	for {
		n, err := unix.Write(b.ours[reader], make([]byte, 512))
		if err != nil {
			return junk
		}
		junk += n
	}
}

// A reader that is to leave before it has had the end of its stream hears nothing after that end.
func TestNothingFollowsTheEndOfAStream(t *testing.T) {
	b := newBareLoop(t, 1)
	r := b.conns.lookup(connRef{})
	b.read(0)
	junk := b.fill(0)
	if err := b.tail.Extend(ssetest.Batch(b.T, b.pos, b.pos+1, b.pos+1, true, []shard.Message{{Pos: b.pos, Next: b.pos + 1, Body: []byte("one")}})); err != nil {
		t.Fatal(err)
	}
	b.turn()
	if r.state != connBlocked || r.stream.session.State() != sse.StateClosed {
		t.Fatalf("state %d, %d", r.state, r.stream.session.State())
	}
	b.disconnectAfterEvent(r, leaveForDrain)
	var all bytes.Buffer
	for range 100 {
		all.Write(b.read(0))
		if r.state == connBlocked {
			b.writePending(r)
		}
	}
	all.Next(junk)
	if s := all.String(); !strings.Contains(s, "one") || strings.Contains(s, "retry:") || r.state != connEnding {
		t.Errorf("%q in state %d", s, r.state)
	}
}

// Nothing is allocated for a delivery.
func TestReactorAllocates(t *testing.T) {
	const readers = 500
	b := newBareLoop(t, readers)
	got := 0
	deliver := func() {
		b.message("hello")
		for i := range readers {
			got += len(b.read(i))
		}
	}
	deliver()
	got = 0
	per := testing.AllocsPerRun(50, deliver) / readers
	if got < 51*readers*len("hello") {
		t.Errorf("%d bytes were delivered", got)
	}
	if per > 0.1 {
		t.Errorf("%.2f allocations for a delivery", per)
	}
}

// A reader that takes nothing, or a part, of what all of a stream are sent gets the rest later.
func TestReactorSharedStep(t *testing.T) {
	for _, full := range []bool{true, false} { // it takes nothing of the first, a part of the second
		b := newBareLoop(t, 3)
		for i := range 3 {
			b.read(i)
		}
		junk := b.fill(1)
		if !full {
			b.read(1)
			junk = 0
		}
		b.message("one")
		big := strings.Repeat("x", 40<<10)
		b.message(big)
		want := append([]byte(nil), b.read(0)...)
		if !strings.Contains(string(want), "data:one\n") || !strings.Contains(string(want), big) {
			t.Fatalf("the first got %.200q", want)
		}
		var got []byte
		for range 1000 {
			got = append(got, b.read(1)...)
			if r := b.conns.lookup(connRef{slot: 1}); r.state == connBlocked {
				b.writePending(r)
			}
		}
		if got = got[junk:]; string(got) != string(want) {
			t.Errorf("the second got %d bytes, %.200q, the first %d", len(got), got, len(want))
		}
		if string(b.read(2)) != string(want) {
			t.Error("the third did not get the same")
		}
		if n := b.server.readerBudget.Held(); n != 0 || b.conns.lookup(connRef{slot: 1}).stream.session.HasOutput() {
			t.Errorf("%d bytes are held", n)
		}
	}
}

// A seat is used again, and a ref to its last reader does not find the next one.
func TestSeats(t *testing.T) {
	var s connTable
	var refs []connRef
	for range connsPerRow + 1 {
		refs = append(refs, s.allocate().connRef)
	}
	first := s.lookup(refs[0])
	first.fd = 7
	s.release(first)
	if s.lookup(refs[0]) != nil || s.used != connsPerRow {
		t.Error("it is still there")
	}
	next := s.allocate()
	if next != first || next.fd != 0 || s.lookup(refs[0]) != nil || s.lookup(next.connRef) != next {
		t.Errorf("%+v", next)
	}
	n := 0
	for range s.all() {
		n++
	}
	if n != connsPerRow+1 || len(s.rows) != 2 || s.lookup(connRef{slot: 9 * connsPerRow}) != nil {
		t.Errorf("%d of %d", n, len(s.rows))
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
func TestManyFramesAndTheEnd(t *testing.T) {
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
	if got, err := dataOf(t, s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil).Body); err != nil || got != want {
		t.Errorf("%q, then %v", got, err)
	}
}
