package edge

import (
	"errors"
	"strconv"

	"github.com/fantail-dev/fantail/shard"
)

// An offset as clients see it is {generation:016}_{place:016}, where place is a log
// position times offsetScale: the last three digits are reserved for a place inside
// a record. An offset with other digits there is read from the start of that record,
// because a widely used client adds 1 to offsets and must not lose a message by that.
// As strings, the offsets of one stream sort in the order of its messages.
const offsetScale = 1000

// offsetHalfLen and offsetLen are the lengths of either half, and of the whole.
const (
	offsetHalfLen = 16
	offsetLen     = 2*offsetHalfLen + 1
)

// formatOffset returns the offset of a position.
func formatOffset(generation shard.Generation, pos shard.Pos) string {
	return string(appendOffset(make([]byte, 0, offsetLen), generation, pos))
}

// appendOffset appends the offset of a position. Positions below 10^13 fit.
func appendOffset(b []byte, generation shard.Generation, pos shard.Pos) []byte {
	b = appendPadded(b, uint64(generation))
	b = append(b, '_')
	return appendPadded(b, uint64(pos*offsetScale))
}

// appendPadded appends n with leading zeros.
func appendPadded(b []byte, n uint64) []byte {
	var d [20]byte
	s := strconv.AppendUint(d[:0], n, 10)
	for range offsetHalfLen - len(s) {
		b = append(b, '0')
	}
	return append(b, s...)
}

type offsetKind uint8

const (
	offsetStart  offsetKind = iota + 1 // absent, -1, or all zeros
	offsetNow                          // now
	offsetMinted                       // generation and place, as this package formats them
	offsetNumber                       // a position of the current generation, without a generation
)

// offset is a parsed offset.
type offset struct {
	kind       offsetKind
	generation shard.Generation
	pos        shard.Pos
}

var (
	errOffset       = errors.New("malformed offset")
	errOffsetBeyond = errors.New("offset lies beyond the stream")
	errOffsetGone   = errors.New("offset belongs to an earlier generation of the stream, or is no longer kept")
)

// parseOffset reads an offset strictly (PROTOCOL 5.6).
func parseOffset(s string) (offset, error) {
	switch {
	case s == "-1", s == "0": // no stream has anything before position 0
		return offset{kind: offsetStart}, nil
	case s == "now":
		return offset{kind: offsetNow}, nil
	case len(s) == offsetLen && s[offsetHalfLen] == '_':
		generation, ok := parseDigits(s[:offsetHalfLen])
		place, ok2 := parseDigits(s[offsetHalfLen+1:])
		if !ok || !ok2 {
			return offset{}, errOffset
		}
		if generation == 0 && place == 0 {
			return offset{kind: offsetStart}, nil
		}
		return offset{kind: offsetMinted, generation: shard.Generation(generation), pos: shard.Pos(place / offsetScale)}, nil
	case len(s) > 0 && len(s) <= offsetHalfLen && s[0] != '0':
		n, ok := parseDigits(s)
		if !ok {
			return offset{}, errOffset
		}
		return offset{kind: offsetNumber, pos: shard.Pos(n)}, nil
	default:
		return offset{}, errOffset
	}
}

// parseEventID reads the id that an EventSource sends when it reconnects: that of the last event
// that it received. An id that no event of this server carries counts as absent.
func parseEventID(s string) (offset, bool) {
	o, err := parseOffset(s)
	if err != nil || len(s) != offsetLen {
		return offset{}, false
	}
	return o, true
}

// parseDigits reads one or more decimal digits, and nothing else.
func parseDigits(s string) (uint64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// resolve returns the position that an offset names in a stream. Both of its errors depend on
// info: with an old info, get a newer one before believing them.
func (o offset) resolve(info shard.Info) (position, error) {
	switch o.kind {
	case offsetStart:
		return startPosition(info), nil
	case offsetNow:
		return position{pos: info.Tail}, nil
	case offsetNumber:
		o.generation = info.Generation
	}
	if o.generation == info.Generation {
		if o.pos > info.LogTail {
			return position{}, errOffsetBeyond
		}
		return position{pos: max(o.pos, info.Start)}, nil
	}
	if at, ok, err := inheritedPosition(o.generation, o.pos, info); ok {
		return at, err
	}
	for _, a := range info.Chain {
		if a.Generation == o.generation && a.Stream == "" && o.pos <= a.Bound {
			return position{pos: o.pos}, nil
		}
	}
	if o.generation > info.Generation && !info.Truncated {
		return position{}, errOffsetBeyond
	}
	return position{}, errOffsetGone
}
