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

func (*reactor) canServe(*http.Request) bool { return false }

func (*reactor) takeOver(http.ResponseWriter, *http.Request, *eventStream) bool { return false }

func (*reactor) postToAll(func(*loop)) {}

func (*reactor) close() {}

func (*loop) onDrainChange() {}

func connOf(*http.Request) *tcpConn { return nil }

type rawTransfer struct{}

func newTCPConn(c *net.TCPConn) (*tcpConn, error) { return &tcpConn{Conn: c, tcp: c}, nil }

func (w *tcpConn) rawRead(b []byte) (int, error) { return w.Conn.Read(b) }

func (w *tcpConn) rawWrite(b []byte) (int, error) { return w.Conn.Write(b) }

func (*slotWriter) write([]byte) (int, error) { return 0, http.ErrNotSupported }

func ackedByPeer(*tcpConn) uint64 { return 0 }

func (*Server) connContext(ctx context.Context, _ net.Conn) context.Context { return ctx }
