package shard

import (
	"context"
	"errors"
	"time"
)

// sendBatch sends what b holds for its next append, once, and folds what is acknowledged. b.err then
// is the answer: nil, *TailError, or another error of Log.Append.
func (s *Stream) sendBatch(ctx context.Context, b *appendBatch) {
	b.sent = true
	if b.isWritten() {
		b.err = s.confirmTail(ctx, b)
		return
	}
	makesLog := b.needsLog && s.makesLog(b)
	if b.needsLog && !makesLog {
		if b.err = s.createLog(ctx); b.err != nil {
			return
		}
		b.needsLog = false
	}
	b.attempted = true
	at, sent := s.manager.cfg.Now(), time.Now()
	appendCtx := &lazyTimeout{parent: ctx, timeout: appendTimeout}
	ack, err := s.manager.log.Append(appendCtx, s.id, b.pos, b.entries)
	appendCtx.finish()
	b.noteSending(sent, err)
	if err == nil {
		now := time.Now()
		s.manager.pipelines.acks.note(now, now.Sub(sent))
		s.manager.pipelines.onCall.Add(1)
		if makesLog {
			b.needsLog = false
			s.noteLogMade()
		}
		b.err = s.foldAck(b, ack, at)
		return
	}
	b.err = err
	if makesLog && errors.Is(err, ErrNoLog) {
		s.noteLogMissing()
	}
	// Parts without their commit are void, wherever they are.
	b.maybeWritten = b.maybeWritten || !isCertain(err) && b.remaining == nil
}

// isCertain reports whether an error of Log.Append says that the batch was not written.
func isCertain(err error) bool {
	return isTail(err) || errors.Is(err, ErrNoLog) || errors.Is(err, ErrLogDenied) || errors.Is(err, ErrLogBusy)
}

// confirmTail makes sure that refusals rest on the log as it is, by a tail check sent after the
// callers arrived. A batch without records proved nothing, and a rival owner may just have written
// what makes the refusal wrong. If the log was read for each caller after it arrived, that is proof
// enough.
func (s *Stream) confirmTail(ctx context.Context, b *appendBatch) error {
	if b.irreversible {
		return nil
	}
	if s.manager.cfg.Mode != ModeExclusive && !b.isReadForCalls() {
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
	return s.checkPrediction(b)
}

// createLog makes the log exist, with the configuration that a stream needs.
func (s *Stream) createLog(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	if err := s.manager.log.Create(ctx, s.id); err != nil {
		return storeErr(err)
	}
	s.noteLogConfigured()
	return nil
}

// foldAck folds the entries of b that were sent at the time at and are written, and composes the part
// that follows them, if there is one. *TailError: another record follows them.
func (s *Stream) foldAck(b *appendBatch, ack Ack, at time.Time) error {
	recs := b.recordsAt(ack)
	s.mu.Lock() // matchFlights looks at the batch
	b.pos += Pos(len(b.entries))
	b.entries = nil
	s.mu.Unlock()
	err := s.foldFromLog(b.base, recs)
	s.noteAckTime(ack, at)
	s.noteSynced(b.base, at)
	if b.endsExpired {
		b.endsExpired = false
		s.manager.expiryReports.noteExpiry(s.id, s.manager.cfg.Now())
	}
	if err != nil {
		b.maybeWritten = true // it is written, but this release cannot read the log
		return err
	}
	if b.remaining == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.checkPrediction(b); err != nil {
		return err
	}
	b.composePart(s.state)
	return nil
}

// checkPrediction reports whether the log ends where b was decided to stand, under mu. *TailError:
// it does not.
func (s *Stream) checkPrediction(b *appendBatch) error {
	if s.state != b.base || s.state.Next != b.pos || !s.opened {
		return &TailError{s.state.Next}
	}
	return nil
}

// noteSynced notes that the fold has everything that the log held at t.
func (s *Stream) noteSynced(fold *State, t time.Time) {
	s.mu.Lock()
	if s.state == fold && t.After(s.syncedAt) {
		s.syncedAt = t
	}
	s.mu.Unlock()
}

// resolveBatch does what follows from the answer to b's last append. It returns b if b is to be sent
// again, or has more to send; nil: its callers are answered, or wait for another batch.
//
// An unknown outcome is resolved by sending the same batch again. If that is acknowledged the batch
// is written, and no earlier copy can be written any more. If it is refused (*TailError),
// resolveLoss reads the log to find out whether it was written. While storage is down another node may resolve it sooner.
func (s *Stream) resolveBatch(ctx context.Context, b *appendBatch) *appendBatch {
	if b.err == nil {
		if b.isWritten() {
			s.answerWritten(b)
			return nil
		}
		b.sent = false // its next part is not
		return b
	}
	lost, isLost := errors.AsType[*TailError](b.err)
	switch {
	case isLost:
		return s.resolveLoss(ctx, b, lost.Tail)
	case !b.attempted:
		b.answerCalls(b.err)
	case errors.Is(b.err, ErrNoLog) && !b.maybeWritten:
		s.resetFold(b.base, 0)
		return s.resolveLoss(ctx, b, 0)
	case errors.Is(b.err, ErrNoLog), errors.Is(b.err, ErrLogDenied), errors.Is(b.err, ErrNeedsLaterRelease):
		s.answerFailed(b, b.err)
	case !s.waitToResend(ctx, b):
		s.answerFailed(b, errors.Join(ErrStoreDown, b.err))
	default:
		b.sent = false
		return b
	}
	return nil
}

// waitToResend pauses until b may be sent again; false: it has been tried for too long.
func (s *Stream) waitToResend(ctx context.Context, b *appendBatch) bool {
	now, down := s.manager.cfg.Now(), s.manager.log.isDown()
	if b.failures == 0 {
		b.failingSince = now
	}
	limit := busyTimeout
	if b.maybeWritten {
		limit = resendTimeout
	}
	failing := now.Sub(b.failingSince)
	if ctx.Err() != nil || down && (!b.maybeWritten || !s.manager.isLone()) || failing > limit {
		return false
	}
	if down || failing > busyTimeout {
		s.refuseQueue(ErrStoreDown) // they would wait behind this batch
	}
	PauseWithJitter(ctx, b.failures, 20*time.Millisecond, time.Second)
	b.failures++
	return true
}

// appendTimeout bounds how long a Log waits in one attempt to write a batch, and in other single
// calls.
const appendTimeout = 5 * time.Second

// resendTimeout bounds how long a batch is sent again before its callers are told that its outcome
// is unknown. Nothing depends on it afterwards: the next batch at that position decides the matter.
const resendTimeout = 15 * time.Second

// busyTimeout bounds how long a batch is sent again that is certainly not written, and how long
// other callers wait behind an append that may be written.
const busyTimeout = 3 * time.Second
