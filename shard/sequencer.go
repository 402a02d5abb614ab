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

// The sequencer writes a stream's appends: one batch at a time, each at exactly the position that
// the fold has reached. It is one loop, which begins on the goroutine of a caller:
//
//	submit(call)                      the caller's goroutine
//	    waitReady                     the log is folded
//	    enqueue                       refuses the call if the queue is full
//	    if no batch is in flight:
//	        sendAsLeader
//	    wait for the verdict
//
//	sendAsLeader                      the same goroutine, one attempt
//	    b = nextBatch                 composeBatch decides callers against fold and batch
//	    sendParts(b)
//	    if written: answer its callers; if no caller waits: return
//	    start flushLoop(b)
//
//	flushLoop(b)                      a goroutine, until no caller waits
//	    repeat:
//	        writeAndAnswer(b)
//	        b = nextBatch
//
//	writeAndAnswer(b)
//	    if nothing is to be written:  confirmTail, because a refusal must rest on the log
//	    until the outcome is known:   writeBatch; a batch that its leader sent enters here
//	        createLog, sendParts      foldAcked folds and publishes what is acknowledged
//	    acknowledged:                 answer its callers
//	    refused for its position:     resolveLoss reads what another writer wrote, answers the
//	                                  callers found in it, and queues the others again
//	    no answer for resendTimeout:  callerError, "outcome unknown"
//
// Stream.flushing is true from the first sendAsLeader to finishFlush, so no two batches of a stream
// are in flight. Each record is folded twice by the same function, State.foldDecoded: while the
// batch is composed, into a speculation that later callers of the batch are decided against, and
// once it is acknowledged, into the stream's fold.

// submit gives a caller's request to the sequencer and waits for the verdict.
func (s *Stream) submit(ctx context.Context, c *call) (Outcome, error) {
	if err := s.waitReady(ctx); err != nil {
		return Outcome{}, err
	}
	c.ctx = ctx
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
		s.sendAsLeader(ctx)
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
// caller has to run sendAsLeader. A full queue refuses the caller.
func (s *Stream) enqueue(c *call) (leads bool, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	cfg := &s.manager.cfg
	switch {
	case s.stopped:
		return false, ErrNotOwner
	case !c.expiryResolved && s.isExpiryUncertain():
		return false, errExpiryUncertain
	case s.manager.log.isDown():
		return false, ErrStoreDown
	case len(s.queue) >= cfg.QueueRequests || s.queueBytes+c.size > cfg.QueueBytes:
		return false, ErrOverloaded
	}
	s.queue = append(s.queue, c)
	s.queueBytes += c.size
	leads = !s.flushing
	s.flushing = true
	return leads, nil
}

// sendAsLeader sends one batch on the goroutine of the caller that found none in flight: waking
// another goroutine would cost a tenth of an append that is alone. It sends once, and within the
// caller's ctx. A batch that is not resolved by that, and callers queued by then, are left to
// flushLoop.
func (s *Stream) sendAsLeader(ctx context.Context) {
	defer crashOnPanic()
	b, any := s.nextBatch()
	if !any {
		return
	}
	if b != nil && len(b.entries) > 0 && !s.needsLog(b) {
		b.sent, b.sendErr = true, s.sendParts(ctx, b)
	}
	if b != nil && (b.sent && b.sendErr == nil || b.isWritten() && b.irreversible) {
		b.answerCalls(nil)
		b = nil
	}
	s.mu.Lock()
	if b == nil && len(s.queue) == 0 {
		s.finishFlush()
		s.mu.Unlock()
		return
	}
	s.mu.Unlock()
	if s.manager.spawn(func(ctx context.Context) { s.flushLoop(ctx, b) }) {
		return
	}
	if b != nil {
		b.answerCalls(b.callerError(ErrStopped))
	}
	s.mu.Lock()
	waiting := s.queue
	s.queue = nil
	s.finishFlush()
	s.mu.Unlock()
	for _, c := range waiting {
		c.answer(Outcome{}, ErrStopped)
	}
}

// finishFlush ends a flush, under mu: no caller waits any more.
func (s *Stream) finishFlush() {
	s.queue, s.queueBytes, s.flushing = clearForReuse(s.queue), 0, false
	s.flushEnded.Broadcast()
}

// crashOnPanic ends the process if its caller panics, from a goroutine of its own. net/http would
// survive the panic on a request's goroutine, and the lock and the flush that it left behind would
// block the stream, and then the node, forever.
func crashOnPanic() {
	if v := recover(); v != nil {
		crash(v, debug.Stack())
	}
}

// flushLoop writes batches, one at a time, until no caller waits. It begins with b, which its
// leader could not resolve; nil: there is none.
func (s *Stream) flushLoop(ctx context.Context, b *appendBatch) {
	for more := true; more; {
		if b != nil {
			s.writeAndAnswer(ctx, b)
		}
		if err := s.waitReady(withPatience(ctx)); err != nil { // after a reset
			if ctx.Err() != nil {
				err = ErrStopped
			}
			s.refuseQueue(err)
		}
		if b != nil && len(b.calls) > 1 {
			// It is busy here: what has arrived and not been run yet joins the next batch.
			runtime.Gosched()
		}
		b, more = s.nextBatch()
	}
}

// writeAndAnswer writes a batch, and answers its callers or puts them back into the queue.
func (s *Stream) writeAndAnswer(ctx context.Context, b *appendBatch) {
	err := s.writeBatch(ctx, b)
	var lost *TailError
	if errors.As(err, &lost) {
		s.resolveLoss(ctx, b, lost.Tail)
		return
	}
	b.answerCalls(err)
}

// nextBatch composes a batch from the callers that wait; false: none waits, and the flush has
// ended. Without a batch the log has to be opened first.
func (s *Stream) nextBatch() (*appendBatch, bool) {
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
		s.finishFlush()
		return nil, false
	}
	if !s.opened {
		return nil, true
	}
	at := s.readClocks()
	for _, c := range s.queue {
		s.setCallTimes(c, at)
	}
	b, n := composeBatchAt(s.state, s.queue, at)
	for _, c := range s.queue[:n] {
		s.queueBytes -= c.size
	}
	s.queue = slices.Delete(s.queue, 0, n)
	return b, true
}

// setCallTimes sets the times of a call's request by the clocks that it is decided by, under mu.
func (s *Stream) setCallTimes(c *call, at clockReading) {
	if c.req == nil {
		return
	}
	if c.req.Repeat {
		c.mintedMillis = s.mintedAt(c.req)
	}
	if !c.heldSince.IsZero() {
		c.req.HeldAt = at.wall - min(at.wall, Millis(time.Since(c.heldSince).Milliseconds()))
	}
}

// errExpiryUncertain reports that storage has to be asked for the time before the caller may queue.
var errExpiryUncertain = errors.New("the stream's time may be over")

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

// answerCalls gives every caller of the batch its verdict, or err to all.
func (b *appendBatch) answerCalls(err error) {
	for i, c := range b.calls {
		if err != nil {
			c.answer(Outcome{}, err)
		} else {
			c.answer(b.verdicts[i].outcome, b.verdicts[i].err)
		}
	}
}

// isWritten reports whether nothing of the batch is left to be written.
func (b *appendBatch) isWritten() bool { return len(b.entries) == 0 && b.remaining == nil }

// hasCreate reports whether a generation begins in what is left of the batch.
func (b *appendBatch) hasCreate() bool {
	return slices.ContainsFunc(b.entries, func(e Entry) bool { return e.decoded != nil && e.decoded.Kind == KindCreate })
}

// callerError returns what callers are told of a batch that ended in err: whether it is certain
// that nothing was written.
func (b *appendBatch) callerError(err error) error {
	if b.maybeWritten {
		return errors.Join(ErrOutcomeUnknown, err)
	}
	return err
}

// writeBatch writes the batch and folds it. An unknown outcome is resolved by sending the same
// batch again. If that is acknowledged the batch is written, and no earlier copy can be written any
// more. If it is refused (*TailError), reading back tells. While storage is down another node may
// resolve it sooner.
func (s *Stream) writeBatch(ctx context.Context, b *appendBatch) error {
	if b.isWritten() {
		return s.confirmTail(ctx, b)
	}
	if !b.sent {
		if err := s.createLog(ctx, b); err != nil {
			return err
		}
		b.sendErr = s.sendParts(ctx, b)
	}
	began := s.manager.cfg.Now()
	for try := 0; ; try++ {
		limit := busyTimeout
		if b.maybeWritten {
			limit = resendTimeout
		}
		var tailErr *TailError
		switch {
		case b.sendErr == nil, errors.As(b.sendErr, &tailErr):
			return b.sendErr
		case errors.Is(b.sendErr, ErrNoLog) && !b.maybeWritten:
			s.resetFold(b.base, 0)
			return &TailError{0}
		case errors.Is(b.sendErr, ErrNoLog), errors.Is(b.sendErr, ErrLogDenied), errors.Is(b.sendErr, ErrNeedsLaterRelease):
			return b.callerError(b.sendErr)
		case ctx.Err() != nil, s.manager.log.isDown() && (!b.maybeWritten || !s.manager.isLone()), s.manager.cfg.Now().Sub(began) > limit:
			return b.callerError(errors.Join(ErrStoreDown, b.sendErr))
		}
		if s.manager.log.isDown() || s.manager.cfg.Now().Sub(began) > busyTimeout {
			s.refuseQueue(ErrStoreDown) // they would wait behind this batch
		}
		pauseWithJitter(ctx, try, 20*time.Millisecond, time.Second)
		b.sendErr = s.sendParts(ctx, b)
	}
}

// resendTimeout bounds how long a batch is sent again before its callers are told that its outcome
// is unknown. Nothing depends on it afterwards: the next batch at that position decides the matter.
const resendTimeout = 15 * time.Second

// busyTimeout bounds how long a batch is sent again that is certainly not written, and how long
// other callers wait behind one that may be written.
const busyTimeout = 3 * time.Second

// sendParts appends what is left of the batch, each part once, and folds it.
func (s *Stream) sendParts(ctx context.Context, b *appendBatch) error {
	for len(b.entries) > 0 {
		part, sent := b.entries, s.manager.cfg.Now()
		attemptCtx := &lazyTimeout{parent: ctx, timeout: s.manager.cfg.AppendTimeout}
		ack, err := s.manager.log.Append(attemptCtx, s.id, b.pos, part)
		attemptCtx.finish()
		if err != nil {
			var lost *TailError
			certain := errors.As(err, &lost) || errors.Is(err, ErrNoLog) ||
				errors.Is(err, ErrLogDenied) || errors.Is(err, ErrLogBusy)
			// Parts without their commit are void, wherever they are.
			b.maybeWritten = b.maybeWritten || !certain && b.remaining == nil
			return err
		}
		err = s.foldAcked(b, part, ack, sent)
		b.pos += Pos(len(part))
		b.entries = nil
		if err != nil {
			b.maybeWritten = true // it is written, but this release cannot read the log
			return err
		}
		if err := s.composeNextPart(b); err != nil {
			return err
		}
	}
	return nil
}

// composeNextPart composes the part that follows the written parts of b, if there is one.
// *TailError: another record follows them.
func (s *Stream) composeNextPart(b *appendBatch) error {
	if b.remaining == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != b.base || s.state.Next != b.pos || !s.opened {
		return &TailError{s.state.Next}
	}
	b.composePart(s.state)
	return nil
}

// confirmTail makes sure that refusals rest on the log as it is, by a tail check sent after the
// callers arrived: a batch without records proved nothing, and a rival owner may just have written
// what makes the refusal wrong.
func (s *Stream) confirmTail(ctx context.Context, b *appendBatch) error {
	if b.irreversible {
		return nil
	}
	if s.manager.cfg.Mode == ModeSession {
		err := s.waitToAskAbsent(ctx)
		if err == nil {
			err = s.syncToTail(ctx)
		}
		if err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state != b.base || s.state.Next != b.pos || !s.opened {
		return &TailError{s.state.Next}
	}
	return nil
}

// needsLog reports that the log does not exist, or that others created it and b makes a stream of
// it, which is to be kept forever. Appending alone is no reason to set the log's configuration.
func (s *Stream) needsLog(b *appendBatch) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.noLog || s.state.generation == 0 && !s.state.ended && b.hasCreate()
}

// createLog makes the log exist as b needs it.
func (s *Stream) createLog(ctx context.Context, b *appendBatch) error {
	if !s.needsLog(b) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, s.manager.cfg.AppendTimeout)
	defer cancel()
	err := s.manager.log.Create(ctx, s.id)
	if err != nil {
		return storeErr(err)
	}
	s.mu.Lock()
	s.noLog, s.timestamps = false, timestampsCapped
	s.mu.Unlock()
	return nil
}

// foldAcked folds the written entries of b; ack is the answer to an append sent at sent.
func (s *Stream) foldAcked(b *appendBatch, entries []Entry, ack Ack, sent time.Time) error {
	recs := make([]Record, len(entries))
	for i, e := range entries {
		t := ack.StartTime
		if i == len(entries)-1 {
			t = ack.EndTime
		}
		recs[i] = e.record(b.pos+Pos(i), t)
	}
	err := s.foldFromLog(b.base, recs)
	s.noteAckTime(ack, sent)
	s.noteSynced(b.base, sent)
	if b.endsExpired {
		b.endsExpired = false
		s.manager.expiryReports.noteExpiry(s.id, s.manager.cfg.Now())
	}
	return err
}

// noteSynced notes that the fold has everything that the log held at t.
func (s *Stream) noteSynced(fold *State, t time.Time) {
	s.mu.Lock()
	if s.state == fold && t.After(s.syncedAt) {
		s.syncedAt = t
	}
	s.mu.Unlock()
}

// The lost compare-and-swaps after which a caller is told that the stream is
// contended: plain appends, and appends in parts.
const (
	maxLosses        = 8
	maxLossesInParts = 3
)

// resolveLoss reads what another writer wrote, up to tail at least. It answers the callers that
// have their append in the log after all. It puts the others, with appends that are certainly not
// written, back at the head of the queue, to be decided again.
func (s *Stream) resolveLoss(ctx context.Context, b *appendBatch, tail Pos) {
	if err := s.readBack(ctx, b, tail); err != nil {
		b.answerCalls(b.callerError(err))
		return
	}
	limit := maxLosses
	if b.inParts {
		limit = maxLossesInParts
	}
	worst := 0
	s.mu.Lock()
	var retry []*call // not of b.calls, which would be kept with all that the batch holds
	for _, c := range b.calls {
		c.losses++
		worst = max(worst, c.losses)
		if v, ok := s.recallOutcome(b, c); ok {
			c.answer(v.outcome, v.err)
		} else if c.losses >= limit {
			c.answer(Outcome{}, ErrContended)
		} else {
			retry = append(retry, c)
		}
	}
	s.queue = append(retry, s.queue...)
	for _, c := range retry {
		s.queueBytes += c.size
	}
	s.mu.Unlock()
	if worst > 1 {
		pauseWithJitter(ctx, worst, 2*time.Millisecond, 100*time.Millisecond)
	}
}

// readBack is catchUpOrReset, tried again for a while: the callers of a batch with an unknown
// outcome depend on it.
func (s *Stream) readBack(ctx context.Context, b *appendBatch, tail Pos) error {
	deadline := s.manager.cfg.Now().Add(resendTimeout)
	for try := 0; ; try++ {
		err := s.catchUpOrReset(ctx, b.base, b.pos, tail)
		if !errors.Is(err, ErrStoreDown) || ctx.Err() != nil || s.manager.cfg.Now().After(deadline) {
			return err
		}
		pauseWithJitter(ctx, try, 20*time.Millisecond, time.Second)
	}
}

// recallOutcome returns what the fold knows of a caller's append after the batch b was lost; false:
// it was certainly not written, and may be decided again.
func (s *Stream) recallOutcome(b *appendBatch, c *call) (verdict, bool) {
	if c.req == nil {
		return verdict{}, false
	}
	if s.state != b.base || !s.opened { // another log, or none; what was written has gone with it
		return verdict{err: ErrOutcomeUnknown}, b.maybeWritten
	}
	if o, ok := s.state.findOutcome(c.req.ID); ok {
		return verdict{outcome: firstOutcome(s.state, c.req, o)}, true
	}
	return verdict{err: ErrOutcomeUnknown}, b.maybeWritten && s.state.isOutcomeLost(c.req, s.mintedAt(c.req))
}

// catchUpOrReset folds everything up to tail, the answer to a call that was made when the fold
// ended at before. A tail below before means that the log is another one: everything is forgotten
// and read again.
func (s *Stream) catchUpOrReset(ctx context.Context, fold *State, before, tail Pos) error {
	s.mu.Lock()
	same := s.opened && s.state == fold
	s.mu.Unlock()
	if !same {
		return nil
	}
	if tail < before {
		s.resetFold(fold, tail)
		return nil
	}
	err := s.catchUp(ctx, fold, tail)
	if errors.Is(err, ErrNoLog) {
		s.resetFold(fold, 0)
		return nil
	}
	if err != nil {
		return storeErr(err)
	}
	return nil
}

// pauseWithJitter waits with full jitter: up to base doubled try times, at most top.
func pauseWithJitter(ctx context.Context, try int, base, top time.Duration) {
	d := min(base<<min(try, 10), top)
	t := time.NewTimer(rand.N(d) + 1)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
