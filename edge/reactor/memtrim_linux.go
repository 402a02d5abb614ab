package reactor

import (
	"runtime/debug"
	"time"
)

// crowdDetector detects when a crowd of readers has connected. Admitting a reader leaves behind ten
// times the memory that it needs from then on, and the runtime would keep twice the heap of that
// moment for minutes. So after the number of readers has grown by a crowd, memory is given back as
// soon as they have all connected. Readers that replace others are not a crowd.
type crowdDetector struct {
	lastCount int64 // readers at the last check
	minCount  int64 // fewest readers since memory was given back
	trimmedAt time.Time
}

const (
	trimCheckInterval = 500 * time.Millisecond
	minCrowd          = 1000             // readers
	minTrimInterval   = 30 * time.Second // because each trim is a garbage collection
)

// shouldTrim reports whether to give memory back now. It is called every trimCheckInterval with the
// number of readers.
func (d *crowdDetector) shouldTrim(readers int64, now time.Time) bool {
	lately := readers - d.lastCount
	d.lastCount, d.minCount = readers, min(d.minCount, readers)
	crowd := readers - d.minCount
	if crowd < minCrowd || lately > crowd/100 || now.Sub(d.trimmedAt) < minTrimInterval {
		return false
	}
	d.minCount, d.trimmedAt = readers, now
	return true
}

// trimMemory gives memory back to the system after each crowd.
func (r *Reactor) trimMemory() {
	tick := time.NewTicker(trimCheckInterval)
	defer tick.Stop()
	for d := (crowdDetector{}); ; {
		select {
		case <-r.ctx.Done():
			return
		case now := <-tick.C:
			if d.shouldTrim(r.readers.Load(), now) {
				debug.FreeOSMemory()
			}
		}
	}
}
