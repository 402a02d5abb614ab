package netconn

import (
	"errors"

	"golang.org/x/sys/unix"
)

// write writes as much as the connection accepts, and waits without a slot when it accepts no
// more; net.Conn.Write would keep the slot. Closing the connection waits while this waits for a
// slot, which is short: no holder of a slot ever waits.
func (w *slotWriter) write(b []byte) (n int, err error) {
	waited := w.conn.raw.Write(func(fd uintptr) (done bool) {
		w.acquireSlot()
		for n < len(b) {
			var k int
			k, err = unix.Write(int(fd), b[n:])
			switch {
			case err == nil:
				n += k
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				w.releaseSlot()
				err = nil
				return false
			default:
				return true
			}
		}
		return true
	})
	return n, errors.Join(waited, err)
}

// ackedByPeer returns how many bytes the peer's kernel has acknowledged on a connection; 0: it is closed.
func ackedByPeer(c *Conn) (n uint64) {
	_ = c.raw.Control(func(fd uintptr) { n = BytesAcked(int(fd)) })
	return n
}

// BytesAcked returns the same for a descriptor.
func BytesAcked(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}
