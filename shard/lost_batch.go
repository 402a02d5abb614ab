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
		PauseWithJitter(ctx, worst, 2*time.Millisecond, 100*time.Millisecond)
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
