package edge

import "sync"

const (
	// maxCreateWaits bounds the waiters of a node, and maxProjectCreateWaits those of one project, so
	// that one does not take all. A waiter beyond the first is refused with 503, because another node may
	// have room, and one beyond the second with 429; no waiter is ended for a newcomer.
	maxCreateWaits        = 1000
	maxProjectCreateWaits = 100
)

// createWaits counts the waiters of a Server.
type createWaits struct {
	mu        sync.Mutex
	all       int
	byProject map[string]int
}

// add counts a waiter, or refuses it. remove uncounts it.
func (c *createWaits) add(project string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.byProject[project] >= maxProjectCreateWaits:
		return errProjectCreateWaits
	case c.all >= maxCreateWaits:
		return errCreateWaitsFull
	}
	if c.byProject == nil {
		c.byProject = map[string]int{}
	}
	c.all++
	c.byProject[project]++
	return nil
}

func (c *createWaits) remove(project string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all--
	if c.byProject[project]--; c.byProject[project] == 0 {
		delete(c.byProject, project)
	}
}

// count returns the number of waiters.
func (c *createWaits) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.all
}

// waitEnd says why a wait is over. It labels a metric.
type waitEnd string

const (
	waitCreated waitEnd = "created"
	waitTimeout waitEnd = "timeout"
	waitDrain   waitEnd = "drain"
	waitPermit  waitEnd = "permit" // the client's right is over
	waitLeft    waitEnd = "left"   // the client has disconnected
)

var waitEnds = []waitEnd{waitCreated, waitTimeout, waitDrain, waitPermit, waitLeft}
