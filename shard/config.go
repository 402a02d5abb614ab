package shard

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Mode tells the Manager whether others may write to a stream's log.
type Mode uint8

// The modes (cluster/DESIGN.md, "Cost modes").
const (
	// ModeSession: others may write to S2 directly. Each followed stream has one read session.
	ModeSession Mode = iota
	// ModeExclusive: only this fleet writes. Acknowledgements tell the tail and no session is
	// opened. A tail check every 30 s while a stream is followed guards the promise.
	ModeExclusive
	// ModeAuto: others may write, and seldom do. A followed stream has a tail check every 30 s, and a
	// session for an hour after a record that this process did not write.
	ModeAuto
)

// String returns the mode as the setting --s2-reads has it.
func (m Mode) String() string {
	switch m {
	case ModeExclusive:
		return "exclusive"
	case ModeAuto:
		return "auto"
	case ModeSession:
	}
	return "session"
}

// InfoOptions holds what a caller of Manager.Info wants beside the description.
type InfoOptions uint8

// The options, to be combined.
const (
	// InfoTouch counts the call as a use of the stream (a sliding TTL starts again).
	InfoTouch InfoOptions = 1 << iota
	// InfoAllowCached allows an answer from this node's own tail.Buffer, which may be a moment old.
	// Without it the answer is the tail as of now.
	InfoAllowCached
	// InfoRequireFresh wants an answer that rests on a tail check sent after the call, whatever
	// memory knows: a session brings another owner's records a moment late. It is for callers that
	// are about to refuse a client for good.
	InfoRequireFresh
	// InfoWillFollow announces that the caller is about to follow the stream. If the stream has to
	// be read from storage first, the caller waits for its turn, and is not refused for the length
	// of the queue.
	InfoWillFollow
)

// Config configures a Manager. Zero values take the defaults.
type Config struct {
	Mode Mode
	// PageBytes bounds the cache of history pages (256 MiB). The least recently used pages are
	// evicted first.
	PageBytes int64
	// IdleAfter bounds how long an unused stream stays in memory (5 min).
	IdleAfter time.Duration
	// StateBytes bounds the memory of the streams, without their tail.Buffers (512 MiB); maxStreams
	// bounds their number. The least recently used idle stream is evicted; a request gets
	// ErrOverloaded if none is idle.
	StateBytes int64
	// ColdOpens bounds the streams that are not in memory and are read from storage in a second
	// (200), after twice as many in a burst. Followers' streams wait for their turn. Other requests
	// get ErrOverloaded if they would wait for over a second.
	ColdOpens float64
	// Now is the node's wall clock (time.Now).
	Now func() time.Time
	// Logger gets changes of state (default: discard).
	Logger *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Pipelining says whether several batches of a stream are in flight together.
	Pipelining Pipelining

	maxStreams     int   // 0: the constant; tests have less
	pipelineAlways bool  // pipelines however fast storage is; tests have it
	formatLevel    uint8 // 0: as the fleet's record says; tests have another
}

// maxStreams bounds the streams in memory, whatever their size.
const maxStreams = 200_000

func (c *Config) defaults() {
	if c.IdleAfter <= 0 {
		c.IdleAfter = 5 * time.Minute
	}
	if c.PageBytes <= 0 {
		c.PageBytes = 256 << 20
	}
	if c.maxStreams <= 0 {
		c.maxStreams = maxStreams
	}
	if c.StateBytes <= 0 {
		c.StateBytes = 512 << 20
	}
	if c.ColdOpens <= 0 {
		c.ColdOpens = coldOpensPerSecond
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
