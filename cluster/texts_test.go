package cluster

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// latin is text as any header may have it, which is no UTF-8.
const latin = "text/plain; x=\xe9\xff\x80"

// latinRequest is a write whose every text is latin.
func latinRequest(id shard.StreamID, op shard.Op, seq uint64, messages ...string) *shard.Request {
	q := write(id, op, messages...)
	q.Type = latin
	if op == shard.OpCreate {
		q.Expires = uint64(time.Now().Add(time.Hour).UnixMilli())
		q.ExpiresRaw = "\xe9" + latin
		return q
	}
	q.Producer = &shard.Producer{ID: "prod\xfcct", Seq: seq}
	q.StreamSeq = fmt.Appendf(nil, "\xff%03d", seq)
	return q
}

// links are the incarnations of a fleet's links.
func (f *fleet) links() (all []uint64) {
	for _, s := range f.nodes {
		for _, o := range f.nodes {
			if l := s.peers.link(o.self); l != nil {
				all = append(all, l.incarnation)
			}
		}
	}
	return all
}

func (f *fleet) musts() (n float64) {
	for _, s := range f.nodes {
		n += testutil.ToFloat64(s.metrics.forced)
	}
	return n
}

// Whatever bytes a client sent as a type, a producer, a sequence, a date or a name: they
// travel as they are, and cost no link, no second owner and no second session.
func TestBytesThatAreNoUTF8(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 3)
	innocent := f.owned(f.nodes[1])
	f.do(f.nodes[0], write(innocent, shard.OpCreate), shard.CodeCreated)
	beside := f.read(f.nodes[2], innocent)
	links, musts := f.links(), f.musts()
	var ids []shard.StreamID
	for i := range 6 {
		id := shard.StreamID(fmt.Sprintf("default/caf\xe9 %d", i))
		ids = append(ids, id)
		f.do(f.nodes[0], latinRequest(id, shard.OpCreate, 0), shard.CodeCreated)
	}
	for i, id := range ids {
		var readers []*reading
		for _, s := range f.nodes {
			readers = append(readers, f.read(s, id))
		}
		var want []string
		for n := range uint64(9) {
			m := fmt.Sprintf("%d caf\xe9", n)
			want = append(want, m)
			s := f.nodes[n%3]
			out := f.do(s, latinRequest(id, shard.OpAppend, n, m), shard.CodeAppended)
			if out.Producer == nil || out.Producer.ID != "prod\xfcct" || out.Info.Type != latin {
				t.Fatalf("%+v of %q", out.Producer, out.Info.Type)
			}
		}
		for j, r := range readers {
			f.wants(r, want)
			info, err := f.nodes[j].Info(t.Context(), id, 0)
			if err != nil || info.Type != latin || info.ExpiresRaw != "\xe9"+latin {
				t.Fatalf("%v: %q expires %q", err, info.Type, info.ExpiresRaw)
			}
		}
		if n := f.log.OpenSessions(); n != i+2 {
			t.Errorf("%d sessions for %d followed streams", n, i+2)
		}
	}
	f.do(f.nodes[0], write(innocent, shard.OpAppend, "x"), shard.CodeAppended)
	f.wants(beside, []string{"x"})
	if d := cmp.Diff(links, f.links()); d != "" {
		t.Errorf("links broke: %s", d)
	}
	if n := f.musts(); n != musts {
		t.Errorf("%v requests insisted on being served", n-musts)
	}
}

// A stream that cannot be described to a peer ends that one subscription: what travels
// beside it is complete.
func TestOneBadPart(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		info    shard.Info
		version uint32
	}{
		"an old peer":        {shard.Info{Exists: true, Type: latin}, relayVersionBytes - 1},
		"an old peer, chain": {shard.Info{Exists: true, Chain: []shard.Ancestor{{Stream: "p/\xff"}}}, relayVersionBytes - 1},
		"too long":           {shard.Info{Exists: true, Type: strings.Repeat("x", 2*maxDescription)}, relayVersionNewest},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			b := newLaneRig(nil, 0)
			b.s.peerVersion = c.version
			b.host.tails["s/0"] = shard.NewTailBuffers(0, 0).Open("s/0", c.info, 0)
			_ = b.s.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{
				{Handle: 1, Stream: []byte("s/1")}, {Handle: 2, Stream: []byte("s/0")}, {Handle: 3, Stream: []byte("s/2")},
			}})
			b.o.wg.Wait()
			b.s.fillFrame(&b.fr, 0)
			got := map[uint64]relaypb.Kind{}
			for _, p := range b.fr.frame.GetParts() {
				got[p.GetHandle()] = p.GetKind()
				if p.GetHandle() == 2 && p.GetRefusal().GetReason() != relaypb.Reason_REASON_DECLINED {
					t.Errorf("refused with %v", p.GetRefusal())
				}
			}
			want := map[uint64]relaypb.Kind{
				1: relaypb.Kind_KIND_SUBSCRIBED, 2: relaypb.Kind_KIND_END, 3: relaypb.Kind_KIND_SUBSCRIBED,
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

// A RecordBatch that is none ends its own subscription, which is asked for again; the link and
// what else it brings stay.
func TestMalformedRange(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	owner, other := f.nodes[0], f.nodes[1]
	a := f.owned(owner)
	f.do(owner, write(a, shard.OpCreate), shard.CodeCreated)
	r := f.read(other, a)
	links := f.links()
	l := other.peers.link(owner.self)
	l.mu.Lock()
	var handle uint64
	for h := range l.subs {
		handle = h
	}
	l.mu.Unlock()
	l.handlePart(&relaypb.Part{Kind: relaypb.Kind_KIND_RANGE, Handle: handle, Data: []byte("no range")})
	l.mu.Lock()
	_, there := l.subs[handle]
	l.mu.Unlock()
	if there {
		t.Error("the subscription goes on")
	}
	f.do(other, write(a, shard.OpAppend, "x"), shard.CodeAppended)
	f.wants(r, []string{"x"})
	if d := cmp.Diff(links, f.links()); d != "" {
		t.Errorf("links broke: %s", d)
	}
}
