package sse

import "github.com/fantail-dev/fantail/shard"

// render adds what the reader gets next to the output: whole events, at least one if there is any,
// and more of them up to about budget bytes of messages. It adds nothing if something else must
// happen first, which status then says. There is a buffer.
func (s *Session) render(now Instant, cursor uint64, budget int) {
	held := s.heldUpTo()
	late := held != 0 && now >= s.pauseUntil
	s.out.cursor = cursor
	s.prepareCount(now)
	s.renderBatches(budget, late)
	switch {
	case s.status == stateBehind:
		s.pauseUntil = now
	case late, s.heldUpTo() != held:
		s.pauseUntil = now.Add(MaxHeldTime)
	}
}

// prepareCount has the output that is rendered next show the number of readers, if the reader asked
// for it. There is a buffer.
func (s *Session) prepareCount(now Instant) {
	s.out.readers = readersUnknown
	if s.countsReaders {
		s.out.readers = s.frames.readersAt(now)
	}
}

// renderBatches does that; late: held messages have waited for long enough.
func (s *Session) renderBatches(budget int, late bool) {
	before := s.tail().Info()
	batches, paged, st := s.readBatches(budget)
	switch st {
	case shard.StatusGone:
		s.status = stateGone
		return
	case shard.StatusBelow:
		s.status = stateBehind
		return
	}
	s.status = stateIdle
	last, joined := s.frameBatches(batches, paged)
	if !joined {
		st = shard.StatusMore
	}
	if st == shard.StatusClosed || late && len(batches) == 0 {
		last = s.frameHeld(last, true)
	}
	s.appendFinalControl(last, st, before)
	clear(batches) // an idle session keeps no RecordBatch alive
}

// readBatches returns the RecordBatches to frame next, and what follows them.
func (s *Session) readBatches(budget int) (batches []shard.RecordBatch, paged bool, st shard.TailStatus) {
	past, into := len(s.position.Inherited) > 0, &s.out.batches
	switch {
	case s.page == nil && past && s.tail().EndError() == nil:
		return nil, false, shard.StatusBelow
	case s.page == nil:
		*into, st = s.tail().ReadAt(s.position.Pos, budget, (*into)[:0])
		return *into, false, st
	}
	r := *s.page
	s.page = nil
	*into = append((*into)[:0], r)
	info := s.tail().Info()
	switch {
	case s.tail().EndError() != nil:
		st = shard.StatusGone
	case past || r.To() < info.Tail:
		st = shard.StatusMore
	case info.Closed:
		st = shard.StatusClosed
	default:
		st = shard.StatusTip
	}
	return *into, true, st
}

// frameBatches adds the messages of batches to the output, each data event but the last with
// its control event. It returns the last frame, nil if there was none. joined is
// false if a RecordBatch did not join the position: the reader then needs what lies
// before it, and nothing beyond was added.
func (s *Session) frameBatches(batches []shard.RecordBatch, paged bool) (last *frame, joined bool) {
	for _, r := range batches {
		if r.From() > s.position.Pos {
			s.gapCount++
			s.status = stateBehind
			return last, false
		}
		if r.To() <= s.position.Pos {
			continue
		}
		first := r.Search(s.position.Pos)
		if first == r.Len() {
			s.position.Pos = r.To()
			continue
		}
		shared, ok := s.canShareFrame(r, first)
		if !ok {
			if paged {
				kept := r
				s.page = &kept
			}
			return last, false
		}
		s.position.Pos = r.To()
		if shared {
			last = s.appendFrame(last, s.frames.frameFor(r, first, s.generation(), paged, s.out.cursor))
			continue
		}
		for i := first; i < r.Len(); i++ {
			s.heldMessages = append(s.heldMessages, heldMessage{r.Message(i), s.generation()})
		}
		last = s.frameHeld(last, false)
	}
	s.leaveReadSegments()
	return last, true
}

// canShareFrame reports whether the reader gets the messages of the RecordBatch from first on
// unchanged. If not, it needs a frame of its own: they end inside a character, or begin with
// bytes that were shown already. ok is false if the reader has to look back first.
func (s *Session) canShareFrame(r shard.RecordBatch, first int) (shared, ok bool) {
	if s.frames.key.Framing != FramingText {
		return true, true
	}
	if len(s.heldMessages) > 0 {
		return false, true
	}
	text := r.Bodies(first, r.Len())
	skips, known := s.boundary.bytesToSkip(text)
	if !known {
		if s.beginLookBack(); s.lookBacks > 0 {
			return false, false
		}
	}
	if cut, _ := unfinishedCharacter(text); cut > 0 || skips > 0 {
		return false, true
	}
	s.boundary = s.boundary.after(text, 0)
	return true, true
}

// TurnBytes is about how many bytes one turn of a reader writes.
const TurnBytes = 256 << 10
