package edge

import "github.com/fantail-dev/fantail/shard"

// channel is the readers of one Tail in one framing.
type channel struct {
	l       *loop
	key     frameKey
	readers []*conn
	listed  bool       // in dirty
	walked  int        // readers[:walked] were looked at in this walk
	before  shard.Info // at its beginning: what it brings at least
	ended   bool       // this life was over by then
}

// Wake implements shard.Waker.
func (ch *channel) Wake() {
	l := ch.l
	l.mu.Lock()
	l.woken = append(l.woken, ch)
	l.mu.Unlock()
	l.wake.Wake()
}

// work is one turn: some readers of the stream that has waited longest. more: there is
// more to do.
func (l *loop) work() (more bool) {
	if n := min(len(l.again), turnReaders); n > 0 {
		turn := l.again[:n]
		if l.again = l.again[n:]; len(l.again) == 0 {
			l.again = nil
		}
		for _, f := range turn {
			if r := l.seats.lookup(f); r != nil {
				r.queued = false
				if r.state == connIdle {
					l.pump(r)
				}
			}
		}
	}
	if len(l.dirty) > 0 {
		ch := l.dirty[0]
		if l.dirty = l.dirty[1:]; len(l.dirty) == 0 {
			l.dirty = nil
		}
		ch.listed = false
		if l.walk(ch) {
			l.list(ch)
		}
	}
	if l.sent > 0 {
		l.s.m.delivered.Add(float64(l.sent))
		l.s.m.deliveries.Add(float64(l.delivered))
		l.sent, l.delivered = 0, 0
	}
	if l.newest > 0 {
		l.s.m.observeDelivery(l.newest)
		l.newest = 0
	}
	return len(l.again) > 0 || len(l.dirty) > 0
}

// walk looks at some readers of a stream with news; more: not at all of them yet.
func (l *loop) walk(ch *channel) (more bool) {
	if tail := ch.key.tail; ch.walked == 0 {
		ch.ended = tail.EndError() != nil
		ch.before = tail.Info()
	}
	defer l.endStep()
	for n, sent := 0, 0; ch.walked < len(ch.readers); n++ {
		if n == turnReaders || sent >= turnBytes {
			return true
		}
		r := ch.readers[ch.walked]
		ch.walked++
		if r.state == connIdle {
			sent += l.deliver(r)
		}
	}
	ch.walked = 0
	return len(ch.readers) > 0 && !ch.key.tail.Watch(ch, ch.before.Tail) && ch.news()
}

// news reports whether there has been any since the walk began. Who is still here at the
// end of a stream is stuck, or behind, and finds it out in time.
func (ch *channel) news() bool {
	now := ch.key.tail.Info()
	return now.Tail > ch.before.Tail || now.Closed != ch.before.Closed || !ch.ended && ch.key.tail.EndError() != nil
}

// remove keeps apart who was looked at in this walk, and who was not.
func (ch *channel) remove(r *conn) {
	i := int(r.at)
	put := func(j int) { // moves the reader at j to i, which is free
		ch.readers[i] = ch.readers[j]
		ch.readers[i].at = int32(i)
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
