package shard

import (
	"container/heap"
	"context"
	"sync"

	"golang.org/x/time/rate"
)

// opens paces the read sessions that a Manager opens: after the death of a node its heirs
// follow all of its streams at once, and storage must not meet a herd. The most followed
// streams come first. A stream that waits is live meanwhile with all that is appended
// through this node. Those that were handed over have turns of their own (Manager.takes), and
// many of them: a session takes the place of the one before, and is paced only because
// thousands that are opened at once would hold up appends in this process.
type opens struct {
	spawn func(func(context.Context)) bool
	limit *rate.Limiter

	mu    sync.Mutex
	queue openQueue // at most one entry for each stream in memory
	busy  bool      // somebody gives turns
}

// The token buckets.
const (
	opensPerSecond = 200
	opensAtOnce    = 200
	takesPerSecond = 700
	takesAtOnce    = 50
)

// opening is a session that waits for its turn.
type opening struct {
	followers int
	turn      chan struct{}   // closed at its turn
	ctx       context.Context // when it ends, nobody waits
}

func newOpens(spawn func(func(context.Context)) bool, perSecond rate.Limit, atOnce int) *opens {
	return &opens{spawn: spawn, limit: rate.NewLimiter(perSecond, atOnce)}
}

// wait returns at the turn of a stream with so many followers. Errors: ctx's cause.
func (o *opens) wait(ctx context.Context, followers int) error {
	me := &opening{followers, make(chan struct{}), ctx}
	o.mu.Lock()
	if len(o.queue) == 0 && o.limit.Allow() {
		o.mu.Unlock()
		return nil
	}
	heap.Push(&o.queue, me)
	if !o.busy {
		o.busy = o.spawn(o.giveTurns)
	}
	o.mu.Unlock()
	select {
	case <-me.turn:
		return nil
	case <-ctx.Done(): // also when the Manager is closed
		return context.Cause(ctx)
	}
}

// giveTurns ends when nobody waits.
func (o *opens) giveTurns(ctx context.Context) {
	for o.limit.Wait(ctx) == nil {
		o.mu.Lock()
		for len(o.queue) > 0 {
			next, _ := heap.Pop(&o.queue).(*opening)
			if next.ctx.Err() == nil {
				close(next.turn)
				break
			}
		}
		if o.busy = len(o.queue) > 0; !o.busy {
			o.mu.Unlock()
			return
		}
		o.mu.Unlock()
	}
}

// openQueue is a heap, most followed first.
type openQueue []*opening

func (q openQueue) Len() int           { return len(q) }
func (q openQueue) Less(i, j int) bool { return q[i].followers > q[j].followers }
func (q openQueue) Swap(i, j int)      { q[i], q[j] = q[j], q[i] }

// Push implements heap.Interface.
func (q *openQueue) Push(x any) {
	o, _ := x.(*opening)
	*q = append(*q, o)
}

// Pop implements heap.Interface.
func (q *openQueue) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	*q = old[:len(old)-1]
	return last
}
