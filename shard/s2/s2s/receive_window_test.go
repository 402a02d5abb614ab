package s2s

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// Windows grow where data comes quickly, from what all sessions share; a session for which nothing is
// left goes on with what it has. They shrink where it comes slowly, and end with their sessions.
func TestWindowsShareABudget(t *testing.T) {
	const base, most, shared = 64 << 10, 256 << 10, 256 << 10
	bubble(t, func(t *testing.T, ctx context.Context) {
		c, peers := newPeerClient(t, Config{Window: base, MaxWindow: most, WindowBytes: shared})
		var readers []*reader
		for range 3 {
			readers = append(readers, openReader(ctx, t, c, peerTarget, ReadOptions{}))
		}
		p := <-peers
		ids := []uint32{p.accept(), p.accept(), p.accept()}
		next := make([]uint64, len(ids))
		body := strings.Repeat("x", 8<<10)
		check := func(when string, want int64) {
			t.Helper()
			synctest.Wait()
			sum := int64(0)
			for i, r := range readers {
				r.conn.mu.Lock()
				if r.size != r.window+r.held+r.owed || r.window < 0 {
					t.Errorf("%s: session %d: %d of %d, %d held, %d owed", when, i, r.window, r.size, r.held, r.owed)
				}
				if !r.ended {
					sum += int64(r.size)
				}
				r.conn.mu.Unlock()
			}
			if got := c.WindowBytes(); got != sum || want >= 0 && got != want {
				t.Errorf("%s: %d, of the sessions %d, want %d", when, got, sum, want)
			}
		}
		send := func(i, n int, pause time.Duration) {
			for range n {
				p.send(ids[i], batchFrame(next[i], body))
				next[i]++
				readers[i].records(1)
				<-time.After(pause)
			}
		}
		check("at first", 3*base)
		send(0, 60, time.Millisecond)
		check("one is busy", most+2*base)
		send(1, 60, time.Millisecond) // what is left of the budget
		check("two are busy", 3*base+shared)
		send(2, 60, time.Millisecond)
		check("three are busy", 3*base+shared)
		send(0, 60, 6*time.Second)
		check("one is slow", 3*base+shared-(most-base))
		send(2, 60, time.Millisecond)
		check("another has its share", -1)
		if readers[2].size <= base {
			t.Errorf("the third has %d", readers[2].size)
		}
		for i, r := range readers {
			r.Close()
			if i == 0 {
				check("one has ended", -1)
			}
		}
		check("none is left", 0)
	})
}
