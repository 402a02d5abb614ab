package edge

import (
	"errors"
	"fmt"
	"strconv"

	"github.com/fantail-dev/fantail/shard"
)

// An offset as clients see it is {life:016}_{place:016}, where place is a log
// position times placeUnit: the last three digits are reserved for a place inside
// a record. Offsets of one stream sort as strings in the order of its messages.
const placeUnit = 1000

// offsetLen is the length of a minted offset.
const offsetLen = 33

func formatOffset(life, pos uint64) string {
	return fmt.Sprintf("%016d_%016d", life, pos*placeUnit)
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
	errOffsetGone   = errors.New("offset belongs to an earlier life of the stream, or is no longer kept")
)

// parseOffset reads an offset strictly (PROTOCOL 5.6).
func parseOffset(s string) (offset, error) {
	switch {
	case s == "-1":
		return offset{kind: offsetStart}, nil
	case s == "now":
		return offset{kind: offsetNow}, nil
	case len(s) == offsetLen && s[16] == '_':
		life, ok := digits(s[:16])
		place, ok2 := digits(s[17:])
		if !ok || !ok2 {
			return offset{}, errOffset
		}
		if life == 0 && place == 0 {
			return offset{kind: offsetStart}, nil
		}
		return offset{kind: offsetMinted, life: life, pos: place / placeUnit}, nil
	case len(s) > 0 && len(s) <= 16 && (s == "0" || s[0] != '0'):
		n, ok := digits(s)
		if !ok {
			return offset{}, errOffset
		}
		return offset{kind: offsetBare, pos: n}, nil
	default:
		return offset{}, errOffset
	}
}

func digits(s string) (uint64, bool) {
	for i := range len(s) {
		if s[i] < '0' || s[i] > '9' {
			return 0, false
		}
	}
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// resolve is the log position that an offset names in a stream. errOffsetBeyond
// rests on info.LogTail: ask again if info may be old.
func (o offset) resolve(info shard.Info) (uint64, error) {
	switch o.kind {
	case offsetStart:
		return info.Start, nil
	case offsetNow:
		return info.Tail, nil
	case offsetBare:
		o.life = info.Life
	}
	if o.life == info.Life {
		if o.pos > info.LogTail {
			return 0, errOffsetBeyond
		}
		return max(o.pos, info.Start), nil
	}
	for _, a := range info.Chain {
		if a.Life == o.life && a.Stream == "" && o.pos <= a.Bound {
			return o.pos, nil
		}
	}
	if o.life > info.Life {
		return 0, errOffsetBeyond
	}
	return 0, errOffsetGone
}
