package shard

import "time"

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
