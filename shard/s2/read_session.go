package s2

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

const (
	// minTailPoll is the time until a session is first asked for the tail that it has observed. The
	// SDK has no signal for a heartbeat. The interval doubles up to maxTailPoll, and is maxTailPoll
	// while the session is at the tail: with thousands of streams, polling would be most of what
	// they cost.
	minTailPoll = 10 * time.Millisecond
	maxTailPoll = 5 * time.Second
	// sessionBuffer bounds the records that wait between the SDK's goroutine and ours. A full
	// buffer blocks the session, and S2 stops sending.
	sessionBuffer = 256
	// minBackoff is the first pause between two sessions.
	minBackoff = 100 * time.Millisecond
	// minBilledTime is the shortest time that S2 bills for a session.
	minBilledTime = time.Minute
	// reopensPerSecond bounds how many sessions are reopened in a second: a lost connection to S2
	// ends all sessions on it.
	reopensPerSecond = 200
)

// Follow implements shard.Log.
func (l *Log) Follow(
	ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error,
) error {
	st, err := l.streamClient(id)
	if err != nil {
		return err
	}
	return l.cfg.keepSessionOpen(ctx, id, from, &l.metrics, fn, func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error {
		return l.readSession(ctx, st, &s2.ReadOptions{SeqNum: new(uint64(from))}, fn)
	})
}

// keepSessionOpen runs one read session after another, until ctx ends or an error is final.
func (c *Config) keepSessionOpen(
	ctx context.Context, id shard.StreamID, from shard.Pos, m *metrics, fn func(shard.Page) error,
	session func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error,
) error {
	for try := 0; ; try++ {
		got, began, told := from, time.Now(), false
		err := session(ctx, from, func(p shard.Page) error {
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
		m.sessionLosses.Inc()
		c.Logger.Debug("read session lost", "stream", id, "seq", from, "err", err)
		if err := fn(shard.Page{}); err != nil {
			return err
		}
		// A session that only told the tail and ended soon is no success: each costs a minute.
		if from > got || time.Since(began) >= minBilledTime {
			try = 0
		}
		if got == from || try > 0 {
			pauseWithJitter(ctx, min(minBackoff<<min(try, 10), c.Backoff))
		}
		if told { // failing sessions would delay the others in the limiter's queue
			_ = c.reopenLimiter.Wait(ctx)
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
func (l *Log) Replay(
	ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error,
) error {
	st, err := l.streamClient(id)
	if err != nil || from >= to {
		return err
	}
	count, wait := uint64(to-from), int32(0)
	for from < to {
		before := from
		o := &s2.ReadOptions{SeqNum: new(uint64(from)), Count: &count, Wait: &wait}
		err := l.readSession(ctx, st, o, func(p shard.Page) error {
			for n := len(p.Records); n > 0 && p.Records[n-1].Pos >= to; n-- {
				p.Records = p.Records[:n-1] // a trim made the count reach beyond to
			}
			n := len(p.Records)
			if n == 0 {
				return nil
			}
			from = p.Records[n-1].Pos + 1
			count = uint64(to - from)
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

// readSession runs one read session of the SDK and calls fn, on the caller's goroutine, with all
// records that have arrived. It returns nil if the session ended cleanly.
func (l *Log) readSession(
	outer context.Context, st *s2.StreamClient, o *s2.ReadOptions, fn func(shard.Page) error,
) (err error) {
	defer func() {
		if outer.Err() == nil { // else the caller ended it
			l.metrics.recordResult(opSession, time.Now(), err)
		}
	}()
	ctx, cancel := context.WithCancel(outer)
	defer cancel()
	sess, err := st.ReadSession(ctx, o)
	if err != nil {
		return l.cfg.classifyError("open session", err)
	}
	l.sessions.Add(1)
	l.metrics.sessionOpens.Inc()
	defer l.sessions.Add(-1)
	recs := make(chan shard.Record, sessionBuffer) // closed by the pump, its only sender
	var end error                                  // set before recs is closed
	go func() {
		defer close(recs)
		for sess.Next() {
			select {
			case recs <- fromSDKRecord(sess.Record()):
			case <-ctx.Done():
				return
			}
		}
		end = sess.Err()
	}()
	defer func() {
		cancel()
		_ = sess.Close()
		for range recs { // until the pump has ended
		}
	}()
	if err := deliverPages(ctx, sess, shard.Pos(*o.SeqNum), recs, l.cfg.Silence, fn); err != nil {
		return err
	}
	return l.cfg.classifyError("read session", end)
}

// errSessionSilent is the error of a session that was requested, and brought no answer.
var errSessionSilent = errors.New("s2: no word of a read session")

// deliverPages calls fn with pages, the first at next, until recs is closed. It returns
// errSessionSilent if nothing arrives for as long as patience.
func deliverPages(
	ctx context.Context, sess *s2.ReadSession, next shard.Pos, recs <-chan shard.Record, patience time.Duration, fn func(shard.Page) error,
) error {
	look := time.NewTimer(minTailPoll)
	defer look.Stop()
	every := minTailPoll
	silent := time.NewTimer(patience) // nothing else bounds the wait for the answer's header
	defer silent.Stop()
	for {
		var p shard.Page
		select {
		case r, ok := <-recs:
			if !ok {
				return nil
			}
			silent.Stop()
			p.Records = gatherPage(r, recs)
			next = p.Records[len(p.Records)-1].Pos + 1
			every = minTailPoll
		case <-look.C:
			every = min(2*every, maxTailPoll)
		case <-silent.C:
			if sess.LastObservedTail() == nil {
				return errSessionSilent
			}
			continue
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		switch t := sess.LastObservedTail(); {
		case t == nil:
			every = min(every, 100*time.Millisecond)
		case shard.Pos(t.SeqNum) == next:
			every = maxTailPoll
			fallthrough
		default:
			p.Tail, p.HasTail = shard.Pos(t.SeqNum), true
		}
		look.Reset(every)
		if len(p.Records) == 0 && !p.HasTail {
			continue
		}
		if err := fn(p); err != nil {
			return &callerError{err}
		}
	}
}

// gatherPage returns the records that have arrived, up to a page, without waiting.
func gatherPage(first shard.Record, recs <-chan shard.Record) []shard.Record {
	out := []shard.Record{first}
	for size := first.Size; len(out) < shard.MaxBatchRecords && size < shard.MaxBatchBytes; {
		select {
		case r, ok := <-recs:
			if !ok {
				return out
			}
			out = append(out, r)
			size += r.Size
		default:
			return out
		}
	}
	return out
}

// pauseWithJitter waits for a random time up to d.
func pauseWithJitter(ctx context.Context, d time.Duration) {
	t := time.NewTimer(rand.N(d) + 1)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
