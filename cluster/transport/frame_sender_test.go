package transport

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// frameRig holds an owner's session and a model of the edge at its other end.
type frameRig struct {
	t             *rapid.T
	s             *session
	streams       *testStreams
	builder       frameBuilder
	handle        uint64
	subs          map[uint64]*sessionSub // all that there ever were
	edge          map[uint64]*edgeSub
	linkCreditDue int // received and not yet returned as link credit
	largest       int
}

// edgeSub is the edge's side of one subscription.
type edgeSub struct {
	id         shard.StreamID
	parts      wire.BatchAssembler
	next       shard.Pos
	subscribed bool
	owed       int
}

const (
	rigWindow = 4 << 10
	rigLink   = 10 << 10
)

func newFrameRig(t *rapid.T, perTail int) *frameRig {
	tails := shard.NewTailBuffers(perTail, 0)
	b := &frameRig{
		t: t, streams: &testStreams{tails: map[shard.StreamID]*shard.TailBuffer{}}, subs: map[uint64]*sessionSub{}, edge: map[uint64]*edgeSub{},
	}
	for i := range 3 {
		id := shard.StreamID(fmt.Sprintf("s/%d", i))
		b.streams.tails[id] = tails.Open(id, shard.Info{Exists: true}, 0)
	}
	srv := &Server{
		self: placement.PeerAddr{Name: "self"}, metrics: newEndMetrics(nil, endOwner), streams: b.streams, sessions: map[uint64]*session{},
	}
	var err error
	b.s, err = srv.openSession(context.Background(), &relaypb.Hello{
		Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: []byte("a")}, To: []byte("self"), Incarnation: 1, Window: rigWindow, LinkWindow: rigLink,
	})
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// receive passes a message of the edge to the session.
func (b *frameRig) receive(m *relaypb.ToOwner) {
	if err := b.s.handleControl(m); err != nil {
		b.t.Fatal(err)
	}
}

func (b *frameRig) stream(t *rapid.T) shard.StreamID {
	return shard.StreamID(fmt.Sprintf("s/%d", rapid.IntRange(0, 2).Draw(t, "stream")))
}

func (b *frameRig) extend(t *rapid.T) {
	tail := b.streams.tails[b.stream(t)]
	r := batchOf(uint64(tail.Next()), rapid.SampledFrom([]int{1, 500, 3000, 9000, 50000}).Draw(t, "size"))
	b.largest = max(b.largest, len(r.Bytes()))
	if err := tail.Extend(r); err != nil {
		t.Fatal(err)
	}
}

func (b *frameRig) subscribe(t *rapid.T) {
	id := b.stream(t)
	b.handle++
	from := rapid.Uint64Range(0, uint64(b.streams.tails[id].Next())).Draw(t, "from")
	b.edge[b.handle] = &edgeSub{id: id, next: shard.Pos(from)}
	b.receive(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
		{Handle: b.handle, Stream: wire.Bytes(id), From: from},
	}})
	b.streams.wg.Wait()
	b.s.mu.Lock()
	b.subs[b.handle] = b.s.subs[b.handle]
	b.s.mu.Unlock()
}

func (b *frameRig) drawHandle(t *rapid.T) uint64 {
	if b.handle == 0 {
		t.Skip("nothing is followed")
	}
	return rapid.Uint64Range(1, b.handle).Draw(t, "handle")
}

func (b *frameRig) unsubscribe(h uint64) {
	delete(b.edge, h)
	b.receive(&relaypb.ToOwner{Unsubscribe: []uint64{h}})
}

// frame builds the next Frame and passes it to the edge; false: there is nothing to send.
func (b *frameRig) frame() bool {
	b.s.fillFrame(&b.builder, 0)
	return b.deliver()
}

func (b *frameRig) deliver() bool {
	for _, p := range b.builder.frame.Parts {
		b.linkCreditDue += len(p.GetData())
		e := b.edge[p.GetHandle()]
		if e == nil {
			continue
		}
		e.owed += len(p.GetData())
		switch p.GetKind() {
		case relaypb.PartKind_PART_KIND_SUBSCRIBED:
			if start := p.GetSubscribed().GetStart(); shard.Pos(start) > e.next || !e.subscribed {
				e.next = shard.Pos(start)
			}
			e.subscribed = true
		case relaypb.PartKind_PART_KIND_BATCH:
			r, whole, err := e.parts.AddPiece(p.GetData(), p.GetTotal())
			switch {
			case err != nil:
				b.t.Fatal(err)
			case whole && (r.From() > e.next || !e.subscribed):
				b.t.Fatalf("handle %d: [%d, %d) does not join %d", p.GetHandle(), r.From(), r.To(), e.next)
			case whole:
				e.next = max(e.next, r.To())
			}
		default:
			b.t.Fatalf("handle %d: %v", p.GetHandle(), p.GetKind())
		}
	}
	return len(b.builder.frame.Parts) > 0
}

// removeWhileServed has a subscription served, and taken back before it is listed again.
func (b *frameRig) removeWhileServed() {
	b.builder.reset()
	u := b.s.popDirty(0)
	if u == nil {
		return
	}
	more := b.s.serveSub(u, &b.builder)
	b.deliver()
	b.unsubscribe(u.handle)
	if more {
		b.s.relist(u)
	}
}

func (b *frameRig) credit(h uint64) {
	if e := b.edge[h]; e != nil && e.owed > 0 {
		b.receive(&relaypb.ToOwner{Credit: []*relaypb.Credit{{Handle: h, Bytes: uint64(e.owed)}}})
		e.owed = 0
	}
}

func (b *frameRig) linkCredit() {
	b.receive(&relaypb.ToOwner{LinkCredit: uint64(b.linkCreditDue)})
	b.linkCreditDue = 0
}

// check checks what must hold at any moment: credit is neither made nor lost, and the bytes on
// their way are bounded whatever the edge does.
func (b *frameRig) check(t *rapid.T) {
	onWay := 0
	for h, u := range b.subs {
		if g := u.outgoing; g != nil {
			onWay += len(g.data) - g.sent
		}
		if u.flags&subRemoved == 0 && int(u.credit) < -b.largest {
			t.Fatalf("handle %d is overdrawn by %d", h, -u.credit)
		}
	}
	if got := int(b.s.credit) + b.linkCreditDue + onWay; got != rigLink {
		t.Fatalf("%d link credit, %d owed, %d being sent: %d in all, granted %d",
			b.s.credit, b.linkCreditDue, onWay, got, rigLink)
	}
	if int(b.s.credit) < -b.largest {
		t.Fatalf("the link is overdrawn by %d", -b.s.credit)
	}
}

// Whatever an edge does: no credit is made or lost, no more is on its way than was granted plus one
// batch, and once credit returns every subscription gets everything.
func TestCreditIsNeitherMadeNorLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		b := newFrameRig(t, rapid.SampledFrom([]int{20 << 10, 0}).Draw(t, "perTail"))
		t.Repeat(map[string]func(*rapid.T){
			"extend":      b.extend,
			"extend more": b.extend,
			"subscribe":   b.subscribe,
			"unsubscribe": func(t *rapid.T) { b.unsubscribe(b.drawHandle(t)) },
			"frame":       func(*rapid.T) { b.frame() },
			"midway":      func(*rapid.T) { b.removeWhileServed() },
			"credit":      func(t *rapid.T) { b.credit(b.drawHandle(t)) },
			"link credit": func(*rapid.T) { b.linkCredit() },
			"":            b.check,
		})
		for more := true; more; more = b.frame() {
			b.linkCredit()
			for h := range b.edge {
				b.credit(h)
			}
		}
		for h, e := range b.edge {
			if next := b.streams.tails[e.id].Next(); e.next != next {
				t.Fatalf("handle %d is left at %d of %d", h, e.next, next)
			}
			b.unsubscribe(h)
		}
		for b.frame() {
			b.linkCredit()
		}
		if b.linkCredit(); b.s.credit != rigLink || len(b.s.subs) != 0 || b.streams.feeds.Load() != 0 {
			t.Fatalf("%d credit, %d subscriptions, %d uses when nothing is followed",
				b.s.credit, len(b.s.subs), b.streams.feeds.Load())
		}
	})
}

// A Frame keeps its size when it opens subscriptions of forks with a long ancestry: otherwise gRPC
// would refuse it, and with it the whole link, again and again.
func TestFramesWithForksKeepTheirSize(t *testing.T) {
	t.Parallel()
	var chain []shard.Ancestor
	for i := range shard.MaxChain {
		name := shard.StreamID(fmt.Sprintf("default/%0500d", i))
		chain = append(chain, shard.Ancestor{Stream: name, Generation: 1, Bound: 1})
	}
	rapid.Check(t, func(t *rapid.T) {
		b := newFrameRig(t, 0)
		b.streams.tails["s/0"] = shard.NewTailBuffers(0, 0).Open("s/0", shard.Info{Exists: true, Chain: chain}, 0)
		var q []*relaypb.Subscribe
		for h := range uint64(500) {
			q = append(q, &relaypb.Subscribe{Handle: h + 1, Stream: []byte("s/0")})
		}
		b.receive(&relaypb.ToOwner{Subscribe: q})
		b.streams.wg.Wait()
		for opened := 0; opened < len(q); opened += len(b.builder.frame.Parts) {
			b.s.fillFrame(&b.builder, 0)
			if n := proto.Size(&b.builder.frame); n > 2*wire.MaxFrameBytes || n == 0 {
				t.Fatalf("a Frame of %d bytes", n)
			}
		}
	})
}

// A stream that cannot be described to a peer ends that one subscription: what travels beside it is
// complete.
func TestUndescribableStreamEndsOneSubscription(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		info    shard.Info
		version uint32
	}{
		"an old peer":        {shard.Info{Exists: true, Type: "text/plain; x=\xe9\xff\x80"}, placement.RelayVersionBytes - 1},
		"an old peer, chain": {shard.Info{Exists: true, Chain: []shard.Ancestor{{Stream: "p/\xff"}}}, placement.RelayVersionBytes - 1},
		"too long":           {shard.Info{Exists: true, Type: strings.Repeat("x", 128<<10)}, placement.RelayVersionNewest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newFrameRig(nil, 0)
			b.s.peerVersion = c.version
			b.streams.tails["s/0"] = shard.NewTailBuffers(0, 0).Open("s/0", c.info, 0)
			_ = b.s.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
				{Handle: 1, Stream: []byte("s/1")}, {Handle: 2, Stream: []byte("s/0")}, {Handle: 3, Stream: []byte("s/2")},
			}})
			b.streams.wg.Wait()
			b.s.fillFrame(&b.builder, 0)
			got := map[uint64]relaypb.PartKind{}
			for _, p := range b.builder.frame.GetParts() {
				got[p.GetHandle()] = p.GetKind()
				if p.GetHandle() == 2 && p.GetRefusal().GetReason() != relaypb.Reason_REASON_DECLINED {
					t.Errorf("refused with %v", p.GetRefusal())
				}
			}
			want := map[uint64]relaypb.PartKind{
				1: relaypb.PartKind_PART_KIND_SUBSCRIBED, 2: relaypb.PartKind_PART_KIND_END, 3: relaypb.PartKind_PART_KIND_SUBSCRIBED,
			}
			if d := cmp.Diff(want, got); d != "" {
				t.Error(d)
			}
			if n := len(b.s.subs); n != 2 {
				t.Errorf("%d subscriptions are left", n)
			}
		})
	}
}
