package reactor

import (
	"errors"
	"io"
	"os"

	"golang.org/x/sys/unix"
)

// fdReader reads what a descriptor has received, without waiting.
type fdReader int32

func (fd fdReader) Read(b []byte) (int, error) {
	n, _, err := unix.Recvfrom(int(fd), b, unix.MSG_DONTWAIT)
	switch {
	case errors.Is(err, unix.EAGAIN), errors.Is(err, unix.EINTR):
		return 0, os.ErrDeadlineExceeded // crypto/tls continues after a deadline
	case err != nil:
		return 0, err
	case n == 0 && len(b) > 0:
		return 0, io.EOF
	}
	return n, nil
}

// readTLS reads what a client sends after its request: usually close_notify, which comes before the
// connection ends, or new keys. Further requests are not read.
func (l *loop) readTLS(c *conn) {
	w := c.tls
	n, err := w.tls.Read(l.readBuf[:])
	switch {
	case n > 0:
		l.stopReading(c)
	case errors.Is(err, os.ErrDeadlineExceeded):
		l.flushTLSReplies(c)
	case errors.Is(err, io.EOF) && c.state == connIdle:
		if l.stopReading(c) {
			l.endResponse(c)
		}
	default:
		l.closeConn(c)
	}
}

// stopReading stops reading what the client sends; its hang-up is still noticed. It returns false if
// the reader is closed.
func (l *loop) stopReading(c *conn) bool {
	c.tls.readClosed = true
	if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, c, c.wantsWritable); err != nil {
		l.closeConn(c)
		return false
	}
	return true
}

// flushTLSReplies sends what crypto/tls has written on its own account, such as its new keys.
func (l *loop) flushTLSReplies(c *conn) {
	switch w := c.tls; {
	case !w.hasOutput():
	case w.charged > 0: // earlier bytes are still waiting
		l.cfg.Budget.Charge(int64(len(w.buffers.Out) - w.charged))
		w.charged = len(w.buffers.Out)
	default:
		if n, err := l.flushTLS(c); err != nil {
			l.closeConn(c)
		} else if w.hasOutput() {
			l.markBlocked(c, n > 0)
		}
	}
}

// flushBlockedTLS sends a blocked reader its encrypted bytes; all reports whether none are left and the
// reader is idle.
func (l *loop) flushBlockedTLS(c *conn) (all bool) {
	n, err := l.flushTLS(c)
	if n > 0 {
		c.session.MarkActive(l.elapsed())
	}
	switch {
	case err != nil:
		l.closeConn(c)
	case c.tls.hasOutput():
		l.markBlocked(c, n > 0)
	default:
		l.markUnblocked(c)
	}
	return c.state == connIdle
}
