package reactor

import (
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/sse"
)

// writeAction writes a reader's pending output once; all reports whether the connection has accepted
// everything, and the reader is still there.
func (l *loop) writeAction(c *conn, a sse.Action) (n int, all bool) {
	if a.Why != 0 {
		l.cfg.Metrics.CountMoved(a.Why)
	}
	n, all, err := l.writeOnce(c, c.session.Pending())
	if err != nil {
		l.closeConn(c)
		return n, false
	}
	if n > 0 {
		l.cfg.Metrics.CountSession(&c.session)
	}
	if !all {
		l.markBlocked(c, n > 0)
		return n, false
	}
	l.newestTime = max(l.newestTime, a.Newest)
	l.markUnblocked(c)
	return n, c.state != connClosed
}

// writeOnce writes a reader's output with one system call; all reports whether everything was accepted.
func (l *loop) writeOnce(c *conn, pending [][]byte) (n int, all bool, err error) {
	if c.tls != nil {
		n, all, err = l.writeTLS(c, pending)
		l.countWritten(c, n)
		return n, all, err
	}
	size := 0
	for i := 0; i < len(pending) && len(l.iov) < maxIovecs; i++ {
		size = l.addIovec(pending[i], size)
	}
	wrote, _, errno := unix.Syscall(unix.SYS_WRITEV, uintptr(c.fd), uintptr(unsafe.Pointer(&l.iov[0])), uintptr(len(l.iov)))
	clear(l.iov)
	l.iov = l.iov[:0]
	switch errno {
	case 0:
		n = int(wrote)
	case unix.EAGAIN, unix.EINTR:
		return 0, false, nil
	default:
		return 0, false, errno
	}
	l.countWritten(c, n)
	return n, n == size, nil
}

// countWritten counts accepted bytes and removes them from the output.
func (l *loop) countWritten(c *conn, n int) {
	l.uncountedBytes += n
	c.session.MarkWritten(n, l.elapsed())
}

// addIovec adds b to the next writev; unix.Writev would allocate.
func (l *loop) addIovec(b []byte, size int) int {
	if len(b) > 0 {
		v := unix.Iovec{Base: &b[0]}
		v.SetLen(len(b))
		l.iov = append(l.iov, v)
	}
	return size + len(b)
}

// endResponse ends the response by shutting down the sending side, after which the client hangs up.
// Closing the connection immediately would lose bytes in transit if the client had sent anything
// that was not read.
func (l *loop) endResponse(c *conn) {
	c.session.EndNow()
	if !l.sendCloseNotify(c) {
		l.markBlocked(c, true)
		return
	}
	if unix.Shutdown(int(c.fd), unix.SHUT_WR) != nil {
		l.closeConn(c)
		return
	}
	c.state = connEnding
	l.ending[c] = l.elapsed()
}
