package shard

import (
	"container/heap"
	"context"
	"fmt"
	"sync"

	"golang.org/x/time/rate"
)

// cold paces the opens that read storage: of streams that are not in memory and that nobody
// handed over. Each costs a read or two of S2, which is billed, and whoever may send a
// request may name a stream. Two queues share one token bucket. Followers' streams wait as
// long as it takes, the most followed first: after a restart they all come back. Requests
// of others wait for at most a second, in order, and are refused beyond; while followers
// wait, one turn in coldShare is theirs.
type cold struct {
	spawn func(func(context.Context)) bool
	limit *rate.Limiter

	mu       sync.Mutex
	followed coldHeap    // at most one entry for each stream in memory
	asked    []*coldTurn // at most a second's turns, and those that were withdrawn since
	waiting  int         // of asked, not withdrawn
	turns    int
	seq      uint64
	busy     bool // a goroutine gives turns
	refused  uint64
}

const (
	// coldPerSecond and coldAtOnce are the default token bucket of a node.
	coldPerSecond = 200
	coldShare     = 4
)

// errColdOpens is an ErrOverloaded: too many streams that are not in memory are asked for.
var errColdOpens = fmt.Errorf("%w: too many streams that are not in memory are asked for; try again in a moment", ErrOverloaded)

// coldTurn is one stream that waits to be opened.
type coldTurn struct {
	turn chan struct{} // closed at its turn, and when it is withdrawn

	// guarded by cold.mu
	followers int // 0: it is not in the followers' queue
	at        int // its index there
	seq       uint64
	asked     bool // it is in the queue of other requests
	over      bool // its turn has come, or nobody wants it any more
	withdrawn bool
}

func newCold(spawn func(func(context.Context)) bool, perSecond float64) *cold {
	return &cold{spawn: spawn, limit: rate.NewLimiter(rate.Limit(perSecond), max(int(2*perSecond), 1))}
}

// begin queues a stream with so many followers (0: a request of somebody else).
// errColdOpens: it would wait for too long.
func (c *cold) begin(followers int) (*coldTurn, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	t := &coldTurn{turn: make(chan struct{}), at: -1}
	if len(c.followed) == 0 && c.waiting == 0 && c.limit.Allow() {
		t.end()
		return t, nil
	}
	if err := c.queue(t, followers); err != nil {
		return nil, err
	}
	if !c.busy {
		c.busy = c.spawn(c.giveTurns)
	}
	return t, nil
}

// join is begin for one more who wants the stream of a turn that was begun.
func (c *cold) join(t *coldTurn, followers int) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.over {
		return nil
	}
	return c.queue(t, followers)
}

func (c *cold) queue(t *coldTurn, followers int) error {
	switch {
	case followers > 0 && t.followers > 0:
		t.followers += followers
		heap.Fix(&c.followed, t.at)
	case followers > 0:
		c.seq++
		t.followers, t.seq = followers, c.seq
		heap.Push(&c.followed, t)
	case t.asked:
	case float64(c.waiting) >= c.perSecond():
		c.refused++
		return errColdOpens
	default:
		t.asked = true
		c.waiting++
		c.asked = append(c.asked, t)
	}
	return nil
}

// perSecond is how many requests of others get their turn in a second, from below.
func (c *cold) perSecond() float64 {
	n := float64(c.limit.Limit())
	if len(c.followed) > 0 {
		return n / coldShare
	}
	return n
}

// withdraw gives up a turn that nobody wants any more; false: it has come.
func (c *cold) withdraw(t *coldTurn) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if t.over {
		return false
	}
	c.leave(t)
	t.withdrawn = true
	t.end()
	return true
}

// leave takes a turn out of both queues, but for its place in asked, which is skipped.
func (c *cold) leave(t *coldTurn) {
	if t.at >= 0 {
		heap.Remove(&c.followed, t.at)
	}
	if t.asked {
		c.waiting--
	}
}

func (t *coldTurn) end() {
	t.over = true
	close(t.turn)
}

// giveTurns ends when nobody waits.
func (c *cold) giveTurns(ctx context.Context) {
	for c.limit.Wait(ctx) == nil {
		c.mu.Lock()
		if t := c.pop(); t != nil {
			c.leave(t)
			t.end()
		}
		if c.busy = len(c.followed) > 0 || c.waiting > 0; !c.busy {
			c.asked = nil
			c.mu.Unlock()
			return
		}
		c.mu.Unlock()
	}
}

// pop is whose turn it is, or nil.
func (c *cold) pop() *coldTurn {
	for len(c.asked) > 0 && c.asked[0].over {
		c.asked[0], c.asked = nil, c.asked[1:]
	}
	c.turns++
	switch {
	case len(c.followed) > 0 && (len(c.asked) == 0 || c.turns%coldShare != 0):
		return c.followed[0]
	case len(c.asked) > 0:
		return c.asked[0]
	default:
		return nil
	}
}

// counts are those that wait, and how many were refused.
func (c *cold) counts() (waiting int, refused uint64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.followed) + c.waiting, c.refused
}

// coldHeap is a heap, most followed first, then who came first.
type coldHeap []*coldTurn

func (q coldHeap) Len() int { return len(q) }
func (q coldHeap) Less(i, j int) bool {
	return q[i].followers > q[j].followers || q[i].followers == q[j].followers && q[i].seq < q[j].seq
}

func (q coldHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].at, q[j].at = i, j
}

// Push implements heap.Interface.
func (q *coldHeap) Push(x any) {
	t, _ := x.(*coldTurn)
	t.at = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *coldHeap) Pop() any {
	old := *q
	last := old[len(old)-1]
	old[len(old)-1] = nil
	last.at = -1
	*q = old[:len(old)-1]
	return last
}

// paceAbsent waits for a turn if there is no stream: to ask S2 whether there is one by now
// costs as much as to open it, and whoever may send a request may ask for any name again.
func (s *Stream) paceAbsent(ctx context.Context) error {
	s.mu.Lock()
	absent := s.opened && !s.exists()
	s.mu.Unlock()
	if !absent {
		return nil
	}
	followers := 0
	if isPatient(ctx) {
		followers = 1
	}
	t, err := s.host.cold.begin(followers)
	if err != nil {
		return err
	}
	select {
	case <-t.turn:
		return nil
	case <-ctx.Done():
		s.host.cold.withdraw(t)
		return context.Cause(ctx)
	}
}

// patient marks what is done for followers: it waits for its turn to open a stream.
type patient struct{}

func patiently(ctx context.Context) context.Context { return context.WithValue(ctx, patient{}, true) }

func isPatient(ctx context.Context) bool { return ctx.Value(patient{}) != nil }
