package netconn

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"runtime/debug"
	"strings"
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
// are guarded by group.mu. An appendConn is the http.ResponseWriter of its requests.
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

	appendResponse // to request
}

// http2Preface begins HTTP/2, which is too late on this connection. net/http would take a returned
// connection for a new one and speak HTTP/2 on it.
var http2Preface = []byte("PRI * HTTP/2.0")

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

// parseRequest parses the request at the start of buf, if its header has arrived. It accepts a plain
// append (parsePlainAppend) within AppendConns.MaxRequest, to the same host as before.
func (c *appendConn) parseRequest() error {
	if !c.requestBegun {
		if len(c.buf) < minRequestBytes {
			return nil
		}
		c.requestBegun = true
		for i := 0; i < minRequestBytes && (c.buf[0] == '\r' || c.buf[0] == '\n'); i++ {
			c.buf = c.buf[:copy(c.buf, c.buf[1:])] // net/http skips them after a POST, too
		}
	}
	p, complete, err := parsePlainAppend(c.buf, len(c.buf) == cap(c.buf))
	if err != nil || !complete {
		return err
	}
	c.requestSize = p.size
	if p.header.Get("Host") != c.template.Host || p.size > cap(c.buf) {
		return errNotPlainAppend
	}
	delete(p.header, "Host")
	r := c.template.WithContext(c.ctx)
	r.RequestURI, r.URL, r.Header, r.ContentLength, r.Body = p.target, p.url, p.header, int64(p.bodyLength), http.NoBody
	c.request = r
	return nil
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
	c.reset()
	c.handlerCalls.Add(1)
	c.handler.ServeHTTP(c, c.request)
	c.handlerCalls.Add(1)
	c.buf = c.buf[:copy(c.buf, c.buf[c.requestSize:])]
	c.request, c.requestBegun, c.requestTimed = nil, false, false
	return c.writeResponse() == nil && !strings.EqualFold(c.header.Get("Connection"), "close")
}

// writeResponse sends the response.
func (c *appendConn) writeResponse() error {
	if c.group.stopping() || c.ctx.Err() != nil { // the connection's context
		c.header.Set("Connection", "close")
	}
	_, err := c.conn.Write(c.layOut(time.Now()))
	return err
}

// SetReadDeadline does nothing, since the body has arrived. http.ResponseController calls it.
func (c *appendConn) SetReadDeadline(time.Time) error { return nil }

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

// bufferedBody is the body of an append connection's request.
type bufferedBody struct{ bytes.Reader }

// Close implements io.Closer.
func (*bufferedBody) Close() error { return nil }

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
