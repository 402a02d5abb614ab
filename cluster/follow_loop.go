package cluster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// followLoop is the set of followers of a node. One goroutine looks after all of
// them: news marks a follower, the goroutine steps it. None has a goroutine or a
// queue of its own, and one that is well fed costs nothing.
//
// Locks: mu before follower.mu before (pmu, link.mu, or hosted.mu).
type followLoop struct {
	// set at construction
	self           string
	tails          *shard.TailBuffers
	local          *localStreams
	openPool       *openPool
	peers          *peers
	currentView    func() *View
	currentTable   func() *OwnerTable
	noteMisplaced  func() // a stream that another owns is fed by the host
	onFeedReleased func() // the host feeds one stream less
	log            *slog.Logger
	metrics        *metrics
	ctx            context.Context
	stop           context.CancelFunc
	wg             sync.WaitGroup
	wake           chan struct{} // cap 1, never closed

	mu       sync.Mutex
	byStream map[shard.StreamID]*follower
	closed   bool

	pendingMu  sync.Mutex
	pending    map[*follower]struct{} // to be stepped; each at most once
	lastMoveAt time.Time              // when the last had its turn that moves for no urgent reason
}

func jitter(from, to time.Duration) time.Duration { return from + rand.N(to-from) }

// follow returns the stream's TailBuffer, fed until release is called (once).
func (fs *followLoop) follow(ctx context.Context, id shard.StreamID, from uint64) (
	*shard.TailBuffer, func(), error,
) {
	f, first, err := fs.addReader(id, from)
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
	t := f.tail // stays while there are readers
	f.mu.Unlock()
	return t, f.removeReader, nil
}

// nextMoveTime is when one more follower may move that is fed meanwhile: all of a node that stops
// at once would hold up appends. Nobody waits for as long as feeds go on.
func (fs *followLoop) nextMoveTime(now time.Time) time.Time {
	fs.pendingMu.Lock()
	defer fs.pendingMu.Unlock()
	switch {
	case fs.lastMoveAt.Before(now):
		fs.lastMoveAt = now
	case fs.lastMoveAt.Sub(now) > movedGrace/2:
		return now.Add(jitter(0, movedGrace/2))
	}
	fs.lastMoveAt = fs.lastMoveAt.Add(movePace)
	return fs.lastMoveAt.Add(jitter(0, moveJitter))
}

// addReader adds a reader to the stream's follower, which it makes if need be. The
// opening is not nil while its first feed is on its way.
func (fs *followLoop) addReader(id shard.StreamID, from uint64) (*follower, *firstFeed, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, nil, shard.ErrStopped
	}
	if f := fs.byStream[id]; f != nil {
		f.mu.Lock()
		if !f.over && (f.tail == nil || f.tail.EndError() == nil) {
			if f.readers++; f.readers == 1 {
				fs.scheduleStep(f)
			}
			opening := f.opening
			f.mu.Unlock()
			return f, opening, nil
		}
		f.mu.Unlock()
		fs.scheduleStep(f) // it finds out that it is over
	}
	opening := &firstFeed{ready: make(chan struct{}), from: from, began: time.Now()}
	f := &follower{loop: fs, id: id, readers: 1, opening: opening}
	fs.byStream[id] = f
	fs.scheduleStep(f)
	return f, opening, nil
}

// followForBridge has a stream followed at another node that the host fed here until now, for
// the sake of everybody who reads its TailBuffer. Its leave ends that; nil: there is no need.
func (fs *followLoop) followForBridge(id shard.StreamID, to peerAddr) *follower {
	t := fs.tails.Lookup(id)
	if t == nil {
		return nil
	}
	from := t.Next()
	t.Release()
	f, _, err := fs.addReader(id, from)
	if err != nil {
		return nil
	}
	f.mu.Lock()
	if f.feed.upstream == nil && (f.move == nil || !f.move.awaitingAnswer) {
		f.move = &feedMove{notBefore: time.Now(), routing: routing{nextNode: to.name, route: route{hop: hopRedirected}}}
	}
	f.mu.Unlock()
	fs.scheduleStep(f)
	return f
}

// openTail is the stream's TailBuffer as a peer describes it, from start on; nil if this
// node knows of a later life.
func (fs *followLoop) openTail(id shard.StreamID, info shard.Info, start uint64) *shard.TailBuffer {
	if t := fs.tails.Lookup(id); t != nil {
		newer := t.Generation() > info.Generation
		t.Release()
		if newer {
			return nil
		}
	}
	return fs.tails.Open(id, info, start)
}

// localInfo describes a stream from its TailBuffer here, if that is fed and not behind
// what its feed had when it began.
func (fs *followLoop) localInfo(id shard.StreamID) (shard.Info, bool) {
	fs.mu.Lock()
	f := fs.byStream[id]
	fs.mu.Unlock()
	if f == nil {
		return shard.Info{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.over || f.tail == nil || f.feed.isMissing() || f.tail.EndError() != nil || f.tail.Next() < f.feedStartTail {
		return shard.Info{}, false
	}
	return f.tail.Info(), true
}

// noteInfo takes what an answer from elsewhere tells of a stream: a later life ends
// the one that is followed.
func (fs *followLoop) noteInfo(id shard.StreamID, info shard.Info) {
	if !info.Exists {
		return
	}
	fs.mu.Lock()
	f := fs.byStream[id]
	fs.mu.Unlock()
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
func (fs *followLoop) ownsStream(id shard.StreamID) bool {
	m := fs.currentTable().Owner(id)
	return m != nil && m.Name == fs.self
}

// scheduleStep has a follower stepped.
func (fs *followLoop) scheduleStep(f *follower) {
	fs.pendingMu.Lock()
	fs.pending[f] = struct{}{}
	fs.pendingMu.Unlock()
	notify(fs.wake)
}

// scheduleAll has every follower stepped: owners or links changed.
func (fs *followLoop) scheduleAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.pendingMu.Lock()
	defer fs.pendingMu.Unlock()
	for _, f := range fs.byStream {
		fs.pending[f] = struct{}{}
	}
	notify(fs.wake)
}

// onLinkLost is told of a link that is gone, with the subscriptions on it.
func (fs *followLoop) onLinkLost(subs []*upstreamSub) {
	for _, u := range subs {
		u.follower.onLinkLost(u)
	}
	fs.scheduleAll()
}

// minStepInterval is the least time between two looks at what is due.
const minStepInterval = 5 * time.Millisecond

// run steps followers until the context ends.
func (fs *followLoop) run() {
	var queue stepQueue
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		fs.pendingMu.Lock()
		dueNow := fs.pending
		fs.pending = map[*follower]struct{}{}
		fs.pendingMu.Unlock()
		for f := queue.popDue(now); f != nil; f = queue.popDue(now) {
			dueNow[f] = struct{}{}
		}
		for f := range dueNow {
			queue.schedule(f, f.step(now))
			fs.removeIfOver(f)
		}
		timer.Reset(max(queue.untilNext(time.Now()), minStepInterval))
		select {
		case <-fs.ctx.Done():
			return
		case <-fs.wake:
		case <-timer.C:
		}
	}
}

// removeIfOver takes a follower that is over out of the set.
func (fs *followLoop) removeIfOver(f *follower) {
	if !f.isOver() {
		return
	}
	fs.mu.Lock()
	if fs.byStream[f.id] == f {
		delete(fs.byStream, f.id)
	}
	fs.mu.Unlock()
}

// close ends every follower. Readers keep their TailBuffers, unfed.
func (fs *followLoop) close() {
	fs.mu.Lock()
	fs.closed = true
	all := make([]*follower, 0, len(fs.byStream))
	for _, f := range fs.byStream {
		all = append(all, f)
	}
	clear(fs.byStream)
	fs.mu.Unlock()
	fs.stop()
	fs.wg.Wait()
	for _, f := range all {
		f.mu.Lock()
		if !f.over {
			f.finishLocked(shard.ErrStopped)
		}
		f.unlockAndRun()
	}
}
