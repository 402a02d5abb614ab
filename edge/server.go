package edge

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/reactor"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// Config of a Server. Zero values take the defaults.
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
	// Lister lists streams (nil: listings are refused).
	Lister Lister
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

// Server speaks Durable Streams over HTTP. It is an http.Handler.
type Server struct {
	cfg           Config
	streams       Backend
	metrics       *metrics
	bodyBudget    writesBudget
	bodyGrace     time.Duration // the constant, except in tests
	frames        *sse.FrameCache
	readerBudget  *sendbudget.Budget // what is being written to readers of event streams
	catchUpBudget *sendbudget.Budget
	writeSlots    chan struct{} // a semaphore: see WriteSlots
	slotWriting   *netconn.WriteSlots
	// loadSlots is a semaphore: see maxChunkLoads.
	loadSlots  chan struct{}
	arraySlots chan struct{} // a semaphore: see maxArrayBuffers
	// compressHandler wraps reads for clients that accept compression; compressSlots is a
	// semaphore: see maxCompressors.
	compressHandler func(http.Handler) http.HandlerFunc
	compressSlots   chan struct{}
	// warningLimiter keeps the log readable while storage is down: one warning a second.
	warningLimiter   rate.Sometimes
	observeLimiter   rate.Sometimes // one line a second about what would be refused
	panics           *shard.PanicHandler
	forkCopyLimiter  *rate.Limiter // bytes that forks copy of their sources
	drain            drain
	reactor          *reactor.Reactor
	rules            *sse.Rules // of event streams
	leaseEnds        leaseEnds
	stopLeaseWatcher context.CancelFunc // ends watchLeases
	leaseWatcher     sync.WaitGroup
	appendConns      *netconn.AppendConns
	rebalanceSignals chan struct{} // unbuffered: a reader that receives leaves; see Rebalance
}

// maxAppendWithToken is the buffer of an append connection where requests carry tokens: a token of
// 2 KiB would leave a message hardly any room in that of others.
const maxAppendWithToken = 8 << 10

// New returns a Server over streams.
func New(cfg Config, streams Backend) *Server {
	cfg.setDefaults()
	compress, err := newCompressor()
	if err != nil {
		panic("edge: settings of the compressor: " + err.Error()) // they are constant
	}
	readerBudget := sendbudget.New(cfg.PinnedBytes)
	s := &Server{
		compressHandler: compress, compressSlots: make(chan struct{}, maxCompressors),
		cfg: cfg, streams: streams, metrics: newMetrics(cfg.Metrics),
		drain: newDrain(), rebalanceSignals: make(chan struct{}), catchUpBudget: sendbudget.New(cfg.ChunkBytes), loadSlots: make(chan struct{}, maxChunkLoads),
		writeSlots: make(chan struct{}, runtime.GOMAXPROCS(0)), arraySlots: make(chan struct{}, maxArrayBuffers),
		readerBudget: readerBudget, frames: sse.NewFrameCache(cfg.FrameBytes, readerBudget), warningLimiter: rate.Sometimes{Interval: time.Second},
		observeLimiter:  rate.Sometimes{Interval: time.Second},
		forkCopyLimiter: rate.NewLimiter(copyPerSecond, copyBurst),
	}
	s.panics = shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	s.bodyBudget.init(cfg.MaxBodies, s.metrics)
	s.bodyGrace = bodyGrace
	s.rules = sse.NewRules(sse.Times{
		Heartbeat: cfg.Heartbeat, Stall: cfg.Stall, PageRetry: pageRetryDelay, MinDrainAge: minDrainAge, MinMoveAge: minRebalanceAge,
		MinRetry: minRetryDelay, MaxRetry: maxRetryDelay,
	}, time.Now(), isTemporary, rand.N[time.Duration])
	s.reactor = reactor.New(reactor.Config{
		Rules: s.rules, Logger: cfg.Logger, Now: cfg.Now, ReadPage: s.readPageRecovered, Budget: s.readerBudget, Rebalance: s.rebalanceSignals,
		OnClose: func() { s.releaseReader(modeSSE, false) },
		OnPanic: func(v any) { _ = s.panics.Handle(caughtReader, v) },
		Metrics: s.metrics,
	})
	s.appendConns = netconn.NewAppendConns(cfg.Logger, maxRequestTime)
	if cfg.Judge != nil {
		s.appendConns.MaxRequest = maxAppendWithToken
	}
	s.slotWriting = netconn.NewWriteSlots(s.writeSlots, s.metrics.waitingForSlot)
	s.metrics.registerWritesBudget(cfg.Metrics, &s.bodyBudget)
	s.metrics.registerSendBudget(cfg.Metrics, modeCatchUp, s.catchUpBudget)
	s.metrics.registerLimits(cfg.Metrics, s)
	s.metrics.registerSendBudget(cfg.Metrics, modeSSE, s.readerBudget)
	ctx, stop := context.WithCancel(context.Background())
	if s.stopLeaseWatcher = stop; cfg.Judge != nil {
		changed := cfg.Judge.Changed()
		s.leaseWatcher.Go(func() { s.watchLeases(ctx, changed) })
	}
	return s
}

// Listen wraps a listener for an HTTPServer, beneath TLS too. The reactor can take the event streams
// of its TCP connections (HTTP/1.1), and catch-up on them is written in slots. On connections of
// other listeners each event stream has a goroutine, and catch-up is written in pieces.
func Listen(l net.Listener) net.Listener { return netconn.Listen(l) }

// Close immediately ends the connections that net/http no longer knows, and waits for
// every goroutine that the Server started.
func (s *Server) Close() {
	s.stopLeaseWatcher()
	s.leaseWatcher.Wait()
	s.reactor.Close()
	s.appendConns.Close()
}

// Shutdown gracefully ends the append connections, as http.Server's Shutdown ends its own;
// call it after that. A request in progress is answered first. Shutdown returns when all are closed.
func (s *Server) Shutdown(ctx context.Context) error { return s.appendConns.Shutdown(ctx) }

// HTTPServer returns an http.Server for this Server: HTTP/1.1 and, without TLS, HTTP/2
// by prior knowledge. It has no write timeout, because readers stay. Each write to a reader has
// a deadline of its own, and the kernel ends a connection that accepts nothing: see netconn.ConnContext.
func (s *Server) HTTPServer() *http.Server {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	hs := &http.Server{
		Handler: s, Protocols: &p, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: s.cfg.IdleTimeout, MaxHeaderBytes: 32 << 10, ConnContext: func(ctx context.Context, c net.Conn) context.Context { return netconn.ConnContext(ctx, c, s.cfg.Stall) },
		HTTP2:    &http.HTTP2Config{WriteByteTimeout: s.cfg.Stall, MaxConcurrentStreams: maxConnStreams},
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	hs.RegisterOnShutdown(s.appendConns.FinishAll)
	return hs
}

// ServeHTTP answers a request. Event streams run from here: running them inside route would
// keep its stack frames alive and double each goroutine's stack.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if events := s.serveRecorded(w, r); events != nil {
		events.serve(w, r)
	}
}

// route dispatches a request by method and path, once it may do what it asks for. It returns an
// event stream that remains to be served.
func (s *Server) route(w http.ResponseWriter, r *http.Request) (events *eventStream) {
	defer s.recoverRequest()
	path := r.URL.EscapedPath()
	id, err := parseStreamPath(path)
	control, isControl := parseControlPath(path)
	s.setCommonHeaders(w, r, max(id.Project(), control.project))
	s.boundBodyTime(w, r)
	switch {
	case r.Header.Get("Service-Worker") != "":
		err = errServiceWorker
	case r.Method == http.MethodOptions:
		if err = s.discardBody(w, r); err == nil {
			s.preflight(w, r)
			return nil
		}
	case isControl && control.what == controlStreams:
		s.serveListing(w, r, control.project)
		return nil
	case isControl && s.cfg.Judge != nil:
		s.serveControl(w, r, control)
		return nil
	}
	if err != nil {
		abandonBody(w, r)
		writeError(w, err)
		return nil
	}
	p, ok := s.authorize(w, r, id)
	if !ok {
		return nil
	}
	if s.cfg.CheckStream != nil && s.cfg.CheckStream(id) != nil {
		err = errProject
	} else if !carriesMessages(r) {
		err = s.discardBody(w, r)
	}
	if err != nil {
		writeError(w, err)
		return nil
	}
	return s.serveMethod(w, r, id, p)
}

// serveMethod answers a request that may do what it asks for.
func (s *Server) serveMethod(w http.ResponseWriter, r *http.Request, id shard.StreamID, p permit) (events *eventStream) {
	if r.Method != http.MethodPost { // doWrite does it for POST, because an append connection needs none
		var end func()
		r, end = withRequestContext(r)
		defer end()
	}
	switch r.Method {
	case http.MethodGet:
		return s.serveGet(w, r, id, p)
	case http.MethodHead:
		s.serveHead(w, r, id, p)
	case http.MethodPost:
		s.servePost(w, r, id, p)
	case http.MethodPut:
		s.servePut(w, r, id, p)
	case http.MethodDelete:
		s.serveDelete(w, r, id, p)
	default:
		w.Header().Set("Allow", allowedMethods)
		writeError(w, errMethod)
	}
	return nil
}
