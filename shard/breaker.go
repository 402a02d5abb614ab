package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// breaker is the Log of a Manager with a circuit breaker. Once storage has answered nothing for
// downAfter, calls fail immediately, and certainly without an effect, until a probe is answered. So
// a caller does not wait for an answer that will not come, and a fleet can see that a node is cut
// off from storage (Manager.StoreDown). A refusal is an answer. Calls that are under way are not
// ended.
type breaker struct {
	Log
	now func() time.Time

	mu           sync.Mutex
	pendingCalls int       // under way
	waitingSince time.Time // since when a call has waited without any answer from storage; zero: none waits
	lastAnswer   time.Time // when storage last answered
	lastAsked    StreamID  // the log to probe with
}

const (
	// downAfter bounds how long storage may answer nothing.
	downAfter = 3 * time.Second
	// probeEvery is the pause between probes while storage is down, and while nothing else is asked
	// of it though streams are followed: a read session can be silent for long.
	probeEvery      = time.Second
	probeAfterQuiet = 2 * time.Second
	probeTimeout    = 2 * time.Second
)

// errBreakerOpen: the call was not made. As an ErrLogBusy it is certainly without an effect.
var errBreakerOpen = fmt.Errorf("%w: it does not answer", ErrLogBusy)

// guardCall makes a call unless storage is down. A refusal without a request to storage
// (ErrNoBasin) says nothing about storage.
func guardCall[T any](b *breaker, id StreamID, do func() (T, error)) (got T, err error) {
	b.mu.Lock()
	if b.isDownLocked() {
		b.mu.Unlock()
		return got, errBreakerOpen
	}
	first, before := b.waitingSince.IsZero(), b.lastAsked
	b.lastAsked = id
	b.noteAskedLocked()
	b.pendingCalls++
	b.mu.Unlock()
	got, err = do()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.pendingCalls--
	b.noteAnswerLocked(err)
	if errors.Is(err, ErrNoBasin) {
		if b.lastAsked == id {
			b.lastAsked = before
		}
		if first && b.pendingCalls == 0 { // else another call waits by now
			b.waitingSince = time.Time{}
		}
	}
	return got, err
}

// noteAskedLocked notes that storage is being asked, under mu.
func (b *breaker) noteAskedLocked() {
	if b.waitingSince.IsZero() {
		b.waitingSince = b.now()
	}
}

// isDownLocked reports whether storage is down by now, under mu.
func (b *breaker) isDownLocked() bool {
	return !b.waitingSince.IsZero() && b.now().Sub(b.waitingSince) >= downAfter
}

// noteAnswer notes the result of a call, or of a page.
func (b *breaker) noteAnswer(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noteAnswerLocked(err)
}

// noteAnswerLocked is noteAnswer under mu.
func (b *breaker) noteAnswerLocked(err error) {
	if isAnswer(err) {
		b.waitingSince, b.lastAnswer = time.Time{}, b.now()
	}
}

// noteAsked notes that the node's own probe asks storage; the probe is made though storage is down.
func (b *breaker) noteAsked(id StreamID) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.lastAsked == "" {
		b.lastAsked = id
	}
	b.noteAskedLocked()
}

// isAnswer reports whether an error came from storage itself.
func isAnswer(err error) bool {
	if err == nil {
		return true
	}
	var tail *TailError
	return errors.As(err, &tail) || errors.Is(err, ErrNoLog) ||
		errors.Is(err, ErrLogDenied) && !errors.Is(err, ErrNoBasin) || errors.Is(err, ErrLogBusy) && !errors.Is(err, ErrLogUnreachable)
}

// isDown reports whether storage answers nothing.
func (b *breaker) isDown() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.isDownLocked()
}

// answered returns lastAnswer and waitingSince.
func (b *breaker) answered() (last, silentSince time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.lastAnswer, b.waitingSince
}

// probeIfDue asks storage for a sign of life if that is due; following reports whether a stream is
// followed.
func (b *breaker) probeIfDue(ctx context.Context, following func() bool) {
	b.mu.Lock()
	id, down, quiet := b.lastAsked, b.isDownLocked(), b.now().Sub(b.lastAnswer) >= probeAfterQuiet
	b.mu.Unlock()
	if id == "" || !down && !quiet || !down && !following() {
		return
	}
	b.mu.Lock()
	b.noteAskedLocked()
	b.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, probeTimeout)
	defer cancel()
	_, err := b.Log.Tail(ctx, id)
	b.noteAnswer(err)
}

// Create implements Log.
func (b *breaker) Create(ctx context.Context, id StreamID) error {
	_, err := guardCall(b, id, func() (struct{}, error) { return struct{}{}, b.Log.Create(ctx, id) })
	return err
}

// Append implements Log.
func (b *breaker) Append(ctx context.Context, id StreamID, at Pos, batch []Entry) (Ack, error) {
	return guardCall(b, id, func() (Ack, error) { return b.Log.Append(ctx, id, at, batch) })
}

// Read implements Log.
func (b *breaker) Read(ctx context.Context, id StreamID, from Pos, max int) (Page, error) {
	return guardCall(b, id, func() (Page, error) { return b.Log.Read(ctx, id, from, max) })
}

// Last implements Log.
func (b *breaker) Last(ctx context.Context, id StreamID, n int) (Page, error) {
	return guardCall(b, id, func() (Page, error) { return b.Log.Last(ctx, id, n) })
}

// Tail implements Log.
func (b *breaker) Tail(ctx context.Context, id StreamID) (Pos, error) {
	return guardCall(b, id, func() (Pos, error) { return b.Log.Tail(ctx, id) })
}

// Replay implements Log. Each page is an answer.
func (b *breaker) Replay(ctx context.Context, id StreamID, from, to Pos, fn func(Page) error) error {
	_, err := guardCall(b, id, func() (struct{}, error) {
		return struct{}{}, b.Log.Replay(ctx, id, from, to, func(p Page) error {
			b.noteAnswer(nil)
			return fn(p)
		})
	})
	return err
}

// Follow implements Log. A page with records is an answer. A page without records is none: it tells
// of an end, or of the tail that was last known. Silence of the session says nothing either.
func (b *breaker) Follow(ctx context.Context, id StreamID, from Pos, fn func(Page) error) error {
	b.mu.Lock()
	b.lastAsked = id
	b.mu.Unlock()
	return b.Log.Follow(ctx, id, from, func(p Page) error {
		if len(p.Records) > 0 {
			b.noteAnswer(nil)
		}
		return fn(p)
	})
}
