package sse

import (
	"cmp"
	"errors"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sendbudget"
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
	boundary          textBoundary // at the position; before heldMessages, if there are any
}

// OutputBuffer holds the output that is pending for a reader. An executor of many sessions may
// lend one to each in turn (LendBuffer, ReclaimBuffer).
type OutputBuffer struct {
	pending [][]byte
	written int      // how many of pending are written
	cursor  uint64   // the Stream-Cursor of the moment of rendering
	frames  []*frame // the frames with data in pending
	batches []shard.RecordBatch
}

// announcedOffset is an offset: a position and its generation.
type announcedOffset struct {
	generation shard.Generation
	pos        shard.Pos
}

// heldMessage is a message with the generation of its position: a character may be split at the
// position where a stream was forked.
type heldMessage struct {
	shard.Message
	generation shard.Generation
}

// state says what follows the output.
type state uint8

const (
	stateIdle   state = iota + 1 // news above the position
	stateBehind                  // the page that WantedPage names
	stateClosed                  // nothing: the end was announced
	stateGone                    // nothing: the generation is over
)

// Held messages are released when the rest of the character has not come for MaxHeldTime, or when
// they are more than one message and more than maxHeldBytes: a writer may have died inside a
// character, and text that is not UTF-8 may look the same. The half is then shown as U+FFFD, and the
// reader continues at the next character. So of broken text two readers may see two versions;
// catch-up is exact.
const (
	maxHeldBytes = 256 << 10
	MaxHeldTime  = time.Second
)

// TurnBytes is about how many bytes one turn of a reader writes.
const TurnBytes = 256 << 10

// Start says where a reader begins, and for how long it may stay.
type Start struct {
	At        position.Position
	FromStart bool   // At is the start of the stream: what was trimmed there is not missed
	MinCursor uint64 // the smallest Stream-Cursor that the client may get; 0: any
	Permit    Permit // nil: without an end
}

// NewSession returns the session of a reader of a TailBuffer that begins now. Close ends it.
func NewSession(cache *FrameCache, rules *Rules, tail *shard.TailBuffer, form Framing, start Start, now Instant) Session {
	s := Session{
		frames: cache.openSet(tail, form), departure: NewDeparture(rules, start.Permit, now), position: start.At,
		fromStart: start.FromStart, minCursor: start.MinCursor, status: stateIdle, activeAt: now, pauseUntil: never,
	}
	s.announced = announcedOffset{s.generation(), start.At.Pos}
	if form == FramingText && !start.FromStart {
		s.boundary = textBoundary{kind: boundaryUnknown, skipBytes: characterRest}
	}
	return s
}

// Close releases what the session holds. It does not end the following of the TailBuffer.
func (s *Session) Close() {
	s.releaseOutput()
	s.frames.close()
}

// Key names the readers that share frames with this one.
func (s *Session) Key() SetKey { return s.frames.key }

// tail returns the stream's newest records.
func (s *Session) tail() *shard.TailBuffer { return s.frames.key.Tail }

// Watch asks the TailBuffer to wake w at news for the reader, once; false: there is news already.
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

// WantedPage returns the segment and the position of the page that the reader needs.
func (s *Session) WantedPage() (position.Segment, shard.Pos) {
	if s.lookBacks == 0 {
		return s.position.CurrentSegment(s.tail().Stream(), s.tail().Info()), s.position.Pos
	}
	seg, end, _ := s.segmentBefore()
	return seg, max(seg.Info.Start, end-min(end, 1<<(s.lookBacks-1)))
}

// segmentBefore returns the segment that holds what precedes the reader's position, and where that
// ends in it; false: the stream begins here.
func (s *Session) segmentBefore() (seg position.Segment, end shard.Pos, ok bool) {
	info := s.tail().Info()
	all := position.InheritedSegments(info)
	seg, end = s.position.CurrentSegment(s.tail().Stream(), info), s.position.Pos
	for i := len(all) - len(s.position.Inherited) - 1; end <= seg.Info.Start; i-- {
		if i < 0 {
			return seg, end, false
		}
		seg, end = all[i], all[i].Info.Tail
	}
	return seg, end, true
}

// maxLookBacks bounds how often a reader looks for what precedes its position, each time from twice
// as far below: the largest message has some twenty records.
const maxLookBacks = 7

// beginLookBack asks the executor for the page before the position, or finds that there is none.
func (s *Session) beginLookBack() {
	if _, _, ok := s.segmentBefore(); !ok || s.lookBacks == maxLookBacks {
		s.endLookBack()
		return
	}
	s.lookBacks++
	s.status = stateBehind
}

// finishLookBack reads the boundary from the page that beginLookBack asked for.
func (s *Session) finishLookBack(r shard.RecordBatch) {
	_, end, _ := s.segmentBefore()
	if r.IsZero() || r.To() < end {
		return
	}
	for i := r.Search(end) - 1; i >= 0; i-- {
		if b := r.Message(i).Body; len(b) > 0 {
			s.lookBacks, s.boundary = 0, textBoundary{}.after(b, 0)
			return
		}
	}
}

// endLookBack notes that nothing that matters precedes the position, or that it is not kept.
func (s *Session) endLookBack() {
	s.lookBacks, s.boundary = 0, textBoundary{skipBytes: s.boundary.skipBytes}
}

// heldUpTo identifies the held messages by the position after them; 0: there are none.
func (s *Session) heldUpTo() shard.Pos {
	if len(s.heldMessages) == 0 {
		return 0
	}
	return s.heldMessages[len(s.heldMessages)-1].Next
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

// render adds what the reader gets next to the output: whole events, at least one if there is any,
// and more of them up to about budget bytes of messages. It adds nothing if something else must
// happen first, which status then says. There is a buffer.
func (s *Session) render(now Instant, cursor uint64, budget int) {
	held := s.heldUpTo()
	late := held != 0 && now >= s.pauseUntil
	s.out.cursor = cursor
	s.renderBatches(budget, late)
	switch {
	case s.status == stateBehind:
		s.pauseUntil = now
	case late, s.heldUpTo() != held:
		s.pauseUntil = now.Add(MaxHeldTime)
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

// readerState holds everything that determines the next bytes of a reader that holds nothing
// back and reads the stream's own log. Equal states get equal bytes.
type readerState struct {
	pos                             shard.Pos
	minCursor                       uint64
	announced                       announcedOffset
	status                          state
	announcedAny, announcedUpToDate bool
	boundary                        textBoundary
}

// sharedState returns the reader's state; false: the session has more state than a readerState.
func (s *Session) sharedState() (readerState, bool) {
	plain := len(s.position.Inherited) == 0 && len(s.heldMessages) == 0 && s.page == nil && s.lookBacks == 0 &&
		!s.fetching && s.leaving == 0 && s.departure.asked == 0
	return readerState{s.position.Pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary}, plain
}

// IsUpToDate reports whether the reader was told everything that was read, and waits for news.
func (s *Session) IsUpToDate() bool { return s.announcedUpToDate && s.status == stateIdle }

// setSharedState moves the reader to the state that another reader has reached.
func (s *Session) setSharedState(to readerState) {
	s.position.Pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary = to.pos, to.minCursor, to.announced, to.status, to.announcedAny, to.announcedUpToDate, to.boundary
}

// AcceptPage takes the page that Next asked for, or the error with which it could not be read. It
// returns the error if the reader cannot continue without the page, and its response is to end.
func (s *Session) AcceptPage(r shard.RecordBatch, err error, now Instant) error {
	s.fetching = false
	var trimmed *shard.TrimmedError
	switch {
	case errors.As(err, &trimmed) && s.lookBacks > 0:
		s.endLookBack()
		s.status = stateIdle
	case errors.As(err, &trimmed) && s.fromStart && trimmed.First > s.position.Pos && s.skipToKept(trimmed.First):
	case err != nil && s.departure.rules.isTemporary(err): // storage has the page, and does not answer
		retry := s.departure.rules.PageRetry
		s.pauseUntil = now.Add(retry/2 + s.departure.rules.random(retry))
		return nil
	case err != nil:
		s.EndNow()
		return err
	case !s.acceptPage(r):
		s.EndNow()
		return errPageGap
	default:
		s.fromStart = false
	}
	s.pauseUntil = now.Add(MaxHeldTime) // if something is held
	return nil
}

// errPageGap means that a page does not hold the position for which it was requested. The reader
// is disconnected rather than sent past a hole.
var errPageGap = errors.New("page does not join")

// acceptPage accepts a page; false: it does not contain the reader's position.
func (s *Session) acceptPage(r shard.RecordBatch) bool {
	if s.lookBacks > 0 {
		s.finishLookBack(r)
		s.status = stateIdle
		return true
	}
	if r.IsZero() || r.From() > s.position.Pos || r.To() <= s.position.Pos {
		s.gapCount++
		return false
	}
	s.page = &r
	s.status = stateIdle
	return true
}

// skipToKept moves a reader that began at the start to the first position that is kept. It returns
// false if the reader has received or holds something, because it would miss what comes next.
func (s *Session) skipToKept(pos shard.Pos) bool {
	if s.announcedAny || len(s.heldMessages) > 0 {
		return false
	}
	s.position.Pos = max(s.position.Pos, pos)
	s.boundary = textBoundary{skipBytes: characterRest}
	s.leaveReadSegments()
	s.announced = announcedOffset{s.generation(), s.position.Pos}
	s.status = stateIdle
	return true
}

// leaveReadSegments moves the reader from a segment that is read to its end to the next.
func (s *Session) leaveReadSegments() {
	if past := len(s.position.Inherited); past > 0 {
		s.position = s.position.SkipReadSegments(s.tail().Info().Start)
		if len(s.position.Inherited) < past && len(s.heldMessages) == 0 {
			s.announced = announcedOffset{s.generation(), s.position.Pos}
		}
	}
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

// frameHeld adds held messages to the output, as a frame of the reader's own, up to the last message
// that does not end inside a character; all: up to the last message.
func (s *Session) frameHeld(last *frame, all bool) *frame {
	n := len(s.heldMessages)
	if s.frames.key.Framing == FramingText && !all {
		for n > 0 && endInsideCharacter(s.heldMessages[:n]) {
			n--
		}
	}
	bodies, size := make([][]byte, len(s.heldMessages)), 0
	for i, m := range s.heldMessages {
		bodies[i] = m.Body
		size += len(m.Body)
	}
	if n == 0 && len(s.heldMessages) > 1 && size > maxHeldBytes {
		n = len(s.heldMessages)
	}
	if n == 0 {
		return last
	}
	bodies = bodies[:n]
	if s.frames.key.Framing == FramingText {
		var text []byte
		text, s.boundary = joinText(bodies, s.boundary)
		bodies = [][]byte{text}
	}
	f := newFrame(s.frames.key.Framing, s.heldMessages[n-1].generation, s.heldMessages[n-1].Next, s.out.cursor, bodies)
	f.messages = n
	s.heldMessages = append([]heldMessage(nil), s.heldMessages[n:]...)
	return s.appendFrame(last, f)
}

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

// newestTime returns S2's time (ms) of the newest message in the buffer; 0: it comes from history, or
// its time is not known, or there is none.
func (o *OutputBuffer) newestTime() shard.Millis {
	if o == nil || len(o.frames) == 0 {
		return 0
	}
	return o.frames[len(o.frames)-1].storedAt
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
			// All that was visible before the TailBuffer was read lies below the position and is
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
	if f == nil {
		s.minCursor = max(s.minCursor, s.out.cursor)
		return renderStandaloneControl(s.announced.generation, s.announced.pos, s.minCursor, at)
	}
	b, s.minCursor = f.controlEvent(at, s.minCursor, s.out.cursor)
	return b
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

// release releases what the buffer holds; false: the buffer is not worth keeping.
func (o *OutputBuffer) release(p *sendbudget.Budget) bool {
	for _, f := range o.frames {
		f.unpin(p)
	}
	clear(o.pending)
	clear(o.frames)
	o.pending, o.frames, o.written = o.pending[:0], o.frames[:0], 0
	return cap(o.pending) <= maxKeptBuffers
}

// clone returns a buffer with the same output, of which nothing is written yet.
func (o *OutputBuffer) clone(p *sendbudget.Budget) *OutputBuffer {
	for _, f := range o.frames {
		f.pin(p)
	}
	return &OutputBuffer{pending: slices.Clone(o.pending), frames: slices.Clone(o.frames)}
}

// maxKeptBuffers bounds the slices of an OutputBuffer that is kept.
const maxKeptBuffers = 64
