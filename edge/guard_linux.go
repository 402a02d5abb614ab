package edge

// guard has a panic cost one reader of the loop and not the process: its connection is
// closed, and what the loop had under way for it is dropped. It is deferred by itself.
func (l *loop) guard(r *conn) {
	v := recover()
	if v == nil {
		return
	}
	_ = l.s.panics.Handle(caughtReader, v)
	l.step, l.room = step{}, nil
	l.gone(r)
}
