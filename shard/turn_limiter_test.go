package shard

import (
	"context"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// A thousand streams are followed in the same moment: as many sessions as the bucket holds open
// immediately, the others at its rate, most followed first. A session that is given up uses no
// turn.
func TestSessionsArePaced(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		defer cancel()
		o := newTurnLimiter(func(fn func(context.Context)) bool {
			go fn(ctx)
			return true
		}, sessionsPerSecond, sessionBurst, ErrOverloaded)
		const n = 1000
		var mu sync.Mutex
		var order []int
		began := time.Now()
		gone, leave := context.WithCancel(ctx)
		defer leave()
		var wg sync.WaitGroup
		for i := range n {
			wg.Go(func() {
				if o.wait(ctx, i+1) == nil {
					mu.Lock()
					order = append(order, i)
					mu.Unlock()
				}
			})
			go func() { _ = o.wait(gone, n+i+1) }()
			if i == sessionBurst {
				synctest.Wait()
				leave()
			}
		}
		wg.Wait()
		if d, most := time.Since(began), time.Second*n/sessionsPerSecond; d < most-2*time.Second || d > most {
			t.Errorf("it took %v", d)
		}
		late := slices.Clone(order[len(order)-n/2:])
		if slices.Reverse(order); !slices.IsSorted(order[:n/2]) {
			t.Errorf("not the most followed first: %v", late)
		}
	})
}
