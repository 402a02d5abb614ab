package sse

import (
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Readers that asked for the number of a stream's readers get it in each control event that says "up to
// date", and such an event in the place of a heartbeat's comment. Nothing is sent because the number has
// changed. What they get is a form of its own, shared by all of them: the number is looked up once a
// second at most. Readers that did not ask share the forms that a frame holds.

// readersUnknown is a number of readers that is not known, or not asked for.
const readersUnknown = -1

// readersFor is for how long a FrameSet uses a number of readers that it has looked up.
const readersFor = time.Second

// readersSample is a number of readers, and when it was looked up.
type readersSample struct {
	at      Instant
	readers int // may be readersUnknown
}

// CountReaders has the cache's sessions look up the number of a stream's readers by count, which any
// goroutine may call and which must not block; known: it knows the number. Call it before the first
// session.
func (c *FrameCache) CountReaders(count func(id shard.StreamID) (n int, known bool)) {
	c.countReaders = count
}

// readersAt returns the number of the stream's readers, at most readersFor old.
func (s *FrameSet) readersAt(now Instant) int {
	if last := s.readersSample.Load(); last != nil && now.Sub(last.at) < readersFor {
		return last.readers
	}
	sample := &readersSample{at: now, readers: readersUnknown}
	if s.cache.countReaders != nil {
		if n, known := s.cache.countReaders(s.key.Tail.Stream()); known {
			sample.readers = n
		}
	}
	s.readersSample.Store(sample)
	return sample.readers
}

// countedControl is a control event with the number of readers, and what it depends on.
type countedControl struct {
	generation shard.Generation
	pos        shard.Pos
	cursor     uint64
	at         streamEnd
	standalone bool // without a data event before it, and so with an id
	readers    int
}

// renderedControl is a countedControl with its bytes.
type renderedControl struct {
	countedControl
	b []byte
}

// renderCounted returns the bytes of a control event: the last ones that were asked for if it is the same.
func (s *FrameSet) renderCounted(c countedControl) []byte {
	if last := s.lastCounted.Load(); last != nil && last.countedControl == c {
		return last.b
	}
	b := appendControl(make([]byte, 0, 208), c.generation, c.pos, c.cursor, c.at, c.readers)
	if c.standalone {
		b = appendEventEnd(b, c.generation, c.pos)
	} else {
		b = append(b, "\n\n"...)
	}
	s.lastCounted.Store(&renderedControl{c, b})
	return b
}
