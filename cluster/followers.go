package cluster

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// followers is the set of followers of a node. One goroutine looks after all of
// them: news marks a follower, the goroutine steps it. None has a goroutine or a
// queue of its own, and one that is well fed costs nothing.
//
// Locks: mu before follower.mu before (pmu, link.mu, or hosted.mu).
type followers struct {
	// set at construction
	self    string
	tails   *shard.Tails
	hosted  *hosted
	openers *openers
	peers   *peers
	view    func() *View
	table   func() *Table
	foreign func() // a stream that another owns is fed by the host
	freed   func() // the host feeds one stream less
	log     *slog.Logger
	met     *metrics
	ctx     context.Context
	stop    context.CancelFunc
	wg      sync.WaitGroup
	wake    chan struct{} // cap 1, never closed

	mu     sync.Mutex
	m      map[shard.StreamID]*follower
	closed bool

	pmu     sync.Mutex
	pending map[*follower]struct{} // to be stepped; each at most once
	turns   time.Time              // when the last had its turn that moves for no urgent reason
}

func jitter(from, to time.Duration) time.Duration { return from + rand.N(to-from) }

// follow returns the stream's Tail, fed until release is called (once).
func (fs *followers) follow(ctx context.Context, id shard.StreamID, from uint64) (
	*shard.Tail, func(), error,
) {
	f, first, err := fs.hold(id, from)
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
			f.leave()
			return nil, nil, err
		}
	}
	f.mu.Lock()
	t := f.tail // stays while there are readers
	f.mu.Unlock()
	return t, f.leave, nil
}

// turn is when one more follower may move that is fed meanwhile: all of a node that stops
// at once would hold up appends. Nobody waits for as long as feeds go on.
func (fs *followers) turn(now time.Time) time.Time {
	fs.pmu.Lock()
	defer fs.pmu.Unlock()
	switch {
	case fs.turns.Before(now):
		fs.turns = now
	case fs.turns.Sub(now) > movedGrace/2:
		return now.Add(jitter(0, movedGrace/2))
	}
	fs.turns = fs.turns.Add(flipPace)
	return fs.turns.Add(jitter(0, flipJitter))
}

// hold adds a reader to the stream's follower, which it makes if need be. The
// opening is not nil while its first feed is on its way.
func (fs *followers) hold(id shard.StreamID, from uint64) (*follower, *opening, error) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if fs.closed {
		return nil, nil, shard.ErrStopped
	}
	if f := fs.m[id]; f != nil {
		f.mu.Lock()
		if !f.gone && (f.tail == nil || f.tail.Ended() == nil) {
			if f.readers++; f.readers == 1 {
				fs.pend(f)
			}
			o := f.opening
			f.mu.Unlock()
			return f, o, nil
		}
		f.mu.Unlock()
		fs.pend(f) // it finds out that it is over
	}
	o := &opening{ready: make(chan struct{}), from: from, began: time.Now()}
	f := &follower{fs: fs, id: id, readers: 1, opening: o}
	fs.m[id] = f
	fs.pend(f)
	return f, o, nil
}

// handed has a stream followed at another node that the host fed here until now, for
// the sake of everybody who reads its Tail. Its leave ends that; nil: there is no need.
func (fs *followers) handed(id shard.StreamID, to place) *follower {
	t := fs.tails.Lookup(id)
	if t == nil {
		return nil
	}
	from := t.Next()
	t.Release()
	f, _, err := fs.hold(id, from)
	if err != nil {
		return nil
	}
	f.mu.Lock()
	if f.feed.up == nil && (f.move == nil || !f.move.waiting) {
		f.move = &move{at: time.Now(), course: course{hint: to.name, route: route{hop: hopSecond}}}
	}
	f.mu.Unlock()
	fs.pend(f)
	return f
}

// open is the stream's Tail as a peer describes it, from start on; nil if this
// node knows of a later life.
func (fs *followers) open(id shard.StreamID, info shard.Info, start uint64) *shard.Tail {
	if t := fs.tails.Lookup(id); t != nil {
		newer := t.Life() > info.Life
		t.Release()
		if newer {
			return nil
		}
	}
	return fs.tails.Open(id, info, start)
}

// local describes a stream from its Tail here, if that is fed and not behind
// what its feed had when it began.
func (fs *followers) local(id shard.StreamID) (shard.Info, bool) {
	fs.mu.Lock()
	f := fs.m[id]
	fs.mu.Unlock()
	if f == nil {
		return shard.Info{}, false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.gone || f.tail == nil || f.feed.none() || f.tail.Ended() != nil || f.tail.Next() < f.goal {
		return shard.Info{}, false
	}
	return f.tail.Info(), true
}

// heard takes what an answer from elsewhere tells of a stream: a later life ends
// the one that is followed.
func (fs *followers) heard(id shard.StreamID, info shard.Info) {
	if !info.Exists {
		return
	}
	fs.mu.Lock()
	f := fs.m[id]
	fs.mu.Unlock()
	if f == nil {
		return
	}
	f.mu.Lock()
	defer f.unlock()
	if !f.gone && f.tail != nil && info.Life > f.tail.Life() {
		f.end()
	}
}

// owns reports whether this node owns the stream now, by its own view.
func (fs *followers) owns(id shard.StreamID) bool {
	m := fs.table().Owner(id)
	return m != nil && m.Name == fs.self
}

// pend has a follower stepped.
func (fs *followers) pend(f *follower) {
	fs.pmu.Lock()
	fs.pending[f] = struct{}{}
	fs.pmu.Unlock()
	poke(fs.wake)
}

// pendAll has every follower stepped: owners or links changed.
func (fs *followers) pendAll() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.pmu.Lock()
	defer fs.pmu.Unlock()
	for _, f := range fs.m {
		fs.pending[f] = struct{}{}
	}
	poke(fs.wake)
}

// lost is told of a link that is gone, with the subscriptions on it.
func (fs *followers) lost(subs []*upstream) {
	for _, u := range subs {
		u.f.lost(u)
	}
	fs.pendAll()
}

// grain is the least time between two looks at what is due.
const grain = 5 * time.Millisecond

// run steps followers until the context ends.
func (fs *followers) run() {
	var later agenda
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		now := time.Now()
		fs.pmu.Lock()
		news := fs.pending
		fs.pending = map[*follower]struct{}{}
		fs.pmu.Unlock()
		for f := later.due(now); f != nil; f = later.due(now) {
			news[f] = struct{}{}
		}
		for f := range news {
			later.put(f, f.step(now))
			fs.forget(f)
		}
		timer.Reset(max(later.wait(time.Now()), grain))
		select {
		case <-fs.ctx.Done():
			return
		case <-fs.wake:
		case <-timer.C:
		}
	}
}

// forget takes a follower that is over out of the set.
func (fs *followers) forget(f *follower) {
	if !f.stopped() {
		return
	}
	fs.mu.Lock()
	if fs.m[f.id] == f {
		delete(fs.m, f.id)
	}
	fs.mu.Unlock()
}

// close ends every follower. Readers keep their Tails, unfed.
func (fs *followers) close() {
	fs.mu.Lock()
	fs.closed = true
	all := make([]*follower, 0, len(fs.m))
	for _, f := range fs.m {
		all = append(all, f)
	}
	clear(fs.m)
	fs.mu.Unlock()
	fs.stop()
	fs.wg.Wait()
	for _, f := range all {
		f.mu.Lock()
		if !f.gone {
			f.finish(shard.ErrStopped)
		}
		f.unlock()
	}
}
