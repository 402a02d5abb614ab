package edge

import "sync"

// maxEndsPerSecond bounds the readers whose leases end in one second, if a sixtieth of all readers is
// not more: many tokens are issued, and expire, together, as after a deploy of the application.
const maxEndsPerSecond = 2000

// leaseEnds spreads the ends of leases. A reader whose second is full ends in the next that has room.
// It has an entry for each second in which a reader ends, so as many as readers at most.
type leaseEnds struct {
	mu    sync.Mutex
	count map[uint32]int
}

// reserveSecond returns the second, from at on, in which a reader ends; 0: it has no end.
func (e *leaseEnds) reserveSecond(at uint32, readers int) uint32 {
	if at == 0 {
		return 0
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	for most := max(maxEndsPerSecond, readers/60); e.count[at] >= most; at++ { //nolint:revive // the loop is the search
	}
	if e.count == nil {
		e.count = map[uint32]int{}
	}
	e.count[at]++
	return at
}

// giveBack frees a reader's place; second is what reserveSecond returned.
func (e *leaseEnds) giveBack(second uint32) {
	if second == 0 {
		return
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.count[second]--; e.count[second] <= 0 {
		delete(e.count, second)
	}
}
