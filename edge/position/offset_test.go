package position

import (
	"testing"

	"github.com/fantail-dev/fantail/shard"
)

// A time in whatever spelling is a number of milliseconds, rounded up.
func TestParseTimes(t *testing.T) {
	for s, want := range map[string]shard.Millis{
		"at:0": 0, "at:1769860800000": 1769860800000, "at:2026-01-31T12:00:00Z": 1769860800000, "at:2026-01-31T13:00:00.5+01:00": 1769860800500,
		"at:2026-01-31T13:00:00 01:00": 1769860800000, "at:2026-01-31T12:00:00.000000001Z": 1769860800001, "at:1969-12-31T23:59:59.9999Z": 0,
		"at:9999-12-31T23:59:59.999Z": 253402300799999, "at:253402300799999": 253402300799999,
	} {
		o, err := ParseReadOffset(s)
		if err != nil || o != (Offset{Kind: OffsetTime, Since: want}) || !o.IsRelative() {
			t.Errorf("%s: %+v, %v, want %d", s, o, err, want)
		}
		if _, err := ParseOffset(s); err == nil {
			t.Errorf("%s is an offset of the protocol", s)
		}
	}
}
