package shard

import (
	"context"
	"math/rand/v2"
	"time"
)

// PauseWithJitter waits before a call is tried again, with full jitter: up to base doubled try times,
// at most top, or until ctx ends.
func PauseWithJitter(ctx context.Context, try int, base, top time.Duration) {
	d := min(base<<min(try, 10), top)
	t := time.NewTimer(rand.N(d) + 1)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
}
