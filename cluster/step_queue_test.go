package cluster

import (
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/transport"
)

// The queue is a map from follower to time that finds its first.
func TestStepQueueMatchesAMap(t *testing.T) {
	base := time.Now()
	fs := make([]*follower, 50)
	for i := range fs {
		fs[i] = &follower{}
	}
	var q stepQueue[*follower]
	model := map[*follower]time.Time{}
	now := base
	for range 20_000 {
		f := fs[rand.IntN(len(fs))]
		switch rand.IntN(4) {
		case 0:
			q.schedule(f, time.Time{})
			delete(model, f)
		case 1, 2:
			at := now.Add(rand.N(time.Second))
			q.schedule(f, at)
			model[f] = at
		default:
			now = now.Add(rand.N(50 * time.Millisecond))
			for f, ok := q.popDue(now); ok; f, ok = q.popDue(now) {
				if at, ok := model[f]; !ok || now.Before(at) {
					t.Fatalf("due at %v of %v", at, ok)
				}
				delete(model, f)
			}
			first := time.Hour
			for _, at := range model {
				first = min(first, at.Sub(now))
			}
			if first <= 0 || q.untilNext(now) != first || len(q.byItem) != len(model) {
				t.Fatalf("wait %v for %d, not %v for %d", q.untilNext(now), len(q.byItem), first, len(model))
			}
		}
	}
}

// Streams that answersLocally are opened before all that have to be fetched.
func TestOpenPoolRunsLocalStreamsFirst(t *testing.T) {
	p := &openPool{limit: 1, maxWaiting: 4}
	var order []string
	begun, hold := make(chan struct{}), make(chan struct{})
	add := func(near bool, name string) bool {
		return p.submit(near, func() { order = append(order, name) })
	}
	p.submit(false, func() {
		close(begun)
		<-hold
	})
	<-begun
	for _, far := range []string{"a", "b"} {
		add(false, far)
	}
	add(true, "c")
	add(true, "d")
	if add(true, "e") {
		t.Error("more wait than may")
	}
	close(hold)
	p.close()
	if got := strings.Join(order, ""); got != "cdab" {
		t.Errorf("%q", got)
	}
}

// Moves that are not urgent are spread, if there are many.
func TestMovesThatAreNotUrgentAreSpread(t *testing.T) {
	var l followLoop
	now := time.Now()
	const n = 4000
	var last time.Time
	early := 0
	for range n {
		at := l.nextMoveTime(now)
		if at.Before(now.Add(time.Second)) {
			early++
		}
		last = at
	}
	if d := last.Sub(now); d < n*movePace || d > n*movePace+moveJitter {
		t.Errorf("the last after %v", d)
	}
	for range 100_000 { // feeds last for transport.MovedGrace
		if d := l.nextMoveTime(now).Sub(now); d > transport.MovedGrace*3/4 {
			t.Fatalf("one after %v", d)
		}
	}
	if early < n/4 || early > n/2 {
		t.Errorf("%d of %d in the first second", early, n)
	}
	if later := now.Add(time.Hour); l.nextMoveTime(later).Sub(later) > movePace+moveJitter {
		t.Error("a later one waits for those before")
	}
}
