package edge

import (
	"io"
	"net"
	"time"
)

// UnderTLS is a listener for http.Server.ServeTLS. The reactor takes the event streams of
// its connections too (HTTP/1.1); those of another listener under TLS have a goroutine.
func UnderTLS(l net.Listener) net.Listener { return wires{l} }

type wires struct{ net.Listener }

func (l wires) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &wire{Conn: c}, nil
}

// wire is the connection beneath a tls.Conn. From when the reactor has taken it, what the
// tls.Conn writes is kept in out, and the loop sends it as the connection takes it; in is
// what it reads from, and has nothing to read rather than wait. So the record layer is that
// of crypto/tls, and does not block.
type wire struct {
	net.Conn // nil: taken
	out      []byte
	in       io.Reader
}

func (w *wire) Read(b []byte) (int, error) {
	if w.Conn != nil {
		return w.Conn.Read(b)
	}
	return w.in.Read(b)
}

func (w *wire) Write(b []byte) (int, error) {
	if w.Conn != nil {
		return w.Conn.Write(b)
	}
	w.out = append(w.out, b...)
	return len(b), nil
}

// SetWriteDeadline is what closing a tls.Conn calls.
func (w *wire) SetWriteDeadline(t time.Time) error {
	if w.Conn != nil {
		return w.Conn.SetWriteDeadline(t)
	}
	return nil
}
