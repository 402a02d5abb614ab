package edge

// recoverConn has a panic cost one reader of the loop and not the process: its connection is
// closed, and what the loop had under way for it is dropped. It is deferred by itself.
func (l *loop) recoverConn(r *conn) {
	v := recover()
	if v == nil {
		return
	}
	_ = l.server.panics.Handle(caughtReader, v)
	l.shared, l.spareOut = sharedWrite{}, nil
	l.closeConn(r)
}
