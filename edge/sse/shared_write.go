package sse

import (
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/shard"
)

// MaxSharedBytes bounds what is copied to be sent in one piece. For more bytes the system call
// dominates the cost, and sending pieces is as good.
const MaxSharedBytes = 64 << 10

// SharedWrite holds the output of one reader of a stream, and the states before and after it. Nearly
// all other readers are in the same state before: each gets the same bytes, in one piece, for one
// system call and nothing else. A reader that accepts only a part gets an OutputBuffer of its own.
// Its executor ends a SharedWrite with the turn in which it was rendered.
type SharedWrite struct {
	from, to readerState
	out      *OutputBuffer // the output, in pieces, and its frames; nil: there is no shared write
	bytes    []byte        // the same output in one piece
	messages uint32
}

// Covers reports whether what was rendered is what the reader is to get next.
func (w *SharedWrite) Covers(s *Session) bool {
	from, plain := s.sharedState()
	return plain && w.out != nil && w.from == from && !s.HasOutput()
}

// Render ends the SharedWrite, if the reader can share its output at all, and renders that reader's
// output, with the buffer in spare. newest is as in an Action. ok is false if there is nothing to
// share; the reader then continues by itself, with its output and the buffer.
func (w *SharedWrite) Render(s *Session, now Instant, cursor uint64, spare **OutputBuffer) (newest shard.Millis, ok bool) {
	from, plain := s.sharedState()
	if !plain || s.HasOutput() || from.status != stateIdle {
		return 0, false
	}
	w.End(s.frames.cache.budget, spare)
	s.LendBuffer(spare)
	a, _ := s.renderNews(now, cursor, TurnBytes)
	to, plain := s.sharedState()
	size := 0
	for _, b := range s.Pending() {
		size += len(b)
	}
	if size == 0 || size > MaxSharedBytes || !plain {
		return a.Newest, false
	}
	for _, b := range s.Pending() {
		w.bytes = append(w.bytes, b...)
	}
	w.from, w.to, w.out, s.out = from, to, s.out, nil
	w.messages, s.framedCount = s.framedCount, 0
	return a.Newest, true
}

// Bytes returns what is to be sent.
func (w *SharedWrite) Bytes() []byte { return w.bytes }

// MarkWritten records that n of the bytes are written to a reader that Covers has named: the reader
// has the state after them, and the rest as pending output. messages is how many are to be counted
// as delivered now; those of a reader that accepted nothing are counted by its session.
func (w *SharedWrite) MarkWritten(s *Session, n int, now Instant) (messages int) {
	s.setSharedState(w.to)
	if s.status == stateBehind {
		s.pauseUntil = now
	}
	if n < len(w.bytes) {
		s.out = w.out.clone(s.frames.cache.budget)
		s.MarkWritten(n, now)
	} else {
		s.activeAt = now
	}
	if n == 0 {
		s.framedCount += w.messages
		return 0
	}
	return int(w.messages)
}

// End releases what the SharedWrite holds, and its buffer into spare.
func (w *SharedWrite) End(budget *sendbudget.Budget, spare **OutputBuffer) {
	if w.out != nil && w.out.release(budget) {
		*spare = w.out
	}
	w.out, w.bytes = nil, w.bytes[:0]
}

// readerState holds everything that determines the next bytes of a reader that holds nothing
// back and reads the stream's own log. Equal states get equal bytes.
type readerState struct {
	pos                             shard.Pos
	minCursor                       uint64
	announced                       announcedOffset
	status                          state
	announcedAny, announcedUpToDate bool
	boundary                        textBoundary
	countsReaders                   bool
}

// sharedState returns the reader's state; false: the session has more state than a readerState.
func (s *Session) sharedState() (readerState, bool) {
	plain := len(s.position.Inherited) == 0 && len(s.heldMessages) == 0 && s.page == nil && s.lookBacks == 0 &&
		!s.fetching && s.leaving == 0 && s.departure.asked == 0
	return readerState{s.position.Pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary, s.countsReaders}, plain
}

// setSharedState moves the reader to the state that another reader has reached.
func (s *Session) setSharedState(to readerState) {
	s.position.Pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary = to.pos, to.minCursor, to.announced, to.status, to.announcedAny, to.announcedUpToDate, to.boundary
}
