package edge

import (
	"net"

	"github.com/fantail-dev/fantail/shard"
)

// cursor is one SSE reader's place in a stream, and the bytes that it is owed. It
// does no I/O, has no goroutine and no clock: a driver asks what is pending,
// writes it, and says how much of it was taken.
type cursor struct {
	tail *shard.Tail
	set  *frameSet
	form framing
	life uint64

	pos    uint64 // everything below was turned into frames
	told   uint64 // the position that the client was last told
	smooth uint64 // where the next Range has to join
	heard  uint64 // the visible tail that take last saw
	least  uint64 // smallest streamCursor that the client may be given
	status status
	begun  bool // a control event was owed

	owed    net.Buffers
	pages   []shard.Range // brought by the driver while the reader was behind
	scratch []shard.Range

	messages int // turned into frames since the driver last looked
	gaps     int // Ranges that did not join; 0, or there is a bug
}

// status says what the driver has to do once nothing is pending.
type status uint8

const (
	statusIdle   status = iota + 1 // wait for news
	statusBehind                   // bring the page at pos
	statusClosed                   // the end was told; end the connection
	statusGone                     // this life is over; end the connection
)

func newCursor(t *shard.Tail, set *frameSet, info shard.Info, pos, client uint64) *cursor {
	return &cursor{
		tail: t, set: set, form: framingOf(info.Type), life: info.Life,
		pos: pos, told: pos, least: client, status: statusIdle,
	}
}

// pending is what the reader is owed, at least one event if there is one and up
// to about budget bytes. interval is the cursor of this moment.
func (c *cursor) pending(budget int, interval uint64) net.Buffers {
	if len(c.owed) > 0 || c.status == statusClosed || c.status == statusGone {
		return c.owed
	}
	ranges, st := c.take(budget)
	switch st {
	case shard.StatusGone:
		c.status = statusGone
		return nil
	case shard.StatusBelow:
		c.status = statusBehind
		return nil
	}
	c.status = statusIdle
	moved := c.frames(ranges, st == shard.StatusClosed, interval)
	switch {
	case st == shard.StatusClosed:
		c.tip(moved, whereClosed, interval)
		c.status = statusClosed
	case st == shard.StatusTip && (moved || !c.begun):
		c.tip(moved, whereTip, interval)
	case moved:
		c.tip(moved, whereMid, interval)
	}
	return c.owed
}

// take is the Ranges to frame next and what there is after them.
func (c *cursor) take(budget int) ([]shard.Range, shard.Status) {
	if len(c.pages) > 0 {
		ranges := c.pages
		c.pages = nil
		_, st := c.tail.ReadAt(ranges[len(ranges)-1].To(), 0, nil)
		if st == shard.StatusBelow {
			st = shard.StatusMore
		}
		return ranges, st
	}
	clear(c.scratch)
	ranges, st := c.tail.ReadAt(c.pos, budget, c.scratch[:0])
	c.scratch = ranges
	if n := len(ranges); n > 0 {
		c.heard = ranges[n-1].Tail()
	}
	return ranges, st
}

// page is history that the driver brought for position pos.
func (c *cursor) page(r shard.Range) {
	c.pages = append(c.pages, r)
	c.status = statusIdle
}

// frames owes the reader the messages of ranges, each data event with its control
// event; the last control is left to tip. It reports whether there was any.
//
// A text record that ends inside a character waits for the next record, so that
// no event holds half a character; with it wait those that follow it here.
func (c *cursor) frames(ranges []shard.Range, closed bool, interval uint64) bool {
	moved := false
	var loose [][]byte // messages that no shared frame has
	owe := func(f *frame) {
		if moved {
			c.owed = append(c.owed, control(c.life, c.told, c.cursor(interval), whereMid))
		}
		c.owed = append(c.owed, f.data)
		c.told, c.messages, moved = f.next, c.messages+f.messages, true
	}
	var next uint64
	for n, r := range ranges {
		c.join(r)
		first := r.Search(c.pos)
		if first == r.Len() {
			if len(loose) == 0 {
				c.pos = r.To()
			}
			continue
		}
		held := c.form == framingText && (!closed || n < len(ranges)-1) &&
			cutsCharacter(append(loose[:len(loose):len(loose)], r.Payload())...)
		if first == 0 && len(loose) == 0 && !held {
			owe(c.set.of(r, c.form, c.life))
			c.pos = r.To()
			continue
		}
		for i := first; i < r.Len(); i++ {
			m := r.Message(i)
			loose, next = append(loose, m.Body), m.Next
		}
		if !held {
			owe(render(c.form, c.life, next, loose))
			loose, c.pos = nil, r.To()
		}
	}
	if len(loose) > 1 { // all but the record that is held
		rest := loose[:len(loose)-1]
		for len(rest) > 0 && cutsCharacter(rest...) {
			rest = rest[:len(rest)-1]
		}
		if len(rest) > 0 {
			at := c.positionOf(ranges, len(loose)-len(rest))
			owe(render(c.form, c.life, at, rest))
			c.pos = at
		}
	}
	return moved
}

// positionOf is where the n-th message from the end of ranges begins.
func (c *cursor) positionOf(ranges []shard.Range, n int) uint64 {
	for i := len(ranges) - 1; i >= 0; i-- {
		if l := ranges[i].Len(); n <= l {
			return ranges[i].Message(l - n).Pos
		}
		n -= ranges[i].Len()
	}
	return c.pos
}

// join checks that the Range joins where the last one ended.
func (c *cursor) join(r shard.Range) {
	if r.From() > c.pos && (c.smooth == 0 || r.From() > c.smooth) {
		c.gaps++
	}
	c.smooth = max(c.smooth, r.To())
}

// tip owes the control event at the end of what there is. Without data before it
// the client hears the stream's visible tail, as HEAD says it.
func (c *cursor) tip(moved bool, at where, interval uint64) {
	if !moved {
		if info := c.tail.Info(); c.pos <= info.LogTail && !c.holds(info) {
			c.told = max(c.told, info.Tail)
		}
	}
	c.begun = true
	if held := c.told < c.tail.Info().Tail; held && at == whereTip {
		at = whereMid
	}
	c.owed = append(c.owed, control(c.life, c.told, c.cursor(interval), at))
}

// holds reports whether a record is held back that the client has not been told.
func (c *cursor) holds(info shard.Info) bool { return c.form == framingText && c.pos < info.Tail }

// cursor is the streamCursor for this reader: it never goes back.
func (c *cursor) cursor(interval uint64) uint64 {
	c.least = max(c.least, interval)
	return c.least
}

// wrote says that n bytes of what was pending are written.
func (c *cursor) wrote(n int) {
	for n > 0 && len(c.owed) > 0 {
		if n < len(c.owed[0]) {
			c.owed[0] = c.owed[0][n:]
			return
		}
		n -= len(c.owed[0])
		c.owed[0] = nil
		c.owed = c.owed[1:]
	}
	if len(c.owed) == 0 {
		c.owed = nil
	}
}

// between reports whether the bytes written so far end with a whole event.
func (c *cursor) between() bool { return len(c.owed) == 0 }

// waits is the position above which the reader waits for news: with a record
// held back, only what comes after it is news.
func (c *cursor) waits() uint64 { return max(c.pos, c.heard) }

// skip moves the reader to the first position that is kept.
func (c *cursor) skip(pos uint64) { c.pos, c.smooth = pos, pos }
