package shard

import (
	"encoding/binary"
	"errors"
	"sort"
)

// Range is the one unit in which records travel: from the Log's reply into a
// Tail, over the relay, in a page. It covers the log positions [From, To), holds
// the visible messages among them and the visible tail and state after them. It
// may hold no message and still cover positions (control records, abandoned
// parts). A Range is immutable and its bytes are shared by everybody who holds
// it; the zero Range is no Range.
//
// The one byte layout, big-endian, written by rangeBuilder and read in place:
//
//	0   layout version, 1 byte
//	1   flags, 1 byte: bit 0 closed after it
//	2   zero, 2 bytes
//	4   message count, 4 bytes
//	8   from · 16 to · 24 visible tail after it · 32 S2 time of its last record (ms)
//	40  per message 12 bytes: first position − from, position after it − from,
//	    end of its body in the payload
//	…   payload: the bodies, one after the other
type Range struct{ b []byte }

const (
	rangeVersion = 1
	rangeFixed   = 40
	rangeIndex   = 12
	rangeClosed  = 1
)

// Message is one message of a Range.
type Message struct {
	// Pos is the position of its first record, Next the one after its last: what
	// an offset minted after this message says.
	Pos, Next uint64
	// Body is shared and must not be changed.
	Body []byte
}

// From is the first position covered.
func (r Range) From() uint64 { return binary.BigEndian.Uint64(r.b[8:]) }

// To is the first position above.
func (r Range) To() uint64 { return binary.BigEndian.Uint64(r.b[16:]) }

// Tail is the stream's visible tail after this Range.
func (r Range) Tail() uint64 { return binary.BigEndian.Uint64(r.b[24:]) }

// Time is the S2 timestamp of the last record covered, in milliseconds; 0 if
// not known.
func (r Range) Time() uint64 { return binary.BigEndian.Uint64(r.b[32:]) }

// Closed reports whether the stream is closed after this Range.
func (r Range) Closed() bool { return r.b[1]&rangeClosed != 0 }

// Len is the number of messages.
func (r Range) Len() int { return int(binary.BigEndian.Uint32(r.b[4:])) }

// Bytes is the Range in its one layout. Shared; must not be changed.
func (r Range) Bytes() []byte { return r.b }

// IsZero reports whether r is no Range at all.
func (r Range) IsZero() bool { return r.b == nil }

// Payload is all bodies, one after the other. Shared; must not be changed.
func (r Range) Payload() []byte { return r.b[rangeFixed+r.Len()*rangeIndex:] }

// Message returns message i, 0 ≤ i < Len.
func (r Range) Message(i int) Message {
	ix := r.b[rangeFixed+i*rangeIndex:]
	p := r.Payload()
	return Message{
		Pos:  r.From() + uint64(binary.BigEndian.Uint32(ix)),
		Next: r.From() + uint64(binary.BigEndian.Uint32(ix[4:])),
		Body: p[r.start(i):binary.BigEndian.Uint32(ix[8:])],
	}
}

// start is where body i begins in the payload; start(Len) is its end.
func (r Range) start(i int) uint32 {
	if i == 0 {
		return 0
	}
	return binary.BigEndian.Uint32(r.b[rangeFixed+(i-1)*rangeIndex+8:])
}

// Search returns the first message at or above pos; Len if there is none. A
// position inside a message finds the one after it.
func (r Range) Search(pos uint64) int {
	return sort.Search(r.Len(), func(i int) bool {
		off := r.b[rangeFixed+i*rangeIndex:]
		return r.From()+uint64(binary.BigEndian.Uint32(off)) >= pos
	})
}

// after is the part of r from pos on, From < pos < To.
func (r Range) after(pos uint64) Range {
	b := newRangeBuilder(pos)
	for i := r.Search(pos); i < r.Len(); i++ {
		m := r.Message(i)
		b.message(m.Pos, m.Next, m.Body)
	}
	return b.build(r.To(), r.Tail(), r.Time(), r.Closed())
}

// before is the part of r below pos, From < pos. A message that crosses pos stays
// whole.
func (r Range) before(pos uint64) Range {
	if r.IsZero() || r.To() <= pos {
		return r
	}
	b := newRangeBuilder(r.From())
	for i := range r.Search(pos) {
		m := r.Message(i)
		b.message(m.Pos, m.Next, m.Body)
		pos = max(pos, m.Next)
	}
	return b.build(pos, pos, r.Time(), false)
}

var errRange = errors.New("malformed range")

// ParseRange checks a Range that came from another node. It keeps b.
func ParseRange(b []byte) (Range, error) {
	if len(b) < rangeFixed || b[0] != rangeVersion {
		return Range{}, errRange
	}
	r := Range{b}
	n := uint64(binary.BigEndian.Uint32(b[4:]))
	if r.From() >= r.To() || n > r.To()-r.From() || uint64(len(b)) < rangeFixed+n*rangeIndex {
		return Range{}, errRange
	}
	size, pos, end := r.To()-r.From(), uint64(0), uint32(0)
	for i := range int(n) {
		ix := b[rangeFixed+i*rangeIndex:]
		first, next := uint64(binary.BigEndian.Uint32(ix)), uint64(binary.BigEndian.Uint32(ix[4:]))
		stop := binary.BigEndian.Uint32(ix[8:])
		if first < pos || next <= first || next > size || stop < end {
			return Range{}, errRange
		}
		pos, end = next, stop
	}
	if int(end) != len(r.Payload()) {
		return Range{}, errRange
	}
	return r, nil
}

// EmptyRange covers [from, to), which holds no message.
func EmptyRange(from, to, tail uint64, closed bool) Range {
	return newRangeBuilder(from).build(to, tail, 0, closed)
}

// rangeBuilder collects messages and lays the Range out once.
type rangeBuilder struct {
	from   uint64
	index  []byte
	bodies [][]byte
	size   uint32
}

func newRangeBuilder(from uint64) *rangeBuilder { return &rangeBuilder{from: from} }

// message adds a message whose records are [pos, next).
func (b *rangeBuilder) message(pos, next uint64, body ...[]byte) {
	for _, p := range body {
		b.size += uint32(len(p))
		b.bodies = append(b.bodies, p)
	}
	b.index = binary.BigEndian.AppendUint32(b.index, uint32(pos-b.from))
	b.index = binary.BigEndian.AppendUint32(b.index, uint32(next-b.from))
	b.index = binary.BigEndian.AppendUint32(b.index, b.size)
}

// build lays out the Range [from, to).
func (b *rangeBuilder) build(to, tail, time uint64, closed bool) Range {
	out := make([]byte, rangeFixed, rangeFixed+len(b.index)+int(b.size))
	out[0] = rangeVersion
	if closed {
		out[1] = rangeClosed
	}
	binary.BigEndian.PutUint32(out[4:], uint32(len(b.index)/rangeIndex))
	binary.BigEndian.PutUint64(out[8:], b.from)
	binary.BigEndian.PutUint64(out[16:], to)
	binary.BigEndian.PutUint64(out[24:], tail)
	binary.BigEndian.PutUint64(out[32:], time)
	out = append(out, b.index...)
	for _, p := range b.bodies {
		out = append(out, p...)
	}
	return Range{out}
}
