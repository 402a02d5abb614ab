package edge

import (
	"time"
)

// The protocol's cursor keeps shared caches from serving one client's live answer
// to another for ever (PROTOCOL 8.1): the number of 20-second intervals since its
// epoch; a client that already has that, or a later one, gets one further ahead.
const (
	cursorInterval = 20 * time.Second
	cursorJitter   = 3600 // seconds
)

var cursorEpoch = time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC)

// interval is the cursor of an instant.
func interval(now time.Time) uint64 {
	return uint64(max(now.Sub(cursorEpoch)/cursorInterval, 0))
}

// nextCursor is the cursor for a client that last had client (0: none). random
// returns a number in [0, n).
func nextCursor(now time.Time, client uint64, random func(n int64) int64) uint64 {
	current := interval(now)
	if client < current {
		return current
	}
	const second = int64(cursorInterval / time.Second)
	seconds := 1 + random(cursorJitter)
	return client + uint64((seconds+second-1)/second)
}

// parseCursor reads a client's cursor: digits, or nothing. One that is further ahead than any
// that was ever given is as good as none.
func parseCursor(s string) (n uint64, ok bool) {
	if !all(s, inDigits) {
		return 0, false
	}
	if n, ok := digits(s); ok && n <= maxInteger-cursorJitter {
		return n, true
	}
	return 0, true
}
