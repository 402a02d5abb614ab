package edge

import (
	"net"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// sseSession is one SSE reader's place in a stream, and the bytes that it is owed. It
// does no I/O, has no goroutine and no clock: a driver asks what is pending,
// writes it, says how much of it was taken, and does what state says when nothing
// is owed.
type sseSession struct {
	tail   *shard.TailBuffer
	frames *frameSet

	position  position        // everything below was taken: it is framed, or in held
	announced announcedOffset // what the newest control event named
	// heldMessages: messages of a text stream that end inside a character. They wait for
	// what follows, so that no event holds half a character; for maxHeldTime at most.
	heldMessages []heldMessage

	minCursor uint64 // smallest streamCursor that the client may still be given
	cursorNow uint64 // the streamCursor of this moment; the driver keeps it

	page *shard.RecordBatch // brought by the driver while the reader was behind
	out  *outBuf            // nil: nothing is owed

	framedCount       uint32 // framed since the driver last looked
	gapCount          uint16 // RecordBatches that did not join; 0, or there is a bug somewhere
	framing           framing
	status            sessionState
	announcedAny      bool         // a control event was owed
	announcedUpToDate bool         // the newest control event said "up to date"
	heldTooLong       bool         // what is held has waited for long enough
	lookBacks         uint8        // times that the reader has looked for what stands before its place; see beginLookBack
	boundary          textBoundary // at the place; behind what is held, if anything is, when it is let go
}

// outBuf holds the output that is pending for a reader. An executor of many sessions may
// lend one to each in turn (see loop.writePending).
type outBuf struct {
	pending net.Buffers
	written int      // of owed: what was written
	frames  []*frame // whose data is in owed
	batches []shard.RecordBatch
}

// announcedOffset is an offset: a position and the life that it is of.
type announcedOffset struct{ generation, pos uint64 }

// heldMessage has the life that its position is of: a character may lie across the
// point where a stream was forked.
type heldMessage struct {
	shard.Message
	generation uint64
}

// sessionState says what the driver has to do once nothing is owed.
type sessionState uint8

const (
	stateIdle   sessionState = iota + 1 // wait for news above pos
	stateBehind                         // bring the page that wants says
	stateClosed                         // the end was told: end the connection
	stateGone                           // this life is over: end the connection
)

// What is held is let go when its end has not come for maxHeldTime, or when it is more than
// maxHeldBytes bytes in more than one message: a writer may have died inside a character, and
// what is no UTF-8 may look so. The half is shown as U+FFFD then, and the reader goes on at
// the next character. So of broken text two readers may see two versions; catch-up is exact.
const (
	maxHeldBytes = 256 << 10
	maxHeldTime  = time.Second
)

// newSSESession is a cursor at a place for a client whose streamCursor must be at least
// least (0: any).
func newSSESession(t *shard.TailBuffer, set *frameSet, form framing, at position, least uint64) *sseSession {
	c := &sseSession{tail: t, frames: set, framing: form, position: at, minCursor: least, status: stateIdle}
	c.announced = announcedOffset{c.generation(), at.pos}
	return c
}

// generation returns that of the log in which the reader is.
func (c *sseSession) generation() uint64 {
	if len(c.position.inherited) > 0 {
		return c.position.inherited[0].info.Generation
	}
	return c.tail.Generation()
}

// outputWithTime is pending, and S2's time (ms) of the newest message in it, if the reader was up to
// date before; or 0.
func (c *sseSession) outputWithTime(budget int) (owed net.Buffers, newest uint64) {
	fresh := c.announcedUpToDate && !c.hasOutput()
	owed = c.output(budget)
	if fresh {
		newest = c.out.newestTime()
	}
	return owed, newest
}

// wantedPage is the page that the reader needs: where in which log.
func (c *sseSession) wantedPage() (segment, uint64) {
	if c.lookBacks == 0 {
		return c.position.currentSegment(c.tail.Stream(), c.tail.Info()), c.position.pos
	}
	l, end, _ := c.segmentBefore()
	return l, max(l.info.Start, end-min(end, 1<<(c.lookBacks-1)))
}

// segmentBefore is the leg that holds what stands before the reader's place, and where that ends in
// it; false: the stream begins here.
func (c *sseSession) segmentBefore() (l segment, end uint64, ok bool) {
	info := c.tail.Info()
	all := inheritedSegments(info)
	l, end = c.position.currentSegment(c.tail.Stream(), info), c.position.pos
	for i := len(all) - len(c.position.inherited) - 1; end <= l.info.Start; i-- {
		if i < 0 {
			return l, end, false
		}
		l, end = all[i], all[i].info.Tail
	}
	return l, end, true
}

// maxLookBacks bounds how often a reader looks for what precedes its position, each time from twice
// as far below: the largest message has some twenty records.
const maxLookBacks = 7

// beginLookBack has the driver bring the page before the place, or finds that there is none.
func (c *sseSession) beginLookBack() {
	if _, _, ok := c.segmentBefore(); !ok || c.lookBacks == maxLookBacks {
		c.endLookBack()
		return
	}
	c.lookBacks++
	c.status = stateBehind
}

// finishLookBack takes a page that was brought because of beginLookBack.
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

// endLookBack says that nothing which matters stands before the place, or that it is not kept.
func (c *sseSession) endLookBack() {
	c.lookBacks, c.boundary = 0, textBoundary{skipBytes: c.boundary.skipBytes}
}

// heldUpTo names what is held; 0: nothing is.
func (c *sseSession) heldUpTo() uint64 {
	if len(c.heldMessages) == 0 {
		return 0
	}
	return c.heldMessages[len(c.heldMessages)-1].Next
}

// nextState is valid while nothing is pending.
func (c *sseSession) nextState() sessionState { return c.status }

// hasOutput reports whether something is pending that was rendered before.
func (c *sseSession) hasOutput() bool { return c.out != nil && c.out.written < len(c.out.pending) }

// output returns the reader's pending bytes: whole events, at least one if there is any,
// and more of them up to about budget bytes of messages. It is empty if there is
// nothing to write before the driver has acted on state.
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
	clear(ranges) // hold no RecordBatch while idle
	return c.out.pending[c.out.written:]
}

// readBatches is the RecordBatches to frame next, and what there is after them.
func (c *sseSession) readBatches(budget int) (ranges []shard.RecordBatch, paged bool, st shard.TailStatus) {
	past, into := len(c.position.inherited) > 0, &c.out.batches
	switch {
	case c.page == nil && past && c.tail.EndError() == nil:
		return nil, false, shard.StatusBelow
	case c.page == nil:
		*into, st = c.tail.ReadAt(c.position.pos, budget, (*into)[:0])
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
	pos, minCursor                  uint64
	announced                       announcedOffset
	status                          sessionState
	announcedAny, announcedUpToDate bool
	boundary                        textBoundary
}

// sharedState returns the reader's state; false: a readerState does not say all of it.
func (c *sseSession) sharedState() (readerState, bool) {
	plain := len(c.position.inherited) == 0 && len(c.heldMessages) == 0 && c.page == nil && c.lookBacks == 0
	return readerState{c.position.pos, c.minCursor, c.announced, c.status, c.announcedAny, c.announcedUpToDate, c.boundary}, plain
}

// setSharedState moves the reader to where one like it has come to.
func (c *sseSession) setSharedState(s readerState) {
	c.position.pos, c.minCursor, c.announced, c.status, c.announcedAny, c.announcedUpToDate, c.boundary = s.pos, s.minCursor, s.announced, s.status, s.announcedAny, s.announcedUpToDate, s.boundary
}

// acceptPage is history that the driver brought because the reader wants it; false: it does not
// hold the reader's position.
func (c *sseSession) acceptPage(r shard.RecordBatch) bool {
	if c.lookBacks > 0 {
		c.finishLookBack(r)
		c.status = stateIdle
		return true
	}
	if r.IsZero() || r.From() > c.position.pos || r.To() <= c.position.pos {
		c.gapCount++
		return false
	}
	c.page = &r
	c.status = stateIdle
	return true
}

// skipToKept moves a reader that began at the start to the first position that is kept;
// false: it was told of something, or holds it, and would miss what comes next.
func (c *sseSession) skipToKept(pos uint64) bool {
	if c.announcedAny || len(c.heldMessages) > 0 {
		return false
	}
	c.position.pos = max(c.position.pos, pos)
	c.boundary = textBoundary{skipBytes: characterRest}
	c.leaveReadSegments()
	c.announced = announcedOffset{c.generation(), c.position.pos}
	c.status = stateIdle
	return true
}

// leaveReadSegments takes the reader from a leg that is read to its end to the next.
func (c *sseSession) leaveReadSegments() {
	if past := len(c.position.inherited); past > 0 {
		c.position = c.position.skipReadSegments(c.tail.Info().Start)
		if len(c.position.inherited) < past && len(c.heldMessages) == 0 {
			c.announced = announcedOffset{c.generation(), c.position.pos}
		}
	}
}

// frameBatches owes the reader the messages of ranges, each data event but the last with
// its control event. It returns that last frame, nil if there was none. joined is
// false if a RecordBatch did not join: the reader has then to be brought what lies
// before it, and nothing beyond was taken.
func (c *sseSession) frameBatches(ranges []shard.RecordBatch, paged bool) (last *frame, joined bool) {
	for _, r := range ranges {
		if r.From() > c.position.pos {
			c.gapCount++
			c.status = stateBehind
			return last, false
		}
		if r.To() <= c.position.pos {
			continue
		}
		first := r.Search(c.position.pos)
		if first == r.Len() {
			c.position.pos = r.To()
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
		c.position.pos = r.To()
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

// canShareFrame reports whether the reader is owed the messages of the RecordBatch from first on as they
// are; if not, it needs a frame of its own: some of them end inside a character, or what they
// begin with was shown already. ok is false if the reader has to look back first.
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

// frameHeld owes what is held as a frame of the reader's own, up to the last message
// that does not end inside a character; all: whatever it ends in.
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

// newestTime is S2's time (ms) of the newest message in the room; 0: it is history, or not
// known, or there is none.
func (r *outBuf) newestTime() uint64 {
	if r == nil || len(r.frames) == 0 {
		return 0
	}
	return r.frames[len(r.frames)-1].storedAt
}

// appendFinalControl owes the control event that stands at the end of what there is: after the
// last frame; or alone, where the client has not been told yet where it stands.
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
		// What was held of an earlier leg: where the stream ends is told by itself.
		c.out.pending = append(c.out.pending, c.controlEvent(last, endNotReached))
		last, c.announcedUpToDate = nil, false
	}
	switch {
	case last != nil:
		c.out.pending = append(c.out.pending, c.controlEvent(last, at))
	case at == endClosed, at == endUpToDate && !c.announcedUpToDate, st == shard.StatusTip && !c.announcedAny:
		if len(c.heldMessages) == 0 {
			// All that was visible before the TailBuffer was read lies below pos, and is told;
			// with info of now, a message that came since would be taken for told.
			if m := (announcedOffset{c.generation(), min(before.Tail, c.position.pos)}); m.generation != c.announced.generation || m.pos > c.announced.pos {
				c.announced = m
			}
		}
		c.out.pending = append(c.out.pending, c.controlEvent(nil, at))
	default:
		return
	}
	c.announcedAny, c.announcedUpToDate = true, at != endNotReached
}

// controlEvent is a control event at told, the one of f if f is what was told last. The
// client's cursor never goes back.
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

// releaseOutput releases the pending output: it was written, or is not wanted any more. A small
// buffer is kept for the next time.
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
