package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// nonUTF8 is text as any header may hold it.
const nonUTF8 = "text/plain; x=\xe9\xff\x80"

// nonUTF8Request returns a write with nonUTF8 in every text.
func nonUTF8Request(id shard.StreamID, op shard.Op, seq uint64, messages ...string) *shard.Request {
	q := write(id, op, messages...)
	q.Type = nonUTF8
	if op == shard.OpCreate {
		q.Expires = shard.MillisOf(time.Now().Add(time.Hour))
		q.ExpiresRaw = "\xe9" + nonUTF8
		return q
	}
	q.Producer = &shard.Producer{ID: "prod\xfcct", Seq: seq}
	q.StreamSeq = fmt.Appendf(nil, "\xff%03d", seq)
	return q
}

// linkIncarnations returns the incarnations of a fleet's links.
func (f *fleet) linkIncarnations() (all []uint64) {
	for _, s := range f.nodes {
		for _, o := range f.nodes {
			if l := s.peers.link(o.self); l != nil {
				all = append(all, l.incarnation)
			}
		}
	}
	return all
}

func (f *fleet) forcedRequests() (n float64) {
	for _, s := range f.nodes {
		n += testutil.ToFloat64(s.metrics.forced)
	}
	return n
}

// Whatever bytes a client sent as a type, a producer, a sequence, a date or a name: they travel
// unchanged, and cost no link, no second owner and no second session.
func TestTextsNeedNotBeUTF8(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	innocent := f.streamOwnedBy(f.nodes[1])
	f.mustDo(f.nodes[0], write(innocent, shard.OpCreate), shard.CodeCreated)
	beside := f.startReader(f.nodes[2], innocent)
	links, musts := f.linkIncarnations(), f.forcedRequests()
	var ids []shard.StreamID
	for i := range 6 {
		id := shard.StreamID(fmt.Sprintf("default/caf\xe9 %d", i))
		ids = append(ids, id)
		f.mustDo(f.nodes[0], nonUTF8Request(id, shard.OpCreate, 0), shard.CodeCreated)
	}
	for i, id := range ids {
		var readers []*streamReader
		for _, s := range f.nodes {
			readers = append(readers, f.startReader(s, id))
		}
		var want []string
		for n := range uint64(9) {
			m := fmt.Sprintf("%d caf\xe9", n)
			want = append(want, m)
			s := f.nodes[n%3]
			out := f.mustDo(s, nonUTF8Request(id, shard.OpAppend, n, m), shard.CodeAppended)
			if out.Producer == nil || out.Producer.ID != "prod\xfcct" || out.Info.Type != nonUTF8 {
				t.Fatalf("%+v of %q", out.Producer, out.Info.Type)
			}
		}
		for j, r := range readers {
			f.awaitMessages(r, want)
			info, err := f.nodes[j].Info(t.Context(), id, 0)
			if err != nil || info.Type != nonUTF8 || info.ExpiresRaw != "\xe9"+nonUTF8 {
				t.Fatalf("%v: %q expires %q", err, info.Type, info.ExpiresRaw)
			}
		}
		if n := f.log.OpenSessions(); n != i+2 {
			t.Errorf("%d sessions for %d followed streams", n, i+2)
		}
	}
	f.mustDo(f.nodes[0], write(innocent, shard.OpAppend, "x"), shard.CodeAppended)
	f.awaitMessages(beside, []string{"x"})
	if d := cmp.Diff(links, f.linkIncarnations()); d != "" {
		t.Errorf("links broke: %s", d)
	}
	if n := f.forcedRequests(); n != musts {
		t.Errorf("%v requests insisted on being served", n-musts)
	}
}

// A stream that cannot be described to a peer ends that one subscription: what travels beside it is
// complete.
func TestUndescribableStreamEndsOneSubscription(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		info    shard.Info
		version uint32
	}{
		"an old peer":        {shard.Info{Exists: true, Type: nonUTF8}, placement.RelayVersionBytes - 1},
		"an old peer, chain": {shard.Info{Exists: true, Chain: []shard.Ancestor{{Stream: "p/\xff"}}}, placement.RelayVersionBytes - 1},
		"too long":           {shard.Info{Exists: true, Type: strings.Repeat("x", 128<<10)}, placement.RelayVersionNewest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newFrameRig(nil, 0)
			b.s.peerVersion = c.version
			b.host.tails["s/0"] = shard.NewTailBuffers(0, 0).Open("s/0", c.info, 0)
			_ = b.s.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
				{Handle: 1, Stream: []byte("s/1")}, {Handle: 2, Stream: []byte("s/0")}, {Handle: 3, Stream: []byte("s/2")},
			}})
			b.o.wg.Wait()
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

// A batch that is malformed ends its own subscription, which is asked for again. The link and its
// other subscriptions stay.
func TestMalformedBatchEndsOneSubscription(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, other := f.nodes[0], f.nodes[1]
	a := f.streamOwnedBy(owner)
	f.mustDo(owner, write(a, shard.OpCreate), shard.CodeCreated)
	r := f.startReader(other, a)
	links := f.linkIncarnations()
	l := other.peers.link(owner.self)
	l.mu.Lock()
	var handle uint64
	for h := range l.subs {
		handle = h
	}
	l.mu.Unlock()
	l.handlePart(&relaypb.Part{Kind: relaypb.PartKind_PART_KIND_BATCH, Handle: handle, Data: []byte("no range")})
	l.mu.Lock()
	_, there := l.subs[handle]
	l.mu.Unlock()
	if there {
		t.Error("the subscription goes on")
	}
	f.mustDo(other, write(a, shard.OpAppend, "x"), shard.CodeAppended)
	f.awaitMessages(r, []string{"x"})
	if d := cmp.Diff(links, f.linkIncarnations()); d != "" {
		t.Errorf("links broke: %s", d)
	}
}
