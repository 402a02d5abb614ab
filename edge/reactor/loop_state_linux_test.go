package reactor

import (
	"bytes"
	"log/slog"
	"strings"
	"testing"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
)

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
	budget := sendbudget.New(1 << 30)
	rules := sse.NewRules(sse.Times{Heartbeat: time.Hour, Stall: time.Hour, PageRetry: time.Second, MinRetry: time.Second, MaxRetry: time.Second},
		time.Now(), func(error) bool { return false }, func(time.Duration) time.Duration { return 0 })
	r := New(Config{
		Rules: rules, Logger: slog.New(slog.DiscardHandler), Now: time.Now, Budget: budget, OnClose: func() {},
		OnPanic: func(v any) { t.Error(v) }, Metrics: noMetrics{},
	})
	t.Cleanup(r.Close)
	l, err := newLoop(r)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.closeAll)
	b := &bareLoop{T: t, loop: l, buf: make([]byte, 64<<10)}
	b.tail = shard.NewTailBuffers(0, 0).Open("default/x", shard.Info{Exists: true, Generation: 7, Type: "text/plain"}, 0)
	t.Cleanup(b.tail.Release)
	frames := sse.NewFrameCache(1<<20, budget)
	for range readers {
		pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		b.ours, b.clients = append(b.ours, pair[0]), append(b.clients, pair[1])
		t.Cleanup(func() { _ = unix.Close(pair[1]) })
		s := sse.NewSession(frames, rules, b.tail, sse.FramingText, sse.Start{FromStart: true}, rules.At(time.Now()))
		l.addConn(&reader{session: s, release: func() {}}, pair[0], nil, nil)
	}
	b.turn()
	return b
}

// noMetrics are metrics that nothing looks at.
type noMetrics struct{}

func (noMetrics) CountSession(s *sse.Session)     { s.TakeCounts() }
func (noMetrics) CountDelivered(int, int)         {}
func (noMetrics) ObserveDelivery(shard.Millis)    {}
func (noMetrics) CountMoved(sse.EndReason)        {}
func (noMetrics) CountDisconnected(sse.EndReason) {}

// turn runs the loop until it has nothing to do.
func (b *bareLoop) turn() {
	b.receiveMail()
	for b.runTurn() {
		continue
	}
	for c := range b.blocked {
		if c.state != connBlocked || !c.wantsWritable {
			b.Errorf("a blocked reader: %+v", c)
		}
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
	c := b.conns.lookup(connRef{})
	b.read(0)
	junk := b.fill(0)
	if err := b.tail.Extend(ssetest.Batch(b.T, b.pos, b.pos+1, b.pos+1, true, []shard.Message{{Pos: b.pos, Next: b.pos + 1, Body: []byte("one")}})); err != nil {
		t.Fatal(err)
	}
	b.turn()
	if c.state != connBlocked {
		t.Fatalf("state %d", c.state)
	}
	b.cfg.Rules.Change(true, 0)
	b.askAllSessions()
	var all bytes.Buffer
	for range 100 {
		all.Write(b.read(0))
		if c.state == connBlocked {
			b.advance(c)
		}
	}
	all.Next(junk)
	if s := all.String(); !strings.Contains(s, "one") || strings.Contains(s, "retry:") || c.state != connEnding {
		t.Errorf("%q in state %d", s, c.state)
	}
}

// Nothing is allocated for a delivery.
func TestDeliveryAllocatesNothing(t *testing.T) {
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
func TestSharedWriteAcceptedInPart(t *testing.T) {
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
			if c := b.conns.lookup(connRef{slot: 1}); c.state == connBlocked {
				b.advance(c)
			}
		}
		if got = got[junk:]; string(got) != string(want) {
			t.Errorf("the second got %d bytes, %.200q, the first %d", len(got), got, len(want))
		}
		if string(b.read(2)) != string(want) {
			t.Error("the third did not get the same")
		}
		if n := b.cfg.Budget.Held(); n != 0 || b.conns.lookup(connRef{slot: 1}).session.HasOutput() {
			t.Errorf("%d bytes are held", n)
		}
	}
}

// A seat is used again, and a ref to its last reader does not find the next one.
func TestFreedSlotIsUsedAgain(t *testing.T) {
	var table connTable
	var refs []connRef
	for range connsPerRow + 1 {
		refs = append(refs, table.allocate().connRef)
	}
	first := table.lookup(refs[0])
	first.fd = 7
	table.release(first)
	if table.lookup(refs[0]) != nil || table.used != connsPerRow {
		t.Error("it is still there")
	}
	next := table.allocate()
	if next != first || next.fd != 0 || table.lookup(refs[0]) != nil || table.lookup(next.connRef) != next {
		t.Errorf("%+v", next)
	}
	n := 0
	for range table.all() {
		n++
	}
	if n != connsPerRow+1 || len(table.rows) != 2 || table.lookup(connRef{slot: 9 * connsPerRow}) != nil {
		t.Errorf("%d of %d", n, len(table.rows))
	}
}

// The memory of a node with many readers is that of their seats.
func TestConnKeepsItsSize(t *testing.T) {
	if n := unsafe.Sizeof(conn{}); n > 264 {
		t.Errorf("a reader takes %d bytes, want 264 at most", n)
	} else {
		t.Logf("%d bytes for a reader", n)
	}
}
