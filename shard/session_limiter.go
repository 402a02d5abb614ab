package shard

import (
	"container/heap"
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// sessionLimiter paces the read sessions that a Manager opens. After the death of a node the new
// owners follow all of its streams in the same moment, and storage must not meet them all together.
// The most followed streams come first. While a stream waits, its readers still get all that is
// appended through this node.
//
// Streams that were handed over have a limiter of their own (Manager.handoverSessionLimiter), with
// a higher rate: their sessions replace others. They are paced only because thousands of sessions
// that open together would delay appends in this process.
type sessionLimiter struct {
	spawn func(func(context.Context)) bool
	limit *rate.Limiter

	mu          sync.Mutex
	queue       waitingSessions // at most one entry for each stream in memory
	dispatching bool            // a goroutine runs dispatch
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
	granted   chan struct{}   // closed when its turn has come
	ctx       context.Context // when it ends, the session is given up
}

func newSessionLimiter(spawn func(func(context.Context)) bool, perSecond rate.Limit, atOnce int) *sessionLimiter {
	return &sessionLimiter{spawn: spawn, limit: rate.NewLimiter(perSecond, atOnce)}
}

// wait returns when the turn of a stream with so many followers has come. Errors: ctx's cause.
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

// dispatch grants turns at the bucket's rate, until no session waits.
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
