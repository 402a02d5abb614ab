package shard

import (
	"context"
	"errors"
	"time"
)

// call is a caller that waits for a verdict. The caller owns it until enqueue; then it belongs to the
// queue, under Stream.mu, and to the goroutine that takes it from there; and once done was sent to,
// to the caller again.
type call struct {
	req            *Request
	touch          bool // a touch, and no request
	size           int
	losses         int       // lost compare-and-swaps
	heldSince      time.Time // of a fork: when its source was held, by this process's monotonic clock
	expiryResolved bool      // storage was asked whether the stream's time is over
	mintedMillis   Millis    // of a repeated request: when its id was minted, by storage's clock
	ctx            context.Context
	trace          *callTrace    // nil: the caller is not traced
	read           bool          // the log was read after the call had come
	readFold       *State        // the fold of that; nil: the log was folded before
	verdict        verdict       // set before done is sent to
	done           chan struct{} // capacity 1
}

// verdict is the answer to a call.
type verdict struct {
	outcome Outcome
	err     error
}

// newCall returns a call for a request; nil asks for a touch.
func (m *Manager) newCall(req *Request) *call {
	c, ok := m.callPool.Get().(*call)
	if !ok {
		c = &call{done: make(chan struct{}, 1)}
	}
	c.req, c.touch = req, req == nil
	if req != nil {
		c.size = req.WaitingCost()
	}
	return c
}

// answer gives the caller its verdict. The goroutine that has taken the call from the queue calls
// it once, and does not use the call afterwards.
func (c *call) answer(out Outcome, err error) {
	c.verdict = verdict{out, err}
	c.done <- struct{}{}
}

// finishCall returns the verdict of an answered call and puts the call back into the pool.
func (m *Manager) finishCall(c *call) (Outcome, error) {
	v := c.verdict
	if c.trace != nil {
		c.trace.report(c, v)
	}
	*c = call{done: c.done}
	m.callPool.Put(c)
	return v.outcome, v.err
}

// submit gives a caller's request to the sequencer and waits for the verdict.
func (s *Stream) submit(ctx context.Context, c *call) (Outcome, error) {
	c.ctx = ctx
	t := s.newCreateAttempt(c)
	if t == nil {
		return s.submitOpened(ctx, c)
	}
	over, out, err := s.submitWithOpening(ctx, c, t)
	switch {
	case over:
		return out, err
	case !t.unknown:
		return s.submitOpened(ctx, c)
	}
	again := *c.req
	again.Repeat, c.req = true, &again
	if out, err = s.submitOpened(ctx, c); err != nil {
		err = errors.Join(ErrOutcomeUnknown, err)
	}
	return out, err
}

// submitOpened submits a request that no opening carries out.
func (s *Stream) submitOpened(ctx context.Context, c *call) (Outcome, error) {
	read, err := s.awaitFold(ctx)
	if err != nil {
		return Outcome{}, err
	}
	c.read = c.read || read
	traceCall(ctx, c)
	leads, err := s.enqueue(c)
	if errors.Is(err, errExpiryUncertain) {
		s.resolveExpiry(ctx)
		c.expiryResolved = true
		leads, err = s.enqueue(c)
	}
	if err != nil {
		return Outcome{}, err
	}
	if leads {
		s.leadWrites(ctx)
	}
	select {
	case <-c.done: // even if ctx has ended meanwhile
		return s.manager.finishCall(c)
	default:
	}
	select {
	case <-c.done:
		return s.manager.finishCall(c)
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx) // the goroutine that has the call may still answer it
	}
}

// enqueue puts the caller into the queue for the next batch; leads: no batch is in flight, so the
// caller has to run leadWrites. A full queue refuses the caller.
func (s *Stream) enqueue(c *call) (leads bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.stopped:
		return false, ErrNotOwner
	case !c.expiryResolved && s.isExpiryUncertain():
		return false, errExpiryUncertain
	case s.manager.log.isDown():
		return false, ErrStoreDown
	case len(s.queue) >= maxQueueRequests || s.queueBytes+c.size > maxQueueBytes:
		return false, ErrOverloaded
	}
	if c.read && s.opened {
		c.readFold = s.state
	}
	s.queue = append(s.queue, c)
	s.queueBytes += c.size
	leads = !s.writing
	s.writing = true
	if s.pipeline != nil {
		s.pipeline.signal()
	}
	return leads, nil
}

// maxQueueRequests and maxQueueBytes bound the requests that wait for one stream's batch.
const (
	maxQueueRequests = 4096
	maxQueueBytes    = 32 << 20
)

// refuseQueue refuses all callers that wait for a batch.
func (s *Stream) refuseQueue(err error) {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.queueBytes = nil, 0
	s.mu.Unlock()
	for _, c := range queue {
		c.answer(Outcome{}, err)
	}
}

// errExpiryUncertain reports that storage has to be asked for the time before the caller may queue.
var errExpiryUncertain = errors.New("the stream's time may be over")
