package connslots

import (
	"net"
	"slices"
	"sync"
)

// Slots holds the connections that have not proved anything yet, at most Limit. A new
// connection always gets a slot: if none is free the oldest connection is evicted, that is closed.
// So a peer, which proves itself within a few round trips, gets in even while strangers hold on to
// their slots.
type Slots struct {
	Limit int

	mu      sync.Mutex
	inOrder []*Slot // oldest first
}

// Slot is the slot of one connection.
type Slot struct {
	conn    net.Conn
	evicted bool // guarded by Slots.mu
}

// Acquire gives a connection a slot. The caller calls release once, when the connection has proved
// itself or has failed.
func (c *Slots) Acquire(conn net.Conn) *Slot {
	g := &Slot{conn: conn}
	c.mu.Lock()
	var oldest *Slot
	if len(c.inOrder) >= c.Limit {
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

// Release frees the slot, and reports whether the connection was evicted from it.
func (c *Slots) Release(g *Slot) (evicted bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.inOrder, g); i >= 0 {
		c.inOrder = slices.Delete(c.inOrder, i, i+1)
	}
	return g.evicted
}

// Count returns the number of slots in use.
func (c *Slots) Count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.inOrder)
}
