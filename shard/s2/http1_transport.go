package s2

import (
	"bufio"
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"slices"
	"sync"
	"time"
)

// http1Transport is the RoundTripper of unary calls to one S2 without TLS (s2-lite, fantail s2). It
// writes and reads HTTP/1.1 on the caller's goroutine. http.Transport has two goroutines for each
// connection, and every call and its answer pass between goroutines: with small appends that was a
// third of what a node spends on an append (bench/append). net/http still encodes the requests and
// parses the answers. Read sessions use the SDK's own client.
//
// A failed call is not repeated, with one exception: a GET on a reused connection that brought no
// byte back. The server may have closed that connection meanwhile.
type http1Transport struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	maxIdle int // of idle connections; more are closed

	mu         sync.Mutex
	idle       []*http1Conn // the first has been idle for the longest time
	pruneTimer *time.Timer
}

const (
	// maxIdleTime bounds the time for which an idle connection is kept.
	maxIdleTime = 90 * time.Second
	// uncheckedIdle bounds the idle time of a connection that is reused without a check that the
	// server has not closed it.
	uncheckedIdle = 50 * time.Millisecond
)

// http1Conn is a connection with its buffers. Owned by the call that uses it, and, while idle, by the
// transport, under its mu.
type http1Conn struct {
	net.Conn
	r         *bufio.Reader
	w         *bufio.Writer
	idleSince time.Time // when it became idle
}

// plainWriter hides TCPConn.ReadFrom, which reports a body's error as the connection's error.
type plainWriter struct{ io.Writer }

// RoundTrip implements http.RoundTripper. The request's context bounds the call, reading the
// answer's body included.
func (u *http1Transport) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		l, used, err := u.takeConn(req)
		if err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		resp, heard, err := u.roundTripOn(l, req)
		again := used && !heard && req.Method == http.MethodGet && req.ContentLength == 0
		if err == nil || !again || req.Context().Err() != nil {
			return resp, err
		}
	}
}

// takeConn returns an idle connection that is still open (used), or a new one.
func (u *http1Transport) takeConn(req *http.Request) (l *http1Conn, used bool, err error) {
	if err := context.Cause(req.Context()); err != nil {
		return nil, false, err
	}
	for {
		u.mu.Lock()
		n := len(u.idle) - 1
		if n < 0 {
			u.mu.Unlock()
			break
		}
		l, u.idle[n] = u.idle[n], nil
		u.idle = u.idle[:n]
		u.mu.Unlock()
		if time.Since(l.idleSince) < uncheckedIdle || isStillIdle(l.Conn) {
			return l, true, nil
		}
		_ = l.Close()
	}
	addr := req.URL.Host
	if req.URL.Port() == "" {
		addr = net.JoinHostPort(req.URL.Hostname(), "80")
	}
	c, err := u.dial(req.Context(), "tcp", addr)
	if err != nil {
		return nil, false, err
	}
	return &http1Conn{Conn: c, r: bufio.NewReader(c), w: bufio.NewWriter(plainWriter{c})}, false, nil
}

// roundTripOn makes a call on a connection. heard: at least one byte came back.
func (u *http1Transport) roundTripOn(l *http1Conn, req *http.Request) (resp *http.Response, heard bool, err error) {
	ctx := req.Context()
	a := &responseBody{transport: u, conn: l, ctx: ctx}
	a.stopWatching = context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	wrote := errors.Join(req.Write(l.w), l.w.Flush())
	var op *net.OpError
	if wrote != nil && !errors.As(wrote, &op) { // the body failed, and not the connection
		a.releaseConn(false)
		return nil, false, a.contextCause(wrote)
	}
	// A server that refuses a body may have answered before it closed the connection.
	for resp == nil || resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		_, err = l.r.Peek(1)
		if heard = heard || err == nil; err == nil {
			resp, err = http.ReadResponse(l.r, req)
		}
		if err != nil {
			a.releaseConn(false)
			return nil, heard, a.contextCause(errors.Join(wrote, err))
		}
	}
	a.reusable = wrote == nil && !resp.Close && resp.StatusCode >= 200
	if a.body = resp.Body; resp.ContentLength == 0 {
		a.releaseConn(true)
	}
	resp.Body = a
	return resp, true, nil
}

// responseBody is the body of an answer. When all of it has been read, its connection is idle
// again.
type responseBody struct {
	transport    *http1Transport
	conn         *http1Conn // nil: released
	ctx          context.Context
	stopWatching func() bool
	reusable     bool // the connection can serve another call
	body         io.ReadCloser
}

// Read implements io.Reader.
func (a *responseBody) Read(b []byte) (int, error) {
	n, err := a.body.Read(b)
	if err != nil {
		a.releaseConn(errors.Is(err, io.EOF))
	}
	return n, a.contextCause(err)
}

// Close implements io.Closer. It reads the rest of the body.
func (a *responseBody) Close() error {
	err := a.body.Close()
	a.releaseConn(err == nil)
	return err
}

// contextCause returns the context's cause in place of err, if the context has ended.
func (a *responseBody) contextCause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}

// releaseConn makes the connection idle, or closes it. whole: the whole answer was read.
func (a *responseBody) releaseConn(whole bool) {
	l := a.conn
	if a.conn = nil; l == nil {
		return
	}
	if a.stopWatching() && whole && a.reusable && l.r.Buffered() == 0 { // buffered bytes: the server sent more than the answer
		a.transport.keepConn(l)
	} else {
		_ = l.Close()
	}
}

func (u *http1Transport) keepConn(l *http1Conn) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) >= u.maxIdle {
		_ = l.Close()
		return
	}
	l.idleSince = time.Now()
	if u.idle = append(u.idle, l); u.pruneTimer == nil {
		u.pruneTimer = time.AfterFunc(maxIdleTime, u.closeExpired)
	}
}

// closeExpired closes connections that have been idle for maxIdleTime.
func (u *http1Transport) closeExpired() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeIdleLocked(func(l *http1Conn) bool { return time.Since(l.idleSince) >= maxIdleTime })
	if u.pruneTimer = nil; len(u.idle) > 0 {
		u.pruneTimer = time.AfterFunc(maxIdleTime-time.Since(u.idle[0].idleSince), u.closeExpired)
	}
}

// CloseIdleConnections implements transport.
func (u *http1Transport) CloseIdleConnections() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeIdleLocked(func(*http1Conn) bool { return true })
	if u.pruneTimer != nil {
		u.pruneTimer.Stop()
		u.pruneTimer = nil
	}
}

func (u *http1Transport) closeIdleLocked(which func(*http1Conn) bool) {
	u.idle = slices.DeleteFunc(u.idle, func(l *http1Conn) bool {
		if !which(l) {
			return false
		}
		_ = l.Close()
		return true
	})
}
