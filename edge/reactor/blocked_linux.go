package reactor

import (
	"time"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/sse"
)

// markBlocked notes that the connection accepts no more for now. progress: it has just accepted something.
func (l *loop) markBlocked(c *conn, progress bool) {
	if c.state != connBlocked {
		c.state = connBlocked
		l.blocked[c] = netconn.BytesAcked(int(c.fd))
		l.cfg.Budget.AddReader(c)
		progress = true
	}
	if progress {
		c.blockedSince.Store(int64(l.elapsed()) + 1)
	}
	if !c.wantsWritable {
		if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, c, true); err != nil {
			l.closeConn(c)
		}
	}
}

// hasProgress reports whether the client has acknowledged something since the last check. The
// connection itself accepts more only once little is left to send, so acceptance is too rare a sign.
func (l *loop) hasProgress(c *conn) bool {
	n := netconn.BytesAcked(int(c.fd))
	if n <= l.blocked[c] {
		return false
	}
	l.blocked[c] = n
	c.blockedSince.Store(int64(l.elapsed()) + 1)
	return true
}

func (l *loop) markUnblocked(c *conn) {
	if c.state != connBlocked {
		return
	}
	c.state = connIdle
	c.blockedSince.Store(0)
	delete(l.blocked, c)
	l.cfg.Budget.RemoveReader(c)
	if c.wantsWritable {
		if err := l.setEpollEvents(unix.EPOLL_CTL_MOD, c, false); err != nil {
			l.closeConn(c)
		}
	}
}

// BlockedFor returns for how long the connection has accepted nothing. With Disconnect it
// implements sendbudget.Evictable.
func (c *conn) BlockedFor(now time.Time) time.Duration {
	if at := c.blockedSince.Load(); at != 0 {
		return c.group.loop.cfg.Rules.At(now).Sub(sse.Instant(at))
	}
	return 0
}

func (c *conn) Disconnect() {
	c.blockedSince.Store(0) // so that it is disconnected once only, unless it makes progress
	l, ref := c.group.loop, c.connRef
	l.post(func() {
		if c := l.conns.lookup(ref); c != nil && c.state == connBlocked && c.blockedSince.Load() == 0 && !l.hasProgress(c) {
			l.cfg.Metrics.CountDisconnected(sse.EndMemory)
			l.closeConn(c)
		}
	}, nil)
}
