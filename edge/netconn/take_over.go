package netconn

import (
	"context"
	"io"
	"log/slog"
	"net/http"
	"sync"
	"time"
)

const (
	// minAppendsToTakeOver appends make net/http's connection an appendConn. Each time another
	// request comes after all, twice as many are needed.
	minAppendsToTakeOver = 4
	// maxAppendRequest is the default of AppendConns.MaxRequest: the buffer that net/http gives a
	// connection.
	maxAppendRequest = 4 << 10
	// sweepEvery separates two rounds of the sweeper, which looks for requests that take too long.
	sweepEvery = time.Second
)

// AppendConns is a Server's append connections.
type AppendConns struct {
	// MinAppends appends make an append connection. The field is set before the first request.
	MinAppends int
	// MaxRequest bounds a request, header and body, and what waits for the next one: it is the buffer
	// of each append connection (4 KiB). A longer request makes the connection net/http's again. The
	// field is set before the first request.
	MaxRequest int

	logger    *slog.Logger
	maxRounds int             // how many rounds of the sweeper a request may take
	ctx       context.Context // cancelled, under mu, when no more are taken over
	stop      context.CancelFunc
	mu        sync.Mutex
	conns     map[*appendConn]struct{}
	sweeping  bool
	wg        sync.WaitGroup
}

// NewAppendConns returns an AppendConns whose requests may take maxRequestTime each.
func NewAppendConns(logger *slog.Logger, maxRequestTime time.Duration) *AppendConns {
	a := &AppendConns{
		MinAppends: minAppendsToTakeOver, MaxRequest: maxAppendRequest, logger: logger, conns: map[*appendConn]struct{}{},
		maxRounds: int(maxRequestTime / sweepEvery),
	}
	a.ctx, a.stop = context.WithCancel(context.Background())
	return a
}

func (a *AppendConns) stopping() bool { return a.ctx.Err() != nil }

// TakeOver makes the connection of r an appendConn if it has brought enough appends. r has been
// read to its end and answered. Later requests must name the same Host.
func (a *AppendConns) TakeOver(w http.ResponseWriter, r *http.Request) {
	conn := SoleOf(r)
	if conn == nil || r.TLS != nil || r.Proto != "HTTP/1.1" || r.Host == "" || r.URL.Host != "" ||
		r.ContentLength <= 0 || int64(a.MaxRequest) <= r.ContentLength || r.Header.Get("Expect") != "" ||
		r.Close || w.Header().Get("Connection") != "" || a.stopping() {
		return
	}
	if conn.appends++; conn.appends < max(conn.minAppends, a.MinAppends) {
		return
	}
	server, _ := conn.baseContext.Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return
	}
	nc, rw, err := http.NewResponseController(w).Hijack() // this sends the answer
	if err != nil {
		return
	}
	c := &appendConn{
		group: a, conn: conn, server: server, handler: server.Handler, appendResponse: appendResponse{header: http.Header{}},
		buf: make([]byte, rw.Reader.Buffered(), a.MaxRequest),
		template: &http.Request{
			Method: http.MethodPost, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Host: r.Host, RemoteAddr: r.RemoteAddr,
		},
	}
	_, _ = io.ReadFull(rw.Reader, c.buf) // the bytes are buffered
	if c.handler == nil {
		c.handler = http.DefaultServeMux
	}
	c.ctx, c.cancel = context.WithCancel(context.WithValue(conn.baseContext, http.LocalAddrContextKey, nc.LocalAddr()))
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.stopping() {
		c.cancel()
		_ = nc.Close()
		return
	}
	a.conns[c] = struct{}{}
	a.wg.Go(c.run)
	if !a.sweeping {
		a.sweeping = true
		a.wg.Go(a.runSweeper)
	}
}

// runSweeper cancels the contexts of requests that take too long, while
// there are append connections.
func (a *AppendConns) runSweeper() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for a.sweepOnce() {
		select {
		case <-tick.C:
		case <-a.ctx.Done():
			return
		}
	}
}

// sweepOnce makes one round of the sweeper; more reports whether there are connections to check.
func (a *AppendConns) sweepOnce() (more bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for c := range a.conns {
		asked := c.handlerCalls.Load()
		if asked%2 == 0 || asked != c.sweptCalls {
			c.sweptCalls, c.sweptRounds = asked, 0
			continue
		}
		if c.sweptRounds++; c.sweptRounds >= a.maxRounds {
			c.cancel()
		}
	}
	a.sweeping = len(a.conns) > 0
	return a.sweeping
}

// FinishAll ends every append connection, each after the answer to the request in progress.
func (a *AppendConns) FinishAll() {
	a.stopEach(func(c *appendConn) { _ = c.conn.SetReadDeadline(time.Unix(1, 0)) })
}

// stopEach takes over no more connections, and calls do for all that there are.
func (a *AppendConns) stopEach(do func(*appendConn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stop()
	for c := range a.conns {
		do(c)
	}
}

// Close ends every append connection immediately and waits.
func (a *AppendConns) Close() {
	a.stopEach(func(c *appendConn) {
		c.cancel()
		_ = c.conn.Close()
	})
	a.wg.Wait()
}

// Shutdown calls FinishAll and waits until all connections have ended.
func (a *AppendConns) Shutdown(ctx context.Context) error {
	a.FinishAll()
	gone := make(chan struct{})
	go func() {
		a.wg.Wait()
		close(gone)
	}()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
