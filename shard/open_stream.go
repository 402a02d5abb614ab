package shard

import (
	"context"
	"errors"
	"time"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// sharedCall is one attempt to open a stream, one tail check, or one round of questions. All
// callers that want its result share the attempt.
type sharedCall struct {
	done chan struct{}
	sent time.Time // when a tail check was sent; set before done is closed
	err  error     // set before done is closed

	turn    *turn         // of an opening
	waiters int           // of an opening; guarded by Stream.mu
	span    *tracing.Span // of an opening: of the caller that began it; nil: that one is not traced
}

// waitReady returns once the log is folded up to a recent tail.
func (s *Stream) waitReady(ctx context.Context) error {
	s.mu.Lock()
	s.lastUsed = s.manager.cfg.Now()
	switch {
	case s.stopped:
		s.mu.Unlock()
		return ErrNotOwner
	case s.foldErr != nil:
		s.mu.Unlock()
		return s.foldErr
	case s.opened:
		s.mu.Unlock()
		return nil
	}
	ctx, span := tracing.Start(ctx, "open", tracing.Internal)
	a, err := s.joinOpening(isPatient(ctx), span)
	s.mu.Unlock()
	if err == nil {
		err = s.awaitOpening(ctx, a)
	}
	if span != nil {
		span.Bool(tracing.Shared, a != nil && a.span != span)
		if err != nil {
			span.Fail(storageErrorKind(err))
		}
		span.End()
	}
	return err
}

// awaitOpening waits for an opening.
func (s *Stream) awaitOpening(ctx context.Context, a *sharedCall) error {
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		s.leaveOpening(a)
		return context.Cause(ctx)
	}
}

// joinOpening joins the opening that is under way, or begins one, under mu. A patient caller is a
// follower and waits for its turn; other callers are refused if they would wait for too long. An opening
// that begins is a step of span.
func (s *Stream) joinOpening(patient bool, span *tracing.Span) (*sharedCall, error) {
	followers := 0
	if patient {
		followers = max(s.followers, 1)
	}
	a := s.opening
	if a != nil {
		if err := s.manager.coldOpens.addWaiter(a.turn, followers); err != nil {
			return nil, err
		}
		a.waiters++
		return a, nil
	}
	turn, err := s.manager.coldOpens.enqueue(followers)
	if err != nil {
		return nil, err
	}
	a = &sharedCall{done: make(chan struct{}), turn: turn, waiters: 1, span: span}
	if !s.manager.spawn(func(ctx context.Context) { s.runOpening(ctx, a) }) {
		s.manager.coldOpens.withdraw(turn)
		return nil, ErrStopped
	}
	s.opening = a
	return a, nil
}

// leaveOpening notes that a caller stops waiting for an opening. The last caller withdraws the
// opening.
func (s *Stream) leaveOpening(a *sharedCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.waiters--; a.waiters == 0 && s.opening == a && s.manager.coldOpens.withdraw(a.turn) {
		s.opening = nil
	}
}

// lockReady locks mu once the log is folded. A fold that is still under way must not be read: it is
// the stream of some time ago.
func (s *Stream) lockReady(ctx context.Context) error {
	for {
		if err := s.waitReady(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		if s.opened {
			return nil
		}
		s.mu.Unlock() // reset meanwhile
	}
}

// runOpening waits for its turn and folds the log.
func (s *Stream) runOpening(ctx context.Context, a *sharedCall) {
	var err error
	select {
	case <-a.turn.granted:
		if a.turn.withdrawn {
			close(a.done) // every caller has left
			return
		}
		err = s.takeOver(a.span.In(ctx))
	case <-ctx.Done():
		err = ErrStopped
	}
	s.mu.Lock()
	if err != nil && s.buffer != nil { // for its other feeds, and for the next attempt
		defer s.buffer.Release()
		s.buffer = nil
	}
	if errors.Is(err, ErrNeedsLaterRelease) {
		s.foldErr = err
	}
	s.opening = nil
	s.measureMemory()
	s.mu.Unlock()
	s.manager.evictIdle()
	if err != nil {
		a.err = storeErr(err)
	}
	close(a.done)
}
