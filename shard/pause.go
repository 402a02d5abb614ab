package shard

import (
	"context"
	"math/rand/v2"
	"time"
)

// PauseWithJitter waits before a call is tried again, with full jitter: up to base doubled try times,
// at most top, or until ctx ends.
func PauseWithJitter(ctx context.Context, try int, base, top time.Duration) {
	PauseFor(ctx, JitteredPause(try, base, top))
}

// PauseFor waits for d, or until ctx ends.
func PauseFor(ctx context.Context, d time.Duration) {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}

// JitteredPause returns the length of such a wait.
func JitteredPause(try int, base, top time.Duration) time.Duration {
	return rand.N(min(base<<min(try, 10), top)) + 1
}
