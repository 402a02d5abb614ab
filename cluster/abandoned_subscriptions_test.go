package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// countingHost counts the calls that follow its streams, and has none.
type countingHost struct {
	streamManager
	follows atomic.Int64
}

func (h *countingHost) HasStream(shard.StreamID) bool { return true }

func (h *countingHost) Follow(context.Context, shard.StreamID, shard.Pos) (*shard.TailBuffer, func(), error) {
	h.follows.Add(1)
	return nil, nil, shard.ErrNotFound
}

// busyPool returns a pool that is busy until it is freed.
func busyPool() (o *openPool, free func()) {
	o, busy := &openPool{limit: 1, maxWaiting: 10}, make(chan struct{})
	o.submit(true, func() { <-busy })
	return o, sync.OnceFunc(func() {
		close(busy)
		o.close()
	})
}

// A subscription that was taken back while it waited to be opened opens nothing.
func TestSubscriptionTakenBackOpensNothing(t *testing.T) {
	t.Parallel()
	_, table := tableOf("a")
	for _, c := range []struct {
		name string
		end  func(*peerSession)
		want int64
	}{
		{"wanted", func(*peerSession) {}, 1},
		{"taken back", func(s *peerSession) { _ = s.handleControl(&relaypb.ToOwner{Unsubscribe: []uint64{1}}) }, 0},
		{"its link has ended", (*peerSession).close, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			h := &countingHost{}
			o, free := busyPool()
			s := newServer(&Config{}, placement.PeerAddr{Name: "a"}, &testOwner{newLocalStreams(h, noHandover{}), o, table}, newMetrics(nil), nil)
			ses, err := s.openSession(t.Context(), &relaypb.Hello{Incarnation: 1, From: &relaypb.PeerAddress{Name: []byte("b")}, To: []byte("a"), Version: placement.RelayVersionNewest})
			if err != nil {
				t.Fatal(err)
			}
			_ = ses.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: 1, Stream: []byte("default/s")}}})
			c.end(ses)
			free()
			if n := h.follows.Load(); n != c.want {
				t.Errorf("%s: followed %d times", c.name, n)
			}
			s.closeSession(ses)
			s.close()
		})
	}
}

// A peer that keeps asking without reading the answers, or takes back what it has asked for, loses
// its link: what waits for the bulk lane is bounded.
func TestPeerThatReadsNoAnswersLosesItsLink(t *testing.T) {
	t.Parallel()
	const most, asks = 16, 200
	for name, say := range map[string]func(h uint64) *relaypb.ToOwner{
		"it asks": func(h uint64) *relaypb.ToOwner {
			return &relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: h, Stream: []byte("no name")}}}
		},
		"it asks and takes back": func(h uint64) *relaypb.ToOwner {
			return &relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: h, Stream: []byte("no name")}}, Unsubscribe: []uint64{h}}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			o := &openPool{limit: 1, maxWaiting: 10}
			s := newServer(&Config{}, placement.PeerAddr{Name: "a"}, &testOwner{newLocalStreams(&countingHost{}, noHandover{}), o, nil}, newMetrics(nil), nil)
			defer s.close()
			defer o.close()
			ses, err := s.openSession(t.Context(), &relaypb.Hello{
				Incarnation: 1, To: []byte("a"), Version: placement.RelayVersionNewest, From: &relaypb.PeerAddress{Name: []byte("b")},
			})
			if err != nil {
				t.Fatal(err)
			}
			defer s.closeSession(ses)
			ses.maxSubs = most
			said := uint64(0)
			for err == nil && said < asks {
				said++
				err = ses.handleControl(say(said))
			}
			if err == nil || len(ses.subs) > 2*most || ses.dirtyCount > 3*most {
				t.Fatalf("after %d: %v, with %d subscriptions of which %d wait", said, err, len(ses.subs), ses.dirtyCount)
			}
		})
	}
}

// A peer that reads the answers may go on asking.
func TestPeerThatReadsAnswersMayAskForever(t *testing.T) {
	t.Parallel()
	b := newFrameRig(nil, 0)
	b.s.maxSubs = 16
	for h := range uint64(200) {
		if err := b.s.handleControl(&relaypb.ToOwner{Subscribe: []*relaypb.Subscribe{{Handle: h, Stream: []byte("no name")}}, Unsubscribe: []uint64{h}}); err != nil {
			t.Fatal(err)
		}
		b.s.fillFrame(&b.builder, 0)
	}
	if b.s.dirtyCount != 0 || len(b.s.subs) != 0 {
		t.Errorf("%d subscriptions, %d wait", len(b.s.subs), b.s.dirtyCount)
	}
}

// A move to this node that was given up while it waited for the stream manager opens nothing.
func TestMoveGivenUpOpensNothing(t *testing.T) {
	t.Parallel()
	view, table := tableOf("a")
	for _, c := range []struct {
		name string
		now  func(*follower)
		want int64
	}{
		{"wanted", func(*follower) {}, 1},
		{"late", func(f *follower) { f.step(time.Now().Add(2 * subscribeTimeout)) }, 0},
		{"nobody reads any more", func(f *follower) {
			f.removeReader()
			f.step(time.Now().Add(2 * unfollowAfter))
		}, 0},
	} {
		h := &countingHost{}
		o, free := busyPool()
		fs := &followLoop{
			self: "a", tails: shard.NewTailBuffers(0, 0), local: newLocalStreams(h, noHandover{}), openPool: o,
			peers: newPeers(&Config{}, placement.PeerAddr{Name: "a"}, newMetrics(nil), nil, nil, nil), node: &testFollowHost{view, table},
			metrics: newMetrics(nil), wake: make(chan struct{}, 1),
			byStream: map[shard.StreamID]*follower{}, pending: map[*follower]struct{}{}, ctx: t.Context(), stop: func() {},
		}
		f, _, err := fs.addReader("default/s", 0)
		if err != nil {
			t.Fatal(err)
		}
		f.step(time.Now())
		c.now(f)
		free()
		if n := h.follows.Load(); n != c.want {
			t.Errorf("%s: followed %d times", c.name, n)
		}
		fs.close()
	}
}

// testOwner serves the streams of a table without a Node.
type testOwner struct {
	*localStreams
	pool  *openPool
	table *placement.OwnerTable
}

func (o *testOwner) checkOwnership(_ context.Context, id shard.StreamID, r placement.Route) error {
	return placement.CheckOwnership(o.table, o.table.Owners()[0].Name, id, r, func(*placement.Member) bool { return true })
}

func (o *testOwner) submitOpen(id shard.StreamID, fn func()) bool {
	return o.pool.submit(o.answersLocally(id), fn)
}

func (o *testOwner) readPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error) {
	return o.manager.ReadPage(ctx, id, info, from)
}
func (o *testOwner) takeOver(context.Context, shard.StreamID) error { return nil }
func (o *testOwner) handOver(context.Context, shard.StreamID, shard.Pos, placement.PeerAddr) (h shard.Handover, found bool, err error) {
	return h, false, errNotSuccessor
}
func (o *testOwner) isMember(string) bool             { return true }
func (o *testOwner) statusFor(string) *relaypb.Status { return &relaypb.Status{} }

func (o *testOwner) report(context.Context, []byte) ([]byte, error) { return nil, errNoReport }

// noHandover finds no handover of any stream.
type noHandover struct{}

func (noHandover) fetchHandover(context.Context, shard.StreamID) (h shard.Handover, found bool) {
	return h, false
}

func (noHandover) noteLeaveProgress() {}

// testFollowHost is the host of followers without a Node.
type testFollowHost struct {
	view  *placement.View
	table *placement.OwnerTable
}

func (h *testFollowHost) View() *placement.View               { return h.view }
func (h *testFollowHost) currentTable() *placement.OwnerTable { return h.table }
func (h *testFollowHost) noteMisplaced()                      {}
func (h *testFollowHost) onFeedReleased()                     {}

// tableOf returns the table in which the members of these names own streams.
func tableOf(names ...string) (*placement.View, *placement.OwnerTable) {
	var ms []placement.Member
	for _, n := range names {
		ms = append(ms, placement.Member{Name: n, RingKey: n, Revision: 1, OwnsUntil: placement.Never, RelayAddr: n + ":1"})
	}
	v := placement.NewView(ms)
	return v, v.TableAt(time.Unix(1, 0))
}
