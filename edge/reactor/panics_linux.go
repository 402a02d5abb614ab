package reactor

import "github.com/fantail-dev/fantail/edge/sse"

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
