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

func (*reactor) take(http.ResponseWriter, *http.Request, *driver) bool { return false }

func (*reactor) each(func(*loop)) {}

func (*reactor) close() {}

func (*loop) drained(bool) {}

func connOf(*http.Request) *net.TCPConn { return nil }

func acknowledged(*net.TCPConn) uint64 { return 0 }

func connContext(ctx context.Context, _ net.Conn) context.Context { return ctx }
