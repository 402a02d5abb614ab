package sse

import (
	"cmp"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// Session is one SSE reader's position in a stream, its pending output, and what it has to do when.
// Its executor (a goroutine, or a loop for many readers) does what Next says and reports what came of
// it. Only the executor uses it.
type Session struct {
	frames    *FrameSet
	departure Departure

	position  position.Position // everything below it was read: it is framed, or in heldMessages
	announced announcedOffset   // the offset in the newest control event
	// heldMessages are messages of a text stream that end inside a character. They wait for
	// the rest, for MaxHeldTime at most, so that no event contains half a character.
	heldMessages []heldMessage

	minCursor uint64             // the smallest Stream-Cursor that the client may still get
	page      *shard.RecordBatch // fetched by the executor while the reader was behind
	out       *OutputBuffer      // nil: there is no pending output

	activeAt   Instant // when the client last accepted something
	pauseUntil Instant // a reader that is behind: when to fetch the page again; else: when to release heldMessages

	framedCount       uint32 // messages framed since the executor last counted
	gapCount          uint16 // RecordBatches that did not join the position; anything but 0 is a bug
	status            state
	leaving           EndReason    // the last output was rendered, after which the response ends; 0: it was not
	fetching          bool         // the executor has been told to fetch a page
	announcedAny      bool         // the output has had a control event
	announcedUpToDate bool         // the newest control event said "up to date"
	fromStart         bool         // began at the start of the stream: what was trimmed there is not missed
	lookBacks         uint8        // look-backs so far; see beginLookBack
	countsReaders     bool         // control events show the number of the stream's readers
	boundary          textBoundary // at the position; before heldMessages, if there are any
}

// announcedOffset is an offset: a position and its generation.
type announcedOffset struct {
	generation shard.Generation
	pos        shard.Pos
}

// state says what follows the output.
type state uint8

const (
	stateIdle   state = iota + 1 // news above the position
	stateBehind                  // the page that WantedPage names
	stateClosed                  // nothing: the end was announced
	stateGone                    // nothing: the generation is over
)

// Start says where a reader begins, and for how long it may stay.
type Start struct {
	At        position.Position
	FromStart bool   // At is the start of the stream: what was trimmed there is not missed
	MinCursor uint64 // the smallest Stream-Cursor that the client may get; 0: any
	Permit    Permit // nil: without an end
	// CountReaders: control events show the number of the stream's readers, where it is known.
	CountReaders bool
}

// NewSession returns the session of a reader of a tail buffer that begins now. Close ends it.
func NewSession(cache *FrameCache, rules *Rules, tail *shard.TailBuffer, form Framing, start Start, now Instant) Session {
	s := Session{
		frames: cache.openSet(tail, form), departure: NewDeparture(rules, start.Permit, now), position: start.At,
		fromStart: start.FromStart, minCursor: start.MinCursor, countsReaders: start.CountReaders, status: stateIdle, activeAt: now, pauseUntil: never,
	}
	s.announced = announcedOffset{s.generation(), start.At.Pos}
	if form == FramingText && !start.FromStart {
		s.boundary = textBoundary{kind: boundaryUnknown, skipBytes: characterRest}
	}
	return s
}

// Close releases what the session holds. It does not end the following of the tail buffer.
func (s *Session) Close() {
	s.releaseOutput()
	s.frames.close()
}

// Key names the readers that share frames with this one.
func (s *Session) Key() SetKey { return s.frames.key }

// tail returns the stream's newest records.
func (s *Session) tail() *shard.TailBuffer { return s.frames.key.Tail }

// Watch asks the tail buffer to wake w at news for the reader, once; false: there is news already.
func (s *Session) Watch(w shard.Waker) bool { return s.tail().Watch(w, s.position.Pos) }

// Unwatch undoes Watch.
func (s *Session) Unwatch(w shard.Waker) { s.tail().Unwatch(w) }

// TakeCounts returns how many messages were framed since the last call, and how many RecordBatches
// did not join the reader's position, which is a bug if it is not 0.
func (s *Session) TakeCounts() (messages, gaps int) {
	messages, gaps = int(s.framedCount), int(s.gapCount)
	s.framedCount, s.gapCount = 0, 0
	return messages, gaps
}

// LendBuffer gives a session that has no buffer the one in spare.
func (s *Session) LendBuffer(spare **OutputBuffer) {
	if s.out == nil {
		s.out, *spare = *spare, nil
	}
}

// ReclaimBuffer undoes LendBuffer if the session has no pending output.
func (s *Session) ReclaimBuffer(spare **OutputBuffer) {
	if !s.HasOutput() {
		*spare, s.out = cmp.Or(*spare, s.out), nil
	}
}

// generation returns the generation of the log in which the reader is.
func (s *Session) generation() shard.Generation {
	if len(s.position.Inherited) > 0 {
		return s.position.Inherited[0].Info.Generation
	}
	return s.tail().Generation()
}

// HasOutput reports whether output was rendered that is not written yet.
func (s *Session) HasOutput() bool { return s.out != nil && s.out.written < len(s.out.pending) }

// Pending returns the output that is not written yet.
func (s *Session) Pending() [][]byte {
	if !s.HasOutput() {
		return nil
	}
	return s.out.pending[s.out.written:]
}

// prepareBuffer makes sure that there is a buffer for output.
func (s *Session) prepareBuffer() {
	if s.out == nil {
		s.out = &OutputBuffer{}
	}
}

// IsUpToDate reports whether the reader was told everything that was read, and waits for news.
func (s *Session) IsUpToDate() bool { return s.announcedUpToDate && s.status == stateIdle }

// leaveReadSegments moves the reader from a segment that is read to its end to the next.
func (s *Session) leaveReadSegments() {
	if past := len(s.position.Inherited); past > 0 {
		s.position = s.position.SkipReadSegments(s.tail().Info().Start)
		if len(s.position.Inherited) < past && len(s.heldMessages) == 0 {
			s.announced = announcedOffset{s.generation(), s.position.Pos}
		}
	}
}

// MarkWritten records that the client has accepted n pending bytes, which are released immediately.
func (s *Session) MarkWritten(n int, now Instant) {
	if n > 0 {
		s.activeAt = now
	}
	o := s.out
	for n > 0 && s.HasOutput() {
		b := o.pending[o.written]
		if n < len(b) {
			o.pending[o.written] = b[n:]
			return
		}
		n -= len(b)
		o.pending[o.written] = nil
		o.written++
	}
	if !s.HasOutput() {
		s.releaseOutput()
	}
}

// MarkActive records that the client has accepted something now that MarkWritten was not told of, as
// bytes that were encrypted before.
func (s *Session) MarkActive(now Instant) { s.activeAt = now }

// releaseOutput releases the pending output, which was written or is not wanted any more. A small
// buffer is kept for the next output.
func (s *Session) releaseOutput() {
	if s.out != nil && !s.out.release(s.frames.cache.budget) {
		s.out = nil
	}
}
