package edge

import (
	"context"
	"log/slog"
	"net/http"
	"runtime"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/shard"
)

// Config of a Server. Zero values take the defaults.
type Config struct {
	// LongPoll is how long a long-poll waits for news (20 s).
	LongPoll time.Duration
	// Heartbeat is the silence after which an SSE reader gets a comment (20 s, and
	// up to a quarter more at random).
	Heartbeat time.Duration
	// Stall is how long a reader may take nothing before it is cut (60 s).
	Stall time.Duration
	// IdleTimeout is how long a connection is kept on which a request was answered and nothing is
	// asked (620 s: balancers keep theirs for up to 600 s, and must be the first to give one up).
	// One on which nothing ever was asked ends after ReadHeaderTimeout, 10 s.
	IdleTimeout time.Duration
	// MaxGoroutineReaders bounds those of them that have a goroutine (20,000, and MaxReaders at
	// most): readers over HTTPAddr/2 and long-polls, which cost thirty times what others do.
	MaxGoroutineReaders int
	// MaxReaders bounds SSE and long-poll readers (200,000): newcomers beyond get
	// 503; nobody is sent away to admit another.
	MaxReaders int
	// MaxBodies bounds what writes hold until they are answered (64 MiB), see intake: 429 beyond.
	MaxBodies int64
	// FrameBytes bounds the frames that readers share, in bytes of what was rendered
	// (256 MiB); the oldest go first and are rendered anew for who still needs them.
	FrameBytes int64
	// PinnedBytes bounds what is being written to SSE readers (64 MiB); beyond, those are cut
	// that have been stuck for longest.
	PinnedBytes int64
	// ChunkBytes bounds the pages that are being written to clients that catch up, each
	// counted once, and the room in which arrays are laid out (512 MiB); beyond, those are
	// cut that have been stuck for longest, and others wait before they collect more: 503
	// after roomTime.
	ChunkBytes int64
	// CheckStream reports with an error that a stream can be kept nowhere, whatever storage says: 404
	// (nil: each can be).
	CheckStream func(shard.StreamID) error
	// ConnectionsFull reports that the machine has hardly room for another connection: readers are
	// refused as beyond MaxReaders, and each answer is the last on its connection (nil: never).
	ConnectionsFull func() bool
	// NoReactor has every event stream served on a goroutine of its own, as those are that
	// a reactor cannot serve (HTTPAddr/2, a listener without Listen, other systems than Linux).
	NoReactor bool
	// Now is the clock (time.Now).
	Now func() time.Time
	// Logger gets what an operator should see (discard).
	Logger *slog.Logger
	// AccessLog gets a line for each request; of an event stream when it begins (nil: none).
	AccessLog *slog.Logger
	// Metrics may be nil.
	Metrics prometheus.Registerer
}

func (c *Config) defaults() {
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

// Server speaks Durable Streams over HTTPAddr. It is an http.Handler.
type Server struct {
	cfg     Config
	streams Backend
	m       *metrics
	intake  intake
	grace   time.Duration // bodyGrace, but in tests
	frames  *frameCache
	chunks  *pins
	turns   chan struct{} // a semaphore: see stint
	// collecting is a semaphore: see collectors.
	collecting chan struct{}
	arrays     chan struct{} // a semaphore: see arrayWriters
	// compress is what reads go through for clients that accept it; compressing is a
	// semaphore: see compressors.
	compress    func(http.Handler) http.HandlerFunc
	compressing chan struct{}
	// complaints keeps the log readable while storage is down: one line a second.
	complaints rate.Sometimes
	panics     *shard.PanicHandler
	copies     *rate.Limiter // bytes that forks copy of their sources
	drain      drain
	reactor    *reactor
	writers    writers
	shed       chan struct{} // unbuffered: whoever receives leaves; see Rebalance
}

// New returns a Server over streams.
func New(cfg Config, streams Backend) *Server {
	cfg.defaults()
	compress, err := compressor()
	if err != nil {
		panic("edge: settings of the compressor: " + err.Error()) // they are constant
	}
	s := &Server{
		compress: compress, compressing: make(chan struct{}, compressors),
		cfg: cfg, streams: streams, m: newMetrics(cfg.Metrics),
		drain: newDrain(), shed: make(chan struct{}), chunks: newPins(cfg.ChunkBytes), collecting: make(chan struct{}, collectors),
		turns: make(chan struct{}, runtime.GOMAXPROCS(0)), arrays: make(chan struct{}, arrayWriters),
		frames: newFrameCache(cfg.FrameBytes, cfg.PinnedBytes), complaints: rate.Sometimes{Interval: time.Second},
		copies: rate.NewLimiter(copyPerSecond, copyBurst),
	}
	s.panics = shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	s.intake.init(cfg.MaxBodies, s.m)
	s.grace = bodyGrace
	s.reactor = newReactor(s)
	s.writers.init(cfg.Logger)
	s.m.registerIntake(cfg.Metrics, &s.intake)
	s.m.registerHeld(cfg.Metrics, modeCatchUp, s.chunks)
	s.m.registerLimits(cfg.Metrics, s)
	s.m.registerHeld(cfg.Metrics, modeSSE, s.frames.pins)
	return s
}

// Close ends the connections that net/http does not know any more, at once, and waits for
// every goroutine of the Server's own.
func (s *Server) Close() {
	s.reactor.close()
	s.writers.close()
}

// Shutdown ends those connections of them that http.Server's Shutdown would, which comes
// before: who writes gets an answer. It returns when they are gone.
func (s *Server) Shutdown(ctx context.Context) error { return s.writers.shutdown(ctx) }

// tick is how exactly the reactor keeps time.
func (c *Config) tick() time.Duration {
	return min(max(min(c.Heartbeat/32, c.Stall/4), 10*time.Millisecond), time.Second)
}

// HTTPServer is an http.Server for this Server: HTTPAddr/1.1 and, without TLS, HTTPAddr/2
// by prior knowledge. It has no write timeout, because readers stay; writes to them have
// deadlines of their own, and a connection that takes nothing is given up, see connContext.
func (s *Server) HTTPServer() *http.Server {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	hs := &http.Server{
		Handler: s, Protocols: &p, ReadHeaderTimeout: 10 * time.Second,
		IdleTimeout: s.cfg.IdleTimeout, MaxHeaderBytes: 32 << 10, ConnContext: s.connContext,
		HTTP2:    &http.HTTP2Config{WriteByteTimeout: s.cfg.Stall, MaxConcurrentStreams: connStreams},
		ErrorLog: slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug),
	}
	hs.RegisterOnShutdown(s.writers.leave)
	return hs
}

// ServeHTTP answers a request. An event stream is served from here, and not from within
// whatever prepared it, whose frames would keep its stack at twice the size.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if events := s.observed(w, r); events != nil {
		events.serve(w, r)
	}
}

// route is the route table. An event stream is returned, to be served.
func (s *Server) route(w http.ResponseWriter, r *http.Request) (events *driver) {
	defer s.guardRequest()
	common(w.Header())
	if s.drain.leaving.Load() || s.cfg.ConnectionsFull() {
		w.Header().Set("Connection", "close") // over HTTPAddr/2 net/http says GOAWAY for it
	}
	if err := s.expect(w, r); err != nil {
		fail(w, err)
		return nil
	}
	if r.Header.Get("Service-Worker") != "" {
		fail(w, errWorker)
		return nil
	}
	if r.Method == http.MethodOptions {
		preflight(w, r)
		return nil
	}
	id, err := parseName(r.URL.EscapedPath())
	if err == nil && s.cfg.CheckStream != nil && s.cfg.CheckStream(id) != nil {
		err = errProject
	}
	if err != nil {
		fail(w, err)
		return nil
	}
	if r.Method != http.MethodPost { // for which write does it: a writer needs nothing of the kind
		var end func()
		r, end = carryOut(r)
		defer end()
	}
	switch r.Method {
	case http.MethodGet:
		return s.read(w, r, id)
	case http.MethodHead:
		s.head(w, r, id)
	case http.MethodPost:
		s.post(w, r, id)
	case http.MethodPut:
		s.put(w, r, id)
	case http.MethodDelete:
		s.remove(w, r, id)
	default:
		w.Header().Set("Allow", methods)
		fail(w, errMethod)
	}
	return nil
}

// signal is a Waker with a wake-up of capacity one.
type signal chan struct{}

// Wake implements shard.Waker.
func (c signal) Wake() {
	select {
	case c <- struct{}{}:
	default:
	}
}

var _ shard.Waker = signal(nil)
