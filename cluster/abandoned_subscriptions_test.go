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
			s := newServer(&Config{}, "a", newLocalStreams(h, nil), o, newMetrics(nil), nil)
			s.currentTable = func() *placement.OwnerTable { return table }
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
			s := newServer(&Config{}, "a", newLocalStreams(&countingHost{}, nil), o, newMetrics(nil), nil)
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
			self: "a", tails: shard.NewTailBuffers(0, 0), local: newLocalStreams(h, nil), openPool: o,
			peers:       newPeers(&Config{}, "a", "", newMetrics(nil)),
			currentView: func() *placement.View { return view }, currentTable: func() *placement.OwnerTable { return table },
			noteMisplaced: func() {}, onFeedReleased: func() {}, metrics: newMetrics(nil), wake: make(chan struct{}, 1),
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

// tableOf returns the table in which the members of these names own streams.
func tableOf(names ...string) (*placement.View, *placement.OwnerTable) {
	var ms []placement.Member
	for _, n := range names {
		ms = append(ms, placement.Member{Name: n, RingKey: n, Revision: 1, OwnsUntil: placement.Never, RelayAddr: n + ":1"})
	}
	v := placement.NewView(ms)
	return v, v.TableAt(time.Unix(1, 0))
}
