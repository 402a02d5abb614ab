package reactor

// deliver sends an idle reader its pending bytes and returns how many the socket accepted. Readers in
// equal states get the same bytes: see sse.SharedWrite.
func (l *loop) deliver(r *conn) (sent int) {
	c := &r.session
	if !l.shared.Covers(c) && !l.renderShared(r) {
		return l.advance(r)
	}
	sent, err := l.sendTo(r, l.shared.Bytes())
	if err != nil {
		l.closeConn(r)
		return 0
	}
	messages := l.shared.MarkWritten(c, sent, l.elapsed())
	if sent > 0 {
		l.uncountedMessages += messages
		l.uncountedBytes += sent
	}
	switch {
	case r.tls.hasOutput():
		l.markBlocked(r, true)
	case c.HasOutput():
		l.markBlocked(r, sent > 0)
	case !c.IsUpToDate(): // there is more, or the stream has ended
		sent += l.advance(r)
	}
	return sent
}

// renderShared renders the shared write for this reader's state. It returns false if there is
// nothing to share; the reader then continues by itself.
func (l *loop) renderShared(r *conn) bool {
	defer l.recoverConn(r)
	newest, ok := l.shared.Render(&r.session, l.elapsed(), l.cursor, &l.spareOut)
	l.newestTime = max(l.newestTime, newest)
	return ok
}

// endSharedWrite releases the shared write.
func (l *loop) endSharedWrite() { l.shared.End(l.cfg.Budget, &l.spareOut) }
