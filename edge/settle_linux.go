package edge

import (
	"runtime/debug"
	"time"
)

// settling tells when a crowd of readers has come. What letting one in leaves behind is ten
// times what it needs from then on, and the runtime would keep twice the heap of that moment
// for minutes: where many have come at once, memory is given back as soon as they have.
type settling struct {
	seen  int64 // who had come by the last look, since the reactor was made
	given int64 // by when memory was given back
	at    time.Time
}

const (
	settleEvery = 500 * time.Millisecond
	settleLeast = 1000             // readers are a crowd
	settlePause = 30 * time.Second // at least, between two: it is a collection
)

// due is asked every settleEvery, with how many have come so far.
func (s *settling) due(came int64, now time.Time) bool {
	lately := came - s.seen
	s.seen = came
	crowd := came - s.given
	if crowd < settleLeast || lately > crowd/100 || now.Sub(s.at) < settlePause {
		return false
	}
	s.given, s.at = came, now
	return true
}

// settle gives memory back when a crowd has come.
func (x *reactor) settle() {
	tick := time.NewTicker(settleEvery)
	defer tick.Stop()
	for s := (settling{}); ; {
		select {
		case <-x.ctx.Done():
			return
		case now := <-tick.C:
			if s.due(x.came.Load(), now) {
				debug.FreeOSMemory()
			}
		}
	}
}
