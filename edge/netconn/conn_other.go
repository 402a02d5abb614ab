//go:build !linux

package netconn

import (
	"net"
	"net/http"
	"time"
)

const ownsDescriptors = false

type rawTransfer struct{}

func newConn(c *net.TCPConn) (*Conn, error) { return &Conn{Conn: c, tcp: c}, nil }

func (c *Conn) rawRead(b []byte) (int, error) { return c.Conn.Read(b) }

func (c *Conn) rawWrite(b []byte) (int, error) { return c.Conn.Write(b) }

func (*slotWriter) write([]byte) (int, error) { return 0, http.ErrNotSupported }

func ackedByPeer(*Conn) uint64 { return 0 }

func (c *Conn) setUserTimeout(time.Duration) {}
