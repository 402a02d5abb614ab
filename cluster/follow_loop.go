package cluster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// followLoop holds the followers of a node. One goroutine serves all of them: an event schedules a
// follower, and the goroutine runs its step. No follower has a goroutine or a queue of its own, and
// a follower with a working feed costs nothing.
//
// Lock order: mu, follower.mu, then any of pendingMu, link.mu and localStreams.mu.
type followLoop struct {
	// Set at construction.
	self     string
	tails    *shard.TailBuffers
	local    *localStreams
	openPool *openPool
	peers    *transport.Peers
	node     followHost
	fed      *fedReaders
	log      *slog.Logger
	metrics  *metrics
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup
	wake     chan struct{} // cap 1, never closed

	mu       sync.Mutex
	byStream map[shard.StreamID]*follower
	closed   bool

	pendingMu  sync.Mutex
	pending    map[*follower]struct{} // to be stepped, each at most once
	lastMoveAt time.Time              // the latest time that nextMoveTime has given out
}

// followHost answers what followers ask of their node. It is a *Node.
type followHost interface {
	View() *placement.View
	currentTable() *placement.OwnerTable
	noteMisplaced()  // the stream manager feeds a stream that another node owns
	onFeedReleased() // the stream manager feeds one stream less
}

func randomBetween(from, to time.Duration) time.Duration { return from + rand.N(to-from) }

// follow returns the stream's tail buffer, which is fed until the caller calls release, exactly
// once.
func (l *followLoop) follow(ctx context.Context, id shard.StreamID, from shard.Pos) (
	*shard.TailBuffer, func(), error,
) {
	f, first, err := l.addReader(id, from)
	if err != nil {
		return nil, nil, err
	}
	if first != nil {
		select {
		case <-first.ready:
			err = first.err
		case <-ctx.Done():
			err = context.Cause(ctx)
		}
		if err != nil {
			f.removeReader()
			return nil, nil, err
		}
	}
	f.mu.Lock()
	t := f.tail // not nil while there are readers
	f.mu.Unlock()
	return t, f.removeReader, nil
}

// nextMoveTime returns when one more follower with a working feed may move. Moving all
// followers of a stopping node at the same time would delay appends. No move is later than its old
// feed lasts.
func (l *followLoop) nextMoveTime(now time.Time) time.Time {
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	switch {
	case l.lastMoveAt.Before(now):
		l.lastMoveAt = now
	case l.lastMoveAt.Sub(now) > transport.MovedGrace/2:
		return now.Add(randomBetween(0, transport.MovedGrace/2))
	}
	l.lastMoveAt = l.lastMoveAt.Add(movePace)
	return l.lastMoveAt.Add(randomBetween(0, moveJitter))
}

// addReader adds a reader to the stream's follower, which it creates if there is none. The
// firstFeed is not nil while the follower waits for one.
func (l *followLoop) addReader(id shard.StreamID, from shard.Pos) (*follower, *firstFeed, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil, nil, shard.ErrStopped
	}
	if f := l.byStream[id]; f != nil {
		f.mu.Lock()
		if !f.over && (f.tail == nil || f.tail.EndError() == nil) {
			if f.readers++; f.readers == 1 {
				l.scheduleStep(f)
			}
			f.reportReadersLocked()
			opening := f.opening
			f.mu.Unlock()
			return f, opening, nil
		}
		f.mu.Unlock()
		l.scheduleStep(f) // the step finds that it is over
	}
	opening := &firstFeed{ready: make(chan struct{}), from: from, began: time.Now()}
	f := &follower{loop: l, id: id, readers: 1, opening: opening}
	l.byStream[id] = f
	l.scheduleStep(f)
	return f, opening, nil
}

// followForBridge follows a stream at its new owner that the stream manager fed on this node until
// now, for all readers of its tail buffer. removeBridge ends that. It returns nil if no reader
// needs it.
func (l *followLoop) followForBridge(id shard.StreamID, to placement.PeerAddr) *follower {
	t := l.tails.Lookup(id)
	if t == nil {
		return nil
	}
	from := t.Next()
	t.Release()
	f, _, err := l.addReader(id, from)
	if err != nil {
		return nil
	}
	f.mu.Lock()
	f.bridges++
	f.reportReadersLocked()
	if f.feed.upstream == nil && (f.move == nil || !f.move.awaitingAnswer) {
		f.move = &feedMove{notBefore: time.Now(), routing: placement.RedirectedTo(to.Name)}
	}
	f.mu.Unlock()
	l.scheduleStep(f)
	return f
}

// openTail returns the stream's tail buffer as a peer describes it, from start on; nil if this node
// knows a later generation.
func (l *followLoop) openTail(id shard.StreamID, info shard.Info, start shard.Pos) *shard.TailBuffer {
	if t := l.tails.Lookup(id); t != nil {
		newer := t.Generation() > info.Generation
		t.Release()
		if newer {
			return nil
		}
	}
	return l.tails.Open(id, info, start)
}

// localInfo describes a stream from its tail buffer, if that is fed and has reached the tail that
// its feed began with.
func (l *followLoop) localInfo(id shard.StreamID) (shard.Info, bool) {
	l.mu.Lock()
	f := l.byStream[id]
	l.mu.Unlock()
	if f == nil {
		return shard.Info{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.stateLocked(); s != stateFed && s != stateMoving || f.tail.EndError() != nil || f.tail.Next() < f.feedStartTail {
		return shard.Info{}, false
	}
	return f.tail.Info(), true
}

// endOlderGeneration handles a description from another node: a later generation ends the
// generation that is followed here.
func (l *followLoop) endOlderGeneration(id shard.StreamID, info shard.Info) {
	if !info.Exists {
		return
	}
	l.mu.Lock()
	f := l.byStream[id]
	l.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.unlockAndRun()
	if !f.over && f.tail != nil && info.Generation > f.tail.Generation() {
		f.endGenerationLocked()
	}
}

// ownsStream reports whether this node owns the stream now, by its own view.
func (l *followLoop) ownsStream(id shard.StreamID) bool {
	m := l.node.currentTable().Owner(id)
	return m != nil && m.Name == l.self
}

// scheduleStep has a follower stepped by the loop.
func (l *followLoop) scheduleStep(f *follower) {
	l.pendingMu.Lock()
	l.pending[f] = struct{}{}
	l.pendingMu.Unlock()
	notify.Send(l.wake)
}

// scheduleAll has every follower stepped: owners or links changed.
func (l *followLoop) scheduleAll() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pendingMu.Lock()
	defer l.pendingMu.Unlock()
	for _, f := range l.byStream {
		l.pending[f] = struct{}{}
	}
	notify.Send(l.wake)
}

// minStepInterval is the least time between two rounds of the loop, so that one round serves many
// followers.
const minStepInterval = 5 * time.Millisecond

// run steps followers until the context ends.
func (l *followLoop) run() {
	var queue stepQueue[*follower]
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		l.pendingMu.Lock()
		dueNow := l.pending
		l.pending = map[*follower]struct{}{}
		l.pendingMu.Unlock()
		for f, ok := queue.popDue(now); ok; f, ok = queue.popDue(now) {
			dueNow[f] = struct{}{}
		}
		for f := range dueNow {
			queue.schedule(f, f.step(now))
			l.removeIfOver(f)
		}
		timer.Reset(max(queue.untilNext(time.Now()), minStepInterval))
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-timer.C:
		}
	}
}

// removeIfOver removes a follower that is over from the set.
func (l *followLoop) removeIfOver(f *follower) {
	if !f.isOver() {
		return
	}
	l.mu.Lock()
	if l.byStream[f.id] == f {
		delete(l.byStream, f.id)
	}
	l.mu.Unlock()
}

// close ends every follower. Readers keep their tail buffers, which nothing feeds any more.
func (l *followLoop) close() {
	l.mu.Lock()
	l.closed = true
	all := make([]*follower, 0, len(l.byStream))
	for _, f := range l.byStream {
		all = append(all, f)
	}
	clear(l.byStream)
	l.mu.Unlock()
	l.stop()
	l.wg.Wait()
	for _, f := range all {
		f.mu.Lock()
		if !f.over {
			f.finishLocked(shard.ErrStopped)
		}
		f.unlockAndRun()
	}
}
