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

	// The rest is an opening's, and guarded by Stream.mu, except turn.
	turn    *turn
	waiters int
	span    *tracing.Span  // of the caller that began it; nil: that one is not traced
	begun   bool           // the log is being read
	create  *createAttempt // goes beside the reads; nil: none does
}

// waitReady returns once the log is folded up to a recent tail.
func (s *Stream) waitReady(ctx context.Context) error {
	_, err := s.awaitFold(ctx)
	return err
}

// awaitFold waits as waitReady does. read: the log was read after the call, so whatever the fold says held at a
// moment since then.
func (s *Stream) awaitFold(ctx context.Context) (read bool, err error) {
	s.mu.Lock()
	s.lastUsed = s.manager.cfg.Now()
	switch {
	case s.stopped:
		s.mu.Unlock()
		return false, ErrNotOwner
	case s.foldErr != nil:
		s.mu.Unlock()
		return false, s.foldErr
	case s.opened:
		s.mu.Unlock()
		return false, nil
	}
	ctx, span := tracing.Start(ctx, "open", tracing.Internal)
	a, err := s.joinOpening(isPatient(ctx), span)
	read = err == nil && !a.begun
	s.mu.Unlock()
	if err == nil {
		err = s.awaitOpening(ctx, a)
	}
	endOpenSpan(span, a, err)
	return read && err == nil, err
}

// endOpenSpan ends the span of a caller that has waited for an opening.
func endOpenSpan(span *tracing.Span, a *sharedCall, err error) {
	if span == nil {
		return
	}
	span.Bool(tracing.Shared, a != nil && a.span != span)
	if err != nil {
		span.Fail(storageErrorKind(err))
	}
	span.End()
}

// awaitOpening waits for an opening that the caller has joined.
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
	_, err := s.lockFold(ctx)
	return err
}

// lockFold locks as lockReady does. read: the log was read after the call.
func (s *Stream) lockFold(ctx context.Context) (read bool, err error) {
	for {
		if read, err = s.awaitFold(ctx); err != nil {
			return false, err
		}
		s.mu.Lock()
		if s.opened {
			return read, nil
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
		s.mu.Lock()
		a.begun = true
		create := a.create
		s.mu.Unlock()
		err = s.takeOver(a.span.In(ctx), create)
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
