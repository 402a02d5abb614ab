package shard

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// do gives a caller's request to the sequencer and waits for the verdict.
func (s *Shard) do(ctx context.Context, c *call) (Outcome, error) {
	if err := s.ready(ctx); err != nil {
		return Outcome{}, err
	}
	c.ctx, c.done = ctx, make(chan verdict, 1)
	lead, err := s.enqueue(c)
	if err != nil {
		return Outcome{}, err
	}
	if lead {
		s.lead()
	}
	select {
	case v := <-c.done:
		return v.out, v.err
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx)
	}
}

// enqueue lets the caller wait for the next batch; lead: none is in flight, and
// the caller has to carry it out. Full: refuse.
func (s *Shard) enqueue(c *call) (lead bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := &s.host.cfg
	switch {
	case s.stopped:
		return false, ErrNotOwner
	case len(s.queue) >= cfg.QueueRequests || s.queueBytes+c.size > cfg.QueueBytes:
		return false, ErrOverloaded
	}
	s.queue = append(s.queue, c)
	s.queueBytes += c.size
	lead = !s.flying
	s.flying = true
	return lead, nil
}

// lead carries one batch out on the goroutine of the caller that found none in
// flight: to wake another one would cost a tenth of an append that is alone.
// Whoever waits by then is served by a goroutine of their own. So such a caller
// is answered when its batch is settled, and no sooner if its context ends.
func (s *Shard) lead() {
	more := true
	ran := s.host.run(func(ctx context.Context) { more = s.round(ctx) })
	if !more {
		return
	}
	s.mu.Lock()
	if len(s.queue) > 0 && ran && s.host.spawn(s.fly) {
		s.mu.Unlock()
		return
	}
	left := s.queue // the Host is closed, or nobody is left
	s.queue, s.queueBytes, s.flying = nil, 0, false
	s.idle.Broadcast()
	s.mu.Unlock()
	for _, c := range left {
		c.answer(Outcome{}, ErrStopped)
	}
}

// fly carries batches out, one at a time, until nobody waits.
func (s *Shard) fly(ctx context.Context) {
	for s.round(ctx) {
	}
}

// round carries one batch out; false: nobody waits, and the flight has ended.
func (s *Shard) round(ctx context.Context) bool {
	if err := s.ready(ctx); err != nil { // after a reset
		s.refuseAll(err)
	}
	b, more := s.next()
	if b == nil {
		return more
	}
	err := s.carryOut(ctx, b)
	var lost *TailError
	if errors.As(err, &lost) {
		if err = s.afterLoss(ctx, b, lost.Tail); err == nil {
			return true
		}
	}
	b.answer(err)
	return true
}

// next composes a batch from those who wait; false: nobody does, and fly ends.
// Without a batch the log has to be opened first.
func (s *Shard) next() (*batch, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	waiting := s.queue[:0]
	for _, c := range s.queue {
		if c.ctx.Err() == nil {
			waiting = append(waiting, c)
		} else {
			s.queueBytes -= c.size
		}
	}
	clear(s.queue[len(waiting):])
	s.queue = waiting
	if len(s.queue) == 0 {
		s.queue, s.flying = nil, false
		s.idle.Broadcast()
		return nil, false
	}
	if !s.opened {
		return nil, true
	}
	now := ms(s.host.cfg.Now())
	b, n := compose(s.state, s.queue, now, s.lastUse(now))
	for _, c := range s.queue[:n] {
		s.queueBytes -= c.size
	}
	s.queue = append([]*call(nil), s.queue[n:]...)
	return b, true
}

// lastUse is when the stream was last used as far as memory knows, in ms, the
// grace of a new owner included. A stream that somebody follows is in use.
func (s *Shard) lastUse(now uint64) uint64 {
	if s.followers > 0 {
		return now
	}
	return max(s.touched, s.state.touched+s.grace)
}

func (s *Shard) refuseAll(err error) {
	s.mu.Lock()
	queue := s.queue
	s.queue, s.queueBytes = nil, 0
	s.mu.Unlock()
	for _, c := range queue {
		c.answer(Outcome{}, err)
	}
}

// answer gives every caller of the batch its verdict, or err to all.
func (b *batch) answer(err error) {
	for i, c := range b.calls {
		if err != nil {
			c.answer(Outcome{}, err)
		} else {
			c.answer(b.outs[i], nil)
		}
	}
}

// carryOut writes the batch and folds it. *TailError: nothing of it counts.
func (s *Shard) carryOut(ctx context.Context, b *batch) error {
	if len(b.entries) == 0 && b.parts == nil {
		return s.confirm(ctx, b)
	}
	if err := s.mayForget(b); err != nil {
		return err
	}
	if err := s.makeLog(ctx); err != nil {
		return err
	}
	if b.parts == nil {
		return s.write(ctx, b.at, b.entries)
	}
	at := b.at
	for _, part := range b.parts {
		if err := s.write(ctx, at, part); err != nil {
			return err
		}
		at += uint64(len(part))
	}
	return nil
}

// confirm makes sure that refusals rest on the log as it is, by a tail check sent
// after the callers arrived: a batch without records proved nothing, and a
// rival owner may just have written what makes the refusal wrong.
func (s *Shard) confirm(ctx context.Context, b *batch) error {
	if b.settled {
		return nil
	}
	if s.host.cfg.Mode == ModeSession {
		if err := s.sync(ctx); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state.Next != b.at || !s.opened {
		return &TailError{s.state.Next}
	}
	return nil
}

// mayForget refuses a repeated request that may have been written so long ago
// that its id has left the window: nobody could tell.
func (s *Shard) mayForget(b *batch) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, c := range b.calls {
		if c.req != nil && c.req.Repeat && s.state.forgets(c.req.Minted) {
			return ErrOutcomeUnknown
		}
	}
	return nil
}

// makeLog makes the log exist before its first record of ours.
func (s *Shard) makeLog(ctx context.Context) error {
	s.mu.Lock()
	need := s.noLog || s.state.life == 0 && !s.state.ended
	s.mu.Unlock()
	if !need {
		return nil
	}
	err := s.host.log.Create(ctx, s.id)
	if err != nil {
		return storeErr(err)
	}
	s.mu.Lock()
	s.noLog = false
	s.mu.Unlock()
	return nil
}

// write appends entries at position at and folds them. An unknown outcome is
// settled by the same batch again: acknowledged, it is written and no earlier
// copy can land any more; refused, reading back tells.
func (s *Shard) write(ctx context.Context, at uint64, entries []Entry) error {
	log, cfg := s.host.log, &s.host.cfg
	unknown := false
	deadline := cfg.Now().Add(settleTimeout)
	for try := 0; ; try++ {
		attempt, cancel := context.WithTimeout(ctx, cfg.AppendTimeout)
		ack, err := log.Append(attempt, s.id, at, entries)
		cancel()
		var lost *TailError
		switch {
		case err == nil:
			return s.acked(at, entries, ack)
		case errors.As(err, &lost):
			return err
		case errors.Is(err, ErrNoLog), errors.Is(err, ErrLogDenied):
			if unknown {
				return ErrOutcomeUnknown
			}
			return s.vanished(err)
		case !errors.Is(err, ErrLogBusy):
			unknown = true
		}
		if ctx.Err() != nil || cfg.Now().After(deadline) {
			if unknown {
				return errors.Join(ErrOutcomeUnknown, err)
			}
			return errors.Join(ErrStoreDown, err)
		}
		pause(ctx, try, 20*time.Millisecond, time.Second)
	}
}

// settleTimeout is how long a batch is sent again before its callers hear that
// its outcome is unknown. Nothing depends on it afterwards: the next batch at
// that position settles the matter.
const settleTimeout = 15 * time.Second

// vanished handles a log that is not there any more.
func (s *Shard) vanished(err error) error {
	if errors.Is(err, ErrNoLog) {
		s.reset()
		return &TailError{0}
	}
	return err
}

// acked folds a written batch.
func (s *Shard) acked(at uint64, entries []Entry, ack Ack) error {
	recs := make([]Record, len(entries))
	for i, e := range entries {
		t := ack.StartTime
		if i == len(entries)-1 {
			t = ack.EndTime
		}
		recs[i] = e.record(at+uint64(i), t)
	}
	sent := s.host.cfg.Now()
	err := s.take(recs)
	s.mu.Lock()
	s.synced = sent
	s.mu.Unlock()
	return err
}

// The lost compare-and-swaps after which a caller is told that the stream is
// contended: plain appends, and appends in parts.
const (
	maxLost      = 8
	maxLostParts = 3
)

// afterLoss reads what somebody else wrote and puts the callers back at the head
// of the queue, to be decided again.
func (s *Shard) afterLoss(ctx context.Context, b *batch, tail uint64) error {
	if err := s.resync(ctx, b.at, tail); err != nil {
		return err
	}
	limit := maxLost
	if b.parts != nil {
		limit = maxLostParts
	}
	again := b.calls[:0:0]
	worst := 0
	for _, c := range b.calls {
		c.tries++
		worst = max(worst, c.tries)
		if c.tries >= limit && !s.written(c) {
			c.answer(Outcome{}, ErrContended)
			continue
		}
		again = append(again, c)
	}
	s.mu.Lock()
	s.queue = append(again, s.queue...)
	for _, c := range again {
		s.queueBytes += c.size
	}
	s.mu.Unlock()
	if worst > 1 {
		pause(ctx, worst, 2*time.Millisecond, 100*time.Millisecond)
	}
	return nil
}

// written reports whether the fold knows the caller's append id.
func (s *Shard) written(c *call) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.req == nil || s.state == nil {
		return false
	}
	_, ok := s.state.outcome(c.req.ID)
	return ok
}

// resync brings the fold up to tail, the answer to a call made when the fold
// ended at before. A tail below that means that the log is another one:
// everything is forgotten and read again.
func (s *Shard) resync(ctx context.Context, before, tail uint64) error {
	s.mu.Lock()
	opened := s.opened
	s.mu.Unlock()
	if !opened {
		return nil
	}
	if tail < before {
		s.reset()
		return nil
	}
	sent := s.host.cfg.Now()
	err := s.catchUp(ctx, tail)
	if errors.Is(err, ErrNoLog) {
		s.reset()
		return nil
	}
	if err != nil {
		return storeErr(err)
	}
	s.mu.Lock()
	s.synced = sent
	s.mu.Unlock()
	return nil
}

// pause waits with full jitter: up to base doubled try times, at most top.
func pause(ctx context.Context, try int, base, top time.Duration) {
	d := min(base<<min(try, 10), top)
	t := time.NewTimer(rand.N(d) + 1)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
