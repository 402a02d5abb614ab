package edge

import (
	"context"
	"errors"
	"io"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"syscall"
	"time"
)

// Listen wraps a listener for an HTTPServer, beneath TLS too. The reactor can take the event streams
// of its TCP connections (HTTP/1.1), and catch-up on them is written in slots. On connections of
// other listeners each event stream has a goroutine, and catch-up is written in pieces.
func Listen(l net.Listener) net.Listener { return tcpListener{l} }

type tcpListener struct{ net.Listener }

func (l tcpListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	tcp, ok := c.(*net.TCPConn)
	if err != nil || !ok {
		return c, err
	}
	return newTCPConn(tcp)
}

// tcpConn is a TCP connection as net/http has it, or the connection beneath net/http's tls.Conn. It
// changes owners; at any time only the owner reads, writes and changes its fields:
//
//  1. net/http, from Accept on. While a catch-up answer is written, the goroutine of that request
//     owns writing: it stores a slotWriter in slots, which Write calls.
//  2. An event stream moves on to the reactor: after Hijack, detach duplicates the descriptor and
//     closes tcp. Without TLS the tcpConn is not used any more. Under TLS the loop owns it as the
//     transport of its tls.Conn: Conn is nil, Read reads from tlsIn, and Write appends to tlsOut,
//     from which the loop sends. So crypto/tls does the record layer and never blocks.
//  3. A connection of appends moves on to an appendConn, which may return it to net/http
//     (returnToNetHTTP), with the bytes it has received and not handled in unread.
//
// slots, http2Readers and heldByWrites are atomic: other goroutines use them, too. baseContext is
// set before the first request. SetReadDeadline, SetWriteDeadline and Close may be called by any
// goroutine, as on each net.Conn.
type tcpConn struct {
	net.Conn // the same as tcp; nil: a loop has the connection
	tcp      *net.TCPConn
	raw      syscall.RawConn // of tcp, on Linux
	reads    rawTransfer
	writes   rawTransfer
	slots    atomic.Pointer[slotWriter] // nil: no catch-up answer is being written
	writeErr error                      // the error of the first failed write
	tlsOut   []byte
	tlsIn    io.Reader

	baseContext  context.Context // the context that http.Server and connContext gave the connection
	http2Readers atomic.Int32    // over HTTP/2; see admitOnConn
	unread       []byte          // read before anything from the connection
	appends      int             // answered here; see appendConns.takeOver
	minAppends   int             // this many are needed for takeOver, if more than usual
	heldByWrites atomic.Int64    // what the connection's writes are charged, see writesBudget
}

// soleConnOf returns the tcpConn that serves only this request; nil: there is none.
func soleConnOf(r *http.Request) *tcpConn {
	if r.ProtoMajor != 1 {
		return nil
	}
	return connOf(r)
}

func (w *tcpConn) Read(b []byte) (int, error) {
	if len(w.unread) > 0 {
		n := copy(b, w.unread)
		if w.unread = w.unread[n:]; len(w.unread) == 0 {
			w.unread = nil
		}
		return n, nil
	}
	if w.Conn != nil {
		return w.rawRead(b)
	}
	return w.tlsIn.Read(b)
}

// Write writes nothing after a failed write: the bytes that got through end in the middle of
// something, and closing a tls.Conn would wait 5 s to say so to a client that accepts nothing, while
// pages are held for it. HTTP/2 continues if a part was accepted before the deadline.
func (w *tcpConn) Write(b []byte) (n int, err error) {
	if w.writeErr != nil {
		return 0, w.writeErr
	}
	t := w.slots.Load()
	switch {
	case t != nil:
		n, err = t.write(b)
	case w.Conn != nil:
		n, err = w.rawWrite(b)
	default:
		w.tlsOut = append(w.tlsOut, b...)
		return len(b), nil
	}
	if t != nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		w.writeErr = err
	}
	return n, err
}

// CloseWrite is called by net/http so that an answer is not lost when the client has sent
// bytes that were never read.
func (w *tcpConn) CloseWrite() error { return w.tcp.CloseWrite() }

// SetWriteDeadline is called when a tls.Conn is closed.
func (w *tcpConn) SetWriteDeadline(t time.Time) error {
	if w.Conn != nil {
		return w.Conn.SetWriteDeadline(t)
	}
	return nil
}
