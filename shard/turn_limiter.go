package shard

import (
	"container/heap"
	"context"
	"fmt"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// turnLimiter gives turns at the rate of a token bucket, in an order. A Manager has three, each for
// something of which storage, or this process, must not meet very many together:
//
//   - coldOpens, for opens that read storage: of streams that are not in memory and that were not
//     handed over. Each costs a read or two of S2, which S2 bills, and any client may name any stream.
//   - sessions, for read sessions. After the death of a node the new owners follow all of its streams
//     in the same moment. While a stream waits, its readers still get all that is appended through
//     this node.
//   - handoverSessions, for the sessions of streams that were handed over, at a higher rate: they
//     replace others. They are paced only because thousands of sessions that open together would
//     delay appends in this process.
//
// Two queues share the bucket. Followers' streams wait as long as it takes, the most followed first:
// after a restart they all come back. Other requests, which only coldOpens has, wait for at most a
// second, in order, and are refused beyond that. While followers wait, one turn in requestShare
// belongs to the other requests.
//
// Where the work after a turn is bounded as well (slots), a turn comes only while fewer than so many
// are at it: if this process or storage is slow, the rate follows.
type turnLimiter struct {
	spawn   func(func(context.Context)) bool
	limit   *rate.Limiter
	refusal error         // of a request that would wait for too long
	slots   chan struct{} // holds one for each turn whose work is under way; nil: that has no bound

	mu              sync.Mutex
	followed        turnHeap // at most one entry for each stream in memory
	requested       []*turn  // at most a second's turns, and those that were withdrawn since
	waitingRequests int      // of requested, without the withdrawn
	granted         int      // turns so far
	seq             uint64
	dispatching     bool // a goroutine runs dispatch
	refused         uint64
}

// The token buckets.
const (
	// coldOpensPerSecond is the default rate of a node; the burst is twice as many.
	coldOpensPerSecond = 200

	sessionsPerSecond         = 200
	sessionBurst              = 200
	handoverSessionsPerSecond = 700
	handoverSessionBurst      = 50
	// openingSessions bounds the sessions that are being opened, for each of the two limiters. A
	// session counts for at most maxOpeningTime, so that a part of storage that does not answer
	// holds up no other.
	openingSessions = 64
	maxOpeningTime  = time.Second
)

const requestShare = 4

// errColdOpens is an ErrOverloaded: too many streams that are not in memory are asked for.
var errColdOpens = fmt.Errorf("%w: too many streams that are not in memory are asked for; try again in a moment", ErrOverloaded)

// turn is one stream that waits for its turn.
type turn struct {
	granted chan struct{} // closed when the turn has come, and when it is withdrawn
	run     func()        // called under mu when the turn has come, and must not wait; may be nil

	// The rest is guarded by the limiter's mu; withdrawn may be read once granted is closed.
	followers int // 0: it is not in the followers' queue
	index     int // in the followers' heap
	seq       uint64
	requested bool // it is in the queue of other requests
	finished  bool // its turn has come, or it was withdrawn
	withdrawn bool
}

func newTurnLimiter(spawn func(func(context.Context)) bool, perSecond float64, burst int, refusal error) *turnLimiter {
	return &turnLimiter{spawn: spawn, limit: rate.NewLimiter(rate.Limit(perSecond), max(burst, 1)), refusal: refusal}
}

// wait returns when the turn of a stream with so many followers has come; 0: it is another request.
// Errors: the refusal, and ctx's cause.
func (l *turnLimiter) wait(ctx context.Context, followers int) error {
	t, err := l.enqueue(followers)
	if err != nil {
		return err
	}
	select {
	case <-t.granted:
		return nil
	case <-ctx.Done(): // also when the Manager is closed
		l.withdraw(t)
		return context.Cause(ctx)
	}
}

// enqueue queues a stream with so many followers; 0: for another request. The refusal: it
// would wait for too long.
func (l *turnLimiter) enqueue(followers int) (*turn, error) { return l.enqueueFunc(followers, nil) }

// takeFreeSlot takes a slot if there is one.
func (l *turnLimiter) takeFreeSlot() bool {
	if l.slots == nil {
		return true
	}
	select {
	case l.slots <- struct{}{}:
		return true
	default:
		return false
	}
}

// freeSlot gives a turn's slot back. It is called once for each turn that has come, when the work
// after it is over.
func (l *turnLimiter) freeSlot() {
	if l.slots != nil {
		<-l.slots
	}
}

// waitForSlot takes a slot.
func (l *turnLimiter) waitForSlot(ctx context.Context) error {
	if l.slots == nil {
		return nil
	}
	select {
	case l.slots <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// enqueueFunc does what enqueue does, for a caller that does not wait: run is called when the
// turn has come.
func (l *turnLimiter) enqueueFunc(followers int, run func()) (*turn, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	t := &turn{granted: make(chan struct{}), index: -1, run: run}
	if len(l.followed) == 0 && l.waitingRequests == 0 && l.takeFreeSlot() {
		if l.limit.Allow() {
			t.finish()
			return t, nil
		}
		l.freeSlot()
	}
	if err := l.enqueueLocked(t, followers); err != nil {
		return nil, err
	}
	if !l.dispatching {
		l.dispatching = l.spawn(l.dispatch)
	}
	return t, nil
}

// addWaiter does what enqueue does, for one more caller that wants the stream of an earlier
// enqueue.
func (l *turnLimiter) addWaiter(t *turn, followers int) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.finished {
		return nil
	}
	return l.enqueueLocked(t, followers)
}

// enqueueLocked puts t into the queue that its waiters need, under mu.
func (l *turnLimiter) enqueueLocked(t *turn, followers int) error {
	switch {
	case followers > 0 && t.followers > 0:
		t.followers += followers
		heap.Fix(&l.followed, t.index)
	case followers > 0:
		l.seq++
		t.followers, t.seq = followers, l.seq
		heap.Push(&l.followed, t)
	case t.requested:
	case float64(l.waitingRequests) >= l.requestsPerSecond():
		l.refused++
		return l.refusal
	default:
		t.requested = true
		l.waitingRequests++
		l.requested = append(l.requested, t)
	}
	return nil
}

// requestsPerSecond returns a lower bound of how many requests get their turn in a second.
func (l *turnLimiter) requestsPerSecond() float64 {
	n := float64(l.limit.Limit())
	if len(l.followed) > 0 {
		return n / requestShare
	}
	return n
}

// withdraw gives up a turn that no caller waits for any more; false: the turn has come.
func (l *turnLimiter) withdraw(t *turn) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if t.finished {
		return false
	}
	l.dequeueLocked(t)
	t.withdrawn = true
	t.finish()
	return true
}

// dequeueLocked removes t from both queues, under mu. Its entry in requested stays and is skipped.
func (l *turnLimiter) dequeueLocked(t *turn) {
	if t.index >= 0 {
		heap.Remove(&l.followed, t.index)
	}
	if t.requested {
		l.waitingRequests--
	}
}

func (t *turn) finish() {
	t.finished = true
	close(t.granted)
	if t.run != nil && !t.withdrawn {
		t.run()
	}
}

// dispatch grants turns at the bucket's rate, until no stream waits.
func (l *turnLimiter) dispatch(ctx context.Context) {
	for l.limit.Wait(ctx) == nil && l.waitForSlot(ctx) == nil {
		l.mu.Lock()
		if t := l.nextLocked(); t != nil {
			l.dequeueLocked(t)
			t.finish()
		} else {
			l.freeSlot()
		}
		if l.dispatching = len(l.followed) > 0 || l.waitingRequests > 0; !l.dispatching {
			l.requested = nil
			l.mu.Unlock()
			return
		}
		l.mu.Unlock()
	}
}

// nextLocked returns the stream that has the next turn, or nil, under mu.
func (l *turnLimiter) nextLocked() *turn {
	for len(l.requested) > 0 && l.requested[0].finished {
		l.requested[0], l.requested = nil, l.requested[1:]
	}
	l.granted++
	switch {
	case len(l.followed) > 0 && (len(l.requested) == 0 || l.granted%requestShare != 0):
		return l.followed[0]
	case len(l.requested) > 0:
		return l.requested[0]
	default:
		return nil
	}
}

// counts returns how many streams wait, and how many requests were refused.
func (l *turnLimiter) counts() (waiting int, refused uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.followed) + l.waitingRequests, l.refused
}

// turnHeap is a heap: most followed first, then in order of arrival.
type turnHeap []*turn

func (q turnHeap) Len() int { return len(q) }
func (q turnHeap) Less(i, j int) bool {
	return q[i].followers > q[j].followers || q[i].followers == q[j].followers && q[i].seq < q[j].seq
}

func (q turnHeap) Swap(i, j int) {
	q[i], q[j] = q[j], q[i]
	q[i].index, q[j].index = i, j
}

// Push implements heap.Interface.
func (q *turnHeap) Push(x any) {
	t, _ := x.(*turn)
	t.index = len(*q)
	*q = append(*q, t)
}

// Pop implements heap.Interface.
func (q *turnHeap) Pop() any {
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
	return s.manager.coldOpens.wait(ctx, followers)
}

// patientKey marks the context of a follower's request, which waits for its turn to open a stream.
type patientKey struct{}

func withPatience(ctx context.Context) context.Context {
	return context.WithValue(ctx, patientKey{}, true)
}

func isPatient(ctx context.Context) bool { return ctx.Value(patientKey{}) != nil }
