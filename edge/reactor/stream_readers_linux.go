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
func (ch *streamReaders) Wake() {
	l := ch.loop
	l.mu.Lock()
	l.woken = append(l.woken, ch)
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
			if r := l.conns.lookup(f); r != nil {
				r.queued = false
				if r.state == connIdle {
					l.advance(r)
				}
			}
		}
	}
	if len(l.withNews) > 0 {
		ch := l.withNews[0]
		if l.withNews = l.withNews[1:]; len(l.withNews) == 0 {
			l.withNews = nil
		}
		ch.queued = false
		if l.deliverToStream(ch) {
			l.queueStream(ch)
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
func (l *loop) deliverToStream(ch *streamReaders) (more bool) {
	if tail := ch.key.Tail; ch.walked == 0 {
		ch.ended = tail.EndError() != nil
		ch.infoBefore = tail.Info()
	}
	defer l.endSharedWrite()
	for n, sent := 0, 0; ch.walked < len(ch.readers); n++ {
		if n == maxTurnReaders || sent >= maxTurnBytes {
			return true
		}
		r := ch.readers[ch.walked]
		ch.walked++
		if r.state == connIdle && !r.session.IsFetching() {
			sent += l.deliver(r)
		}
	}
	ch.walked = 0
	return len(ch.readers) > 0 && !ch.key.Tail.Watch(ch, ch.infoBefore.Tail) && ch.hasNews()
}

// hasNews reports whether there is news since the walk began. A reader that is still here after
// its stream has ended is blocked, or behind, and will notice the end by itself.
func (ch *streamReaders) hasNews() bool {
	now := ch.key.Tail.Info()
	return now.Tail > ch.infoBefore.Tail || now.Closed != ch.infoBefore.Closed || !ch.ended && ch.key.Tail.EndError() != nil
}

// remove removes a reader, and keeps the readers that this walk has visited before the others.
func (ch *streamReaders) remove(r *conn) {
	i := int(r.groupIndex)
	put := func(j int) { // moves the reader at j to the free index i
		ch.readers[i] = ch.readers[j]
		ch.readers[i].groupIndex = int32(i)
		i = j
	}
	if i < ch.walked {
		ch.walked--
		put(ch.walked)
	}
	last := len(ch.readers) - 1
	put(last)
	ch.readers[last] = nil
	ch.readers = ch.readers[:last]
}
