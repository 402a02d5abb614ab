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
	rig := &frameRig{
		t: t, streams: &testStreams{tails: map[shard.StreamID]*shard.TailBuffer{}}, subs: map[uint64]*sessionSub{}, edge: map[uint64]*edgeSub{},
	}
	for i := range 3 {
		id := shard.StreamID(fmt.Sprintf("s/%d", i))
		rig.streams.tails[id] = tails.Open(id, shard.Info{Exists: true}, 0)
	}
	srv := &Server{
		self: placement.PeerAddr{Name: "self"}, metrics: newEndMetrics(nil, endOwner), streams: rig.streams, sessions: map[uint64]*session{},
	}
	var err error
	rig.s, err = srv.openSession(context.Background(), &relaypb.Hello{
		Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: []byte("a")}, To: []byte("self"), Incarnation: 1, Window: rigWindow, LinkWindow: rigLink,
	})
	if err != nil {
		t.Fatal(err)
	}
	return rig
}

// receive passes a message of the edge to the session.
func (rig *frameRig) receive(m *relaypb.ToOwner) {
	if err := rig.s.handleControl(m); err != nil {
		rig.t.Fatal(err)
	}
}

func (rig *frameRig) stream(t *rapid.T) shard.StreamID {
	return shard.StreamID(fmt.Sprintf("s/%d", rapid.IntRange(0, 2).Draw(t, "stream")))
}

func (rig *frameRig) extend(t *rapid.T) {
	tail := rig.streams.tails[rig.stream(t)]
	r := batchOf(uint64(tail.Next()), rapid.SampledFrom([]int{1, 500, 3000, 9000, 50000}).Draw(t, "size"))
	rig.largest = max(rig.largest, len(r.Bytes()))
	if err := tail.Extend(r); err != nil {
		t.Fatal(err)
	}
}

func (rig *frameRig) subscribe(t *rapid.T) {
	id := rig.stream(t)
	rig.handle++
	from := rapid.Uint64Range(0, uint64(rig.streams.tails[id].Next())).Draw(t, "from")
	rig.edge[rig.handle] = &edgeSub{id: id, next: shard.Pos(from)}
	rig.receive(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
		{Handle: rig.handle, Stream: wire.Bytes(id), From: from},
	}})
	rig.streams.wg.Wait()
	rig.s.mu.Lock()
	rig.subs[rig.handle] = rig.s.subs[rig.handle]
	rig.s.mu.Unlock()
}

func (rig *frameRig) drawHandle(t *rapid.T) uint64 {
	if rig.handle == 0 {
		t.Skip("nothing is followed")
	}
	return rapid.Uint64Range(1, rig.handle).Draw(t, "handle")
}

func (rig *frameRig) unsubscribe(h uint64) {
	delete(rig.edge, h)
	rig.receive(&relaypb.ToOwner{Unsubscribe: []uint64{h}})
}

// frame builds the next Frame and passes it to the edge; false: there is nothing to send.
func (rig *frameRig) frame() bool {
	rig.s.fillFrame(&rig.builder, 0)
	return rig.deliver()
}

func (rig *frameRig) deliver() bool {
	for _, p := range rig.builder.frame.Parts {
		rig.linkCreditDue += len(p.GetData())
		e := rig.edge[p.GetHandle()]
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
				rig.t.Fatal(err)
			case whole && (r.From() > e.next || !e.subscribed):
				rig.t.Fatalf("handle %d: [%d, %d) does not join %d", p.GetHandle(), r.From(), r.To(), e.next)
			case whole:
				e.next = max(e.next, r.To())
			}
		default:
			rig.t.Fatalf("handle %d: %v", p.GetHandle(), p.GetKind())
		}
	}
	return len(rig.builder.frame.Parts) > 0
}

// removeWhileServed has a subscription served, and taken back before it is listed again.
func (rig *frameRig) removeWhileServed() {
	rig.builder.reset()
	sub := rig.s.popDirty(0)
	if sub == nil {
		return
	}
	more := rig.s.serveSub(sub, &rig.builder)
	rig.deliver()
	rig.unsubscribe(sub.handle)
	if more {
		rig.s.relist(sub)
	}
}

func (rig *frameRig) credit(h uint64) {
	if e := rig.edge[h]; e != nil && e.owed > 0 {
		rig.receive(&relaypb.ToOwner{Credit: []*relaypb.Credit{{Handle: h, Bytes: uint64(e.owed)}}})
		e.owed = 0
	}
}

func (rig *frameRig) linkCredit() {
	rig.receive(&relaypb.ToOwner{LinkCredit: uint64(rig.linkCreditDue)})
	rig.linkCreditDue = 0
}

// check checks what must hold at any moment: credit is neither made nor lost, and the bytes on
// their way are bounded whatever the edge does.
func (rig *frameRig) check(t *rapid.T) {
	onWay := 0
	for h, sub := range rig.subs {
		if g := sub.outgoing; g != nil {
			onWay += len(g.data) - g.sent
		}
		if sub.flags&subRemoved == 0 && int(sub.credit) < -rig.largest {
			t.Fatalf("handle %d is overdrawn by %d", h, -sub.credit)
		}
	}
	if got := int(rig.s.credit) + rig.linkCreditDue + onWay; got != rigLink {
		t.Fatalf("%d link credit, %d owed, %d being sent: %d in all, granted %d",
			rig.s.credit, rig.linkCreditDue, onWay, got, rigLink)
	}
	if int(rig.s.credit) < -rig.largest {
		t.Fatalf("the link is overdrawn by %d", -rig.s.credit)
	}
}

// Whatever an edge does: no credit is made or lost, no more is on its way than was granted plus one
// batch, and once credit returns every subscription gets everything.
func TestCreditIsNeitherMadeNorLost(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		rig := newFrameRig(t, rapid.SampledFrom([]int{20 << 10, 0}).Draw(t, "perTail"))
		t.Repeat(map[string]func(*rapid.T){
			"extend":      rig.extend,
			"extend more": rig.extend,
			"subscribe":   rig.subscribe,
			"unsubscribe": func(t *rapid.T) { rig.unsubscribe(rig.drawHandle(t)) },
			"frame":       func(*rapid.T) { rig.frame() },
			"midway":      func(*rapid.T) { rig.removeWhileServed() },
			"credit":      func(t *rapid.T) { rig.credit(rig.drawHandle(t)) },
			"link credit": func(*rapid.T) { rig.linkCredit() },
			"":            rig.check,
		})
		for more := true; more; more = rig.frame() {
			rig.linkCredit()
			for h := range rig.edge {
				rig.credit(h)
			}
		}
		for h, e := range rig.edge {
			if next := rig.streams.tails[e.id].Next(); e.next != next {
				t.Fatalf("handle %d is left at %d of %d", h, e.next, next)
			}
			rig.unsubscribe(h)
		}
		for rig.frame() {
			rig.linkCredit()
		}
		if rig.linkCredit(); rig.s.credit != rigLink || len(rig.s.subs) != 0 || rig.streams.feeds.Load() != 0 {
			t.Fatalf("%d credit, %d subscriptions, %d uses when nothing is followed",
				rig.s.credit, len(rig.s.subs), rig.streams.feeds.Load())
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
		rig := newFrameRig(t, 0)
		rig.streams.tails["s/0"] = shard.NewTailBuffers(0, 0).Open("s/0", shard.Info{Exists: true, Chain: chain}, 0)
		var q []*relaypb.Subscribe
		for h := range uint64(500) {
			q = append(q, &relaypb.Subscribe{Handle: h + 1, Stream: []byte("s/0")})
		}
		rig.receive(&relaypb.ToOwner{Subscribe: q})
		rig.streams.wg.Wait()
		for opened := 0; opened < len(q); opened += len(rig.builder.frame.Parts) {
			rig.s.fillFrame(&rig.builder, 0)
			if n := proto.Size(&rig.builder.frame); n > 2*wire.MaxFrameBytes || n == 0 {
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
			rig := newFrameRig(nil, 0)
			rig.s.peerVersion = c.version
			rig.streams.tails["s/0"] = shard.NewTailBuffers(0, 0).Open("s/0", c.info, 0)
			_ = rig.s.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
				{Handle: 1, Stream: []byte("s/1")}, {Handle: 2, Stream: []byte("s/0")}, {Handle: 3, Stream: []byte("s/2")},
			}})
			rig.streams.wg.Wait()
			rig.s.fillFrame(&rig.builder, 0)
			got := map[uint64]relaypb.PartKind{}
			for _, p := range rig.builder.frame.GetParts() {
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
			if n := len(rig.s.subs); n != 2 {
				t.Errorf("%d subscriptions are left", n)
			}
		})
	}
}
