package tail

import (
	"encoding/binary"
	"errors"
	"sort"
)

// RecordBatch is the one unit in which records travel: from the Log's reply into a Buffer, over
// a link, in a page. It covers the log positions [From, To), and holds the visible messages among
// them and the visible tail and state after them. It may hold no message and still cover positions
// (control records, abandoned parts). A RecordBatch is immutable, and all readers share its bytes.
// The zero RecordBatch is none.
//
// The one byte layout, big-endian, written by Builder and read in place:
//
//	0   layout version, 1 byte
//	1   flags, 1 byte: bit 0 closed after it, bit 2 all messages have the time below
//	2   zero, 2 bytes
//	4   message count, 4 bytes
//	8   from · 16 to · 24 visible tail after it · 32 S2 time of its last record (ms)
//	40  per message 12 bytes: first position − from, position after it − from,
//	    end of its body in the payload
//	…   payload: the bodies, one after the other
//
// Layout version 2 may have, with bit 1 of the flags, extras behind the payload: for
// each message its S2 time (zig-zag varint, in ms beside the RecordBatch's time), then its
// key and its trace, each with its length before it (uvarint). Format level 1 reads
// it and skips the extras; it is sent only to members of level 2.
type RecordBatch struct{ b []byte }

const (
	layoutVersion  = 1
	latestLayout   = 2
	fixedSize      = 40
	indexEntrySize = 12
	flagClosed     = 1
	flagExtras     = 2
	flagOneTime    = 4
)

// Bounds of what a RecordBatch says.
const (
	// MaxKey and MaxTrace bound the key and the trace of a message, in bytes.
	MaxKey   = 256
	MaxTrace = 26
	// maxPos bounds positions, so that sums of them cannot overflow.
	maxPos = 1<<53 - 1
)

// Message is one message of a RecordBatch.
type Message struct {
	// Pos is the position of its first record. Next is the position after its last record, which an
	// offset minted after this message holds.
	Pos, Next Pos
	// Body is shared and must not be changed.
	Body []byte
}

// From returns the first position covered.
func (r RecordBatch) From() Pos { return Pos(binary.BigEndian.Uint64(r.b[8:])) }

// To returns the position after the last one covered.
func (r RecordBatch) To() Pos { return Pos(binary.BigEndian.Uint64(r.b[16:])) }

// Tail returns the stream's visible tail after this RecordBatch.
func (r RecordBatch) Tail() Pos { return Pos(binary.BigEndian.Uint64(r.b[24:])) }

// Time returns the S2 timestamp of the last record covered, in milliseconds; 0: not known.
func (r RecordBatch) Time() Millis { return Millis(binary.BigEndian.Uint64(r.b[32:])) }

// HasOneTime reports whether Time is the time of each message. Otherwise no message has a higher one.
// A message of an append in parts has the time of its last part, which made it visible.
func (r RecordBatch) HasOneTime() bool { return r.b[1]&flagOneTime != 0 }

// Closed reports whether the stream is closed after this RecordBatch.
func (r RecordBatch) Closed() bool { return r.b[1]&flagClosed != 0 }

// isBefore reports whether no record of the RecordBatch is known to have a time or a later one. A
// RecordBatch without a message and without a time says nothing, and counts as later.
func (r RecordBatch) isBefore(since Millis) bool {
	return r.Time() < since && (r.Len() > 0 || r.Time() > 0)
}

// Len returns the number of messages.
func (r RecordBatch) Len() int { return int(binary.BigEndian.Uint32(r.b[4:])) }

// Bytes returns the RecordBatch in its one layout. Shared; must not be changed.
func (r RecordBatch) Bytes() []byte { return r.b }

// IsZero reports whether r is no RecordBatch at all.
func (r RecordBatch) IsZero() bool { return r.b == nil }

// Payload returns all bodies, one after the other. Shared; must not be changed.
func (r RecordBatch) Payload() []byte {
	n := r.Len()
	p := r.b[fixedSize+n*indexEntrySize:]
	return p[:r.bodyStart(n):len(p)]
}

// Bodies returns the bodies of the messages [i, j), one after the other. Shared; must not be
// changed.
func (r RecordBatch) Bodies(i, j int) []byte { return r.Payload()[r.bodyStart(i):r.bodyStart(j)] }

// Message returns message i, 0 ≤ i < Len.
func (r RecordBatch) Message(i int) Message {
	ix := r.b[fixedSize+i*indexEntrySize:]
	p := r.Payload()
	return Message{
		Pos:  r.From() + Pos(binary.BigEndian.Uint32(ix)),
		Next: r.From() + Pos(binary.BigEndian.Uint32(ix[4:])),
		Body: p[r.bodyStart(i):binary.BigEndian.Uint32(ix[8:])],
	}
}

// bodyStart returns where body i begins in the payload; bodyStart(Len) is the payload's end.
func (r RecordBatch) bodyStart(i int) uint32 {
	if i == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(r.b[fixedSize+(i-1)*indexEntrySize+8:])
}

// Search returns the first message at or above pos; Len if there is none. A
// position inside a message finds the one after it.
func (r RecordBatch) Search(pos Pos) int {
	return sort.Search(r.Len(), func(i int) bool {
		off := r.b[fixedSize+i*indexEntrySize:]
		return r.From()+Pos(binary.BigEndian.Uint32(off)) >= pos
	})
}

// SliceFrom returns the part of r from pos on, From < pos < To.
func (r RecordBatch) SliceFrom(pos Pos) RecordBatch {
	return r.copyMessages(r.Search(pos), r.Len(), pos).Build(r.To(), r.Tail(), r.Time(), r.Closed())
}

// SliceBelow returns the part of r below pos, From < pos. A message that crosses pos stays whole.
func (r RecordBatch) SliceBelow(pos Pos) RecordBatch {
	if r.IsZero() || r.To() <= pos {
		return r
	}
	n := r.Search(pos)
	if n > 0 {
		pos = max(pos, r.Message(n-1).Next)
	}
	return r.copyMessages(0, n, r.From()).Build(pos, pos, r.Time(), false)
}

// ClipTo returns the part of r below pos. If r holds no message at or above pos it returns r
// itself: a copy would hold the same messages.
func (r RecordBatch) ClipTo(pos Pos) RecordBatch {
	if n := r.Len(); n == 0 || r.Message(n-1).Pos < pos {
		return r
	}
	return r.SliceBelow(pos)
}

// Split splits r into RecordBatches between messages, where it crosses a multiple of every positions.
func (r RecordBatch) Split(every Pos) []RecordBatch {
	if r.To() <= r.From()-r.From()%every+every {
		return []RecordBatch{r}
	}
	var out []RecordBatch
	firstMessage, from, end := 0, r.From(), r.From()
	for i := range r.Len() {
		m := r.Message(i)
		if boundary := m.Pos - m.Pos%every; boundary > from {
			cut := max(boundary, end)
			out = append(out, r.copyMessages(firstMessage, i, from).Build(cut, r.Tail(), r.Time(), false))
			firstMessage, from = i, cut
		}
		end = m.Next
	}
	return append(out, r.copyMessages(firstMessage, r.Len(), from).Build(r.To(), r.Tail(), r.Time(), r.Closed()))
}

// copyMessages begins a RecordBatch at from with the messages [i, j) of r.
func (r RecordBatch) copyMessages(i, j int, from Pos) *Builder {
	b := NewBuilder(from, j-i, int(r.bodyStart(j)-r.bodyStart(i)))
	b.out[1] |= r.b[1] & flagOneTime
	for ; i < j; i++ {
		m := r.Message(i)
		b.Add(m.Pos, m.Next, m.Body)
	}
	return b
}

var errRecordBatch = errors.New("malformed record batch")

// ParseBatch checks a RecordBatch that came from another node. It keeps b.
func ParseBatch(b []byte) (RecordBatch, error) {
	if len(b) < fixedSize || b[0] < layoutVersion || b[0] > latestLayout {
		return RecordBatch{}, errRecordBatch
	}
	r := RecordBatch{b}
	n := uint64(binary.BigEndian.Uint32(b[4:]))
	if r.From() >= r.To() || r.To() > maxPos || Pos(n) > r.To()-r.From() || uint64(len(b)) < fixedSize+n*indexEntrySize {
		return RecordBatch{}, errRecordBatch
	}
	size, pos, end := r.To()-r.From(), uint64(0), uint32(0)
	for i := range int(n) {
		ix := b[fixedSize+i*indexEntrySize:]
		first, next := uint64(binary.BigEndian.Uint32(ix)), uint64(binary.BigEndian.Uint32(ix[4:]))
		stop := binary.BigEndian.Uint32(ix[8:])
		if first < pos || next <= first || Pos(next) > size || stop < end {
			return RecordBatch{}, errRecordBatch
		}
		pos, end = next, stop
	}
	rest := uint64(len(b)) - fixedSize - n*indexEntrySize
	switch {
	case uint64(end) > rest:
		return RecordBatch{}, errRecordBatch
	case b[0] > layoutVersion && b[1]&flagExtras != 0:
		if !validExtras(b[uint64(len(b))-rest+uint64(end):], int(n)) {
			return RecordBatch{}, errRecordBatch
		}
	case uint64(end) != rest:
		return RecordBatch{}, errRecordBatch
	}
	return r, nil
}

// validExtras reports whether b is the extras of n messages.
func validExtras(b []byte, n int) bool {
	for range n {
		_, size := binary.Varint(b)
		if size <= 0 {
			return false
		}
		b = b[size:]
		for _, most := range [...]uint64{MaxKey, MaxTrace} {
			length, size := binary.Uvarint(b)
			if size <= 0 || length > most || length > uint64(len(b)-size) {
				return false
			}
			b = b[uint64(size)+length:]
		}
	}
	return len(b) == 0
}

// EmptyBatch returns the RecordBatch of [from, to), which holds no message.
func EmptyBatch(from, to, tail Pos, closed bool) RecordBatch {
	return NewBuilder(from, 0, 0).Build(to, tail, 0, closed)
}

// Builder lays a RecordBatch out in place.
type Builder struct {
	out      []byte // header and index, then the payload so far
	from     Pos
	added    int // messages so far
	indexCap int // messages that the index has space for
}

// NewBuilder begins the RecordBatch of n messages with about size bytes of bodies.
func NewBuilder(from Pos, n, size int) *Builder {
	head := fixedSize + n*indexEntrySize
	return &Builder{out: make([]byte, head, head+size), from: from, indexCap: n}
}

// Add adds a message with the records [pos, next); more is the rest of its body.
func (b *Builder) Add(pos, next Pos, body []byte, more ...[]byte) {
	b.out = append(b.out, body...)
	for _, p := range more {
		b.out = append(b.out, p...)
	}
	ix := b.out[fixedSize+b.added*indexEntrySize:]
	binary.BigEndian.PutUint32(ix, uint32(pos-b.from))
	binary.BigEndian.PutUint32(ix[4:], uint32(next-b.from))
	binary.BigEndian.PutUint32(ix[8:], uint32(len(b.out)-fixedSize-b.indexCap*indexEntrySize))
	b.added++
}

// SetOneTime says that the time of the RecordBatch is that of each message.
func (b *Builder) SetOneTime() { b.out[1] |= flagOneTime }

// Build ends the RecordBatch at to, and panics unless all messages were added.
func (b *Builder) Build(to, tail Pos, time Millis, closed bool) RecordBatch {
	if b.added != b.indexCap {
		panic("tail: a RecordBatch with another number of messages")
	}
	b.out[0] = layoutVersion
	if closed {
		b.out[1] |= flagClosed
	}
	binary.BigEndian.PutUint32(b.out[4:], uint32(b.indexCap))
	binary.BigEndian.PutUint64(b.out[8:], uint64(b.from))
	binary.BigEndian.PutUint64(b.out[16:], uint64(to))
	binary.BigEndian.PutUint64(b.out[24:], uint64(tail))
	binary.BigEndian.PutUint64(b.out[32:], uint64(time))
	return RecordBatch{b.out}
}

// Join lays several adjoining RecordBatches out as one.
func Join(rs []RecordBatch) RecordBatch {
	last := rs[len(rs)-1]
	n, size, oneTime := 0, 0, true
	for _, r := range rs {
		n, size = n+r.Len(), size+len(r.Payload())
		oneTime = oneTime && r.HasOneTime() && r.Time() == last.Time()
	}
	b := NewBuilder(rs[0].From(), n, size)
	if oneTime {
		b.SetOneTime()
	}
	for _, r := range rs {
		for i := range r.Len() {
			m := r.Message(i)
			b.Add(m.Pos, m.Next, m.Body)
		}
	}
	return b.Build(last.To(), last.Tail(), last.Time(), last.Closed())
}
