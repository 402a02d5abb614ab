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

// Listen is a listener for an HTTPServer, under TLS too. The reactor takes the event streams
// of its TCP connections (HTTPAddr/1.1), and catch-up on them is written in turns; what another
// listener accepts has a goroutine for each stream, and no turns.
func Listen(l net.Listener) net.Listener { return wires{l} }

type wires struct{ net.Listener }

func (l wires) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	tcp, ok := c.(*net.TCPConn)
	if err != nil || !ok {
		return c, err
	}
	return newWire(tcp)
}

// wire is a TCP connection as net/http has it, or the tls.Conn above it. While a catch-up
// answer is written, its stint does that.
//
// From when the reactor has taken a tls.Conn, what that writes is kept in out, and the loop
// sends it as the connection takes it; in is what it reads from, and has nothing to read
// rather than wait. So the record layer is that of crypto/tls, and does not block.
type wire struct {
	net.Conn // tcp; nil: taken
	tcp      *net.TCPConn
	raw      syscall.RawConn // tcp's, on Linux
	reads    transfer
	writes   transfer
	stint    atomic.Pointer[stint] // nil: no catch-up
	broken   error                 // what the first write that failed said
	out      []byte
	in       io.Reader

	base    context.Context // what http.Server and ConnContext gave the connection
	readers atomic.Int32    // over HTTPAddr/2; see occupy
	ahead   []byte          // is read before what the connection has
	appends int             // see writers.take
	enough  int             // as many make a writer, if more than usual
	held    atomic.Int64    // what the writes that came by it hold, see intake
}

// wireOf is the wire that serves nothing but this request; nil: there is none.
func wireOf(r *http.Request) *wire {
	if r.ProtoMajor != 1 {
		return nil
	}
	return wireBelow(r)
}

func (w *wire) Read(b []byte) (int, error) {
	if len(w.ahead) > 0 {
		n := copy(b, w.ahead)
		if w.ahead = w.ahead[n:]; len(w.ahead) == 0 {
			w.ahead = nil
		}
		return n, nil
	}
	if w.Conn != nil {
		return w.receive(b)
	}
	return w.in.Read(b)
}

// Write writes nothing more once a write has failed: what came through ends in the middle of
// something, and a tls.Conn that is closed would wait for 5 s to say so to a client that takes
// nothing, while pages are held for it. HTTPAddr/2 goes on where something was taken in time.
func (w *wire) Write(b []byte) (n int, err error) {
	if w.broken != nil {
		return 0, w.broken
	}
	t := w.stint.Load()
	switch {
	case t != nil:
		n, err = t.write(b)
	case w.Conn != nil:
		n, err = w.send(b)
	default:
		w.out = append(w.out, b...)
		return len(b), nil
	}
	if t != nil || n == 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		w.broken = err
	}
	return n, err
}

// CloseWrite is what net/http calls so that an answer is not lost with what nobody has read.
func (w *wire) CloseWrite() error { return w.tcp.CloseWrite() }

// SetWriteDeadline is what closing a tls.Conn calls.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.Conn != nil {
		return w.Conn.SetWriteDeadline(t)
	}
	return nil
}
