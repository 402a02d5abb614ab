package sse

import (
	"fmt"
	"math"
	"sync"
	"sync/atomic"
	"time"
)

// Instant is a moment: nanoseconds since its Rules were made.
type Instant int64

// never is after every moment.
const never Instant = math.MaxInt64

// Add returns the moment that much later.
func (i Instant) Add(d time.Duration) Instant { return i + Instant(d) }

// Sub returns the time since the other moment.
func (i Instant) Sub(other Instant) time.Duration { return time.Duration(i - other) }

// Times holds the times by which readers are served.
type Times struct {
	// Heartbeat is the silence after which a reader gets a comment, and up to a quarter more.
	Heartbeat time.Duration
	// Stall is the time after which a reader that accepts nothing is disconnected. A session does not
	// see that, because it is not asked while a write is in progress; its executor does.
	Stall time.Duration
	// PageRetry is about how long a reader waits before it asks again for a page that could not be read.
	PageRetry time.Duration
	// MinDrainAge is the least age of an event stream that a drain with a window ends: real
	// clients stop using SSE after a few short streams.
	MinDrainAge time.Duration
	// MinMoveAge is the age before which no reader is disconnected for balance.
	MinMoveAge time.Duration
	// MinRetry and MaxRetry bound the random delay after which a reader that is told to reconnect does so.
	MinRetry, MaxRetry time.Duration
}

// Rules says when the readers of a server hear something, and when they have to go. Any goroutine may
// use them. The Times are set before the first reader.
type Rules struct {
	Times
	isTemporary func(error) bool
	random      func(n time.Duration) time.Duration
	began       time.Time

	mu     sync.Mutex // one change of orders at a time
	orders atomic.Pointer[Orders]
}

// Orders holds what a server tells all its readers. It never changes: Rules.Change makes another.
type Orders struct {
	Drain   bool          // readers have to go
	Window  time.Duration // in which they go, each at a time of its own; 0: immediately
	Changed chan struct{} // closed when there are other orders: a reader that waits is to ask Next again
	drain   *Orders       // the orders with which the drain began
}

// NewRules returns rules without a drain, with the moment from which Instants count. isTemporary says
// of a page that could not be read whether it may be readable a little later; random returns a number
// in [0, n).
func NewRules(times Times, began time.Time, isTemporary func(error) bool, random func(n time.Duration) time.Duration) *Rules {
	r := &Rules{Times: times, isTemporary: isTemporary, random: random, began: began}
	r.orders.Store(&Orders{Changed: make(chan struct{})})
	return r
}

// At returns a moment as an Instant.
func (r *Rules) At(t time.Time) Instant { return Instant(t.Sub(r.began)) }

// Orders returns the present orders.
func (r *Rules) Orders() *Orders { return r.orders.Load() }

// Change gives new orders. A drain that is on keeps its window, and its readers their times.
func (r *Rules) Change(drain bool, window time.Duration) {
	r.mu.Lock()
	defer r.mu.Unlock()
	old := r.orders.Load()
	o := &Orders{Drain: drain, Changed: make(chan struct{})}
	switch {
	case drain && old.Drain:
		o.Window, o.drain = old.Window, old.drain
	case drain:
		o.Window, o.drain = window, o
	}
	r.orders.Store(o)
	close(old.Changed)
}

// RecheckPermits has every reader ask its Permit again.
func (r *Rules) RecheckPermits() {
	o := r.Orders()
	r.Change(o.Drain, o.Window)
}

// retryEvent returns what ends the stream of a reader that is to reconnect.
func (r *Rules) retryEvent() []byte {
	return RenderRetry(r.MinRetry + r.random(r.MaxRetry-r.MinRetry+1))
}

// RenderRetry lays out the retry field that ends a stream when its reader should reconnect, to another
// node: no event, only how long an EventSource is to wait.
func RenderRetry(wait time.Duration) []byte {
	return fmt.Appendf(nil, "retry: %d\n\n", wait.Milliseconds())
}

// heartbeat holds the bytes of a comment.
var heartbeat = []byte(":\n\n")
