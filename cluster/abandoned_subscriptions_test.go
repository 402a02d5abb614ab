package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
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
func busyPool() (p *openPool, free func()) {
	p, busy := &openPool{limit: 1, maxWaiting: 10}, make(chan struct{})
	p.submit(true, func() { <-busy })
	return p, sync.OnceFunc(func() {
		close(busy)
		p.close()
	})
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
		t.Run(c.name, func(t *testing.T) {
			h := &countingHost{}
			p, free := busyPool()
			l := &followLoop{
				self: "a", tails: shard.NewTailBuffers(0, 0), local: newLocalStreams(h, noHandover{}), openPool: p,
				peers: transport.NewPeers(transport.Config{}, nil), node: &testFollowHost{view, table},
				metrics: newMetrics(nil), fed: &fedReaders{}, wake: make(chan struct{}, 1),
				byStream: map[shard.StreamID]*follower{}, pending: map[*follower]struct{}{}, ctx: t.Context(), stop: func() {},
			}
			f, _, err := l.addReader("default/s", 0)
			if err != nil {
				t.Fatal(err)
			}
			f.step(time.Now())
			c.now(f)
			free()
			if n := h.follows.Load(); n != c.want {
				t.Errorf("followed %d times", n)
			}
			l.close()
		})
	}
}

// noHandover finds no handover of any stream.
type noHandover struct{}

func (noHandover) fetchHandover(context.Context, shard.StreamID, bool, func(shard.Handover)) {}

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
