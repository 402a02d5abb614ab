package shard

import (
	"container/heap"
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// sessionLimiter paces the read sessions that a Manager opens: after the death of a node its heirs
// follow all of its streams at once, and storage must not meet a herd. The most followed
// streams come first. A stream that waits is live meanwhile with all that is appended
// through this node. Those that were handed over have turns of their own (Manager.takes), and
// many of them: a session takes the place of the one before, and is paced only because
// thousands that are opened at once would hold up appends in this process.
type sessionLimiter struct {
	spawn func(func(context.Context)) bool
	limit *rate.Limiter

	mu          sync.Mutex
	queue       waitingSessions // at most one entry for each stream in memory
	dispatching bool            // somebody gives turns
}

// The token buckets.
const (
	sessionsPerSecond         = 200
	sessionBurst              = 200
	handoverSessionsPerSecond = 700
	handoverSessionBurst      = 50
)

// waitingSession is a session that waits for its turn.
type waitingSession struct {
	followers int
	granted   chan struct{}   // closed at its turn
	ctx       context.Context // when it ends, nobody waits
}

func newSessionLimiter(spawn func(func(context.Context)) bool, perSecond rate.Limit, atOnce int) *sessionLimiter {
	return &sessionLimiter{spawn: spawn, limit: rate.NewLimiter(perSecond, atOnce)}
}

// wait returns at the turn of a stream with so many followers. Errors: ctx's cause.
func (o *sessionLimiter) wait(ctx context.Context, followers int) error {
	me := &waitingSession{followers, make(chan struct{}), ctx}
	o.mu.Lock()
	if len(o.queue) == 0 && o.limit.Allow() {
		o.mu.Unlock()
		return nil
	}
	heap.Push(&o.queue, me)
	if !o.dispatching {
		o.dispatching = o.spawn(o.dispatch)
	}
	o.mu.Unlock()
	select {
	case <-me.granted:
		return nil
	case <-ctx.Done(): // also when the Manager is closed
		return context.Cause(ctx)
	}
}

// dispatch ends when nobody waits.
func (o *sessionLimiter) dispatch(ctx context.Context) {
	for o.limit.Wait(ctx) == nil {
		o.mu.Lock()
		for len(o.queue) > 0 {
			next, _ := heap.Pop(&o.queue).(*waitingSession)
			if next.ctx.Err() == nil {
				close(next.granted)
				break
			}
		}
		if o.dispatching = len(o.queue) > 0; !o.dispatching {
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
	}
}

// waitingSessions is a heap, most followed first.
type waitingSessions []*waitingSession

func (q waitingSessions) Len() int           { return len(q) }
func (q waitingSessions) Less(i, j int) bool { return q[i].followers > q[j].followers }
func (q waitingSessions) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *waitingSessions) Push(x any) {
	o, _ := x.(*waitingSession)
	*q = append(*q, o)
}

// Pop implements heap.Interface.
func (q *waitingSessions) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return last
}
