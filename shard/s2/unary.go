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

// unary is the RoundTripper of calls to one S2 without TLS (s2-lite, fantail s2): HTTP/1.1,
// written and read on the goroutine that calls. http.Transport has two goroutines of its own
// for each connection, and hands a call to one and its answer back from the other: with
// small appends that was a third of what a node spends on one (bench/append). What is
// written and parsed is net/http's all the same. Sessions have a client of the SDK's.
//
// A call that fails has failed, unless it is a GET on a connection that had been used before
// and nothing came back: the server may have given that up meanwhile.
type unary struct {
	dial func(ctx context.Context, network, addr string) (net.Conn, error)
	most int // connections kept while idle; more are closed

	mu    sync.Mutex
	idle  []*line // the first has been idle for longest
	sweep *time.Timer
}

const (
	// idleMost is how long a connection is kept that nothing uses.
	idleMost = 90 * time.Second
	// freshFor is how long nobody looks whether the server has closed it.
	freshFor = 50 * time.Millisecond
)

// line is a connection.
type line struct {
	net.Conn
	r     *bufio.Reader
	w     *bufio.Writer
	since time.Time // it is idle
}

// writer hides TCPConn.ReadFrom, which calls a body's error one of the connection.
type writer struct{ io.Writer }

// RoundTrip implements http.RoundTripper. The context bounds it, the answer's body included.
func (u *unary) RoundTrip(req *http.Request) (*http.Response, error) {
	for {
		l, used, err := u.take(req)
		if err != nil {
			if req.Body != nil {
				_ = req.Body.Close()
			}
			return nil, err
		}
		resp, heard, err := u.call(l, req)
		again := used && !heard && req.Method == http.MethodGet && req.ContentLength == 0
		if err == nil || !again || req.Context().Err() != nil {
			return resp, err
		}
	}
}

// take is an idle connection that still is one, or a new one.
func (u *unary) take(req *http.Request) (l *line, used bool, err error) {
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
		if time.Since(l.since) < freshFor || quiet(l.Conn) {
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
	return &line{Conn: c, r: bufio.NewReader(c), w: bufio.NewWriter(writer{c})}, false, nil
}

// call makes a call; heard: something came back.
func (u *unary) call(l *line, req *http.Request) (resp *http.Response, heard bool, err error) {
	ctx := req.Context()
	a := &answer{u: u, l: l, ctx: ctx}
	a.stop = context.AfterFunc(ctx, func() { _ = l.SetDeadline(time.Unix(1, 0)) })
	wrote := errors.Join(req.Write(l.w), l.w.Flush())
	var op *net.OpError
	if wrote != nil && !errors.As(wrote, &op) { // the body, and not the connection
		a.end(false)
		return nil, false, a.why(wrote)
	}
	// A server that refuses a body may have answered before it closed the connection.
	for resp == nil || resp.StatusCode < 200 && resp.StatusCode != http.StatusSwitchingProtocols {
		_, err = l.r.Peek(1)
		if heard = heard || err == nil; err == nil {
			resp, err = http.ReadResponse(l.r, req)
		}
		if err != nil {
			a.end(false)
			return nil, heard, a.why(errors.Join(wrote, err))
		}
	}
	a.keep = wrote == nil && !resp.Close && resp.StatusCode >= 200
	if a.body = resp.Body; resp.ContentLength == 0 {
		a.end(true)
	}
	resp.Body = a
	return resp, true, nil
}

// answer is the body of an answer. Its connection is idle again once all of it is read.
type answer struct {
	u    *unary
	l    *line // nil: given back
	ctx  context.Context
	stop func() bool
	keep bool // the connection may be used again
	body io.ReadCloser
}

// Read implements io.Reader.
func (a *answer) Read(b []byte) (int, error) {
	n, err := a.body.Read(b)
	if err != nil {
		a.end(errors.Is(err, io.EOF))
	}
	return n, a.why(err)
}

// Close implements io.Closer. It reads what is left.
func (a *answer) Close() error {
	err := a.body.Close()
	a.end(err == nil)
	return err
}

// why is that the context has ended, if it has.
func (a *answer) why(err error) error {
	if err != nil && !errors.Is(err, io.EOF) && a.ctx.Err() != nil {
		return context.Cause(a.ctx)
	}
	return err
}

// end gives the connection back, or closes it; whole: nothing is to come on it.
func (a *answer) end(whole bool) {
	l := a.l
	if a.l = nil; l == nil {
		return
	}
	if a.stop() && whole && a.keep && l.r.Buffered() == 0 { // or the server has said more than it was asked
		a.u.put(l)
	} else {
		_ = l.Close()
	}
}

func (u *unary) put(l *line) {
	u.mu.Lock()
	defer u.mu.Unlock()
	if len(u.idle) >= u.most {
		_ = l.Close()
		return
	}
	l.since = time.Now()
	if u.idle = append(u.idle, l); u.sweep == nil {
		u.sweep = time.AfterFunc(idleMost, u.prune)
	}
}

// prune closes what has been idle for long.
func (u *unary) prune() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeLocked(func(l *line) bool { return time.Since(l.since) >= idleMost })
	if u.sweep = nil; len(u.idle) > 0 {
		u.sweep = time.AfterFunc(idleMost-time.Since(u.idle[0].since), u.prune)
	}
}

// CloseIdleConnections is what http.Client has of the same name.
func (u *unary) CloseIdleConnections() {
	u.mu.Lock()
	defer u.mu.Unlock()
	u.closeLocked(func(*line) bool { return true })
	if u.sweep != nil {
		u.sweep.Stop()
		u.sweep = nil
	}
}

func (u *unary) closeLocked(which func(*line) bool) {
	u.idle = slices.DeleteFunc(u.idle, func(l *line) bool {
		if !which(l) {
			return false
		}
		_ = l.Close()
		return true
	})
}
