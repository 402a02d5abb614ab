package shard

import (
	"context"
	"errors"
	"math/rand/v2"
	"runtime"
	"runtime/debug"
	"slices"
	"time"
)

// do gives a caller's request to the sequencer and waits for the verdict.
func (s *Stream) do(ctx context.Context, c *call) (Outcome, error) {
	if err := s.ready(ctx); err != nil {
		return Outcome{}, err
	}
	c.ctx = ctx
	lead, err := s.enqueue(c)
	if errors.Is(err, errTime) {
		s.settleTime(ctx)
		c.timed = true
		lead, err = s.enqueue(c)
	}
	if err != nil {
		return Outcome{}, err
	}
	if lead {
		s.lead(ctx)
	}
	select {
	case <-c.done: // also if ctx has ended meanwhile
		return s.host.free(c)
	default:
	}
	select {
	case <-c.done:
		return s.host.free(c)
	case <-ctx.Done():
		return Outcome{}, context.Cause(ctx) // who has the call may still answer it
	}
}

// enqueue lets the caller wait for the next batch; lead: none is in flight, and
// the caller has to carry it out. Full: refuse.
func (s *Stream) enqueue(c *call) (lead bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := &s.host.cfg
	switch {
	case s.stopped:
		return false, ErrNotOwner
	case !c.timed && s.doubt():
		return false, errTime
	case s.host.log.isDown():
		return false, ErrStoreDown
	case len(s.queue) >= cfg.QueueRequests || s.queueBytes+c.size > cfg.QueueBytes:
		return false, ErrOverloaded
	}
	s.queue = append(s.queue, c)
	s.queueBytes += c.size
	lead = !s.flying
	s.flying = true
	return lead, nil
}

// lead sends one batch on the goroutine of the caller that found none in flight:
// to wake another one would cost a tenth of an append that is alone. It does so
// once and within the caller's ctx. Whatever is not settled by that, and whoever
// waits by then, is left to a flight.
func (s *Stream) lead(ctx context.Context) {
	defer fatal()
	b, more := s.next()
	if !more {
		return
	}
	if b != nil && len(b.entries) > 0 && !s.needsLog(b) {
		b.sent, b.err = true, s.send(ctx, b)
	}
	if b != nil && (b.sent && b.err == nil || b.done() && b.settled) {
		b.answer(nil)
		b = nil
	}
	s.mu.Lock()
	if b == nil && len(s.queue) == 0 {
		s.land()
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if s.host.spawn(func(ctx context.Context) { s.fly(ctx, b) }) {
		return
	}
	if b != nil {
		b.answer(b.verdict(ErrStopped))
	}
	s.mu.Lock()
	left := s.queue
	s.queue = nil
	s.land()
	s.mu.Unlock()
	for _, c := range left {
		c.answer(Outcome{}, ErrStopped)
	}
}

// land ends a flight, under mu.
func (s *Stream) land() {
	s.queue, s.queueBytes, s.flying = emptied(s.queue), 0, false
	s.idle.Broadcast()
}

// fatal ends the process if its caller panics, on a goroutine of its own:
// net/http would survive the panic on a request's, and the lock and the flight
// that it left behind would hold up the stream, and then the node, for ever.
func fatal() {
	if v := recover(); v != nil {
		end(v, debug.Stack())
	}
}

// fly carries batches out, one at a time, until nobody waits; first the one that
// its leader could not settle, if any.
func (s *Stream) fly(ctx context.Context, b *batch) {
	for more := true; more; {
		if b != nil {
			s.settle(ctx, b)
		}
		if err := s.ready(patiently(ctx)); err != nil { // after a reset
			if ctx.Err() != nil {
				err = ErrStopped
			}
			s.refuseAll(err)
		}
		if b != nil && len(b.calls) > 1 {
			// It is busy here: what has arrived and not been run yet joins the next batch.
			runtime.Gosched()
		}
		b, more = s.next()
	}
}

// settle carries a batch out and answers its callers, or puts them back.
func (s *Stream) settle(ctx context.Context, b *batch) {
	err := s.carryOut(ctx, b)
	var lost *TailError
	if errors.As(err, &lost) {
		s.afterLoss(ctx, b, lost.Tail)
		return
	}
	b.answer(err)
}

// next composes a batch from those who wait; false: nobody does, and fly ends.
// Without a batch the log has to be opened first.
func (s *Stream) next() (*batch, bool) {
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
		s.land()
		return nil, false
	}
	if !s.opened {
		return nil, true
	}
	at := s.moment()
	for _, c := range s.queue {
		s.date(c, at)
	}
	b, n := composeAt(s.state, s.queue, at)
	for _, c := range s.queue[:n] {
		s.queueBytes -= c.size
	}
	s.queue = slices.Delete(s.queue, 0, n)
	return b, true
}

// date says when a call's request was made, by the clocks that it is decided by, under mu.
func (s *Stream) date(c *call, at moment) {
	if c.req == nil {
		return
	}
	if c.req.Repeat {
		c.minted = s.mintedAt(c.req)
	}
	if !c.held.IsZero() {
		c.req.HeldAt = at.wall - min(at.wall, uint64(time.Since(c.held).Milliseconds()))
	}
}

// errTime: storage has to be asked for the time before the caller waits.
var errTime = errors.New("the stream's time may be over")

func (s *Stream) refuseAll(err error) {
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
			c.answer(b.verdicts[i].out, b.verdicts[i].err)
		}
	}
}

// done reports whether nothing of the batch is left to be written.
func (b *batch) done() bool { return len(b.entries) == 0 && b.rest == nil }

// creates reports whether a life begins in what is left of the batch.
func (b *batch) creates() bool {
	return slices.ContainsFunc(b.entries, func(e Entry) bool { return e.known != nil && e.known.Kind == KindCreate })
}

// verdict is what callers hear of a batch that ended in err: whether it is
// certain that nothing was written.
func (b *batch) verdict(err error) error {
	if b.unknown {
		return errors.Join(ErrOutcomeUnknown, err)
	}
	return err
}

// carryOut writes the batch and folds it. An unknown outcome is settled by the
// same batch again: acknowledged, it is written and no earlier copy can land any
// more; refused (*TailError), reading back tells. Where storage is down, another node
// may settle it sooner.
func (s *Stream) carryOut(ctx context.Context, b *batch) error {
	if b.done() {
		return s.confirm(ctx, b)
	}
	if !b.sent {
		if err := s.makeLog(ctx, b); err != nil {
			return err
		}
		b.err = s.send(ctx, b)
	}
	began := s.host.cfg.Now()
	for try := 0; ; try++ {
		patience := busyTimeout
		if b.unknown {
			patience = settleTimeout
		}
		var lost *TailError
		switch {
		case b.err == nil, errors.As(b.err, &lost):
			return b.err
		case errors.Is(b.err, ErrNoLog) && !b.unknown:
			s.reset(b.on, 0)
			return &TailError{0}
		case errors.Is(b.err, ErrNoLog), errors.Is(b.err, ErrLogDenied), errors.Is(b.err, ErrNeedsLaterRelease):
			return b.verdict(b.err)
		case ctx.Err() != nil, s.host.log.isDown() && (!b.unknown || !s.host.alone()), s.host.cfg.Now().Sub(began) > patience:
			return b.verdict(errors.Join(ErrStoreDown, b.err))
		}
		if s.host.log.isDown() || s.host.cfg.Now().Sub(began) > busyTimeout {
			s.refuseAll(ErrStoreDown) // they would wait for what this batch waits for
		}
		pause(ctx, try, 20*time.Millisecond, time.Second)
		b.err = s.send(ctx, b)
	}
}

// settleTimeout is how long a batch is sent again before its callers hear that
// its outcome is unknown. Nothing depends on it afterwards: the next batch at
// that position settles the matter.
const settleTimeout = 15 * time.Second

// busyTimeout is how long a batch is sent again that is certainly not written, and how
// long others wait behind one that may be.
const busyTimeout = 3 * time.Second

// send appends what is left of the batch, each part once, and folds it.
func (s *Stream) send(ctx context.Context, b *batch) error {
	for len(b.entries) > 0 {
		part, sent := b.entries, s.host.cfg.Now()
		attempt := &lazyTimeout{parent: ctx, d: s.host.cfg.AppendTimeout}
		ack, err := s.host.log.Append(attempt, s.id, b.at, part)
		attempt.end()
		if err != nil {
			var lost *TailError
			certain := errors.As(err, &lost) || errors.Is(err, ErrNoLog) ||
				errors.Is(err, ErrLogDenied) || errors.Is(err, ErrLogBusy)
			// Parts without their commit are void, wherever they are.
			b.unknown = b.unknown || !certain && b.rest == nil
			return err
		}
		err = s.acked(b, part, ack, sent)
		b.at += uint64(len(part))
		b.entries = nil
		if err != nil {
			b.unknown = true // it is there, but nobody here can read it
			return err
		}
		if err := s.layNext(b); err != nil {
			return err
		}
	}
	return nil
}

// layNext lays out what follows the parts of b that are written, if anything does. *TailError:
// something else does.
func (s *Stream) layNext(b *batch) error {
	if b.rest == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != b.on || s.state.Next != b.at || !s.opened {
		return &TailError{s.state.Next}
	}
	b.layPart(s.state)
	return nil
}

// confirm makes sure that refusals rest on the log as it is, by a tail check sent
// after the callers arrived: a batch without records proved nothing, and a
// rival owner may just have written what makes the refusal wrong.
func (s *Stream) confirm(ctx context.Context, b *batch) error {
	if b.settled {
		return nil
	}
	if s.host.cfg.Mode == ModeSession {
		err := s.paceAbsent(ctx)
		if err == nil {
			err = s.sync(ctx)
		}
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != b.on || s.state.Next != b.at || !s.opened {
		return &TailError{s.state.Next}
	}
	return nil
}

// needsLog: the log does not exist, or it is somebody else's and b makes a stream of it, which
// is to be kept for ever. To append to it is no reason to set its configuration.
func (s *Stream) needsLog(b *batch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noLog || s.state.life == 0 && !s.state.ended && b.creates()
}

// makeLog makes the log exist as b needs it.
func (s *Stream) makeLog(ctx context.Context, b *batch) error {
	if !s.needsLog(b) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.host.cfg.AppendTimeout)
	defer cancel()
	err := s.host.log.Create(ctx, s.id)
	if err != nil {
		return storeErr(err)
	}
	s.mu.Lock()
	s.noLog, s.timing = false, timingCapped
	s.mu.Unlock()
	return nil
}

// acked folds what was written of b: ack is the answer to an append sent at sent.
func (s *Stream) acked(b *batch, entries []Entry, ack Ack, sent time.Time) error {
	recs := make([]Record, len(entries))
	for i, e := range entries {
		t := ack.StartTime
		if i == len(entries)-1 {
			t = ack.EndTime
		}
		recs[i] = e.record(b.at+uint64(i), t)
	}
	err := s.take(b.on, recs)
	s.heardAck(ack, sent)
	s.knownAt(b.on, sent)
	if b.expired {
		b.expired = false
		s.host.expiries.note(s.id, s.host.cfg.Now())
	}
	return err
}

// knownAt notes that the fold has everything that the log held at t.
func (s *Stream) knownAt(on *State, t time.Time) {
	s.mu.Lock()
	if s.state == on && t.After(s.synced) {
		s.synced = t
	}
	s.mu.Unlock()
}

// The lost compare-and-swaps after which a caller is told that the stream is
// contended: plain appends, and appends in parts.
const (
	maxLost      = 8
	maxLostParts = 3
)

// afterLoss reads what somebody else wrote, up to tail at least. It answers the
// callers whose append is there after all and puts the others, whose is
// certainly not, back at the head of the queue, to be decided again.
func (s *Stream) afterLoss(ctx context.Context, b *batch, tail uint64) {
	if err := s.readBack(ctx, b, tail); err != nil {
		b.answer(b.verdict(err))
		return
	}
	limit := maxLost
	if b.large {
		limit = maxLostParts
	}
	worst := 0
	s.mu.Lock()
	var again []*call // not of b.calls, which would be kept with all that the batch holds
	for _, c := range b.calls {
		c.tries++
		worst = max(worst, c.tries)
		if v, ok := s.recall(b, c); ok {
			c.answer(v.out, v.err)
		} else if c.tries >= limit {
			c.answer(Outcome{}, ErrContended)
		} else {
			again = append(again, c)
		}
	}
	s.queue = append(again, s.queue...)
	for _, c := range again {
		s.queueBytes += c.size
	}
	s.mu.Unlock()
	if worst > 1 {
		pause(ctx, worst, 2*time.Millisecond, 100*time.Millisecond)
	}
}

// readBack is resync, tried again for a while: on it rests what the callers of a
// batch hear whose outcome is unknown.
func (s *Stream) readBack(ctx context.Context, b *batch, tail uint64) error {
	deadline := s.host.cfg.Now().Add(settleTimeout)
	for try := 0; ; try++ {
		err := s.resync(ctx, b.on, b.at, tail)
		if !errors.Is(err, ErrStoreDown) || ctx.Err() != nil || s.host.cfg.Now().After(deadline) {
			return err
		}
		pause(ctx, try, 20*time.Millisecond, time.Second)
	}
}

// recall is what the fold knows of a caller's append after the batch b was lost;
// false: it was certainly not written, and may be decided again.
func (s *Stream) recall(b *batch, c *call) (verdict, bool) {
	if c.req == nil {
		return verdict{}, false
	}
	if s.state != b.on || !s.opened { // another log, or none; what was written has gone with it
		return verdict{err: ErrOutcomeUnknown}, b.unknown
	}
	if o, ok := s.state.outcome(c.req.ID); ok {
		return verdict{out: first(s.state, c.req, o)}, true
	}
	return verdict{err: ErrOutcomeUnknown}, b.unknown && s.state.lost(c.req, s.mintedAt(c.req))
}

// resync brings the fold on up to tail, the answer to a call made when it ended
// at before. A tail below that means that the log is another one: everything is
// forgotten and read again.
func (s *Stream) resync(ctx context.Context, on *State, before, tail uint64) error {
	s.mu.Lock()
	same := s.opened && s.state == on
	s.mu.Unlock()
	if !same {
		return nil
	}
	if tail < before {
		s.reset(on, tail)
		return nil
	}
	err := s.catchUp(ctx, on, tail)
	if errors.Is(err, ErrNoLog) {
		s.reset(on, 0)
		return nil
	}
	if err != nil {
		return storeErr(err)
	}
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
