package sim

import (
	"cmp"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// socketBytes bounds the bytes that one direction of a connection holds before its writer waits:
// the buffers of both kernels.
const socketBytes = 512 << 10

// conn is one end of a stream connection between two hosts. What is written takes the path's delay.
// While the path is shut it stays where it is, and arrives, in order, when the path is open again,
// as with TCP.
type conn struct {
	in, out       *direction
	local, remote *net.TCPAddr
	rd, wr        deadline
	close         func() // removes it from the network
	once          sync.Once
}

// direction is one direction of a connection.
type direction struct {
	path  *path
	wake  chan struct{} // cap 1: something for the reader
	space chan struct{} // cap 1: something for the writer

	mu       sync.Mutex
	chunks   []chunk
	size     int
	last     time.Time // when the newest chunk arrives
	readErr  error     // what the reader gets from now on
	writeErr error     // what the writer gets
	lost     bool      // its host is lost: nothing arrives, not even the end
	discards bool      // its reader is gone: what is written is discarded
}

// chunk holds what one Write sent; nil bytes are the end.
type chunk struct {
	b  []byte
	at time.Time
}

func newDirection(p *path) *direction {
	return &direction{path: p, wake: make(chan struct{}, 1), space: make(chan struct{}, 1)}
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// newConnPair returns a connection between two hosts.
func newConnPair(there, back *path, from, to *net.TCPAddr) (client, server *conn) {
	a, b := newDirection(there), newDirection(back)
	client = &conn{in: b, out: a, local: from, remote: to}
	server = &conn{in: a, out: b, local: to, remote: from}
	for _, c := range []*conn{client, server} {
		c.rd.init()
		c.wr.init()
	}
	return client, server
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	d := c.in
	for {
		if c.rd.passed() {
			return 0, os.ErrDeadlineExceeded
		}
		n, wait, err := d.receive(b)
		if n > 0 || err != nil {
			return n, err
		}
		var due <-chan time.Time
		if wait > 0 {
			due = time.After(wait)
		}
		select {
		case <-d.wake:
		case <-due:
		case <-c.rd.wait():
		}
	}
}

// receive reads what has arrived; wait: when more will.
func (d *direction) receive(b []byte) (n int, wait time.Duration, err error) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.readErr != nil {
		return 0, 0, d.readErr
	}
	if d.lost {
		return 0, 0, nil
	}
	for n < len(b) && len(d.chunks) > 0 {
		ch := &d.chunks[0]
		if d.path.isShut() {
			return n, 0, nil
		}
		if wait := ch.at.Sub(now); wait > 0 {
			return n, wait, nil
		}
		if ch.b == nil {
			if n == 0 {
				return 0, 0, io.EOF
			}
			return n, 0, nil
		}
		k := copy(b[n:], ch.b)
		n += k
		d.size -= k
		if ch.b = ch.b[k:]; len(ch.b) == 0 {
			d.chunks[0] = chunk{}
			d.chunks = d.chunks[1:]
		}
	}
	if n > 0 {
		notify(d.space)
	}
	return n, 0, nil
}

// Write implements net.Conn.
func (c *conn) Write(b []byte) (int, error) {
	d := c.out
	for done := 0; ; {
		if c.wr.passed() {
			return done, os.ErrDeadlineExceeded
		}
		n, err := d.send(b[done:])
		if done += n; err != nil || done == len(b) {
			return done, err
		}
		select {
		case <-d.space:
		case <-c.wr.wait():
		}
	}
}

func (d *direction) send(b []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	n := min(len(b), socketBytes-d.size)
	switch {
	case d.writeErr != nil:
		return 0, d.writeErr
	case d.discards:
		// An error would come before the other side's end, which the path may hold for long, and no
		// socket does that.
		return len(b), nil
	case n > 0:
		d.addLocked(append([]byte(nil), b[:n]...))
	}
	return n, nil
}

func (d *direction) addLocked(b []byte) {
	at := time.Now().Add(d.path.streamDelay(len(b)))
	if at.Before(d.last) {
		at = d.last
	}
	d.last = at
	d.chunks = append(d.chunks, chunk{b, at})
	d.size += len(b)
	notify(d.wake)
}

// Close implements net.Conn: what was written still arrives.
func (c *conn) Close() error {
	c.once.Do(func() {
		c.out.mu.Lock()
		if c.out.writeErr == nil && !c.out.discards {
			c.out.addLocked(nil)
		}
		c.out.writeErr = net.ErrClosed
		c.out.mu.Unlock()
		notify(c.out.space)
		c.in.mu.Lock()
		c.in.readErr, c.in.discards, c.in.chunks, c.in.size = net.ErrClosed, true, nil, 0
		c.in.mu.Unlock()
		notify(c.in.wake)
		notify(c.in.space)
		if c.close != nil {
			c.close()
		}
	})
	return nil
}

// reset ends a connection immediately for this end, and for the other one unless this one's machine
// is lost: then the other end hears nothing, and what it writes is never read.
func (c *conn) reset(silent bool) {
	c.in.mu.Lock()
	c.in.readErr = cmp.Or(c.in.readErr, error(syscall.ECONNRESET))
	if !silent {
		c.in.writeErr = cmp.Or(c.in.writeErr, error(syscall.ECONNRESET))
	}
	c.in.mu.Unlock()
	c.out.mu.Lock()
	c.out.writeErr = cmp.Or(c.out.writeErr, error(syscall.ECONNRESET))
	if c.out.lost = silent; !silent {
		c.out.readErr = cmp.Or(c.out.readErr, error(syscall.ECONNRESET))
	}
	c.out.chunks, c.out.size = nil, 0
	c.out.mu.Unlock()
	for _, d := range []*direction{c.in, c.out} {
		notify(d.wake)
		notify(d.space)
	}
}

// LocalAddr implements net.Conn.
func (c *conn) LocalAddr() net.Addr { return c.local }

// RemoteAddr implements net.Conn.
func (c *conn) RemoteAddr() net.Addr { return c.remote }

// SetDeadline implements net.Conn.
func (c *conn) SetDeadline(t time.Time) error {
	c.rd.set(t)
	c.wr.set(t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (c *conn) SetReadDeadline(t time.Time) error { c.rd.set(t); return nil }

// SetWriteDeadline implements net.Conn.
func (c *conn) SetWriteDeadline(t time.Time) error { c.wr.set(t); return nil }

// deadline closes a channel after a time, as in net.Pipe.
type deadline struct {
	mu    sync.Mutex
	timer *time.Timer
	done  chan struct{}
}

func (d *deadline) init() { d.done = make(chan struct{}) }

func (d *deadline) set(t time.Time) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil && !d.timer.Stop() {
		<-d.done // the timer is about to close it
	}
	d.timer = nil
	closed := false
	select {
	case <-d.done:
		closed = true
	default:
	}
	if t.IsZero() {
		if closed {
			d.done = make(chan struct{})
		}
		return
	}
	if dur := time.Until(t); dur > 0 {
		if closed {
			d.done = make(chan struct{})
		}
		done := d.done
		d.timer = time.AfterFunc(dur, func() { close(done) })
		return
	}
	if !closed {
		close(d.done)
	}
}

func (d *deadline) wait() <-chan struct{} {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.done
}

func (d *deadline) passed() bool {
	select {
	case <-d.wait():
		return true
	default:
		return false
	}
}
