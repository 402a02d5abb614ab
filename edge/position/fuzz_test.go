package position

import (
	"errors"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

var offsetSeeds = []string{
	"", "-1", "now", "0", "7", "07", "-0", "+1", "1e3", "9999999999999999", "99999999999999999",
	FormatOffset(0, 0), FormatOffset(0, 1), FormatOffset(1_800_000_000_000, 12),
	"0000000000000001_0000000000000999", "0000000000000000_0000000000000001",
	"9999999999999999_9999999999999999", "0000000000000001-0000000000000001",
	"000000000000000１_000000000001", " 1", "NOW", "1\n",
}

// What is accepted names one place, is written the same way by every node, and
// sorts as a string where it sorts as a place.
func FuzzParseOffset(f *testing.F) {
	for i, s := range offsetSeeds {
		f.Add(s, offsetSeeds[(i*7+3)%len(offsetSeeds)])
	}
	f.Fuzz(func(t *testing.T, s, other string) {
		o, err := ParseOffset(s)
		if err != nil {
			if !errors.Is(err, ErrMalformed) || o != (Offset{}) {
				t.Fatalf("%q: %+v %v", s, o, err)
			}
			return
		}
		switch o.Kind {
		case OffsetStart, OffsetNow:
			if o.Generation != 0 || o.Pos != 0 {
				t.Fatalf("%q: %+v", s, o)
			}
		case OffsetNumber:
			if strconv.FormatUint(uint64(o.Pos), 10) != s {
				t.Fatalf("%q: %+v", s, o)
			}
		case OffsetMinted:
			again, err := ParseOffset(FormatOffset(o.Generation, o.Pos))
			if start := again.Kind == OffsetStart && o.Generation == 0 && o.Pos == 0; err != nil || again != o && !start {
				t.Fatalf("%q: %+v, again %+v %v", s, o, again, err)
			}
			if low := FormatOffset(o.Generation, o.Pos); s < low || len(s) != OffsetLen {
				t.Fatalf("%q reads as the later %q", s, low)
			}
			p, err := ParseOffset(other)
			if err == nil && p.Kind == OffsetMinted && s <= other && FormatOffset(o.Generation, o.Pos) > FormatOffset(p.Generation, p.Pos) {
				t.Fatalf("%q <= %q, but not their places", s, other)
			}
		default:
			t.Fatalf("%q: %+v", s, o)
		}
		info := shard.Info{Generation: 5, Start: 3, Tail: 8, LogTail: 10}
		if at, err := o.Resolve(info); err == nil && (at.Pos < info.Start || at.Pos > info.LogTail) {
			t.Fatalf("%q resolves to %+v", s, at)
		}
	})
}

// Only what an event of ours may carry counts.
func FuzzLastEventID(f *testing.F) {
	for _, s := range offsetSeeds {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		o, ok := ParseEventID(s)
		p, err := ParseOffset(s)
		minted := err == nil && (p.Kind == OffsetMinted || p.Kind == OffsetStart && len(s) == OffsetLen)
		if ok != minted || ok && o != p {
			t.Fatalf("%q: %+v %v, parsed %+v %v", s, o, ok, p, err)
		}
	})
}

// A client's cursor only ever grows, and nothing that it sends breaks that.
func FuzzParseCursor(f *testing.F) {
	for _, s := range []string{"", "0", "1", "-1", "007", "9007199254740991", "9007199254737391", "18446744073709551616", "1.5", "٣"} {
		f.Add(s, int64(time.Hour), int64(0))
	}
	f.Fuzz(func(t *testing.T, s string, since, random int64) {
		n, ok := ParseCursor(s)
		if ok != (strings.Trim(s, "0123456789") == "") {
			t.Fatalf("%q: %v", s, ok)
		}
		if v, err := strconv.ParseUint(s, 10, 64); n != 0 && (err != nil || v != n) || n > maxInteger {
			t.Fatalf("%q: %d", s, n)
		}
		now := cursorEpoch.Add(time.Duration(since))
		next := NextCursor(now, n, func(m int64) int64 { return int64(uint64(random) % uint64(m)) })
		if next < CursorAt(now) || n > 0 && next <= n && n >= CursorAt(now) || next > maxInteger {
			t.Fatalf("%q: %d after %d, now is %d", s, next, n, CursorAt(now))
		}
	})
}
