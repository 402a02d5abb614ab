package netconn

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// appendConn is a connection of HTTP/1.1 without TLS that has brought several appends. Its requests
// go to the http.Server's Handler, as before, but not through net/http. For each request net/http
// starts a goroutine that listens for the client's disconnection, stops it, and moves three
// deadlines; where the append itself is in memory, that costs more than the append. Here an append
// that has arrived is executed even if its client hangs up, and the sweeper bounds for how long.
//
// A request that is not a plain append (see parseRequest), or is incomplete for too long, goes back
// to net/http with the connection, byte for byte. net/http therefore remains the only judge of
// malformed, large, slow or unusual requests, and clients that parseRequest does not understand are
// still served. Of the http.Server's settings those that HTTPServer makes are honoured, and no others.
//
// All fields but handlerCalls and group are owned by the goroutine that runs run; the sweep fields
// are guarded by group.mu.
type appendConn struct {
	group    *AppendConns
	conn     *Conn
	server   *http.Server
	handler  http.Handler
	ctx      context.Context
	cancel   context.CancelFunc
	template *http.Request // what all requests share

	buf          []byte        // received and not handled; never grows beyond its capacity
	request      *http.Request // the request at the start of buf; nil: not parsed yet
	requestSize  int           // of request, with its body
	readDeadline time.Time     // until when the connection is read from
	requestBegun bool          // buf begins with request; the empty lines before it are skipped
	requestTimed bool          // readDeadline is for the rest of request

	handlerCalls atomic.Uint32 // odd while the handler has request
	// Written by sweepOnce: the handlerCalls that it saw last, and for how many rounds.
	sweptCalls  uint32
	sweptRounds int

	header http.Header // of the response
	status int         // 0: not set yet
	body   []byte
	date   dateCache
	out    bytes.Buffer
}

const (
	// minAppendsToTakeOver appends make net/http's connection an appendConn. Each time another
	// request comes after all, twice as many are needed.
	minAppendsToTakeOver = 4
	// maxAppendRequest is the default of AppendConns.MaxRequest: the buffer that net/http gives a
	// connection.
	maxAppendRequest = 4 << 10
	// minRequestBytes counts the bytes that net/http receives before it looks at a request.
	minRequestBytes = 4
	// sweepEvery separates two rounds of the sweeper, which looks for requests that take too long.
	sweepEvery = time.Second
)

// http2Preface begins HTTP/2, which is too late on this connection. net/http would take a returned
// connection for a new one and speak HTTP/2 on it.
var http2Preface = []byte("PRI * HTTP/2.0")

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
		group: a, conn: conn, server: server, handler: server.Handler, header: http.Header{},
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

// sweepOnce is one round of the sweeper; more reports whether there are connections to look at.
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

// run serves the connection until it ends or goes back to net/http.
func (c *appendConn) run() {
	defer func() {
		c.cancel()
		c.group.mu.Lock()
		delete(c.group.conns, c)
		c.group.mu.Unlock()
	}()
	for {
		err := c.awaitRequest()
		switch {
		case err == nil:
			if c.handleRequest() {
				continue
			}
		case c.group.stopping(), len(c.buf) < minRequestBytes, bytes.HasPrefix(c.buf, http2Preface),
			errors.Is(err, os.ErrDeadlineExceeded) && c.request == nil: // it was idle for too long; net/http would not wait again
		default:
			c.returnToNetHTTP()
			return
		}
		_ = c.conn.Close()
		return
	}
}

// awaitRequest waits until request has arrived with its body.
func (c *appendConn) awaitRequest() error {
	for {
		if c.request == nil {
			if err := c.parseRequest(); err != nil {
				return err
			}
		}
		if c.request != nil && len(c.buf) >= c.requestSize {
			if n := c.request.ContentLength; n > 0 {
				body := new(bufferedBody)
				body.Reset(c.buf[c.requestSize-int(n) : c.requestSize])
				c.request.Body = body
			}
			return nil
		}
		if err := c.readMore(); err != nil {
			return err
		}
	}
}

// readMore reads what comes, with net/http's two deadlines: from one request to the next, and from
// the first byte of a request. The idle deadline is set further ahead
// than needed, so that not every request has to set it again.
func (c *appendConn) readMore() error {
	now, set := time.Now(), false
	switch idle := cmp.Or(c.server.IdleTimeout, c.server.ReadTimeout, time.Hour); {
	case len(c.buf) == 0 && !c.requestBegun:
		if set = c.readDeadline.Before(now.Add(idle)); set {
			c.readDeadline = now.Add(idle + idle/4)
		}
	case !c.requestTimed:
		c.requestTimed, set = true, true
		c.readDeadline = now.Add(cmp.Or(c.server.ReadHeaderTimeout, c.server.ReadTimeout, time.Hour))
	}
	if set {
		if err := c.conn.SetReadDeadline(c.readDeadline); err != nil {
			return err
		}
	}
	if c.group.stopping() { // checked after the deadline was set, which FinishAll sets after stop
		return http.ErrServerClosed
	}
	n, err := c.conn.Read(c.buf[len(c.buf):cap(c.buf)])
	c.buf = c.buf[:len(c.buf)+n]
	return err
}

// handleRequest passes request to the handler and answers it; more reports whether the
// connection continues.
func (c *appendConn) handleRequest() (more bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http does
			c.group.logger.Error("panic", "err", p, "stack", string(debug.Stack()))
		}
	}()
	clear(c.header)
	c.status, c.body = 0, c.body[:0]
	c.handlerCalls.Add(1)
	c.handler.ServeHTTP(c, c.request)
	c.handlerCalls.Add(1)
	c.buf = c.buf[:copy(c.buf, c.buf[c.requestSize:])]
	c.request, c.requestBegun, c.requestTimed = nil, false, false
	return c.writeResponse() == nil && !strings.EqualFold(c.header.Get("Connection"), "close")
}

// writeResponse sends the response.
func (c *appendConn) writeResponse() error {
	c.WriteHeader(http.StatusOK)
	if c.status == http.StatusNoContent {
		c.header.Del("Content-Length")
	} else {
		c.header.Set("Content-Length", strconv.Itoa(len(c.body)))
	}
	c.header.Del("Date")
	if c.group.stopping() || c.ctx.Err() != nil { // the connection's context
		c.header.Set("Connection", "close")
	}
	b := &c.out
	b.Reset()
	b.WriteString("HTTP/1.1 ")
	b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(c.status), 10))
	b.WriteByte(' ')
	b.WriteString(http.StatusText(c.status))
	b.WriteString("\r\nDate: ")
	b.Write(c.date.format(time.Now()))
	b.WriteString("\r\n")
	for name, values := range c.header {
		for _, v := range values {
			if strings.IndexByte(v, '\r') >= 0 || strings.IndexByte(v, '\n') >= 0 {
				v = headerValueReplacer.Replace(v)
			}
			b.WriteString(name)
			b.WriteString(": ")
			b.WriteString(v)
			b.WriteString("\r\n")
		}
	}
	b.WriteString("\r\n")
	b.Write(c.body)
	_, err := c.conn.Write(b.Bytes())
	return err
}

// AppendRequestSize returns how many bytes the request of an append connection has, its body
// included; false: the ResponseWriter is net/http's.
func AppendRequestSize(w http.ResponseWriter) (size int, ok bool) {
	if c, ok := w.(*appendConn); ok {
		return c.requestSize, true
	}
	return 0, false
}

// HasArrived reports whether a request's body is in memory already, as an append connection's is.
func HasArrived(body io.ReadCloser) bool {
	_, ok := body.(*bufferedBody)
	return ok
}

// Header implements http.ResponseWriter.
func (c *appendConn) Header() http.Header { return c.header }

// WriteHeader implements http.ResponseWriter.
func (c *appendConn) WriteHeader(status int) {
	if c.status == 0 && status >= http.StatusOK {
		c.status = status
	}
}

// Write implements http.ResponseWriter.
func (c *appendConn) Write(b []byte) (int, error) {
	if c.WriteHeader(http.StatusOK); c.status == http.StatusNoContent || c.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	c.body = append(c.body, b...)
	return len(b), nil
}

// headerValueReplacer removes line ends from a header value, as net/http does.
var headerValueReplacer = strings.NewReplacer("\n", " ", "\r", " ")

// dateCache caches the value of the Date header, which changes each second.
type dateCache struct {
	second int64
	text   []byte
}

func (d *dateCache) format(t time.Time) []byte {
	if s := t.Unix(); s != d.second {
		d.second, d.text = s, t.UTC().AppendFormat(d.text[:0], http.TimeFormat)
	}
	return d.text
}

// bufferedBody is the body of an append connection's request.
type bufferedBody struct{ bytes.Reader }

// Close implements io.Closer.
func (*bufferedBody) Close() error { return nil }

// SetReadDeadline is called by http.ResponseController. It does nothing: the body has arrived.
func (c *appendConn) SetReadDeadline(time.Time) error { return nil }

// returnToNetHTTP has net/http serve the connection again, from the first byte that is not handled.
func (c *appendConn) returnToNetHTTP() {
	_ = c.conn.SetReadDeadline(time.Time{})
	c.conn.unread, c.conn.appends, c.conn.minAppends = c.buf, 0, 2*max(c.conn.minAppends, c.group.MinAppends)
	l := &singleConnListener{addr: c.conn.LocalAddr()}
	l.conn.Store(c.conn)
	_ = c.server.Serve(l) // returns immediately
}

// singleConnListener is a listener with one connection, which is closed if the server does not accept it.
type singleConnListener struct {
	conn atomic.Pointer[Conn]
	addr net.Addr
}

// Accept implements net.Listener.
func (l *singleConnListener) Accept() (net.Conn, error) {
	if c := l.conn.Swap(nil); c != nil {
		return c, nil
	}
	return nil, io.EOF
}

// Close implements net.Listener.
func (l *singleConnListener) Close() error {
	if c := l.conn.Swap(nil); c != nil {
		return c.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *singleConnListener) Addr() net.Addr { return l.addr }
