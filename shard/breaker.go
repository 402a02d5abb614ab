package shard

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// breaker is the Log of a Manager with a circuit breaker. Once storage has answered nothing for
// downAfter, calls fail immediately, and certainly without an effect, until a probe is answered. So
// a caller does not wait for an answer that will not come, and a fleet can see that a node is cut
// off from storage (Manager.StoreDown). A refusal is an answer. Calls that are under way are not
// ended.
type breaker struct {
	Log
	maker LogMaker // the same Log; nil: it is none
	now   func() time.Time

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

// noteAnswer notes what storage answered: the result of a call, or nil for a page that a session
// brought.
func (b *breaker) noteAnswer(err error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.noteAnswerLocked(err)
}

// noteAnswerLocked does what noteAnswer does, under mu.
func (b *breaker) noteAnswerLocked(err error) {
	if isAnswer(err) {
		b.waitingSince, b.lastAnswer = time.Time{}, b.now()
	}
}

// noteAsked notes that the node's own probe asks storage. Unlike other calls it asks also while
// storage is down.
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
	_, span := tracing.Start(ctx, "s2.create", tracing.Client)
	_, err := guardCall(b, id, func() (struct{}, error) { return struct{}{}, b.Log.Create(ctx, id) })
	endStorageSpan(span, 0, err)
	return err
}

// CreateNew implements LogMaker. The Log must be one.
func (b *breaker) CreateNew(ctx context.Context, id StreamID) (made bool, err error) {
	return guardCall(b, id, func() (bool, error) { return b.maker.CreateNew(ctx, id) })
}

// EnsureConfig implements LogMaker. The Log must be one.
func (b *breaker) EnsureConfig(ctx context.Context, id StreamID) (changed bool, err error) {
	return guardCall(b, id, func() (bool, error) { return b.maker.EnsureConfig(ctx, id) })
}

// Append implements Log. Its spans are those of the calls in the batch (callTrace).
func (b *breaker) Append(ctx context.Context, id StreamID, at Pos, batch []Entry) (Ack, error) {
	return guardCall(b, id, func() (Ack, error) { return b.Log.Append(ctx, id, at, batch) })
}

// Read implements Log.
func (b *breaker) Read(ctx context.Context, id StreamID, from Pos, max int) (Page, error) {
	_, span := tracing.Start(ctx, "s2.read", tracing.Client)
	page, err := guardCall(b, id, func() (Page, error) { return b.Log.Read(ctx, id, from, max) })
	span.Int(tracing.Position, int(from))
	endStorageSpan(span, len(page.Records), err)
	return page, err
}

// Last implements Log.
func (b *breaker) Last(ctx context.Context, id StreamID, n, maxBytes int) (Page, error) {
	_, span := tracing.Start(ctx, "s2.last", tracing.Client)
	page, err := guardCall(b, id, func() (Page, error) { return b.Log.Last(ctx, id, n, maxBytes) })
	endStorageSpan(span, len(page.Records), err)
	return page, err
}

// FirstSince implements Log.
func (b *breaker) FirstSince(ctx context.Context, id StreamID, since Millis) (Page, error) {
	_, span := tracing.Start(ctx, "s2.first_since", tracing.Client)
	page, err := guardCall(b, id, func() (Page, error) { return b.Log.FirstSince(ctx, id, since) })
	endStorageSpan(span, len(page.Records), err)
	return page, err
}

// Tail implements Log.
func (b *breaker) Tail(ctx context.Context, id StreamID) (Pos, error) {
	_, span := tracing.Start(ctx, "s2.tail", tracing.Client)
	pos, err := guardCall(b, id, func() (Pos, error) { return b.Log.Tail(ctx, id) })
	endStorageSpan(span, 0, err)
	return pos, err
}

// Replay implements Log. Each page is an answer.
func (b *breaker) Replay(ctx context.Context, id StreamID, from, to Pos, fn func(Page) error) error {
	_, span := tracing.Start(ctx, "s2.replay", tracing.Client)
	records := 0
	_, err := guardCall(b, id, func() (struct{}, error) {
		return struct{}{}, b.Log.Replay(ctx, id, from, to, func(p Page) error {
			b.noteAnswer(nil)
			records += len(p.Records)
			return fn(p)
		})
	})
	span.Int(tracing.Position, int(from))
	endStorageSpan(span, records, err)
	return err
}

// feed follows a stream as a Feeder does, with a goroutine where the Log needs one; false: the
// Manager is closed.
func (b *breaker) feed(ctx context.Context, spawn func(func(context.Context)) bool, id StreamID, f Follower) (Feed, bool) {
	b.mu.Lock()
	b.lastAsked = id
	b.mu.Unlock()
	if feeder, ok := b.Log.(Feeder); ok {
		if feed, ok := feeder.Feed(id, f); ok {
			return feed, true
		}
	}
	ctx, cancel := context.WithCancel(ctx)
	return goroutineFeed(cancel), spawn(func(context.Context) {
		defer cancel()
		from, _ := f.WantedPos()
		f.NoteEnd(b.Follow(ctx, id, from, f.TakePage))
	})
}

// goroutineFeed is the Feed of a goroutine that runs Log.Follow.
type goroutineFeed context.CancelFunc

// Stop implements Feed.
func (g goroutineFeed) Stop() { g() }

// feedBytes returns about how many bytes an idle feed takes.
func (b *breaker) feedBytes() int {
	if feeder, ok := b.Log.(Feeder); ok {
		return feeder.FeedBytes()
	}
	return 8 << 10 // a goroutine
}
