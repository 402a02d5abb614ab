package position

import (
	"errors"
	"strconv"
	"time"
)

// The protocol's Stream-Cursor keeps shared caches from serving one client's live answer
// to others without end (PROTOCOL 8.1). It is the number of 20-second intervals since
// cursorEpoch; a client that already has that cursor or a later one gets a later one.
const (
	cursorInterval  = 20 * time.Second
	maxCursorJitter = 3600      // seconds
	maxInteger      = 1<<53 - 1 // the largest that every client can hold
)

var cursorEpoch = time.Date(2024, 10, 9, 0, 0, 0, 0, time.UTC)

// CursorAt returns the cursor of an instant.
func CursorAt(now time.Time) uint64 {
	return uint64(max(now.Sub(cursorEpoch)/cursorInterval, 0))
}

// NextCursor returns the cursor for a client that last had client (0: none). random
// returns a number in [0, n).
func NextCursor(now time.Time, client uint64, random func(n int64) int64) uint64 {
	current := CursorAt(now)
	if client < current {
		return current
	}
	const second = int64(cursorInterval / time.Second)
	seconds := 1 + random(maxCursorJitter)
	return client + uint64((seconds+second-1)/second)
}

// ParseCursor reads a client's cursor: digits, or nothing. A cursor that is further ahead than
// this server ever gives counts as none.
func ParseCursor(s string) (n uint64, ok bool) {
	n, err := strconv.ParseUint(s, 10, 64)
	switch {
	case errors.Is(err, strconv.ErrSyntax) && s != "":
		return 0, false
	case err != nil || n > maxInteger-maxCursorJitter:
		return 0, true
	}
	return n, true
}
