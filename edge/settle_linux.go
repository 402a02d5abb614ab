package edge

import (
	"runtime/debug"
	"time"
)

// settling tells when a crowd of readers has come. What letting one in leaves behind is ten
// times what it needs from then on, and the runtime would keep twice the heap of that moment
// for minutes: where there are many more than there were, memory is given back as soon as
// they have come. Readers that come as others leave are no crowd.
type settling struct {
	seen  int64 // readers at the last look
	least int64 // since memory was given back
	at    time.Time
}

const (
	settleEvery = 500 * time.Millisecond
	settleLeast = 1000             // readers are a crowd
	settlePause = 30 * time.Second // at least, between two: it is a collection
)

// due is asked every settleEvery, with how many readers there are.
func (s *settling) due(readers int64, now time.Time) bool {
	lately := readers - s.seen
	s.seen, s.least = readers, min(s.least, readers)
	crowd := readers - s.least
	if crowd < settleLeast || lately > crowd/100 || now.Sub(s.at) < settlePause {
		return false
	}
	s.least, s.at = readers, now
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
			if s.due(x.readers.Load(), now) {
				debug.FreeOSMemory()
			}
		}
	}
}
