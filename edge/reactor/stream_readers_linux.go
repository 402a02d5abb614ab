package reactor

import (
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// streamReaders holds the readers of one TailBuffer in one framing.
type streamReaders struct {
	loop       *loop
	key        sse.SetKey
	readers    []*conn
	queued     bool       // in loop.withNews
	walked     int        // readers[:walked] were visited in this walk
	infoBefore shard.Info // at the beginning of this walk, which delivers at least that much
	ended      bool       // the generation had ended by then
}

// Wake implements shard.Waker. Any goroutine may call it; the loop delivers the news.
func (s *streamReaders) Wake() {
	l := s.loop
	l.mu.Lock()
	l.woken = append(l.woken, s)
	l.mu.Unlock()
	l.wake.Wake()
}

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

// hasNews reports whether there is news since the walk began. A reader that is still here after
// its stream has ended is blocked, or behind, and will notice the end by itself.
func (s *streamReaders) hasNews() bool {
	now := s.key.Tail.Info()
	return now.Tail > s.infoBefore.Tail || now.Closed != s.infoBefore.Closed || !s.ended && s.key.Tail.EndError() != nil
}

// remove removes a reader, and keeps the readers that this walk has visited before the others.
func (s *streamReaders) remove(c *conn) {
	i := int(c.groupIndex)
	put := func(j int) { // moves the reader at j to the free index i
		s.readers[i] = s.readers[j]
		s.readers[i].groupIndex = int32(i)
		i = j
	}
	if i < s.walked {
		s.walked--
		put(s.walked)
	}
	last := len(s.readers) - 1
	put(last)
	s.readers[last] = nil
	s.readers = s.readers[:last]
}
