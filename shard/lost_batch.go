package shard

import (
	"context"
	"errors"
	"time"
)

// The lost compare-and-swaps after which a caller is told that the stream is
// contended: plain appends, and appends in parts.
const (
	maxLosses        = 8
	maxLossesInParts = 3
)

// resolveLoss reads what another writer wrote, up to tail at least. It answers the callers that
// have their append in the log after all. It puts the others, with appends that are certainly not
// written, back at the head of the queue, to be decided again. Of a pipeline's batches it returns the
// first that still may be written, to be sent again.
func (s *Stream) resolveLoss(ctx context.Context, b *appendBatch, tail Pos) *appendBatch {
	if err := s.readBack(ctx, b, tail); err != nil {
		s.answerFailed(b, err)
		return nil
	}
	limit := maxLosses
	if b.inParts {
		limit = maxLossesInParts
	}
	s.mu.Lock()
	if s.isFlight(b) {
		s.settleFound()
		if next := s.oldestSent(); next != nil && next != b && s.mayStillLand(next) {
			next.sent = false
			s.mu.Unlock()
			return next
		}
	} else {
		s.flights = []*appendBatch{b}
	}
	if s.state.Next > b.pos && s.foreignRecords == b.foreignBefore {
		limit += maxFlightBatches // an owner of before may have had so many batches on their way
	}
	if b.pos > 0 && s.state.Next > b.pos && (s.foreignRecords != b.foreignBefore || !b.maybeWritten) {
		s.noteForeign(s.state.Time)
	}
	worst := s.requeueLost(limit)
	s.mu.Unlock()
	if worst > 1 {
		PauseWithJitter(ctx, worst, 2*time.Millisecond, 100*time.Millisecond)
	}
	return nil
}

// mayStillLand reports whether nothing but records of b is known to stand where b is to stand, so that
// an earlier sending of b may have arrived there, or may yet, under mu.
func (s *Stream) mayStillLand(b *appendBatch) bool {
	return b.maybeWritten && s.opened && s.state == b.base && s.state.Next == b.pos+Pos(b.found)
}

// requeueLost answers the callers in flight whose append stands in the log, and queues the others
// again, in order, under mu. Of the batches of a pipeline only the first was refused for what another
// writer wrote; so only the first counts as a loss. A caller with limit losses is told that the
// stream is contended. It returns the losses of the caller that has lost most often.
func (s *Stream) requeueLost(limit int) (worst int) {
	var retry []*call // not of b.calls, which would be kept with all that the batch holds
	counts := true
	for _, b := range s.flights {
		for _, c := range b.calls {
			if counts {
				c.losses++
			}
			worst = max(worst, c.losses)
			if v, ok := s.recallOutcome(b, c); ok {
				c.answer(v.outcome, v.err)
			} else if c.losses >= limit {
				c.answer(Outcome{}, ErrContended)
			} else {
				retry = append(retry, c)
			}
		}
		counts = counts && len(b.calls) == 0
	}
	s.queueAgain(retry)
	return worst
}

// answerWritten answers the callers of b, which is written. If b is a pipeline's batch that was sent
// again, it proves the refusals before it, and that nothing behind it was or will be written.
func (s *Stream) answerWritten(b *appendBatch) {
	s.mu.Lock()
	if !s.isFlight(b) {
		s.mu.Unlock()
		b.answerCalls(nil)
		return
	}
	done := s.takeFlights(b)
	s.requeueFlights()
	s.mu.Unlock()
	for _, d := range done {
		d.answerCalls(nil)
	}
}

// answerFailed tells the callers of b, and of the pipeline's batches behind it, of an error.
func (s *Stream) answerFailed(b *appendBatch, err error) {
	s.mu.Lock()
	flights := []*appendBatch{b}
	if s.isFlight(b) {
		flights, s.flights = s.flights, nil
	}
	s.mu.Unlock()
	for _, f := range flights {
		f.answerCalls(f.callerError(err))
	}
}

// readBack does what catchUpOrReset does, and tries again for a while: the callers of a batch
// with an unknown outcome depend on it.
func (s *Stream) readBack(ctx context.Context, b *appendBatch, tail Pos) error {
	deadline := s.manager.cfg.Now().Add(resendTimeout)
	for try := 0; ; try++ {
		err := s.catchUpOrReset(ctx, b.base, b.pos, tail)
		if !errors.Is(err, ErrStoreDown) || ctx.Err() != nil || s.manager.cfg.Now().After(deadline) {
			return err
		}
		PauseWithJitter(ctx, try, 20*time.Millisecond, time.Second)
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
	if b.flight != nil && !b.skipped && s.state.Next > b.pos+Pos(b.found) {
		return verdict{}, false // other records stand in its place
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
