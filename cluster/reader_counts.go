package cluster

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// The readers of a stream are counted up the way that its records come down: each node says to the node
// that feeds it how many readers it has and feeds in turn, and the owner knows the sum. While a stream
// moves, a node that is not the owner any more still feeds others, and says so to the next owner: no
// reader is missed or counted twice for longer than a second or two. A node that died is subtracted
// with its link.
//
// While a member runs a release that does not count, the number is not known: it would be too low.

// fedReaders holds how many readers of each stream peers feed from this node.
type fedReaders struct {
	mu       sync.Mutex
	byStream map[shard.StreamID]int
}

func (f *fedReaders) add(id shard.StreamID, delta int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.byStream == nil {
		f.byStream = map[shard.StreamID]int{}
	}
	if f.byStream[id] += delta; f.byStream[id] == 0 {
		delete(f.byStream, id)
	}
}

func (f *fedReaders) of(id shard.StreamID) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.byStream[id]
}

// lookup returns the stream's follower; nil: there is none.
func (l *followLoop) lookup(id shard.StreamID) *follower {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.byStream[id]
}

// countLocked returns how many readers this node has and feeds.
func (f *follower) countLocked() int {
	return max(int(f.readers-f.bridges), 0) + max(f.loop.fed.of(f.id), 0)
}

// reportReadersLocked says to the node that feeds this one how many readers it feeds by that.
func (f *follower) reportReadersLocked() {
	if up := f.feed.upstream; up != nil {
		up.SetReaders(f.countLocked(), f.watchers > 0)
	}
}

// totalLocked returns the number of readers on all nodes, as this node knows it.
func (f *follower) totalLocked() (n int, known bool) {
	switch {
	case f.feed.upstream != nil:
		return f.feed.upstream.Total()
	case f.feed.isMissing():
		return 0, false
	}
	return f.countLocked(), true
}

// addWatcher has the number of readers known here for one more reader, which has the follower, until
// removeWatcher. It returns the subscription whose owner is to be asked for the number; nil: it is known.
func (f *follower) addWatcher() *transport.Subscription {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers++; f.watchers == 1 {
		f.reportReadersLocked()
	}
	if _, known := f.totalLocked(); known {
		return nil
	}
	return f.feed.upstream
}

func (f *follower) removeWatcher() {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.watchers--; f.watchers == 0 {
		f.reportReadersLocked()
	}
}

// countsReaders reports whether every member counts its readers.
func (n *Node) countsReaders() bool { return n.View().AllSpeak(placement.RelayVersionReaders) }

// KnownReaders returns the number of a stream's readers on all nodes, as this node knows it: because it
// owns the stream, or because one of its readers watches the number. It does not block.
func (n *Node) KnownReaders(id shard.StreamID) (count int, known bool) {
	if !n.countsReaders() {
		return 0, false
	}
	f := n.followLoop.lookup(id)
	if f == nil {
		return max(n.fed.of(id), 0), n.followLoop.ownsStream(id)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.totalLocked()
}

// WatchReaders has KnownReaders know the number of a stream's readers until stop is called. The caller
// follows the stream meanwhile. The owner is asked now where this node does not know it yet, and from
// then on tells with its heartbeats.
func (n *Node) WatchReaders(ctx context.Context, id shard.StreamID) (stop func()) {
	f := n.followLoop.lookup(id)
	if f == nil {
		return func() {}
	}
	if sub := f.addWatcher(); sub != nil {
		if count, known := n.CountReaders(ctx, id); known {
			sub.NoteTotal(count)
		}
	}
	return f.removeWatcher
}

// CountReaders asks the owner for the number of a stream's readers on all nodes. It waits for
// reportTimeout at most.
func (n *Node) CountReaders(ctx context.Context, id shard.StreamID) (count int, known bool) {
	if !n.countsReaders() {
		return 0, false
	}
	ctx, cancel := context.WithTimeout(ctx, reportTimeout)
	defer cancel()
	err := n.routeRequest(ctx, id, func(ctx context.Context, l *transport.Link, rt placement.Route) (err error) {
		if l == nil {
			count, known = n.readersFedHere(id), true
			return nil
		}
		count, known, err = l.RequestReaders(ctx, id, rt)
		return err
	})
	return count, known && err == nil
}

// readersFedHere returns how many readers this node has and feeds.
func (n *Node) readersFedHere(id shard.StreamID) int {
	f := n.followLoop.lookup(id)
	if f == nil {
		return max(n.fed.of(id), 0)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.countLocked()
}

// AddReaders implements transport.Streams. A node that feeds others and is fed itself says so.
func (o *ownerSide) AddReaders(id shard.StreamID, delta int) {
	o.fed.add(id, delta)
	if f := o.followLoop.lookup(id); f != nil {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.reportReadersLocked()
	}
}

// KnownReaders implements transport.Streams.
func (o *ownerSide) KnownReaders(id shard.StreamID) (n int, known bool) {
	f := o.followLoop.lookup(id)
	if f == nil {
		return max(o.fed.of(id), 0), true
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.totalLocked()
}
