package edge

import (
	"errors"

	"golang.org/x/sys/unix"
)

// write writes as much as the connection takes at once, and waits without a turn when it
// takes no more. net.Conn.Write would wait with it. Closing the connection waits meanwhile
// for a turn that is waited for, which is not long: nobody waits for anything who has one.
func (t *stint) write(b []byte) (n int, err error) {
	waited := t.wire.raw.Write(func(fd uintptr) (done bool) {
		t.begin()
		for n < len(b) {
			var k int
			k, err = unix.Write(int(fd), b[n:])
			switch {
			case err == nil:
				n += k
			case errors.Is(err, unix.EINTR):
			case errors.Is(err, unix.EAGAIN):
				t.pause()
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

// acknowledged is how many bytes the peer's kernel has taken of a connection; 0: it is gone.
func acknowledged(w *wire) (n uint64) {
	_ = w.raw.Control(func(fd uintptr) { n = acked(int(fd)) })
	return n
}

// acked is the same of a descriptor.
func acked(fd int) uint64 {
	info, err := unix.GetsockoptTCPInfo(fd, unix.IPPROTO_TCP, unix.TCP_INFO)
	if err != nil {
		return 0
	}
	return info.Bytes_acked
}
