//go:build unix

package s2

import (
	"errors"
	"net"
	"syscall"

	"golang.org/x/sys/unix"
)

// isStillIdle reports whether nothing has arrived on an idle connection, the end of the connection
// included.
func isStillIdle(c net.Conn) bool {
	sc, ok := c.(syscall.Conn)
	if !ok {
		return true
	}
	raw, err := sc.SyscallConn()
	if err != nil {
		return false
	}
	var b [1]byte
	var peeked error
	err = raw.Read(func(fd uintptr) bool {
		_, _, peeked = unix.Recvfrom(int(fd), b[:], unix.MSG_PEEK|unix.MSG_DONTWAIT)
		return true
	})
	return err == nil && errors.Is(peeked, unix.EAGAIN)
}
