package edge

import (
	"context"
	"fmt"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestReadersToMove(t *testing.T) {
	p := RebalancePolicy{Threshold: 0.25, Floor: 200, Rate: 0.01}
	for _, c := range []struct {
		mine   int
		others []int
		want   int
	}{
		{10_000, nil, 0},
		{10_000, []int{10_000, 10_000}, 0},
		{12_000, []int{10_000, 10_000}, 0},
		{20_000, []int{0, 10_000}, 200},
		{600, []int{0, 0}, 6},
		{299, []int{0, 0}, 0}, // below the floor
		{0, []int{30_000, 30_000}, 0},
	} {
		t.Run(fmt.Sprint(c.mine, " beside ", c.others), func(t *testing.T) {
			if got := p.readersToMove(c.mine, c.others); got != c.want {
				t.Errorf("%d beside %v: %d a second, not %d", c.mine, c.others, got, c.want)
			}
		})
	}
	if got := (RebalancePolicy{Floor: 200, Rate: 0.01}).readersToMove(20_000, []int{0}); got != 0 {
		t.Errorf("turned off: %d", got)
	}
}

// A node with many more readers than another sends some away each second, none that has
// only just come, until they are even enough.
func TestRebalanceEvensReadersOut(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "", 201)
		const readers = 120
		ended := make(chan time.Duration, readers)
		for range readers {
			s := b.get("offset=-1", nil)
			began := time.Now()
			go func() {
				_, _ = io.Copy(io.Discard, s.resp.Body)
				ended <- time.Since(began)
			}()
		}
		ctx, stop := context.WithCancel(t.Context())
		done := make(chan struct{})
		began := time.Now()
		go func() {
			defer close(done)
			other := 0 // takes the readers that were sent away
			b.srv.Rebalance(ctx, RebalancePolicy{Threshold: 0.2, Floor: 10, Rate: 0.02}, func(n int) []int {
				other = readers - n
				return []int{other}
			})
		}()
		<-time.After(3 * time.Minute)
		here := b.srv.Readers()
		if here < readers/2 || here > readers/2+15 {
			t.Errorf("%d of %d readers are left", here, readers)
		}
		if n := len(ended); n != readers-here {
			t.Errorf("%d ended, %d are left", n, here)
		}
		last := time.Duration(0)
		for range readers - here {
			age := <-ended
			if age < minRebalanceAge {
				t.Errorf("one was sent away after %v", age)
			}
			last = max(last, age)
		}
		if last < 30*time.Second || last > time.Since(began) {
			t.Errorf("the last one left after %v", last)
		}
		stop()
		<-done
	})
}

// A drain that is taken back leaves the remaining readers alone, and newcomers are welcome.
func TestCancelDrainKeepsReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "", 201)
		const readers = 50
		ended := make(chan struct{}, readers)
		for range readers {
			s := b.get("offset=-1", nil)
			go func() {
				_, _ = io.Copy(io.Discard, s.resp.Body)
				ended <- struct{}{}
			}()
		}
		<-time.After(time.Minute)
		for range 2 { // and again
			ctx, cancel := context.WithCancel(t.Context())
			drained := make(chan error)
			go func() { drained <- b.srv.Drain(ctx, 100*time.Second) }()
			<-time.After(20 * time.Second)
			cancel()
			if err := <-drained; err == nil {
				t.Error("drained")
			}
			b.srv.CancelDrain()
		}
		<-time.After(10 * time.Minute)
		left := b.srv.Readers()
		if left < 15 || left > 45 || len(ended) != readers-left {
			t.Errorf("%d ended, %d are left", len(ended), left)
		}
		b.get("offset=-1", nil).next(1)
		if err := b.srv.Drain(t.Context(), time.Second); err != nil || b.srv.Readers() != 0 {
			t.Error(err)
		}
	})
}
