package edge

import (
	"time"
)

// The protocol's Stream-Cursor keeps shared caches from serving one client's live answer
// to others without end (PROTOCOL 8.1). It is the number of 20-second intervals since
// cursorEpoch; a client that already has that cursor or a later one gets a later one.
const (
	cursorInterval  = 20 * time.Second
	maxCursorJitter = 3600 // seconds
)

var cursorEpoch = time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC)

// cursorAt returns the cursor of an instant.
func cursorAt(now time.Time) uint64 {
	return uint64(max(now.Sub(cursorEpoch)/cursorInterval, 0))
}

// nextCursor returns the cursor for a client that last had client (0: none). random
// returns a number in [0, n).
func nextCursor(now time.Time, client uint64, random func(n int64) int64) uint64 {
	current := cursorAt(now)
	if client < current {
		return current
	}
	const second = int64(cursorInterval / time.Second)
	seconds := 1 + random(maxCursorJitter)
	return client + uint64((seconds+second-1)/second)
}

// parseCursor reads a client's cursor: digits, or nothing. A cursor that is further ahead than
// this server ever gives counts as none.
func parseCursor(s string) (n uint64, ok bool) {
	if !allInClass(s, inDigits) {
		return 0, false
	}
	if n, ok := parseDigits(s); ok && n <= maxInteger-maxCursorJitter {
		return n, true
	}
	return 0, true
}
