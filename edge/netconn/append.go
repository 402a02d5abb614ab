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
	x := &AppendConns{
		MinAppends: minAppendsToTakeOver, MaxRequest: maxAppendRequest, logger: logger, conns: map[*appendConn]struct{}{},
		maxRounds: int(maxRequestTime / sweepEvery),
	}
	x.ctx, x.stop = context.WithCancel(context.Background())
	return x
}

func (x *AppendConns) stopping() bool { return x.ctx.Err() != nil }

// TakeOver makes the connection of r an appendConn if it has brought enough appends. r has been
// read to its end and answered. Later requests must name the same Host.
func (x *AppendConns) TakeOver(w http.ResponseWriter, r *http.Request) {
	wire := SoleOf(r)
	if wire == nil || r.TLS != nil || r.Proto != "HTTP/1.1" || r.Host == "" || r.URL.Host != "" ||
		r.ContentLength <= 0 || int64(x.MaxRequest) <= r.ContentLength || r.Header.Get("Expect") != "" ||
		r.Close || w.Header().Get("Connection") != "" || x.stopping() {
		return
	}
	if wire.appends++; wire.appends < max(wire.minAppends, x.MinAppends) {
		return
	}
	server, _ := wire.baseContext.Value(http.ServerContextKey).(*http.Server)
	if server == nil {
		return
	}
	c, rw, err := http.NewResponseController(w).Hijack() // this sends the answer
	if err != nil {
		return
	}
	t := &appendConn{
		group: x, conn: wire, server: server, handler: server.Handler, header: http.Header{},
		buf: make([]byte, rw.Reader.Buffered(), x.MaxRequest),
		template: &http.Request{
			Method: http.MethodPost, Proto: r.Proto, ProtoMajor: 1, ProtoMinor: 1, Host: r.Host, RemoteAddr: r.RemoteAddr,
		},
	}
	_, _ = io.ReadFull(rw.Reader, t.buf) // the bytes are buffered
	if t.handler == nil {
		t.handler = http.DefaultServeMux
	}
	t.ctx, t.cancel = context.WithCancel(context.WithValue(wire.baseContext, http.LocalAddrContextKey, c.LocalAddr()))
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.stopping() {
		t.cancel()
		_ = c.Close()
		return
	}
	x.conns[t] = struct{}{}
	x.wg.Go(t.run)
	if !x.sweeping {
		x.sweeping = true
		x.wg.Go(x.runSweeper)
	}
}

// runSweeper cancels the contexts of requests that take too long, while
// there are append connections.
func (x *AppendConns) runSweeper() {
	tick := time.NewTicker(sweepEvery)
	defer tick.Stop()
	for x.sweepOnce() {
		select {
		case <-tick.C:
		case <-x.ctx.Done():
			return
		}
	}
}

// sweepOnce is one round of the sweeper; more reports whether there are connections to look at.
func (x *AppendConns) sweepOnce() (more bool) {
	x.mu.Lock()
	defer x.mu.Unlock()
	for w := range x.conns {
		asked := w.handlerCalls.Load()
		if asked%2 == 0 || asked != w.sweptCalls {
			w.sweptCalls, w.sweptRounds = asked, 0
			continue
		}
		if w.sweptRounds++; w.sweptRounds >= x.maxRounds {
			w.cancel()
		}
	}
	x.sweeping = len(x.conns) > 0
	return x.sweeping
}

// FinishAll ends every append connection, each after the answer to the request in progress.
func (x *AppendConns) FinishAll() {
	x.stopEach(func(w *appendConn) { _ = w.conn.SetReadDeadline(time.Unix(1, 0)) })
}

// stopEach takes over no more connections, and calls do for all that there are.
func (x *AppendConns) stopEach(do func(*appendConn)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.stop()
	for w := range x.conns {
		do(w)
	}
}

// Close ends every append connection immediately and waits.
func (x *AppendConns) Close() {
	x.stopEach(func(w *appendConn) {
		w.cancel()
		_ = w.conn.Close()
	})
	x.wg.Wait()
}

// Shutdown calls FinishAll and waits until all connections have ended.
func (x *AppendConns) Shutdown(ctx context.Context) error {
	x.FinishAll()
	gone := make(chan struct{})
	go func() {
		x.wg.Wait()
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
func (w *appendConn) run() {
	defer func() {
		w.cancel()
		w.group.mu.Lock()
		delete(w.group.conns, w)
		w.group.mu.Unlock()
	}()
	for {
		err := w.awaitRequest()
		switch {
		case err == nil:
			if w.handleRequest() {
				continue
			}
		case w.group.stopping(), len(w.buf) < minRequestBytes, bytes.HasPrefix(w.buf, http2Preface),
			errors.Is(err, os.ErrDeadlineExceeded) && w.request == nil: // it was idle for too long; net/http would not wait again
		default:
			w.returnToNetHTTP()
			return
		}
		_ = w.conn.Close()
		return
	}
}

// awaitRequest waits until request has arrived with its body.
func (w *appendConn) awaitRequest() error {
	for {
		if w.request == nil {
			if err := w.parseRequest(); err != nil {
				return err
			}
		}
		if w.request != nil && len(w.buf) >= w.requestSize {
			if n := w.request.ContentLength; n > 0 {
				body := new(bufferedBody)
				body.Reset(w.buf[w.requestSize-int(n) : w.requestSize])
				w.request.Body = body
			}
			return nil
		}
		if err := w.readMore(); err != nil {
			return err
		}
	}
}

// readMore reads what comes, with net/http's two deadlines: from one request to the next, and from
// the first byte of a request. The idle deadline is set further ahead
// than needed, so that not every request has to set it again.
func (w *appendConn) readMore() error {
	now, set := time.Now(), false
	switch idle := cmp.Or(w.server.IdleTimeout, w.server.ReadTimeout, time.Hour); {
	case len(w.buf) == 0 && !w.requestBegun:
		if set = w.readDeadline.Before(now.Add(idle)); set {
			w.readDeadline = now.Add(idle + idle/4)
		}
	case !w.requestTimed:
		w.requestTimed, set = true, true
		w.readDeadline = now.Add(cmp.Or(w.server.ReadHeaderTimeout, w.server.ReadTimeout, time.Hour))
	}
	if set {
		if err := w.conn.SetReadDeadline(w.readDeadline); err != nil {
			return err
		}
	}
	if w.group.stopping() { // checked after the deadline was set, which FinishAll sets after stop
		return http.ErrServerClosed
	}
	n, err := w.conn.Read(w.buf[len(w.buf):cap(w.buf)])
	w.buf = w.buf[:len(w.buf)+n]
	return err
}

// handleRequest passes request to the handler and answers it; more reports whether the
// connection continues.
func (w *appendConn) handleRequest() (more bool) {
	defer func() {
		if p := recover(); p != nil && p != http.ErrAbortHandler { //nolint:errorlint // as net/http does
			w.group.logger.Error("panic", "err", p, "stack", string(debug.Stack()))
		}
	}()
	clear(w.header)
	w.status, w.body = 0, w.body[:0]
	w.handlerCalls.Add(1)
	w.handler.ServeHTTP(w, w.request)
	w.handlerCalls.Add(1)
	w.buf = w.buf[:copy(w.buf, w.buf[w.requestSize:])]
	w.request, w.requestBegun, w.requestTimed = nil, false, false
	return w.writeResponse() == nil && !strings.EqualFold(w.header.Get("Connection"), "close")
}

// writeResponse sends the response.
func (w *appendConn) writeResponse() error {
	w.WriteHeader(http.StatusOK)
	if w.status == http.StatusNoContent {
		w.header.Del("Content-Length")
	} else {
		w.header.Set("Content-Length", strconv.Itoa(len(w.body)))
	}
	w.header.Del("Date")
	if w.group.stopping() || w.ctx.Err() != nil { // the connection's context
		w.header.Set("Connection", "close")
	}
	b := &w.out
	b.Reset()
	b.WriteString("HTTP/1.1 ")
	b.Write(strconv.AppendInt(b.AvailableBuffer(), int64(w.status), 10))
	b.WriteByte(' ')
	b.WriteString(http.StatusText(w.status))
	b.WriteString("\r\nDate: ")
	b.Write(w.date.format(time.Now()))
	b.WriteString("\r\n")
	for name, values := range w.header {
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
	b.Write(w.body)
	_, err := w.conn.Write(b.Bytes())
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
func (w *appendConn) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter.
func (w *appendConn) WriteHeader(status int) {
	if w.status == 0 && status >= http.StatusOK {
		w.status = status
	}
}

// Write implements http.ResponseWriter.
func (w *appendConn) Write(b []byte) (int, error) {
	if w.WriteHeader(http.StatusOK); w.status == http.StatusNoContent || w.status == http.StatusNotModified {
		return 0, http.ErrBodyNotAllowed
	}
	w.body = append(w.body, b...)
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
func (w *appendConn) SetReadDeadline(time.Time) error { return nil }

// returnToNetHTTP has net/http serve the connection again, from the first byte that is not handled.
func (w *appendConn) returnToNetHTTP() {
	_ = w.conn.SetReadDeadline(time.Time{})
	w.conn.unread, w.conn.appends, w.conn.minAppends = w.buf, 0, 2*max(w.conn.minAppends, w.group.MinAppends)
	l := &singleConnListener{addr: w.conn.LocalAddr()}
	l.conn.Store(w.conn)
	_ = w.server.Serve(l) // returns immediately
}

// singleConnListener is a listener with one connection, which is closed if the server does not accept it.
type singleConnListener struct {
	conn atomic.Pointer[Conn]
	addr net.Addr
}

// Accept implements net.Listener.
func (l *singleConnListener) Accept() (net.Conn, error) {
	if w := l.conn.Swap(nil); w != nil {
		return w, nil
	}
	return nil, io.EOF
}

// Close implements net.Listener.
func (l *singleConnListener) Close() error {
	if w := l.conn.Swap(nil); w != nil {
		return w.Close()
	}
	return nil
}

// Addr implements net.Listener.
func (l *singleConnListener) Addr() net.Addr { return l.addr }
