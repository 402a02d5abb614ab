package reactor

import (
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// streamReaders holds the readers of one tail buffer in one framing.
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

// hasNews reports whether the stream has news since the walk began. Its end is news once: a
// reader that stays after that is blocked or behind, and notices the end when it reaches it.
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
