package shard

import (
	"errors"
	"time"
)

// LaterRelease is the header of a record at pos that only a later release can read.
func LaterRelease(pos uint64) []byte {
	b := (&Header{Kind: KindMessage}).encode(pos)
	b = b[:len(b)-headerSum]
	b[1] = headerVersion + 1
	return resum(pos, b)
}

// ProbeEvery is how long at most storage is taken for down after it is back.
const ProbeEvery = probeEvery + time.Millisecond

// Join is join.
func Join(rs ...Range) Range { return join(rs) }

// AbsentBytes is what names without a stream cost.
func AbsentBytes(h *Host) int64 { return h.states.absentBytes.Load() }

// IsColdOpens reports whether a request was refused because its stream would wait too long
// to be read.
func IsColdOpens(err error) bool { return errors.Is(err, errColdOpens) }
