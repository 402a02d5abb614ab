package cluster

import (
	"net"
	"slices"
	"sync"
)

// connSlots holds the connections that have not proved anything yet, at most limit. A new
// connection always gets a slot: if none is free the oldest connection is evicted, that is closed.
// So a peer, which proves itself within a few round trips, gets in even while strangers hold on to
// their slots.
type connSlots struct {
	limit int

	mu      sync.Mutex
	inOrder []*connSlot // oldest first
}

// connSlot is the slot of one connection.
type connSlot struct {
	conn    net.Conn
	evicted bool // guarded by connSlots.mu
}

// acquire gives a connection a slot. The caller calls release once, when the connection has proved
// itself or has failed.
func (c *connSlots) acquire(conn net.Conn) *connSlot {
	g := &connSlot{conn: conn}
	c.mu.Lock()
	var oldest *connSlot
	if len(c.inOrder) >= c.limit {
		oldest = c.inOrder[0]
		oldest.evicted = true
		c.inOrder = slices.Delete(c.inOrder, 0, 1)
	}
	c.inOrder = append(c.inOrder, g)
	c.mu.Unlock()
	if oldest != nil {
		_ = oldest.conn.Close()
	}
	return g
}

// release frees the slot, and reports whether the connection was evicted from it.
func (c *connSlots) release(g *connSlot) (evicted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.inOrder, g); i >= 0 {
		c.inOrder = slices.Delete(c.inOrder, i, i+1)
	}
	return g.evicted
}

// count returns the number of slots in use.
func (c *connSlots) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.inOrder)
}
