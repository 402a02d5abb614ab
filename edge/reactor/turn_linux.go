package reactor

// runTurn serves unfinished readers, and some readers of the stream that has waited longest; more
// reports whether there is more to do.
func (l *loop) runTurn() (more bool) {
	if n := min(len(l.unfinished), maxTurnReaders); n > 0 {
		turn := l.unfinished[:n]
		if l.unfinished = l.unfinished[n:]; len(l.unfinished) == 0 {
			l.unfinished = nil
		}
		for _, f := range turn {
			if c := l.conns.lookup(f); c != nil {
				c.queued = false
				if c.state == connIdle {
					l.advance(c)
				}
			}
		}
	}
	if len(l.withNews) > 0 {
		group := l.withNews[0]
		if l.withNews = l.withNews[1:]; len(l.withNews) == 0 {
			l.withNews = nil
		}
		group.queued = false
		if l.deliverToStream(group) {
			l.queueStream(group)
		}
	}
	if l.uncountedBytes > 0 {
		l.cfg.Metrics.CountDelivered(l.uncountedMessages, l.uncountedBytes)
		l.uncountedBytes, l.uncountedMessages = 0, 0
	}
	if l.newestTime > 0 {
		l.cfg.Metrics.ObserveDelivery(l.newestTime)
		l.newestTime = 0
	}
	return len(l.unfinished) > 0 || len(l.withNews) > 0
}

// deliverToStream delivers to some readers of a stream with news; more reports whether some are left.
func (l *loop) deliverToStream(group *streamReaders) (more bool) {
	if tail := group.key.Tail; group.walked == 0 {
		group.ended = tail.EndError() != nil
		group.infoBefore = tail.Info()
	}
	defer l.endSharedWrite()
	for n, sent := 0, 0; group.walked < len(group.readers); n++ {
		if n == maxTurnReaders || sent >= maxTurnBytes {
			return true
		}
		c := group.readers[group.walked]
		group.walked++
		if c.state == connIdle && !c.session.IsFetching() {
			sent += l.deliver(c)
		}
	}
	group.walked = 0
	return len(group.readers) > 0 && !group.key.Tail.Watch(group, group.infoBefore.Tail) && group.hasNews()
}

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
