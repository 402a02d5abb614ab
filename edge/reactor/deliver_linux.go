package reactor

// deliver sends an idle reader its pending bytes and returns how many the socket accepted. Readers in
// equal states get the same bytes: see sse.SharedWrite.
func (l *loop) deliver(c *conn) (sent int) {
	s := &c.session
	if !l.shared.Covers(s) && !l.renderShared(c) {
		return l.advance(c)
	}
	sent, err := l.sendTo(c, l.shared.Bytes())
	if err != nil {
		l.closeConn(c)
		return 0
	}
	messages := l.shared.MarkWritten(s, sent, l.elapsed())
	if sent > 0 {
		l.uncountedMessages += messages
		l.uncountedBytes += sent
	}
	switch {
	case c.tls.hasOutput():
		l.markBlocked(c, true)
	case s.HasOutput():
		l.markBlocked(c, sent > 0)
	case !s.IsUpToDate(): // there is more, or the stream has ended
		sent += l.advance(c)
	}
	return sent
}

// renderShared renders the shared write for this reader's state. It returns false if there is
// nothing to share; the reader then continues by itself.
func (l *loop) renderShared(c *conn) bool {
	defer l.recoverConn(c)
	newest, ok := l.shared.Render(&c.session, l.elapsed(), l.cursor, &l.spareOut)
	l.newestTime = max(l.newestTime, newest)
	return ok
}

// endSharedWrite releases the shared write.
func (l *loop) endSharedWrite() { l.shared.End(l.cfg.Budget, &l.spareOut) }
