package reactor

import (
	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/sse"
)

// setEpollEvents tells epoll what to report: always when the client hangs up; under TLS, when it
// sends something; and if writes is set, when it accepts more.
func (l *loop) setEpollEvents(op int, c *conn, writes bool) error {
	ev := unix.EpollEvent{Events: unix.EPOLLRDHUP, Fd: int32(c.slot), Pad: int32(c.gen)}
	if c.wantsWritable = writes; writes {
		ev.Events |= unix.EPOLLOUT
	}
	if c.tls != nil && !c.tls.readClosed {
		ev.Events |= unix.EPOLLIN
	}
	return unix.EpollCtl(l.epollFD, op, int(c.fd), &ev)
}

// closeConn removes a reader and closes its connection.
func (l *loop) closeConn(c *conn) {
	if c.state == connClosed {
		return
	}
	if c.state == connBlocked {
		delete(l.blocked, c)
		l.cfg.Budget.RemoveReader(c)
	}
	delete(l.ending, c)
	l.releaseTLS(c.tls)
	_ = unix.Close(int(c.fd)) // this also removes it from epoll
	if group := c.group; group != nil {
		group.remove(c)
		if len(group.readers) == 0 {
			group.key.Tail.Unwatch(group)
			delete(l.streams, group.key)
		}
	}
	l.cfg.Metrics.CountSession(&c.session)
	l.closeReader(&c.session, c.release)
	l.conns.release(c)
	l.readers.Add(-1)
}

// recoverConn limits a panic to one reader of the loop: it closes the connection, and drops
// the shared write in progress. It must be deferred directly, because it recovers.
func (l *loop) recoverConn(c *conn) {
	v := recover()
	if v == nil {
		return
	}
	l.cfg.OnPanic(v)
	l.shared, l.spareOut = sse.SharedWrite{}, nil
	l.closeConn(c)
}
