package edge

import (
	"net"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// cursor is one SSE reader's place in a stream, and the bytes that it is owed. It
// does no I/O, has no goroutine and no clock: a driver asks what is pending,
// writes it, says how much of it was taken, and does what state says when nothing
// is owed.
type cursor struct {
	tail *shard.TailBuffer
	set  *frameSet

	at   place // everything below was taken: it is framed, or in held
	told mark  // what the newest control event named
	// held: messages of a text stream that end inside a character. They wait for
	// what follows, so that no event holds half a character; for heldFor at most.
	held []heldMessage

	least    uint64 // smallest streamCursor that the client may still be given
	interval uint64 // the streamCursor of this moment; the driver keeps it

	paged *shard.RecordBatch // brought by the driver while the reader was behind
	room  *room              // nil: nothing is owed

	messages uint32 // framed since the driver last looked
	gaps     uint16 // RecordBatches that did not join; 0, or there is a bug somewhere
	form     framing
	now      state
	begun    bool  // a control event was owed
	fresh    bool  // the newest control event said "up to date"
	late     bool  // what is held has waited for long enough
	look     uint8 // times that the reader has looked for what stands before its place; see lookBack
	joint    joint // at the place; behind what is held, if anything is, when it is let go
}

// room is what a cursor needs while it owes its reader something. A driver of many may
// lend one to each in turn (see loop.pump).
type room struct {
	owed    net.Buffers
	done    int      // of owed: what was written
	holds   []*frame // whose data is in owed
	scratch []shard.RecordBatch
}

// mark is an offset: a position and the life that it is of.
type mark struct{ life, pos uint64 }

// heldMessage has the life that its position is of: a character may lie across the
// point where a stream was forked.
type heldMessage struct {
	shard.Message
	life uint64
}

// state says what the driver has to do once nothing is owed.
type state uint8

const (
	stateIdle   state = iota + 1 // wait for news above pos
	stateBehind                  // bring the page that wants says
	stateClosed                  // the end was told: end the connection
	stateGone                    // this life is over: end the connection
)

// What is held is let go when its end has not come for heldFor, or when it is more than
// heldLimit bytes in more than one message: a writer may have died inside a character, and
// what is no UTF-8 may look so. The half is shown as U+FFFD then, and the reader goes on at
// the next character. So of broken text two readers may see two versions; catch-up is exact.
const (
	heldLimit = 256 << 10
	heldFor   = time.Second
)

// newCursor is a cursor at a place for a client whose streamCursor must be at least
// least (0: any).
func newCursor(t *shard.TailBuffer, set *frameSet, form framing, at place, least uint64) *cursor {
	c := &cursor{tail: t, set: set, form: form, at: at, least: least, now: stateIdle}
	c.told = mark{c.life(), at.pos}
	return c
}

// life is that of the log in which the reader is.
func (c *cursor) life() uint64 {
	if len(c.at.past) > 0 {
		return c.at.past[0].info.Generation
	}
	return c.tail.Generation()
}

// news is pending, and S2's time (ms) of the newest message in it, if the reader was up to
// date before; or 0.
func (c *cursor) news(budget int) (owed net.Buffers, newest uint64) {
	fresh := c.fresh && !c.owes()
	owed = c.pending(budget)
	if fresh {
		newest = c.room.newest()
	}
	return owed, newest
}

// wants is the page that the reader needs: where in which log.
func (c *cursor) wants() (leg, uint64) {
	if c.look == 0 {
		return c.at.leg(c.tail.Stream(), c.tail.Info()), c.at.pos
	}
	l, end, _ := c.before()
	return l, max(l.info.Start, end-min(end, 1<<(c.look-1)))
}

// before is the leg that holds what stands before the reader's place, and where that ends in
// it; false: the stream begins here.
func (c *cursor) before() (l leg, end uint64, ok bool) {
	info := c.tail.Info()
	all := legs(info)
	l, end = c.at.leg(c.tail.Stream(), info), c.at.pos
	for i := len(all) - len(c.at.past) - 1; end <= l.info.Start; i-- {
		if i < 0 {
			return l, end, false
		}
		l, end = all[i], all[i].info.Tail
	}
	return l, end, true
}

// lookMost is how often a reader looks for what stands before its place, each time from twice as
// far below: the largest message has some twenty records.
const lookMost = 7

// lookBack has the driver bring the page before the place, or finds that there is none.
func (c *cursor) lookBack() {
	if _, _, ok := c.before(); !ok || c.look == lookMost {
		c.beginAnew()
		return
	}
	c.look++
	c.now = stateBehind
}

// lookedAt takes a page that was brought because of lookBack.
func (c *cursor) lookedAt(r shard.RecordBatch) {
	_, end, _ := c.before()
	if r.IsZero() || r.To() < end {
		return
	}
	for i := r.Search(end) - 1; i >= 0; i-- {
		if b := r.Message(i).Body; len(b) > 0 {
			c.look, c.joint = 0, joint{}.after(b, 0)
			return
		}
	}
}

// beginAnew says that nothing which matters stands before the place, or that it is not kept.
func (c *cursor) beginAnew() { c.look, c.joint = 0, joint{left: c.joint.left} }

// holds names what is held; 0: nothing is.
func (c *cursor) holds() uint64 {
	if len(c.held) == 0 {
		return 0
	}
	return c.held[len(c.held)-1].Next
}

// state is valid while nothing is pending.
func (c *cursor) state() state { return c.now }

// owes reports whether something is pending that was rendered before.
func (c *cursor) owes() bool { return c.room != nil && c.room.done < len(c.room.owed) }

// pending is what the reader is owed: whole events, at least one if there is any,
// and more of them up to about budget bytes of messages. It is empty if there is
// nothing to write before the driver has acted on state.
func (c *cursor) pending(budget int) net.Buffers {
	if c.owes() {
		return c.room.owed[c.room.done:]
	}
	if c.now == stateClosed || c.now == stateGone {
		return nil
	}
	if c.room == nil {
		c.room = &room{}
	}
	before, late := c.tail.Info(), c.late
	c.late = false
	ranges, paged, st := c.take(budget)
	switch st {
	case shard.StatusGone:
		c.now = stateGone
		return nil
	case shard.StatusBelow:
		c.now = stateBehind
		return nil
	}
	c.now = stateIdle
	last, joined := c.frame(ranges, paged)
	if !joined {
		st = shard.StatusMore
	}
	if st == shard.StatusClosed || late && len(ranges) == 0 {
		last = c.release(last, true)
	}
	c.finish(last, st, before)
	clear(ranges) // hold no RecordBatch while idle
	return c.room.owed[c.room.done:]
}

// take is the RecordBatches to frame next, and what there is after them.
func (c *cursor) take(budget int) (ranges []shard.RecordBatch, paged bool, st shard.TailStatus) {
	past, into := len(c.at.past) > 0, &c.room.scratch
	switch {
	case c.paged == nil && past && c.tail.EndError() == nil:
		return nil, false, shard.StatusBelow
	case c.paged == nil:
		*into, st = c.tail.ReadAt(c.at.pos, budget, (*into)[:0])
		return *into, false, st
	}
	r := *c.paged
	c.paged = nil
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

// stand is all that decides what a reader is owed next who holds nothing back and reads
// the stream's own log: those who stand alike are owed the same.
type stand struct {
	pos, least   uint64
	told         mark
	now          state
	begun, fresh bool
	joint        joint
}

// stand is where the reader stands; false: there is more to say of it.
func (c *cursor) stand() (stand, bool) {
	plain := len(c.at.past) == 0 && len(c.held) == 0 && c.paged == nil && c.look == 0
	return stand{c.at.pos, c.least, c.told, c.now, c.begun, c.fresh, c.joint}, plain
}

// standAt moves the reader to where one like it has come to.
func (c *cursor) standAt(s stand) {
	c.at.pos, c.least, c.told, c.now, c.begun, c.fresh, c.joint = s.pos, s.least, s.told, s.now, s.begun, s.fresh, s.joint
}

// page is history that the driver brought because the reader wants it; false: it does not
// hold the reader's position.
func (c *cursor) page(r shard.RecordBatch) bool {
	if c.look > 0 {
		c.lookedAt(r)
		c.now = stateIdle
		return true
	}
	if r.IsZero() || r.From() > c.at.pos || r.To() <= c.at.pos {
		c.gaps++
		return false
	}
	c.paged = &r
	c.now = stateIdle
	return true
}

// skip moves a reader that began at the start to the first position that is kept;
// false: it was told of something, or holds it, and would miss what comes next.
func (c *cursor) skip(pos uint64) bool {
	if c.begun || len(c.held) > 0 {
		return false
	}
	c.at.pos = max(c.at.pos, pos)
	c.joint = joint{left: characterRest}
	c.move()
	c.told = mark{c.life(), c.at.pos}
	c.now = stateIdle
	return true
}

// move takes the reader from a leg that is read to its end to the next.
func (c *cursor) move() {
	if past := len(c.at.past); past > 0 {
		c.at = c.at.normal(c.tail.Info().Start)
		if len(c.at.past) < past && len(c.held) == 0 {
			c.told = mark{c.life(), c.at.pos}
		}
	}
}

// frame owes the reader the messages of ranges, each data event but the last with
// its control event. It returns that last frame, nil if there was none. joined is
// false if a RecordBatch did not join: the reader has then to be brought what lies
// before it, and nothing beyond was taken.
func (c *cursor) frame(ranges []shard.RecordBatch, paged bool) (last *frame, joined bool) {
	for _, r := range ranges {
		if r.From() > c.at.pos {
			c.gaps++
			c.now = stateBehind
			return last, false
		}
		if r.To() <= c.at.pos {
			continue
		}
		first := r.Search(c.at.pos)
		if first == r.Len() {
			c.at.pos = r.To()
			continue
		}
		shared, ok := c.shares(r, first)
		if !ok {
			if paged {
				kept := r
				c.paged = &kept
			}
			return last, false
		}
		c.at.pos = r.To()
		if shared {
			last = c.owe(last, c.set.of(r, first, c.life(), paged, c.interval))
			continue
		}
		for i := first; i < r.Len(); i++ {
			c.held = append(c.held, heldMessage{r.Message(i), c.life()})
		}
		last = c.release(last, false)
	}
	c.move()
	return last, true
}

// shares reports whether the reader is owed the messages of the RecordBatch from first on as they
// are; if not, it needs a frame of its own: some of them end inside a character, or what they
// begin with was shown already. ok is false if the reader has to look back first.
func (c *cursor) shares(r shard.RecordBatch, first int) (shared, ok bool) {
	if c.form != framingText {
		return true, true
	}
	if len(c.held) > 0 {
		return false, true
	}
	text := r.Bodies(first, r.Len())
	skips, known := c.joint.skips(text)
	if !known {
		if c.lookBack(); c.look > 0 {
			return false, false
		}
	}
	if cut, _ := unfinished(text); cut > 0 || skips > 0 {
		return false, true
	}
	c.joint = c.joint.after(text, 0)
	return true, true
}

// release owes what is held as a frame of the reader's own, up to the last message
// that does not end inside a character; all: whatever it ends in.
func (c *cursor) release(last *frame, all bool) *frame {
	n := len(c.held)
	if c.form == framingText && !all {
		for n > 0 && cutsCharacter(c.held[:n]) {
			n--
		}
	}
	bodies, size := make([][]byte, len(c.held)), 0
	for i, m := range c.held {
		bodies[i] = m.Body
		size += len(m.Body)
	}
	if n == 0 && len(c.held) > 1 && size > heldLimit {
		n = len(c.held)
	}
	if n == 0 {
		return last
	}
	bodies = bodies[:n]
	if c.form == framingText {
		var text []byte
		text, c.joint = joined(bodies, c.joint)
		bodies = [][]byte{text}
	}
	f := newFrame(c.form, c.held[n-1].life, c.held[n-1].Next, c.interval, bodies)
	f.messages = n
	c.held = append([]heldMessage(nil), c.held[n:]...)
	return c.owe(last, f)
}

// owe adds the data event of f, after the control event of the frame before it.
func (c *cursor) owe(last, f *frame) *frame {
	if last != nil {
		c.room.owed = append(c.room.owed, c.control(last, whereMid))
	}
	c.room.owed = append(c.room.owed, f.data)
	c.room.holds = append(c.room.holds, f)
	c.set.cache.pins.pin(f)
	c.told = mark{f.life, f.next}
	c.messages += uint32(f.messages)
	return f
}

// newest is S2's time (ms) of the newest message in the room; 0: it is history, or not
// known, or there is none.
func (r *room) newest() uint64 {
	if r == nil || len(r.holds) == 0 {
		return 0
	}
	return r.holds[len(r.holds)-1].time
}

// finish owes the control event that stands at the end of what there is: after the
// last frame; or alone, where the client has not been told yet where it stands.
func (c *cursor) finish(last *frame, st shard.TailStatus, before shard.Info) {
	at := whereMid
	switch {
	case st == shard.StatusClosed:
		at = whereClosed
		c.now = stateClosed
	case st == shard.StatusTip && len(c.held) == 0:
		at = whereTip
	}
	if last != nil && at != whereMid && last.life != c.life() {
		// What was held of an earlier leg: where the stream ends is told by itself.
		c.room.owed = append(c.room.owed, c.control(last, whereMid))
		last, c.fresh = nil, false
	}
	switch {
	case last != nil:
		c.room.owed = append(c.room.owed, c.control(last, at))
	case at == whereClosed, at == whereTip && !c.fresh, st == shard.StatusTip && !c.begun:
		if len(c.held) == 0 {
			// All that was visible before the TailBuffer was read lies below pos, and is told;
			// with info of now, a message that came since would be taken for told.
			if m := (mark{c.life(), min(before.Tail, c.at.pos)}); m.life != c.told.life || m.pos > c.told.pos {
				c.told = m
			}
		}
		c.room.owed = append(c.room.owed, c.control(nil, at))
	default:
		return
	}
	c.begun, c.fresh = true, at != whereMid
}

// control is a control event at told, the one of f if f is what was told last. The
// client's cursor never goes back.
func (c *cursor) control(f *frame, at where) (b []byte) {
	if f == nil {
		c.least = max(c.least, c.interval)
		return renderLoneControl(c.told.life, c.told.pos, c.least, at)
	}
	b, c.least = f.control(at, c.least, c.interval)
	return b
}

// wrote says that n bytes of what was pending are written. What is written is let
// go of at once.
func (c *cursor) wrote(n int) {
	r := c.room
	for n > 0 && c.owes() {
		b := r.owed[r.done]
		if n < len(b) {
			r.owed[r.done] = b[n:]
			return
		}
		n -= len(b)
		r.owed[r.done] = nil
		r.done++
	}
	if !c.owes() {
		c.drop()
	}
}

// drop lets go of what is owed: it was written, or nobody wants it any more. A little
// room is kept for the next time.
func (c *cursor) drop() {
	if c.room != nil && !c.room.drop(c.set.cache.pins) {
		c.room = nil
	}
}

// drop lets go of what is in the room; false: the room as well.
func (r *room) drop(p *pins) bool {
	for _, f := range r.holds {
		p.unpin(f)
	}
	clear(r.owed)
	clear(r.holds)
	r.owed, r.holds, r.done = r.owed[:0], r.holds[:0], 0
	return cap(r.owed) <= roomKept
}

// share is a room with the same in it.
func (r *room) share(p *pins) *room {
	for _, f := range r.holds {
		p.pin(f)
	}
	return &room{owed: slices.Clone(r.owed), holds: slices.Clone(r.holds)}
}

// roomKept is how many buffers a room is kept for.
const roomKept = 64
