package edge

import (
	"runtime/debug"
	"time"
)

// crowdDetector tells when a crowd of readers has come. What letting one in leaves behind is ten
// times what it needs from then on, and the runtime would keep twice the heap of that moment
// for minutes: where there are many more than there were, memory is given back as soon as
// they have come. Readers that come as others leave are no crowd.
type crowdDetector struct {
	lastCount int64 // readers at the last look
	minCount  int64 // since memory was given back
	trimmedAt time.Time
}

const (
	trimCheckInterval = 500 * time.Millisecond
	minCrowd          = 1000             // readers are a crowd
	minTrimInterval   = 30 * time.Second // at least, between two: it is a collection
)

// shouldTrim is asked every trimCheckInterval, with how many readers there are.
func (s *crowdDetector) shouldTrim(readers int64, now time.Time) bool {
	lately := readers - s.lastCount
	s.lastCount, s.minCount = readers, min(s.minCount, readers)
	crowd := readers - s.minCount
	if crowd < minCrowd || lately > crowd/100 || now.Sub(s.trimmedAt) < minTrimInterval {
		return false
	}
	s.minCount, s.trimmedAt = readers, now
	return true
}

// trimMemory gives memory back when a crowd has come.
func (x *reactor) trimMemory() {
	tick := time.NewTicker(trimCheckInterval)
	defer tick.Stop()
	for s := (crowdDetector{}); ; {
		select {
		case <-x.ctx.Done():
			return
		case now := <-tick.C:
			if s.shouldTrim(x.readers.Load(), now) {
				debug.FreeOSMemory()
			}
		}
	}
}
