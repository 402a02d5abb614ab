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
	c := Session{
		frames: cache.openSet(tail, form), departure: NewDeparture(rules, start.Permit, now), position: start.At,
		fromStart: start.FromStart, minCursor: start.MinCursor, status: stateIdle, activeAt: now, pauseUntil: never,
	}
	c.announced = announcedOffset{c.generation(), start.At.Pos}
	if form == FramingText && !start.FromStart {
		c.boundary = textBoundary{kind: boundaryUnknown, skipBytes: characterRest}
	}
	return c
}

// Close releases what the session holds. It does not end the following of the TailBuffer.
func (c *Session) Close() {
	c.releaseOutput()
	c.frames.close()
}

// Key names the readers that share frames with this one.
func (c *Session) Key() SetKey { return c.frames.key }

// tail returns the stream's newest records.
func (c *Session) tail() *shard.TailBuffer { return c.frames.key.Tail }

// Watch asks the TailBuffer to wake w at news for the reader, once; false: there is news already.
func (c *Session) Watch(w shard.Waker) bool { return c.tail().Watch(w, c.position.Pos) }

// Unwatch undoes Watch.
func (c *Session) Unwatch(w shard.Waker) { c.tail().Unwatch(w) }

// TakeCounts returns how many messages were framed since the last call, and how many RecordBatches
// did not join the reader's position, which is a bug if it is not 0.
func (c *Session) TakeCounts() (messages, gaps int) {
	messages, gaps = int(c.framedCount), int(c.gapCount)
	c.framedCount, c.gapCount = 0, 0
	return messages, gaps
}

// LendBuffer gives a session that has no buffer the one in spare.
func (c *Session) LendBuffer(spare **OutputBuffer) {
	if c.out == nil {
		c.out, *spare = *spare, nil
	}
}

// ReclaimBuffer undoes LendBuffer if the session has no pending output.
func (c *Session) ReclaimBuffer(spare **OutputBuffer) {
	if !c.HasOutput() {
		*spare, c.out = cmp.Or(*spare, c.out), nil
	}
}

// generation returns the generation of the log in which the reader is.
func (c *Session) generation() shard.Generation {
	if len(c.position.Inherited) > 0 {
		return c.position.Inherited[0].Info.Generation
	}
	return c.tail().Generation()
}

// WantedPage returns the segment and the position of the page that the reader needs.
func (c *Session) WantedPage() (position.Segment, shard.Pos) {
	if c.lookBacks == 0 {
		return c.position.CurrentSegment(c.tail().Stream(), c.tail().Info()), c.position.Pos
	}
	l, end, _ := c.segmentBefore()
	return l, max(l.Info.Start, end-min(end, 1<<(c.lookBacks-1)))
}

// segmentBefore returns the segment that holds what precedes the reader's position, and where that
// ends in it; false: the stream begins here.
func (c *Session) segmentBefore() (l position.Segment, end shard.Pos, ok bool) {
	info := c.tail().Info()
	all := position.InheritedSegments(info)
	l, end = c.position.CurrentSegment(c.tail().Stream(), info), c.position.Pos
	for i := len(all) - len(c.position.Inherited) - 1; end <= l.Info.Start; i-- {
		if i < 0 {
			return l, end, false
		}
		l, end = all[i], all[i].Info.Tail
	}
	return l, end, true
}

// maxLookBacks bounds how often a reader looks for what precedes its position, each time from twice
// as far below: the largest message has some twenty records.
const maxLookBacks = 7

// beginLookBack asks the executor for the page before the position, or finds that there is none.
func (c *Session) beginLookBack() {
	if _, _, ok := c.segmentBefore(); !ok || c.lookBacks == maxLookBacks {
		c.endLookBack()
		return
	}
	c.lookBacks++
	c.status = stateBehind
}

// finishLookBack reads the boundary from the page that beginLookBack asked for.
func (c *Session) finishLookBack(r shard.RecordBatch) {
	_, end, _ := c.segmentBefore()
	if r.IsZero() || r.To() < end {
		return
	}
	for i := r.Search(end) - 1; i >= 0; i-- {
		if b := r.Message(i).Body; len(b) > 0 {
			c.lookBacks, c.boundary = 0, textBoundary{}.after(b, 0)
			return
		}
	}
}

// endLookBack notes that nothing that matters precedes the position, or that it is not kept.
func (c *Session) endLookBack() {
	c.lookBacks, c.boundary = 0, textBoundary{skipBytes: c.boundary.skipBytes}
}

// heldUpTo identifies the held messages by the position after them; 0: there are none.
func (c *Session) heldUpTo() shard.Pos {
	if len(c.heldMessages) == 0 {
		return 0
	}
	return c.heldMessages[len(c.heldMessages)-1].Next
}

// HasOutput reports whether output was rendered that is not written yet.
func (c *Session) HasOutput() bool { return c.out != nil && c.out.written < len(c.out.pending) }

// Pending returns the output that is not written yet.
func (c *Session) Pending() [][]byte {
	if !c.HasOutput() {
		return nil
	}
	return c.out.pending[c.out.written:]
}

// prepareBuffer makes sure that there is a buffer for output.
func (c *Session) prepareBuffer() {
	if c.out == nil {
		c.out = &OutputBuffer{}
	}
}

// render adds what the reader gets next to the output: whole events, at least one if there is any,
// and more of them up to about budget bytes of messages. It adds nothing if something else must
// happen first, which status then says. There is a buffer.
func (c *Session) render(now Instant, cursor uint64, budget int) {
	held := c.heldUpTo()
	late := held != 0 && now >= c.pauseUntil
	c.out.cursor = cursor
	c.renderBatches(budget, late)
	switch {
	case c.status == stateBehind:
		c.pauseUntil = now
	case late, c.heldUpTo() != held:
		c.pauseUntil = now.Add(MaxHeldTime)
	}
}

// renderBatches does that; late: held messages have waited for long enough.
func (c *Session) renderBatches(budget int, late bool) {
	before := c.tail().Info()
	batches, paged, st := c.readBatches(budget)
	switch st {
	case shard.StatusGone:
		c.status = stateGone
		return
	case shard.StatusBelow:
		c.status = stateBehind
		return
	}
	c.status = stateIdle
	last, joined := c.frameBatches(batches, paged)
	if !joined {
		st = shard.StatusMore
	}
	if st == shard.StatusClosed || late && len(batches) == 0 {
		last = c.frameHeld(last, true)
	}
	c.appendFinalControl(last, st, before)
	clear(batches) // an idle session keeps no RecordBatch alive
}

// readBatches returns the RecordBatches to frame next, and what follows them.
func (c *Session) readBatches(budget int) (batches []shard.RecordBatch, paged bool, st shard.TailStatus) {
	past, into := len(c.position.Inherited) > 0, &c.out.batches
	switch {
	case c.page == nil && past && c.tail().EndError() == nil:
		return nil, false, shard.StatusBelow
	case c.page == nil:
		*into, st = c.tail().ReadAt(c.position.Pos, budget, (*into)[:0])
		return *into, false, st
	}
	r := *c.page
	c.page = nil
	*into = append((*into)[:0], r)
	info := c.tail().Info()
	switch {
	case c.tail().EndError() != nil:
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
func (c *Session) sharedState() (readerState, bool) {
	plain := len(c.position.Inherited) == 0 && len(c.heldMessages) == 0 && c.page == nil && c.lookBacks == 0 &&
		!c.fetching && c.leaving == 0 && c.departure.asked == 0
	return readerState{c.position.Pos, c.minCursor, c.announced, c.status, c.announcedAny, c.announcedUpToDate, c.boundary}, plain
}

// IsUpToDate reports whether the reader was told everything that was read, and waits for news.
func (c *Session) IsUpToDate() bool { return c.announcedUpToDate && c.status == stateIdle }

// setSharedState moves the reader to the state that another reader has reached.
func (c *Session) setSharedState(s readerState) {
	c.position.Pos, c.minCursor, c.announced, c.status, c.announcedAny, c.announcedUpToDate, c.boundary = s.pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary
}

// AcceptPage takes the page that Next asked for, or the error with which it could not be read. It
// returns the error if the reader cannot continue without the page, and its response is to end.
func (c *Session) AcceptPage(r shard.RecordBatch, err error, now Instant) error {
	c.fetching = false
	var trimmed *shard.TrimmedError
	switch {
	case errors.As(err, &trimmed) && c.lookBacks > 0:
		c.endLookBack()
		c.status = stateIdle
	case errors.As(err, &trimmed) && c.fromStart && trimmed.First > c.position.Pos && c.skipToKept(trimmed.First):
	case err != nil && c.departure.rules.isTemporary(err): // storage has the page, and does not answer
		retry := c.departure.rules.PageRetry
		c.pauseUntil = now.Add(retry/2 + c.departure.rules.random(retry))
		return nil
	case err != nil:
		c.EndNow()
		return err
	case !c.acceptPage(r):
		c.EndNow()
		return errPageGap
	default:
		c.fromStart = false
	}
	c.pauseUntil = now.Add(MaxHeldTime) // if something is held
	return nil
}

// errPageGap means that a page does not hold the position for which it was requested. The reader
// is disconnected rather than sent past a hole.
var errPageGap = errors.New("page does not join")

// acceptPage accepts a page; false: it does not contain the reader's position.
func (c *Session) acceptPage(r shard.RecordBatch) bool {
	if c.lookBacks > 0 {
		c.finishLookBack(r)
		c.status = stateIdle
		return true
	}
	if r.IsZero() || r.From() > c.position.Pos || r.To() <= c.position.Pos {
		c.gapCount++
		return false
	}
	c.page = &r
	c.status = stateIdle
	return true
}

// skipToKept moves a reader that began at the start to the first position that is kept. It returns
// false if the reader has received or holds something, because it would miss what comes next.
func (c *Session) skipToKept(pos shard.Pos) bool {
	if c.announcedAny || len(c.heldMessages) > 0 {
		return false
	}
	c.position.Pos = max(c.position.Pos, pos)
	c.boundary = textBoundary{skipBytes: characterRest}
	c.leaveReadSegments()
	c.announced = announcedOffset{c.generation(), c.position.Pos}
	c.status = stateIdle
	return true
}

// leaveReadSegments moves the reader from a segment that is read to its end to the next.
func (c *Session) leaveReadSegments() {
	if past := len(c.position.Inherited); past > 0 {
		c.position = c.position.SkipReadSegments(c.tail().Info().Start)
		if len(c.position.Inherited) < past && len(c.heldMessages) == 0 {
			c.announced = announcedOffset{c.generation(), c.position.Pos}
		}
	}
}

// frameBatches adds the messages of batches to the output, each data event but the last with
// its control event. It returns the last frame, nil if there was none. joined is
// false if a RecordBatch did not join the position: the reader then needs what lies
// before it, and nothing beyond was added.
func (c *Session) frameBatches(batches []shard.RecordBatch, paged bool) (last *frame, joined bool) {
	for _, r := range batches {
		if r.From() > c.position.Pos {
			c.gapCount++
			c.status = stateBehind
			return last, false
		}
		if r.To() <= c.position.Pos {
			continue
		}
		first := r.Search(c.position.Pos)
		if first == r.Len() {
			c.position.Pos = r.To()
			continue
		}
		shared, ok := c.canShareFrame(r, first)
		if !ok {
			if paged {
				kept := r
				c.page = &kept
			}
			return last, false
		}
		c.position.Pos = r.To()
		if shared {
			last = c.appendFrame(last, c.frames.frameFor(r, first, c.generation(), paged, c.out.cursor))
			continue
		}
		for i := first; i < r.Len(); i++ {
			c.heldMessages = append(c.heldMessages, heldMessage{r.Message(i), c.generation()})
		}
		last = c.frameHeld(last, false)
	}
	c.leaveReadSegments()
	return last, true
}

// canShareFrame reports whether the reader gets the messages of the RecordBatch from first on
// unchanged. If not, it needs a frame of its own: they end inside a character, or begin with
// bytes that were shown already. ok is false if the reader has to look back first.
func (c *Session) canShareFrame(r shard.RecordBatch, first int) (shared, ok bool) {
	if c.frames.key.Framing != FramingText {
		return true, true
	}
	if len(c.heldMessages) > 0 {
		return false, true
	}
	text := r.Bodies(first, r.Len())
	skips, known := c.boundary.bytesToSkip(text)
	if !known {
		if c.beginLookBack(); c.lookBacks > 0 {
			return false, false
		}
	}
	if cut, _ := unfinishedCharacter(text); cut > 0 || skips > 0 {
		return false, true
	}
	c.boundary = c.boundary.after(text, 0)
	return true, true
}

// frameHeld adds held messages to the output, as a frame of the reader's own, up to the last message
// that does not end inside a character; all: up to the last message.
func (c *Session) frameHeld(last *frame, all bool) *frame {
	n := len(c.heldMessages)
	if c.frames.key.Framing == FramingText && !all {
		for n > 0 && endInsideCharacter(c.heldMessages[:n]) {
			n--
		}
	}
	bodies, size := make([][]byte, len(c.heldMessages)), 0
	for i, m := range c.heldMessages {
		bodies[i] = m.Body
		size += len(m.Body)
	}
	if n == 0 && len(c.heldMessages) > 1 && size > maxHeldBytes {
		n = len(c.heldMessages)
	}
	if n == 0 {
		return last
	}
	bodies = bodies[:n]
	if c.frames.key.Framing == FramingText {
		var text []byte
		text, c.boundary = joinText(bodies, c.boundary)
		bodies = [][]byte{text}
	}
	f := newFrame(c.frames.key.Framing, c.heldMessages[n-1].generation, c.heldMessages[n-1].Next, c.out.cursor, bodies)
	f.messages = n
	c.heldMessages = append([]heldMessage(nil), c.heldMessages[n:]...)
	return c.appendFrame(last, f)
}

// appendFrame adds the data event of f, after the control event of the frame before it.
func (c *Session) appendFrame(last, f *frame) *frame {
	if last != nil {
		c.out.pending = append(c.out.pending, c.controlEvent(last, endNotReached))
	}
	c.out.pending = append(c.out.pending, f.data)
	c.out.frames = append(c.out.frames, f)
	f.pin(c.frames.cache.budget)
	c.announced = announcedOffset{f.generation, f.nextPos}
	c.framedCount += uint32(f.messages)
	return f
}

// newestTime returns S2's time (ms) of the newest message in the buffer; 0: it comes from history, or
// its time is not known, or there is none.
func (r *OutputBuffer) newestTime() shard.Millis {
	if r == nil || len(r.frames) == 0 {
		return 0
	}
	return r.frames[len(r.frames)-1].storedAt
}

// appendFinalControl adds the control event at the end of the output: after the last frame, or
// without a data event if the client does not know its offset or the end of the stream yet.
func (c *Session) appendFinalControl(last *frame, st shard.TailStatus, before shard.Info) {
	at := endNotReached
	switch {
	case st == shard.StatusClosed:
		at = endClosed
		c.status = stateClosed
	case st == shard.StatusTip && len(c.heldMessages) == 0:
		at = endUpToDate
	}
	if last != nil && at != endNotReached && last.generation != c.generation() {
		// The frame is of held messages of an earlier segment: the end gets a control event of its own.
		c.out.pending = append(c.out.pending, c.controlEvent(last, endNotReached))
		last, c.announcedUpToDate = nil, false
	}
	switch {
	case last != nil:
		c.out.pending = append(c.out.pending, c.controlEvent(last, at))
	case at == endClosed, at == endUpToDate && !c.announcedUpToDate, st == shard.StatusTip && !c.announcedAny:
		if len(c.heldMessages) == 0 {
			// All that was visible before the TailBuffer was read lies below the position and is
			// announced. With a newer Info, a message that came since would count as announced.
			if m := (announcedOffset{c.generation(), min(before.Tail, c.position.Pos)}); m.generation != c.announced.generation || m.pos > c.announced.pos {
				c.announced = m
			}
		}
		c.out.pending = append(c.out.pending, c.controlEvent(nil, at))
	default:
		return
	}
	c.announcedAny, c.announcedUpToDate = true, at != endNotReached
}

// controlEvent returns the control event of f, or of the announced offset without a data event if f
// is nil. The client's cursor never decreases.
func (c *Session) controlEvent(f *frame, at streamEnd) (b []byte) {
	if f == nil {
		c.minCursor = max(c.minCursor, c.out.cursor)
		return renderStandaloneControl(c.announced.generation, c.announced.pos, c.minCursor, at)
	}
	b, c.minCursor = f.controlEvent(at, c.minCursor, c.out.cursor)
	return b
}

// MarkWritten records that the client has accepted n pending bytes, which are released immediately.
func (c *Session) MarkWritten(n int, now Instant) {
	if n > 0 {
		c.activeAt = now
	}
	r := c.out
	for n > 0 && c.HasOutput() {
		b := r.pending[r.written]
		if n < len(b) {
			r.pending[r.written] = b[n:]
			return
		}
		n -= len(b)
		r.pending[r.written] = nil
		r.written++
	}
	if !c.HasOutput() {
		c.releaseOutput()
	}
}

// MarkActive records that the client has accepted something now that MarkWritten was not told of, as
// bytes that were encrypted before.
func (c *Session) MarkActive(now Instant) { c.activeAt = now }

// releaseOutput releases the pending output, which was written or is not wanted any more. A small
// buffer is kept for the next output.
func (c *Session) releaseOutput() {
	if c.out != nil && !c.out.release(c.frames.cache.budget) {
		c.out = nil
	}
}

// release releases what the buffer holds; false: the buffer is not worth keeping.
func (r *OutputBuffer) release(p *sendbudget.Budget) bool {
	for _, f := range r.frames {
		f.unpin(p)
	}
	clear(r.pending)
	clear(r.frames)
	r.pending, r.frames, r.written = r.pending[:0], r.frames[:0], 0
	return cap(r.pending) <= maxKeptBuffers
}

// clone returns a buffer with the same output, of which nothing is written yet.
func (r *OutputBuffer) clone(p *sendbudget.Budget) *OutputBuffer {
	for _, f := range r.frames {
		f.pin(p)
	}
	return &OutputBuffer{pending: slices.Clone(r.pending), frames: slices.Clone(r.frames)}
}

// maxKeptBuffers bounds the slices of an OutputBuffer that is kept.
const maxKeptBuffers = 64
