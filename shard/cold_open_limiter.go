package shard

import (
	"container/heap"
	"context"
	"fmt"
	"sync"

	"golang.org/x/time/rate"
)

// coldOpenLimiter paces the opens that read storage: of streams that are not in memory and that
// were not handed over. Each costs a read or two of S2, which S2 bills, and any client may name any
// stream.
//
// Two queues share one token bucket. Followers' streams wait as long as it takes, the most followed
// first: after a restart they all come back. Other requests wait for at most a second, in order,
// and are refused beyond that. While followers wait, one turn in requestShare belongs to the other
// requests.
type coldOpenLimiter struct {
	spawn func(func(context.Context)) bool
	limit *rate.Limiter

	mu              sync.Mutex
	followed        coldHeap    // at most one entry for each stream in memory
	requested       []*coldOpen // at most a second's turns, and those that were withdrawn since
	waitingRequests int         // of requested, without the withdrawn
	granted         int         // turns so far
	seq             uint64
	dispatching     bool // a goroutine runs dispatch
	refused         uint64
}

const (
	// coldOpensPerSecond is the default rate of a node; the burst is twice as many.
	coldOpensPerSecond = 200
	requestShare       = 4
)

// errColdOpens is an ErrOverloaded: too many streams that are not in memory are asked for.
var errColdOpens = fmt.Errorf("%w: too many streams that are not in memory are asked for; try again in a moment", ErrOverloaded)

// coldOpen is one stream that waits to be opened.
type coldOpen struct {
	granted chan struct{} // closed when its turn has come, and when it is withdrawn

	// guarded by cold.mu
	followers int // 0: it is not in the followers' queue
	index     int // in the followers' heap
	seq       uint64
	requested bool // it is in the queue of other requests
	finished  bool // its turn has come, or it was withdrawn
	withdrawn bool
}

func newColdOpenLimiter(spawn func(func(context.Context)) bool, perSecond float64) *coldOpenLimiter {
	return &coldOpenLimiter{spawn: spawn, limit: rate.NewLimiter(rate.Limit(perSecond), max(int(2*perSecond), 1))}
}

// enqueue queues a stream with so many followers; 0: for another request. errColdOpens: it would
// wait for too long.
func (c *coldOpenLimiter) enqueue(followers int) (*coldOpen, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &coldOpen{granted: make(chan struct{}), index: -1}
	if len(c.followed) == 0 && c.waitingRequests == 0 && c.limit.Allow() {
		t.finish()
		return t, nil
	}
	if err := c.enqueueLocked(t, followers); err != nil {
		return nil, err
	}
	if !c.dispatching {
		c.dispatching = c.spawn(c.dispatch)
	}
	return t, nil
}

// addWaiter is enqueue for one more caller that wants the stream of an earlier enqueue.
func (c *coldOpenLimiter) addWaiter(t *coldOpen, followers int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.finished {
		return nil
	}
	return c.enqueueLocked(t, followers)
}

// enqueueLocked puts t into the queue that its waiters need, under mu.
func (c *coldOpenLimiter) enqueueLocked(t *coldOpen, followers int) error {
	switch {
	case followers > 0 && t.followers > 0:
		t.followers += followers
		heap.Fix(&c.followed, t.index)
	case followers > 0:
		c.seq++
		t.followers, t.seq = followers, c.seq
		heap.Push(&c.followed, t)
	case t.requested:
	case float64(c.waitingRequests) >= c.requestsPerSecond():
		c.refused++
		return errColdOpens
	default:
		t.requested = true
		c.waitingRequests++
		c.requested = append(c.requested, t)
	}
	return nil
}

// requestsPerSecond returns a lower bound of how many requests get their turn in a second.
func (c *coldOpenLimiter) requestsPerSecond() float64 {
	n := float64(c.limit.Limit())
	if len(c.followed) > 0 {
		return n / requestShare
	}
	return n
}

// withdraw gives up a turn that no caller waits for any more; false: the turn has come.
func (c *coldOpenLimiter) withdraw(t *coldOpen) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.finished {
		return false
	}
	c.dequeueLocked(t)
	t.withdrawn = true
	t.finish()
	return true
}

// dequeueLocked removes t from both queues, under mu. Its entry in requested stays and is skipped.
func (c *coldOpenLimiter) dequeueLocked(t *coldOpen) {
	if t.index >= 0 {
		heap.Remove(&c.followed, t.index)
	}
	if t.requested {
		c.waitingRequests--
	}
}

func (t *coldOpen) finish() {
	t.finished = true
	close(t.granted)
}

// dispatch grants turns at the bucket's rate, until no stream waits.
func (c *coldOpenLimiter) dispatch(ctx context.Context) {
	for c.limit.Wait(ctx) == nil {
		c.mu.Lock()
		if t := c.nextLocked(); t != nil {
			c.dequeueLocked(t)
			t.finish()
		}
		if c.dispatching = len(c.followed) > 0 || c.waitingRequests > 0; !c.dispatching {
			c.requested = nil
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// nextLocked returns the stream that has the next turn, or nil, under mu.
func (c *coldOpenLimiter) nextLocked() *coldOpen {
	for len(c.requested) > 0 && c.requested[0].finished {
		c.requested[0], c.requested = nil, c.requested[1:]
	}
	c.granted++
	switch {
	case len(c.followed) > 0 && (len(c.requested) == 0 || c.granted%requestShare != 0):
		return c.followed[0]
	case len(c.requested) > 0:
		return c.requested[0]
	default:
		return nil
	}
}

// counts returns how many streams wait, and how many requests were refused.
func (c *coldOpenLimiter) counts() (waiting int, refused uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.followed) + c.waitingRequests, c.refused
}

// coldHeap is a heap: most followed first, then in order of arrival.
type coldHeap []*coldOpen

func (q coldHeap) Len() int { return len(q) }
func (q coldHeap) Less(i, j int) bool {
	return q[i].followers > q[j].followers || q[i].followers == q[j].followers && q[i].seq < q[j].seq
}

func (q coldHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *coldHeap) Push(x any) {
	t, _ := x.(*coldOpen)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *coldHeap) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	last.index = -1
	*q = old[:len(old)-1]
	return last
}

// waitToAskAbsent waits for a turn if there is no stream. Asking S2 whether there is one by now
// costs as much as opening it, and a client may ask for any name again and again.
func (s *Stream) waitToAskAbsent(ctx context.Context) error {
	s.mu.Lock()
	absent := s.opened && !s.holdsMoreThanName()
	s.mu.Unlock()
	if !absent {
		return nil
	}
	followers := 0
	if isPatient(ctx) {
		followers = 1
	}
	t, err := s.manager.coldOpens.enqueue(followers)
	if err != nil {
		return err
	}
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done():
		s.manager.coldOpens.withdraw(t)
		return context.Cause(ctx)
	}
}

// patientKey marks the context of a follower's request, which waits for its turn to open a stream.
type patientKey struct{}

func withPatience(ctx context.Context) context.Context {
	return context.WithValue(ctx, patientKey{}, true)
}

func isPatient(ctx context.Context) bool { return ctx.Value(patientKey{}) != nil }
