package edge

import (
	"context"
	"log/slog"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/reactor"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

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
		cfg: cfg, roots: cfg.Roots, streams: streams, metrics: newMetrics(cfg.Metrics),
		counts: newReaderCounts(), rebalanceSignals: make(chan struct{}), catchUpBudget: sendbudget.New(cfg.ChunkBytes), loadSlots: make(chan struct{}, maxChunkLoads),
		writeSlots: make(chan struct{}, runtime.GOMAXPROCS(0)), arraySlots: make(chan struct{}, maxArrayBuffers),
		readerBudget: readerBudget, frames: sse.NewFrameCache(cfg.FrameBytes, readerBudget), warningLimiter: rate.Sometimes{Interval: time.Second},
		observeLimiter:  rate.Sometimes{Interval: time.Second},
		forkCopyLimiter: rate.NewLimiter(copyPerSecond, copyBurst),
	}
	if cfg.ReaderCounts != nil {
		s.frames.CountReaders(cfg.ReaderCounts.KnownReaders)
	}
	s.panics = shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	s.writesBudget.init(cfg.MaxBodies, s.metrics)
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
	s.metrics.registerWritesBudget(cfg.Metrics, &s.writesBudget.held)
	s.metrics.registerSendBudget(cfg.Metrics, modeCatchUp, s.catchUpBudget)
	s.metrics.registerLimits(cfg.Metrics, &s.cfg, &s.counts)
	s.metrics.registerCreateWaits(cfg.Metrics, &s.createWaits)
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

// Close ends the connections that net/http no longer knows, immediately, and waits for every
// goroutine that the Server started.
func (s *Server) Close() {
	s.stopLeaseWatcher()
	s.leaseWatcher.Wait()
	s.reactor.Close()
	s.appendConns.Close()
}

// Shutdown ends the append connections gracefully, as http.Server's Shutdown ends its own; call it
// after that. A request in progress is answered first. Shutdown returns when all are closed.
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
