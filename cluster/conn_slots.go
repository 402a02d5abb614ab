package cluster

import (
	"net"
	"slices"
	"sync"
)

// connSlots is the connections that have not proved anything yet. There are only so many places:
// each newcomer gets one, and where none is free it takes that of the connection that has been
// there for longest. So a peer, which proves what it is within a few round trips, gets in
// beside strangers that hold on to their places.
type connSlots struct {
	limit int

	mu    sync.Mutex
	slots []*connSlot // in the order in which they came
}

// connSlot is one connection of a crowd.
type connSlot struct {
	conn    net.Conn
	evicted bool // its place was taken; guarded by crowd.mu
}

// acquire gives a connection a place. The caller calls leave once, when the connection has
// proved something or has failed.
func (c *connSlots) acquire(conn net.Conn) *connSlot {
	g := &connSlot{conn: conn}
	c.mu.Lock()
	var oldest *connSlot
	if len(c.slots) >= c.limit {
		oldest = c.slots[0]
		oldest.evicted = true
		c.slots = slices.Delete(c.slots, 0, 1)
	}
	c.slots = append(c.slots, g)
	c.mu.Unlock()
	if oldest != nil {
		_ = oldest.conn.Close()
	}
	return g
}

// release gives the place back, and reports whether another connection has taken it.
func (c *connSlots) release(g *connSlot) (pushed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.slots, g); i >= 0 {
		c.slots = slices.Delete(c.slots, i, i+1)
	}
	return g.evicted
}

// count returns how many connections are there.
func (c *connSlots) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.slots)
}
