package position

import (
	"errors"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// offsetScale converts a log position into the place of an offset. An offset as clients see it is
// {generation:016}_{place:016}, where place is a log position times offsetScale: the last three
// digits are reserved for a place inside a record. An offset with other digits there is read from
// the start of that record, because a widely used client adds 1 to offsets and must not lose a
// message by that. As strings, the offsets of one stream sort in the order of its messages.
const offsetScale = 1000

const (
	offsetHalfLen = 16 // the length of either half
	// OffsetLen is the length of an offset.
	OffsetLen = 2*offsetHalfLen + 1
)

// FormatOffset returns the offset of a position.
func FormatOffset(generation shard.Generation, pos shard.Pos) string {
	return string(AppendOffset(make([]byte, 0, OffsetLen), generation, pos))
}

// AppendOffset appends the offset of a position. Positions below 10^13 fit.
func AppendOffset(b []byte, generation shard.Generation, pos shard.Pos) []byte {
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

// OffsetKind says in which of its forms an offset was given.
type OffsetKind uint8

// The forms of an offset.
const (
	OffsetStart  OffsetKind = iota + 1 // absent, -1, or all zeros
	OffsetNow                          // now
	OffsetMinted                       // generation and place, as this package formats them
	OffsetNumber                       // a position of the current generation, without a generation
	OffsetTail                         // tail-N: as many messages before the end; only ParseReadOffset reads it
	OffsetTime                         // at:TIME: the first message of a time or later; only ParseReadOffset reads it
)

// Offset is a parsed offset.
type Offset struct {
	Kind       OffsetKind
	Generation shard.Generation
	Pos        shard.Pos
	Count      uint64       // of OffsetTail
	Since      shard.Millis // of OffsetTime
}

// IsRelative reports whether the offset may name another position once the stream has grown, so that
// nothing that it was answered with may be kept.
func (o Offset) IsRelative() bool { return o.Kind == OffsetNow || o.IsSearched() }

// IsSearched reports whether it takes a search to find the position that the offset names.
func (o Offset) IsSearched() bool { return o.Kind == OffsetTail || o.Kind == OffsetTime }

// The errors of offsets. ErrBeyond and ErrGone depend on what is known of the stream: see Resolve.
var (
	ErrMalformed = errors.New("malformed offset")
	ErrBeyond    = errors.New("offset lies beyond the stream")
	ErrGone      = errors.New("offset belongs to an earlier generation of the stream, or is no longer kept")
)

// ParseOffset reads an offset strictly (PROTOCOL 5.6).
func ParseOffset(s string) (Offset, error) {
	switch {
	case s == "-1", s == "0": // no stream has anything before position 0
		return Offset{Kind: OffsetStart}, nil
	case s == "now":
		return Offset{Kind: OffsetNow}, nil
	case len(s) == OffsetLen && s[offsetHalfLen] == '_':
		generation, ok := parseDigits(s[:offsetHalfLen])
		place, ok2 := parseDigits(s[offsetHalfLen+1:])
		if !ok || !ok2 {
			return Offset{}, ErrMalformed
		}
		if generation == 0 && place == 0 {
			return Offset{Kind: OffsetStart}, nil
		}
		return Offset{Kind: OffsetMinted, Generation: shard.Generation(generation), Pos: shard.Pos(place / offsetScale)}, nil
	case len(s) > 0 && len(s) <= offsetHalfLen && s[0] != '0':
		n, ok := parseDigits(s)
		if !ok {
			return Offset{}, ErrMalformed
		}
		return Offset{Kind: OffsetNumber, Pos: shard.Pos(n)}, nil
	default:
		return Offset{}, ErrMalformed
	}
}

const (
	tailPrefix = "tail-" // begins an offset that counts messages from the end
	timePrefix = "at:"   // begins an offset that names a time
)

// maxTime is the last millisecond that RFC 3339 can name. A larger number is no time in milliseconds
// but one in microseconds, or nanoseconds.
const maxTime = 253_402_300_799_999

// ParseReadOffset reads the offset of a request that reads: those of ParseOffset, and tail-N and
// at:TIME, which are not the protocol's. They are resolved by searching in the stream.
func ParseReadOffset(s string) (Offset, error) {
	if at, ok := strings.CutPrefix(s, timePrefix); ok {
		since, ok := parseTime(at)
		if !ok {
			return Offset{}, ErrMalformed
		}
		return Offset{Kind: OffsetTime, Since: since}, nil
	}
	digits, ok := strings.CutPrefix(s, tailPrefix)
	if !ok {
		return ParseOffset(s)
	}
	n, ok := parseDigits(digits)
	switch {
	case !ok || len(digits) > 1 && digits[0] == '0':
		return Offset{}, ErrMalformed
	case n == 0:
		return Offset{Kind: OffsetNow}, nil
	}
	return Offset{Kind: OffsetTail, Count: n}, nil
}

// parseTime reads a time: by RFC 3339, or in milliseconds since 1970. It returns the first millisecond
// that is not earlier. A time before 1970 is 0. In a query a plus sign that was not escaped arrives as
// a space.
func parseTime(s string) (shard.Millis, bool) {
	if n, ok := parseDigits(s); ok {
		return shard.Millis(n), n <= maxTime && (len(s) == 1 || s[0] != '0')
	}
	at, err := time.Parse(time.RFC3339Nano, strings.ToUpper(strings.Replace(s, " ", "+", 1)))
	if err != nil {
		return 0, false
	}
	ms := at.UnixMilli()
	if at.Nanosecond()%int(time.Millisecond) != 0 {
		ms++
	}
	return shard.Millis(max(ms, 0)), true
}

// ParseEventID reads the id that an EventSource sends when it reconnects: that of the last event
// that it received. An id that no event of this server carries counts as absent.
func ParseEventID(s string) (Offset, bool) {
	o, err := ParseOffset(s)
	if err != nil || len(s) != OffsetLen {
		return Offset{}, false
	}
	return o, true
}

// parseDigits reads one or more decimal digits, and nothing else.
func parseDigits(s string) (uint64, bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	return n, err == nil
}

// String returns an offset in one spelling; empty for the tail, as if no offset were given.
func (o Offset) String() string {
	switch o.Kind {
	case OffsetStart:
		return "-1"
	case OffsetMinted:
		return FormatOffset(o.Generation, o.Pos)
	case OffsetNumber:
		return strconv.FormatUint(uint64(o.Pos), 10)
	default:
		return ""
	}
}
