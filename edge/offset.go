package edge

import (
	"errors"
	"strconv"

	"github.com/fantail-dev/fantail/shard"
)

// An offset as clients see it is {life:016}_{place:016}, where place is a log
// position times placeUnit: the last three digits are reserved for a place inside
// a record. An offset with other digits there reads from the start of that record:
// a widely used client adds 1 to offsets, and must not lose a message by it.
// Offsets of one stream sort as strings in the order of its messages.
const placeUnit = 1000

// offsetHalf and offsetLen are the lengths of either half, and of the whole.
const (
	offsetHalf = 16
	offsetLen  = 2*offsetHalf + 1
)

func formatOffset(life, pos uint64) string {
	return string(appendOffset(make([]byte, 0, offsetLen), life, pos))
}

// appendOffset appends the offset of a position. Positions below 10^13 fit.
func appendOffset(b []byte, life, pos uint64) []byte {
	b = appendHalf(b, life)
	b = append(b, '_')
	return appendHalf(b, pos*placeUnit)
}

func appendHalf(b []byte, n uint64) []byte {
	var d [20]byte
	s := strconv.AppendUint(d[:0], n, 10)
	for range offsetHalf - len(s) {
		b = append(b, '0')
	}
	return append(b, s...)
}

type offsetKind uint8

const (
	offsetStart  offsetKind = iota + 1 // absent, -1, or all zeros
	offsetNow                          // now
	offsetMinted                       // life and place
	offsetBare                         // a sequence number of the current life
)

// offset is a parsed offset.
type offset struct {
	kind offsetKind
	life uint64
	pos  uint64
}

var (
	errOffset       = errors.New("malformed offset")
	errOffsetBeyond = errors.New("offset lies beyond the stream")
	errOffsetGone   = errors.New("offset belongs to an earlier life, or is no longer kept")
)

// parseOffset reads an offset strictly (PROTOCOL 5.6).
func parseOffset(s string) (offset, error) {
	switch {
	case s == "-1", s == "0": // nothing of a stream stands before position 0
		return offset{kind: offsetStart}, nil
	case s == "now":
		return offset{kind: offsetNow}, nil
	case len(s) == offsetLen && s[offsetHalf] == '_':
		life, ok := digits(s[:offsetHalf])
		place, ok2 := digits(s[offsetHalf+1:])
		if !ok || !ok2 {
			return offset{}, errOffset
		}
		if life == 0 && place == 0 {
			return offset{kind: offsetStart}, nil
		}
		return offset{kind: offsetMinted, life: life, pos: place / placeUnit}, nil
	case len(s) > 0 && len(s) <= offsetHalf && s[0] != '0':
		n, ok := digits(s)
		if !ok {
			return offset{}, errOffset
		}
		return offset{kind: offsetBare, pos: n}, nil
	default:
		return offset{}, errOffset
	}
}

// lastEventID reads what an EventSource sends when it comes back: the id of the
// last event that it got. Whatever no event of ours carries counts as absent.
func lastEventID(s string) (offset, bool) {
	o, err := parseOffset(s)
	if err != nil || len(s) != offsetLen {
		return offset{}, false
	}
	return o, true
}

// digits reads one or more decimal digits, and nothing else.
func digits(s string) (uint64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// resolve is the place that an offset names in a stream. Both of its errors rest
// on info: if that may be old, ask again before believing them.
func (o offset) resolve(info shard.Info) (place, error) {
	switch o.kind {
	case offsetStart:
		return first(info), nil
	case offsetNow:
		return place{pos: info.Tail}, nil
	case offsetBare:
		o.life = info.Generation
	}
	if o.life == info.Generation {
		if o.pos > info.LogTail {
			return place{}, errOffsetBeyond
		}
		return place{pos: max(o.pos, info.Start)}, nil
	}
	if at, ok, err := inherited(o.life, o.pos, info); ok {
		return at, err
	}
	for _, a := range info.Chain {
		if a.Generation == o.life && a.Stream == "" && o.pos <= a.Bound {
			return place{pos: o.pos}, nil
		}
	}
	if o.life > info.Generation && !info.Truncated {
		return place{}, errOffsetBeyond
	}
	return place{}, errOffsetGone
}
