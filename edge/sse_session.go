package edge

import (
	"net"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// sseSession is one SSE reader's position in a stream, and its pending output. It
// does no I/O, has no goroutine and no clock. Its executor (an eventStream's goroutine, or a loop)
// gets the output, writes it, reports how much was accepted (markWritten), and does what nextState
// says when there is no output. Only the executor uses it.
type sseSession struct {
	tail   *shard.TailBuffer
	frames *frameSet

	position  position.Position // everything below it was read: it is framed, or in heldMessages
	announced announcedOffset   // the offset in the newest control event
	// heldMessages are messages of a text stream that end inside a character. They wait for
	// the rest, for maxHeldTime at most, so that no event contains half a character.
	heldMessages []heldMessage

	minCursor uint64 // the smallest Stream-Cursor that the client may still get
	cursorNow uint64 // the Stream-Cursor of this moment, set by the executor

	page *shard.RecordBatch // fetched by the executor while the reader was behind
	out  *outBuf            // nil: there is no pending output

	framedCount       uint32 // messages framed since the executor last counted
	gapCount          uint16 // RecordBatches that did not join the position; anything but 0 is a bug
	framing           framing
	status            sessionState
	announcedAny      bool         // the output has had a control event
	announcedUpToDate bool         // the newest control event said "up to date"
	heldTooLong       bool         // heldMessages have waited for maxHeldTime
	lookBacks         uint8        // look-backs so far; see beginLookBack
	boundary          textBoundary // at the position; before heldMessages, if there are any
}

// outBuf holds the output that is pending for a reader. An executor of many sessions may
// lend one to each in turn (see loop.writePending).
type outBuf struct {
	pending net.Buffers
	written int      // how many of pending are written
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

// sessionState says what the executor has to do when there is no output.
type sessionState uint8

const (
	stateIdle   sessionState = iota + 1 // wait for news above the position
	stateBehind                         // fetch the page that wantedPage names
	stateClosed                         // the end was announced: end the response
	stateGone                           // the generation is over: end the response
)

// Held messages are released when the rest of the character has not come for maxHeldTime, or when
// they are more than one message and more than maxHeldBytes: a writer may have died inside a
// character, and text that is not UTF-8 may look the same. The half is then shown as U+FFFD, and the
// reader continues at the next character. So of broken text two readers may see two versions;
// catch-up is exact.
const (
	maxHeldBytes = 256 << 10
	maxHeldTime  = time.Second
)

// newSSESession returns a session at a position for a client that needs a Stream-Cursor of at least
// least (0: any).
func newSSESession(t *shard.TailBuffer, set *frameSet, form framing, at position.Position, least uint64) *sseSession {
	c := &sseSession{tail: t, frames: set, framing: form, position: at, minCursor: least, status: stateIdle}
	c.announced = announcedOffset{c.generation(), at.Pos}
	return c
}

// generation returns the generation of the log in which the reader is.
func (c *sseSession) generation() shard.Generation {
	if len(c.position.Inherited) > 0 {
		return c.position.Inherited[0].Info.Generation
	}
	return c.tail.Generation()
}

// outputWithTime returns output, and S2's time (ms) of the newest message in it; 0 if the reader was
// not up to date before.
func (c *sseSession) outputWithTime(budget int) (owed net.Buffers, newest shard.Millis) {
	fresh := c.announcedUpToDate && !c.hasOutput()
	owed = c.output(budget)
	if fresh {
		newest = c.out.newestTime()
	}
	return owed, newest
}

// wantedPage returns the segment and the position of the page that the reader needs.
func (c *sseSession) wantedPage() (position.Segment, shard.Pos) {
	if c.lookBacks == 0 {
		return c.position.CurrentSegment(c.tail.Stream(), c.tail.Info()), c.position.Pos
	}
	l, end, _ := c.segmentBefore()
	return l, max(l.Info.Start, end-min(end, 1<<(c.lookBacks-1)))
}

// segmentBefore returns the segment that holds what precedes the reader's position, and where that
// ends in it; false: the stream begins here.
func (c *sseSession) segmentBefore() (l position.Segment, end shard.Pos, ok bool) {
	info := c.tail.Info()
	all := position.InheritedSegments(info)
	l, end = c.position.CurrentSegment(c.tail.Stream(), info), c.position.Pos
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
func (c *sseSession) beginLookBack() {
	if _, _, ok := c.segmentBefore(); !ok || c.lookBacks == maxLookBacks {
		c.endLookBack()
		return
	}
	c.lookBacks++
	c.status = stateBehind
}

// finishLookBack reads the boundary from the page that beginLookBack asked for.
func (c *sseSession) finishLookBack(r shard.RecordBatch) {
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
func (c *sseSession) endLookBack() {
	c.lookBacks, c.boundary = 0, textBoundary{skipBytes: c.boundary.skipBytes}
}

// heldUpTo identifies the held messages by the position after them; 0: there are none.
func (c *sseSession) heldUpTo() shard.Pos {
	if len(c.heldMessages) == 0 {
		return 0
	}
	return c.heldMessages[len(c.heldMessages)-1].Next
}

// nextState returns what the executor has to do. It is valid while there is no output.
func (c *sseSession) nextState() sessionState { return c.status }

// hasOutput reports whether output was rendered that is not written yet.
func (c *sseSession) hasOutput() bool { return c.out != nil && c.out.written < len(c.out.pending) }

// output returns the reader's pending bytes: whole events, at least one if there is any,
// and more of them up to about budget bytes of messages. It is empty if there is
// nothing to write before the executor has acted on nextState.
func (c *sseSession) output(budget int) net.Buffers {
	if c.hasOutput() {
		return c.out.pending[c.out.written:]
	}
	if c.status == stateClosed || c.status == stateGone {
		return nil
	}
	if c.out == nil {
		c.out = &outBuf{}
	}
	before, late := c.tail.Info(), c.heldTooLong
	c.heldTooLong = false
	ranges, paged, st := c.readBatches(budget)
	switch st {
	case shard.StatusGone:
		c.status = stateGone
		return nil
	case shard.StatusBelow:
		c.status = stateBehind
		return nil
	}
	c.status = stateIdle
	last, joined := c.frameBatches(ranges, paged)
	if !joined {
		st = shard.StatusMore
	}
	if st == shard.StatusClosed || late && len(ranges) == 0 {
		last = c.frameHeld(last, true)
	}
	c.appendFinalControl(last, st, before)
	clear(ranges) // an idle session keeps no RecordBatch alive
	return c.out.pending[c.out.written:]
}

// readBatches returns the RecordBatches to frame next, and what follows them.
func (c *sseSession) readBatches(budget int) (ranges []shard.RecordBatch, paged bool, st shard.TailStatus) {
	past, into := len(c.position.Inherited) > 0, &c.out.batches
	switch {
	case c.page == nil && past && c.tail.EndError() == nil:
		return nil, false, shard.StatusBelow
	case c.page == nil:
		*into, st = c.tail.ReadAt(c.position.Pos, budget, (*into)[:0])
		return *into, false, st
	}
	r := *c.page
	c.page = nil
	*into = append((*into)[:0], r)
	info := c.tail.Info()
	switch {
	case c.tail.EndError() != nil:
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
	status                          sessionState
	announcedAny, announcedUpToDate bool
	boundary                        textBoundary
}

// sharedState returns the reader's state; false: the session has more state than a readerState.
func (c *sseSession) sharedState() (readerState, bool) {
	plain := len(c.position.Inherited) == 0 && len(c.heldMessages) == 0 && c.page == nil && c.lookBacks == 0
	return readerState{c.position.Pos, c.minCursor, c.announced, c.status, c.announcedAny, c.announcedUpToDate, c.boundary}, plain
}

// setSharedState moves the reader to the state that another reader has reached.
func (c *sseSession) setSharedState(s readerState) {
	c.position.Pos, c.minCursor, c.announced, c.status, c.announcedAny, c.announcedUpToDate, c.boundary = s.pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary
}

// acceptPage accepts the page that wantedPage asked for; false: it does not contain the reader's position.
func (c *sseSession) acceptPage(r shard.RecordBatch) bool {
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
func (c *sseSession) skipToKept(pos shard.Pos) bool {
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
func (c *sseSession) leaveReadSegments() {
	if past := len(c.position.Inherited); past > 0 {
		c.position = c.position.SkipReadSegments(c.tail.Info().Start)
		if len(c.position.Inherited) < past && len(c.heldMessages) == 0 {
			c.announced = announcedOffset{c.generation(), c.position.Pos}
		}
	}
}

// frameBatches adds the messages of ranges to the output, each data event but the last with
// its control event. It returns the last frame, nil if there was none. joined is
// false if a RecordBatch did not join the position: the reader then needs what lies
// before it, and nothing beyond was added.
func (c *sseSession) frameBatches(ranges []shard.RecordBatch, paged bool) (last *frame, joined bool) {
	for _, r := range ranges {
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
			last = c.appendFrame(last, c.frames.frameFor(r, first, c.generation(), paged, c.cursorNow))
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
func (c *sseSession) canShareFrame(r shard.RecordBatch, first int) (shared, ok bool) {
	if c.framing != framingText {
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
func (c *sseSession) frameHeld(last *frame, all bool) *frame {
	n := len(c.heldMessages)
	if c.framing == framingText && !all {
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
	if c.framing == framingText {
		var text []byte
		text, c.boundary = joinText(bodies, c.boundary)
		bodies = [][]byte{text}
	}
	f := newFrame(c.framing, c.heldMessages[n-1].generation, c.heldMessages[n-1].Next, c.cursorNow, bodies)
	f.messages = n
	c.heldMessages = append([]heldMessage(nil), c.heldMessages[n:]...)
	return c.appendFrame(last, f)
}

// appendFrame adds the data event of f, after the control event of the frame before it.
func (c *sseSession) appendFrame(last, f *frame) *frame {
	if last != nil {
		c.out.pending = append(c.out.pending, c.controlEvent(last, endNotReached))
	}
	c.out.pending = append(c.out.pending, f.data)
	c.out.frames = append(c.out.frames, f)
	c.frames.cache.budget.pinFrame(f)
	c.announced = announcedOffset{f.generation, f.nextPos}
	c.framedCount += uint32(f.messages)
	return f
}

// newestTime returns S2's time (ms) of the newest message in the buffer; 0: it comes from history, or
// its time is not known, or there is none.
func (r *outBuf) newestTime() shard.Millis {
	if r == nil || len(r.frames) == 0 {
		return 0
	}
	return r.frames[len(r.frames)-1].storedAt
}

// appendFinalControl adds the control event at the end of the output: after the last frame, or
// without a data event if the client does not know its offset or the end of the stream yet.
func (c *sseSession) appendFinalControl(last *frame, st shard.TailStatus, before shard.Info) {
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
func (c *sseSession) controlEvent(f *frame, at streamEnd) (b []byte) {
	if f == nil {
		c.minCursor = max(c.minCursor, c.cursorNow)
		return renderStandaloneControl(c.announced.generation, c.announced.pos, c.minCursor, at)
	}
	b, c.minCursor = f.controlEvent(at, c.minCursor, c.cursorNow)
	return b
}

// markWritten records that n pending bytes are written. They are released immediately.
func (c *sseSession) markWritten(n int) {
	r := c.out
	for n > 0 && c.hasOutput() {
		b := r.pending[r.written]
		if n < len(b) {
			r.pending[r.written] = b[n:]
			return
		}
		n -= len(b)
		r.pending[r.written] = nil
		r.written++
	}
	if !c.hasOutput() {
		c.releaseOutput()
	}
}

// releaseOutput releases the pending output, which was written or is not wanted any more. A small
// buffer is kept for the next output.
func (c *sseSession) releaseOutput() {
	if c.out != nil && !c.out.release(c.frames.cache.budget) {
		c.out = nil
	}
}

// release releases what the buffer holds; false: the buffer is not worth keeping.
func (r *outBuf) release(p *sendBudget) bool {
	for _, f := range r.frames {
		p.unpinFrame(f)
	}
	clear(r.pending)
	clear(r.frames)
	r.pending, r.frames, r.written = r.pending[:0], r.frames[:0], 0
	return cap(r.pending) <= maxKeptBuffers
}

// clone returns a buffer with the same output, of which nothing is written yet.
func (r *outBuf) clone(p *sendBudget) *outBuf {
	for _, f := range r.frames {
		p.pinFrame(f)
	}
	return &outBuf{pending: slices.Clone(r.pending), frames: slices.Clone(r.frames)}
}

// maxKeptBuffers bounds the slices of an outBuf that is kept.
const maxKeptBuffers = 64
