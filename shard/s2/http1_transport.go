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

// http1Transport is the RoundTripper of calls to one S2 without TLS (s2-lite, fantail s2): HTTP/1.1,
// written and read on the goroutine that calls. http.Transport has two goroutines of its own
// for each connection, and hands a call to one and its answer back from the other: with
// small appends that was a third of what a node spends on one (bench/append). What is
// written and parsed is net/http's all the same. Sessions have a client of the SDK's.
//
// A call that fails has failed, unless it is a GET on a connection that had been used before
// and nothing came back: the server may have given that up meanwhile.
type http1Transport struct {
	dial    func(ctx context.Context, network, addr string) (net.Conn, error)
	maxIdle int // connections kept while idle; more are closed

	mu         sync.Mutex
	idle       []*http1Conn // the first has been idle for longest
	pruneTimer *time.Timer
}

const (
	// maxIdleTime is how long a connection is kept that nothing uses.
	maxIdleTime = 90 * time.Second
	// uncheckedIdle is how long nobody looks whether the server has closed it.
	uncheckedIdle = 50 * time.Millisecond
)

// http1Conn is a connection.
type http1Conn struct {
	net.Conn
	r         *bufio.Reader
	w         *bufio.Writer
	idleSince time.Time // it is idle
}

// plainWriter hides TCPConn.ReadFrom, which calls a body's error one of the connection.
type plainWriter struct{ io.Writer }

// RoundTrip implements http.RoundTripper. The context bounds it, the answer's body included.
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

// takeConn is an idle connection that still is one, or a new one.
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

// roundTripOn makes a call; heard: something came back.
func (u *http1Transport) roundTripOn(l *http1Conn, req *http.Request) (resp *http.Response, heard bool, err error) {
	ctx := req.Context()
	a := &responseBody{transport: u, conn: l, ctx: ctx}
	a.stopWatching = context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	wrote := errors.Join(req.Write(l.w), l.w.Flush())
	var op *net.OpError
	if wrote != nil && !errors.As(wrote, &op) { // the body, and not the connection
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

// responseBody is the body of an answer. Its connection is idle again once all of it is read.
type responseBody struct {
	transport    *http1Transport
	conn         *http1Conn // nil: given back
	ctx          context.Context
	stopWatching func() bool
	reusable     bool // the connection may be used again
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

// Close implements io.Closer. It reads what is left.
func (a *responseBody) Close() error {
	err := a.body.Close()
	a.releaseConn(err == nil)
	return err
}

// contextCause is that the context has ended, if it has.
func (a *responseBody) contextCause(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}

// releaseConn gives the connection back, or closes it; whole: nothing is to come on it.
func (a *responseBody) releaseConn(whole bool) {
	l := a.conn
	if a.conn = nil; l == nil {
		return
	}
	if a.stopWatching() && whole && a.reusable && l.r.Buffered() == 0 { // or the server has said more than it was asked
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

// closeExpired closes what has been idle for long.
func (u *http1Transport) closeExpired() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeIdleLocked(func(l *http1Conn) bool { return time.Since(l.idleSince) >= maxIdleTime })
	if u.pruneTimer = nil; len(u.idle) > 0 {
		u.pruneTimer = time.AfterFunc(maxIdleTime-time.Since(u.idle[0].idleSince), u.closeExpired)
	}
}

// CloseIdleConnections is what http.Client has of the same name.
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
