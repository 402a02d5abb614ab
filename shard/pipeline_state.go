package shard

import (
	"sync/atomic"
	"time"
)

// pipeline holds what is known of the batches of a stream that are on their way over an append session
// (pipeline.go). It is owned by the goroutine in the write loop, except for what Stream.mu guards.
type pipeline struct {
	stream  *Stream
	fold    *State // that everything in flight stands on
	session AppendSession
	wakeup  chan struct{} // capacity 1
	evicted atomic.Bool   // its session is to be closed once nothing is in flight

	last    *State       // prediction of the newest batch in flight; nil: none is
	sent    int          // batches in flight
	calls   int          // of them, and of refusals
	bytes   int          // of them
	records int          // of them
	parts   *appendBatch // an append in parts of which the next part is still to be composed
	single  *appendBatch // waits until nothing is in flight
	broken  bool         // nothing more can be sent on the session
	useful  bool         // the session has acknowledged a batch

	stopBy   time.Time // when a stream that is released waits no more; zero: it is not released
	lastSent time.Time
	usedAt   time.Time     // when something was last in flight
	ackTime  time.Duration // moving mean
	acks     []Ack         // scratch
}

// signal wakes the goroutine in the write loop.
func (p *pipeline) signal() {
	select {
	case p.wakeup <- struct{}{}:
	default:
	}
}

// oldestSent returns the oldest batch in flight; nil: none is.
func (p *pipeline) oldestSent() *appendBatch {
	p.stream.mu.Lock()
	defer p.stream.mu.Unlock()
	return p.stream.oldestSent()
}
