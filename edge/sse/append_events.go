package sse

import "github.com/fantail-dev/fantail/shard"

// appendFrame adds the data event of f, after the control event of the frame before it.
func (s *Session) appendFrame(last, f *frame) *frame {
	if last != nil {
		s.out.pending = append(s.out.pending, s.controlEvent(last, endNotReached))
	}
	s.out.pending = append(s.out.pending, f.data)
	s.out.frames = append(s.out.frames, f)
	f.pin(s.frames.cache.budget)
	s.announced = announcedOffset{f.generation, f.nextPos}
	s.framedCount += uint32(f.messages)
	return f
}

// appendFinalControl adds the control event at the end of the output: after the last frame, or
// without a data event if the client does not know its offset or the end of the stream yet.
func (s *Session) appendFinalControl(last *frame, st shard.TailStatus, before shard.Info) {
	at := endNotReached
	switch {
	case st == shard.StatusClosed:
		at = endClosed
		s.status = stateClosed
	case st == shard.StatusTip && len(s.heldMessages) == 0:
		at = endUpToDate
	}
	if last != nil && at != endNotReached && last.generation != s.generation() {
		// The frame is of held messages of an earlier segment: the end gets a control event of its own.
		s.out.pending = append(s.out.pending, s.controlEvent(last, endNotReached))
		last, s.announcedUpToDate = nil, false
	}
	switch {
	case last != nil:
		s.out.pending = append(s.out.pending, s.controlEvent(last, at))
	case at == endClosed, at == endUpToDate && !s.announcedUpToDate, st == shard.StatusTip && !s.announcedAny:
		if len(s.heldMessages) == 0 {
			// All that was visible before the tail buffer was read lies below the position and is
			// announced. With a newer Info, a message that came since would count as announced.
			if m := (announcedOffset{s.generation(), min(before.Tail, s.position.Pos)}); m.generation != s.announced.generation || m.pos > s.announced.pos {
				s.announced = m
			}
		}
		s.out.pending = append(s.out.pending, s.controlEvent(nil, at))
	default:
		return
	}
	s.announcedAny, s.announcedUpToDate = true, at != endNotReached
}

// controlEvent returns the control event of f, or of the announced offset without a data event if f
// is nil. The client's cursor never decreases.
func (s *Session) controlEvent(f *frame, at streamEnd) (b []byte) {
	if s.out.readers != readersUnknown && at != endNotReached {
		c := countedControl{s.announced.generation, s.announced.pos, 0, at, f == nil, s.out.readers}
		if f != nil {
			c.generation, c.pos = f.generation, f.nextPos
		}
		if at != endClosed {
			s.minCursor = max(s.minCursor, s.out.cursor)
			c.cursor = s.minCursor
		}
		return s.frames.renderCounted(c)
	}
	if f == nil {
		s.minCursor = max(s.minCursor, s.out.cursor)
		return renderStandaloneControl(s.announced.generation, s.announced.pos, s.minCursor, at)
	}
	b, s.minCursor = f.controlEvent(at, s.minCursor, s.out.cursor)
	return b
}
