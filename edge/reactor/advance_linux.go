package reactor

import (
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// advance does what the session of a reader says, as far as its connection accepts output and its
// turn goes. It returns how many bytes were accepted.
func (l *loop) advance(c *conn) (sent int) {
	defer l.recoverConn(c)
	s := &c.session
	if c.tls.hasOutput() && !l.flushBlockedTLS(c) {
		return 0
	}
	s.LendBuffer(&l.spareOut)
	defer s.ReclaimBuffer(&l.spareOut)
	for c.state != connClosed {
		switch a := s.Next(l.elapsed(), l.cursor, sse.TurnBytes); a.Do {
		case sse.Write:
			n, all := l.writeAction(c, a)
			if sent += n; !all {
				return sent
			}
			if sent >= sse.TurnBytes {
				if !c.queued {
					c.queued = true
					l.unfinished = append(l.unfinished, c.connRef)
				}
				return sent
			}
		case sse.Fetch:
			l.pageQueue = append(l.pageQueue, c.connRef)
			l.fetchPages()
		case sse.End:
			l.endResponse(c)
			return sent
		default:
			l.schedule(c, a)
			return sent
		}
	}
	return sent
}

// fetchPages reads pages for readers below their tail buffer, on goroutines of their own.
func (l *loop) fetchPages() {
	for l.pageReads < maxPageReads && len(l.pageQueue) > 0 {
		c := l.conns.lookup(l.pageQueue[0])
		if l.pageQueue = l.pageQueue[1:]; len(l.pageQueue) == 0 {
			l.pageQueue = nil
		}
		if c == nil || !c.session.IsFetching() {
			continue
		}
		l.pageReads++
		ref := c.connRef
		segment, pos := c.session.WantedPage()
		l.wg.Go(func() {
			page, err := l.cfg.ReadPage(l.ctx, segment, pos)
			l.post(func() {
				l.pageReads--
				l.acceptPage(ref, page, err)
				l.fetchPages()
			}, nil)
		})
	}
}

// acceptPage hands a page, or the error, to the reader that waited for it. A reader that is blocked
// meanwhile, by a heartbeat, goes on once it is not.
func (l *loop) acceptPage(ref connRef, page shard.RecordBatch, err error) {
	c := l.conns.lookup(ref)
	if c == nil || c.state == connEnding || !c.session.IsFetching() {
		return
	}
	defer l.recoverConn(c)
	switch err := c.session.AcceptPage(page, err, l.elapsed()); {
	case err != nil:
		l.endResponse(c)
	case c.state == connIdle:
		l.advance(c)
	}
}
