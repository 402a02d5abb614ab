package edge

import "sync"

// readerCounts counts the readers of a Server by mode, and those of them that have a goroutine. A
// stopping Server waits for all of them.
type readerCounts struct {
	mu            sync.Mutex
	byMode        map[requestMode]int
	withGoroutine int
	emptied       chan struct{} // closed once there are no readers, after Drain; replaced by CancelDrain
}

func newReaderCounts() readerCounts {
	return readerCounts{emptied: make(chan struct{}), byMode: map[requestMode]int{}}
}

// all returns the number of readers, under mu.
func (c *readerCounts) all() int { return c.byMode[modeSSE] + c.byMode[modeLongPoll] }

// of returns the number of readers of a mode.
func (c *readerCounts) of(m requestMode) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.byMode[m]
}

// haveGoroutine returns the number of readers that have a goroutine.
func (c *readerCounts) haveGoroutine() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.withGoroutine
}
