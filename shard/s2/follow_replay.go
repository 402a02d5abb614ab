package s2

import (
	"context"
	"errors"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

const (
	// minBackoff is the first pause between two sessions.
	minBackoff = 100 * time.Millisecond
	// minBilledTime is the shortest time that S2 bills for a session.
	minBilledTime = time.Minute
	// reopensPerSecond bounds how many sessions are reopened in a second: a lost connection to S2
	// ends all sessions on it.
	reopensPerSecond = 200
)

// Follow implements shard.Log. It runs one read session after another, until ctx ends or an error is
// final.
func (l *logCalls) Follow(ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error) error {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return err
	}
	for try := 0; ; try++ {
		got, began, told := from, time.Now(), false
		err := l.readSession(ctx, basin, name, from, 0, func(p shard.Page) error {
			if n := len(p.Records); n > 0 {
				from = p.Records[n-1].Pos + 1
			}
			told = true
			return fn(p)
		})
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err != nil && isFinal(err):
			return err
		}
		// A clean end is a lost session, too: the SDK does not open another one.
		l.metrics.sessionLosses.Inc()
		l.cfg.Logger.Debug("read session lost", "stream", id, "seq", from, "err", err)
		if err := fn(shard.Page{}); err != nil {
			return err
		}
		// A session that only told the tail and ended soon is no success: each costs a minute.
		if from > got || time.Since(began) >= minBilledTime {
			try = 0
		}
		if got == from || try > 0 {
			shard.PauseWithJitter(ctx, try, minBackoff, l.cfg.backoff)
		}
		if told { // failing sessions would delay the others in the limiter's queue
			_ = l.cfg.reopenLimiter.Wait(ctx)
		}
	}
}

// isFinal reports whether the caller must handle a session's error.
func isFinal(err error) bool {
	var lost *shard.TailError
	var own *callerError
	return errors.As(err, &lost) || errors.As(err, &own) ||
		errors.Is(err, shard.ErrNoLog) || errors.Is(err, shard.ErrLogDenied)
}

// callerError is an error that the caller's fn returned.
type callerError struct{ error }

func (e *callerError) Unwrap() error { return e.error }

// Replay implements shard.Log.
func (l *logCalls) Replay(ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error) error {
	basin, name, err := l.cfg.locate(id)
	if err != nil || from >= to {
		return err
	}
	for from < to {
		before := from
		err := l.readSession(ctx, basin, name, from, uint64(to-from), func(p shard.Page) error {
			for n := len(p.Records); n > 0 && p.Records[n-1].Pos >= to; n-- {
				p.Records = p.Records[:n-1] // a trim made the count reach beyond to
			}
			n := len(p.Records)
			if n == 0 {
				return nil
			}
			from = p.Records[n-1].Pos + 1
			return fn(p)
		})
		var lost *shard.TailError
		var own *callerError
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &own):
			return own.error
		case errors.As(err, &lost):
			return nil // the log ends here
		case err == nil && before == from:
			// A clean end proves nothing: the SDK returns it for a session that was cut short, too.
			// Only a read that finds nothing below to proves that nothing is left.
			p, err := l.Read(ctx, id, from, 1)
			if err == nil && len(p.Records) > 0 && p.Records[0].Pos < to {
				err = errCutShort
			}
			return err
		case err != nil && (isFinal(err) || before == from):
			return err
		}
	}
	return nil
}

var errCutShort = errors.New("s2: replay was cut short")

// readSession runs one read session and counts it. See service.runSession.
func (l *logCalls) readSession(
	ctx context.Context, basin, name string, from shard.Pos, count uint64, fn func(shard.Page) error,
) error {
	open := false
	err := l.service.runSession(ctx, basin, name, from, count, func() {
		open = true
		l.noteSession(1)
	}, fn)
	what := "open session"
	if open {
		l.noteSession(-1)
		what = "read session"
	}
	if own, ok := errors.AsType[*callerError](err); ok {
		err = own
	} else {
		err = l.cfg.classifyError(what, err)
	}
	if ctx.Err() == nil { // else the caller ended it
		l.metrics.recordResult(opSession, time.Now(), err)
	}
	return err
}

// noteSession counts a session that S2 has accepted, or its end.
func (l *logCalls) noteSession(by int64) {
	if l.sessions.Add(by); by > 0 {
		l.metrics.sessionOpens.Inc()
	}
}
