package edge

import (
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// Config configures a Server. Zero values take the defaults.
type Config struct {
	// LongPoll bounds the wait of a long-poll for news (20 s).
	LongPoll time.Duration
	// Heartbeat is the silence after which an SSE reader gets a comment (20 s, and
	// up to a quarter more at random).
	Heartbeat time.Duration
	// Stall is the time after which a reader that accepts nothing is disconnected (60 s).
	Stall time.Duration
	// IdleTimeout is the time for which a connection is kept after its last answer while no request
	// comes (620 s: balancers keep theirs for up to 600 s, and must be the first to close one).
	// A connection without any request ends after ReadHeaderTimeout, 10 s.
	IdleTimeout time.Duration
	// MaxGoroutineReaders bounds the readers that have a goroutine (20,000, and MaxReaders at
	// most): readers over HTTP/2 and long-polls, which cost thirty times what others do.
	MaxGoroutineReaders int
	// MaxReaders bounds SSE and long-poll readers (200,000): newcomers beyond it get
	// 503; no reader is disconnected to admit another.
	MaxReaders int
	// MaxBodies bounds the memory of writes until they are answered (64 MiB): 429 beyond. See writesBudget.
	MaxBodies int64
	// FrameBytes bounds the frames that readers share, in bytes of the batches that were rendered
	// (256 MiB). The oldest are dropped first, and rendered again for a reader that still needs them.
	FrameBytes int64
	// PinnedBytes bounds what is being written to SSE readers (64 MiB). Beyond it, readers blocked
	// in a write are disconnected, longest-blocked first.
	PinnedBytes int64
	// ChunkBytes bounds the pages that are being written to clients that catch up, each
	// counted once, and the buffers in which arrays are laid out (512 MiB). Beyond it, clients
	// blocked in a write are disconnected, longest-blocked first, and others wait before they load
	// more: 503 after maxBudgetWait.
	ChunkBytes int64
	// CheckStream returns an error for a stream that no configured storage can hold: 404
	// (nil: every stream is accepted).
	CheckStream func(shard.StreamID) error
	// Roots are paths beside /v1/stream/ below which one project's streams are, as CheckRoots accepts
	// them.
	Roots []Root
	// Lister lists streams (nil: listings are refused).
	Lister Lister
	// Creations tells when streams are created (nil: create=wait is ignored).
	Creations CreationWaiter
	// ReaderCounts counts streams' readers (nil: no number is known).
	ReaderCounts ReaderCounter
	// ConnectionsFull reports that the machine has hardly any file descriptors left: readers are
	// refused as beyond MaxReaders, and each answer is the last on its connection (nil: never).
	ConnectionsFull func() bool
	// Judge decides what each request may do, by a file of rights (nil: everything is open).
	Judge *access.Judge
	// ObserveOnly has the Judge decide, count and log, and refuses nothing.
	ObserveOnly bool
	// Origins are those whose pages may read answers, where the file of rights names none (nil:
	// every origin, without credentials).
	Origins *access.Origins
	// NoCORS leaves the fields of CORS to a proxy.
	NoCORS bool
	// PrivateCache keeps every answer out of shared caches.
	PrivateCache bool
	// NoReactor serves every event stream on a goroutine of its own. Streams that a reactor
	// cannot serve have one anyway (HTTP/2, a listener without Listen, systems other than Linux).
	NoReactor bool
	// Now is the clock (time.Now).
	Now func() time.Time
	// Logger gets what an operator should see (discard).
	Logger *slog.Logger
	// AccessLog gets a line for each request; for an event stream when it begins (nil: none).
	AccessLog *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
	// Tracer begins the traces of requests (nil: none is traced).
	Tracer *tracing.Tracer
}

func (c *Config) setDefaults() {
	for d, def := range map[*time.Duration]time.Duration{
		&c.IdleTimeout: 620 * time.Second,
		&c.LongPoll:    20 * time.Second, &c.Heartbeat: 20 * time.Second, &c.Stall: time.Minute,
	} {
		if *d <= 0 {
			*d = def
		}
	}
	if c.MaxReaders <= 0 {
		c.MaxReaders = 200_000
	}
	if c.MaxGoroutineReaders <= 0 {
		c.MaxGoroutineReaders = 20_000
	}
	c.MaxGoroutineReaders = min(c.MaxGoroutineReaders, c.MaxReaders)
	if c.MaxBodies <= 0 {
		c.MaxBodies = 64 << 20
	}
	if c.FrameBytes <= 0 {
		c.FrameBytes = 256 << 20
	}
	if c.PinnedBytes <= 0 {
		c.PinnedBytes = 64 << 20
	}
	if c.ChunkBytes <= 0 {
		c.ChunkBytes = 512 << 20
	}
	if c.ConnectionsFull == nil {
		c.ConnectionsFull = func() bool { return false }
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
}
