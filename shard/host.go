package shard

import (
	"context"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Mode says who writes to a stream's log.
type Mode uint8

// The modes (design: "The owner", Cost modes).
const (
	// ModeSession: others may write to S2 directly; one read session per followed
	// stream.
	ModeSession Mode = iota
	// ModeExclusive: nobody else writes; acks are the tail and no session is
	// opened. A tail check every 30 s while followed guards the promise.
	ModeExclusive
)

// Ask is what a State call wants beside the description.
type Ask uint8

// The wishes, to be combined.
const (
	// AskTouch counts the call as a use of the stream (a sliding TTL starts anew).
	AskTouch Ask = 1 << iota
	// AskLocal allows an answer from this node's own Tail, which may be a moment
	// old; without it the answer is the tail as of now.
	AskLocal
)

// Config of a Host. Zero values take the defaults.
type Config struct {
	Mode Mode
	// AppendTimeout bounds one attempt to write a batch (default 5 s).
	AppendTimeout time.Duration
	// QueueBytes and QueueRequests bound what waits for one stream's batch (32 MiB,
	// 4,096); ErrOverloaded beyond.
	QueueBytes, QueueRequests int
	// PageBytes bounds the cache of history pages (256 MiB); least recently used
	// pages go first.
	PageBytes int64
	// IdleAfter is how long an unused stream stays in memory (5 min).
	IdleAfter time.Duration
	// Now is the clock (time.Now).
	Now func() time.Time
	// Logger gets state changes (default: discard).
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

// Host runs the streams that this node owns.
type Host struct{}

// NewHost returns a Host on log whose streams' Tails are in tails.
func NewHost(log Log, tails *Tails, cfg Config) *Host { panic("TODO") }

// Do carries a write out and returns the verdict. Errors: ErrContended,
// ErrOverloaded, ErrStoreDown, ErrNotOwner, ErrStopped, ErrDeclined,
// ErrLogDenied (all: certainly not written) and ErrOutcomeUnknown. If ctx ends
// first its cause is returned, and the outcome is unknown.
func (h *Host) Do(ctx context.Context, req *Request) (Outcome, error) { panic("TODO") }

// State describes a stream; a stream that does not exist has Info.Exists false.
// Errors as Do's.
func (h *Host) State(ctx context.Context, id StreamID, ask Ask) (Info, error) { panic("TODO") }

// Follow returns the stream's Tail and keeps it fed until release is called
// (once). from is where the caller will read from; it is only a hint. Errors:
// ErrNotFound, and Do's.
func (h *Host) Follow(ctx context.Context, id StreamID, from uint64) (t *Tail, release func(), err error) {
	panic("TODO")
}

// ReadPage reads history: the Range that begins at from, below info.Tail, of the
// life that info describes. It is never empty of positions; it may hold no
// message. *TrimmedError: from is no longer kept. Other errors as Do's.
func (h *Host) ReadPage(ctx context.Context, id StreamID, info Info, from uint64) (Range, error) {
	panic("TODO")
}

// Owned lists the streams in memory.
func (h *Host) Owned() []StreamID { panic("TODO") }

// Drop lets go of a stream: waits for the batch in flight, ends the session. Its
// Tail stays for whoever holds it, unfed.
func (h *Host) Drop(id StreamID) { panic("TODO") }

// Close lets go of every stream and waits for every goroutine.
func (h *Host) Close() error { panic("TODO") }

// TrimmedError says that a position is no longer kept; First is. It is
// ErrTrimmed.
type TrimmedError struct{ First uint64 }

func (e *TrimmedError) Error() string        { return ErrTrimmed.Error() }
func (e *TrimmedError) Is(target error) bool { return target == ErrTrimmed }
