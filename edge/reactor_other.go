//go:build !linux

package edge

import (
	"context"
	"net"
	"net/http"
)

// reactor is Linux's; elsewhere every event stream has a goroutine.
type reactor struct{}

type loop struct{}

func newReactor(*Server) *reactor { return &reactor{} }

func (*reactor) serves(*http.Request) bool { return false }

func (*reactor) take(http.ResponseWriter, *http.Request, *driver) bool { return false }

func (*reactor) each(func(*loop)) {}

func (*reactor) close() {}

func (*loop) drained() {}

func wireBelow(*http.Request) *wire { return nil }

type transfer struct{}

func newWire(c *net.TCPConn) (*wire, error) { return &wire{Conn: c, tcp: c}, nil }

func (w *wire) receive(b []byte) (int, error) { return w.Conn.Read(b) }

func (w *wire) send(b []byte) (int, error) { return w.Conn.Write(b) }

func (*stint) write([]byte) (int, error) { return 0, http.ErrNotSupported }

func acknowledged(*wire) uint64 { return 0 }

func (*Server) connContext(ctx context.Context, _ net.Conn) context.Context { return ctx }
