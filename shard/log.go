package shard

import (
	"context"
	"errors"
	"fmt"
)

// Log is the storage below a Manager: one append-only log per stream with dense positions from 0,
// compare-and-swap on the tail, and a following read. shard/s2 implements it on S2's Go SDK;
// logtest is its conformance suite.
//
// Errors, for every method (test with errors.Is and errors.As):
//   - ErrNoLog: there is no such log (S2: stream_not_found). Final.
//   - ErrLogDenied: storage refuses us for good (authentication, permission,
//     a missing basin, a bad request). Final until an operator changes something.
//     It is an ErrNoBasin too if storage was not asked.
//   - ErrLogBusy: storage refused without any effect (429, 502 hot_server, 503
//     server_draining, 409 transaction_conflict). Try again after a pause.
//     It is an ErrLogUnreachable too if no server took the request.
//   - anything else: storage did not answer. For Append this means that the outcome
//     is unknown: wrapped in ErrAppendUnknown.
//
// A Log is safe for concurrent use and retries no Append by itself.
type Log interface {
	// Create makes the log of id exist, with infinite retention. Idempotent; it may be called for a
	// log that another client created, and keeps its records. S2: PUT /streams/{s}.
	Create(ctx context.Context, id StreamID) error

	// Append writes batch (1 to MaxBatchRecords entries, MaxBatchBytes metered in total) atomically at position at, if and only if the tail is at.
	//   - nil: written; Ack says when.
	//   - *TailError: certainly not written by this call; Tail is the tail.
	//   - ErrNoLog, ErrLogDenied, ErrLogBusy: certainly not written.
	//   - ErrAppendUnknown: written, or not, or still on its way. Sending the same
	//     batch again at the same position tells which.
	// Where it waits it watches ctx, and the time of ctx counts from its first use.
	// S2: POST /streams/{s}/records with match_seq_num, one attempt.
	Append(ctx context.Context, id StreamID, at Pos, batch []Entry) (Ack, error)

	// Read returns records from position from on: at most max records (0 means
	// MaxBatchRecords) and MaxBatchBytes, at least one unless from is the tail.
	// The first record may lie above from: what lay between was trimmed.
	// An empty page means that nothing stands at or above from (yet).
	//   - *TailError: from lies beyond the tail.
	// S2: GET /streams/{s}/records without wait.
	Read(ctx context.Context, id StreamID, from Pos, max int) (Page, error)

	// Last returns the last n records (1 ≤ n ≤ MaxBatchRecords) or what is there
	// of them; an empty page has the tail. S2: the same, by tail_offset.
	// maxBytes, unless 0, bounds their metered size: the page has the oldest of them,
	// as many as fit, perhaps none, and then need not have the tail.
	Last(ctx context.Context, id StreamID, n, maxBytes int) (Page, error)

	// FirstSince returns the first record whose time is at or above since; an empty page means that
	// there is none (yet). Times never fall in one log, so all below that record are earlier.
	// S2: GET /streams/{s}/records by timestamp.
	FirstSince(ctx context.Context, id StreamID, since Millis) (Page, error)

	// Replay calls fn with the records of [from, to) in order, in pages, until to
	// is reached, the log ends or fn returns an error, which it returns. It costs
	// one bounded read session whatever the length. The pages are fn's to keep.
	Replay(ctx context.Context, id StreamID, from, to Pos, fn func(Page) error) error

	// Tail returns the position that the next record will take, linearizably.
	// S2: GET /streams/{s}/records/tail.
	Tail(ctx context.Context, id StreamID) (Pos, error)

	// Follow opens a read session at from and keeps one open until ctx ends,
	// reconnecting with full-jitter back-off from the last record it delivered.
	// For each page (a page without records tells the tail: the session is alive
	// and caught up) it calls fn, never concurrently; the pages are fn's to keep.
	// It returns when ctx ends (context.Cause), fn fails (its error), or with
	// ErrNoLog or ErrLogDenied. *TailError: the log ends before from (it was
	// wiped). OpenSessions counts it while a session is really open.
	Follow(ctx context.Context, id StreamID, from Pos, fn func(Page) error) error

	// OpenSessions is the number of read sessions open right now, Follow's and
	// Replay's.
	OpenSessions() int
}

// Feeder is a Log that follows without a goroutine for each stream.
type Feeder interface {
	// Feed is Follow from the position that f wants, and returns immediately. Goroutines of the Log
	// call f, never concurrently; a call must not wait for long, because other streams wait for it.
	// false: this Log needs goroutines, and Follow is to be called.
	Feed(id StreamID, f Follower) (Feed, bool)

	// FeedBytes returns about how many bytes of memory a feed takes while it is idle.
	FeedBytes() int
}

// Feed is the following of one stream.
type Feed interface {
	// Stop ends it, and does not wait until it has ended. It may be called more than once, and by
	// callers that hold locks.
	Stop()
}

// Follower takes what a Feed brings.
type Follower interface {
	// WantedPos returns the position of the first record that the follower does not have. Records
	// below it may be left out. soon: the follower is about to get the next ones by other means, as a
	// writer's acknowledgement, so the Log waits for a few milliseconds before it brings them.
	WantedPos() (pos Pos, soon bool)
	// TakePage takes a page, as the function of Follow does. An error ends the feed.
	TakePage(Page) error
	// NoteEnd is called once, after everything else, with an error of Follow's; after Stop, with any
	// error.
	NoteEnd(error)
}

// Ack tells the positions and times of a batch that was written.
type Ack struct {
	// Start is the position of the first record, End one past the last.
	Start, End Pos
	// StartTime and EndTime are the S2 timestamps of the first and last record, in
	// milliseconds.
	StartTime, EndTime Millis
}

// Page is a run of records, with positions increasing by one (S2 numbers are
// dense; only a trim before the first one leaves a hole).
type Page struct {
	Records []Record
	// Tail is the log's tail by this reply; meaningful if HasTail.
	Tail    Pos
	HasTail bool
}

// recordsFrom returns the page's records from a position on; none: the page does not reach down to it,
// or not up to it.
func (p *Page) recordsFrom(from Pos) []Record {
	if len(p.Records) == 0 || from < p.Records[0].Pos {
		return nil
	}
	if i := from - p.Records[0].Pos; i < Pos(len(p.Records)) && p.Records[i].Pos == from {
		return p.Records[i:]
	}
	return nil
}

// The errors of a Log. See Log.
var (
	ErrNoLog         = errors.New("no such log")
	ErrLogDenied     = errors.New("storage refuses")
	ErrLogBusy       = errors.New("storage busy")
	ErrAppendUnknown = errors.New("append outcome unknown")

	// ErrLogUnreachable is an ErrLogBusy that is not storage's own answer: no server took the
	// request.
	ErrLogUnreachable = fmt.Errorf("%w: it cannot be reached", ErrLogBusy)

	// ErrLogUnauthenticated is an ErrLogDenied for every log: storage does not know us.
	ErrLogUnauthenticated = fmt.Errorf("%w: it does not know us", ErrLogDenied)

	// ErrNoBasin is an ErrLogDenied that is not storage's own answer: the settings name no basin
	// for the stream.
	ErrNoBasin = fmt.Errorf("%w: the stream has no place there", ErrLogDenied)
)

// TailError is a refused position: the log's tail is Tail.
type TailError struct{ Tail Pos }

// isTail reports whether an error is a refused position.
func isTail(err error) bool {
	var tail *TailError
	return errors.As(err, &tail)
}

func (e *TailError) Error() string { return fmt.Sprintf("log tail is at %d", e.Tail) }

// storeErr maps a Log's error that is not about an append's outcome.
func storeErr(err error) error {
	switch {
	case errors.Is(err, ErrLogDenied), errors.Is(err, ErrNeedsLaterRelease), errors.Is(err, ErrStopped):
		return err
	default:
		return errors.Join(ErrStoreDown, err)
	}
}
