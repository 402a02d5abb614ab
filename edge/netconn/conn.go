package netconn

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Listen wraps a listener, beneath TLS too: its TCP connections are Conns.
func Listen(l net.Listener) net.Listener { return tcpListener{l} }

type tcpListener struct{ net.Listener }

func (l tcpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	tcp, ok := c.(*net.TCPConn)
	if err != nil || !ok {
		return c, err
	}
	return newConn(tcp)
}

// Conn is a TCP connection as net/http has it, or the connection beneath net/http's tls.Conn. It
// changes owners; at any time only the owner reads, writes and changes its fields:
//
//  1. net/http, from Accept on. While a catch-up answer is written, the goroutine of that request
//     owns writing: it stores a slotWriter in slots, which Write calls.
//  2. An event stream moves on to the reactor: after Hijack, Detach duplicates the descriptor and
//     closes tcp. Without TLS the Conn is not used any more. Under TLS the loop owns it as the
//     transport of its tls.Conn: buffers is set, Read reads from its In, and Write appends to its
//     Out, from which the loop sends. So crypto/tls does the record layer and never blocks.
//  3. A connection of appends moves on to an appendConn, which may return it to net/http
//     (returnToNetHTTP), with the bytes it has received and not handled in unread.
//
// slots, HTTP2Readers and HeldByWrites are atomic: other goroutines use them, too. baseContext is
// set before the first request. SetReadDeadline, SetWriteDeadline and Close may be called by any
// goroutine, as on each net.Conn.
type Conn struct {
	net.Conn // the same as tcp
	tcp      *net.TCPConn
	raw      syscall.RawConn // of tcp, on Linux
	reads    rawTransfer
	writes   rawTransfer
	slots    atomic.Pointer[slotWriter] // nil: no catch-up answer is being written
	writeErr error                      // the error of the first failed write
	buffers  *TLSBuffers                // nil, unless a loop has the connection

	baseContext  context.Context // the context that http.Server and ConnContext gave the connection
	HTTP2Readers atomic.Int32    // readers over HTTP/2, counted by package edge
	unread       []byte          // read before anything from the connection
	appends      int             // answered here; see AppendConns.TakeOver
	minAppends   int             // this many are needed for TakeOver, if more than usual
	HeldByWrites atomic.Int64    // what the connection's writes are charged, counted by package edge
}

// TLSBuffers holds what a tls.Conn reads and writes once a loop has the connection beneath it.
type TLSBuffers struct {
	In  io.Reader // returns os.ErrDeadlineExceeded when there is nothing to read
	Out []byte    // encrypted, and not sent
}

// SoleOf returns the Conn that serves only this request; nil: there is none.
func SoleOf(r *http.Request) *Conn {
	if r.ProtoMajor != 1 {
		return nil
	}
	return Of(r)
}

func (c *Conn) Read(b []byte) (int, error) {
	if len(c.unread) > 0 {
		n := copy(b, c.unread)
		if c.unread = c.unread[n:]; len(c.unread) == 0 {
			c.unread = nil
		}
		return n, nil
	}
	if c.buffers != nil {
		return c.buffers.In.Read(b)
	}
	return c.rawRead(b)
}

// Write writes nothing after a failed write: the bytes that got through end in the middle of
// something, and closing a tls.Conn would wait 5 s to say so to a client that accepts nothing, while
// pages are held for it. HTTP/2 continues if a part was accepted before the deadline.
func (c *Conn) Write(b []byte) (n int, err error) {
	if c.writeErr != nil {
		return 0, c.writeErr
	}
	w := c.slots.Load()
	switch {
	case w != nil:
		n, err = w.write(b)
	case c.buffers != nil:
		c.buffers.Out = append(c.buffers.Out, b...)
		return len(b), nil
	default:
		n, err = c.rawWrite(b)
	}
	if w != nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		c.writeErr = err
	}
	return n, err
}

// CloseWrite shuts down the sending side; net/http calls it so that an answer is not lost when
// the client has sent bytes that were never read.
func (c *Conn) CloseWrite() error { return c.tcp.CloseWrite() }

// SetWriteDeadline implements net.Conn. A tls.Conn calls it when it is closed.
func (c *Conn) SetWriteDeadline(t time.Time) error {
	if c.buffers != nil {
		return nil
	}
	return c.Conn.SetWriteDeadline(t)
}

// ConnContext serves as the ConnContext of an http.Server whose connections come from Listen: the
// context of a request names its Conn, beneath TLS too. stall is after how long a client that accepts
// nothing is disconnected.
//
// Some writes have no deadline (an error, a long-poll's answer): the kernel ends a connection that
// accepts none of them. Writes with a deadline end before that, and are counted.
func ConnContext(ctx context.Context, nc net.Conn, stall time.Duration) context.Context {
	if t, ok := nc.(*tls.Conn); ok {
		nc = t.NetConn()
	}
	c, ok := nc.(*Conn)
	if !ok || !ownsDescriptors {
		return ctx
	}
	c.setUserTimeout(2 * stall)
	c.baseContext = ctx
	return context.WithValue(ctx, ConnKey{}, c)
}

// ConnKey is the context key of the Conn of a request's connection, or the one beneath its TLS.
type ConnKey struct{}

// Of returns the Conn of the request, which over HTTP/2 serves other requests too; nil: there is none.
func Of(r *http.Request) *Conn {
	c, _ := r.Context().Value(ConnKey{}).(*Conn)
	return c
}
