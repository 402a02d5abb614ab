package cluster

import (
	"net"
	"slices"
	"sync"
)

// crowd is the connections that have not proved anything yet. There are only so many places:
// each newcomer gets one, and where none is free it takes that of the connection that has been
// there for longest. So a peer, which proves what it is within a few round trips, gets in
// beside strangers that hold on to their places.
type crowd struct {
	places int

	mu   sync.Mutex
	here []*greeting // in the order in which they came
}

// greeting is one connection of a crowd.
type greeting struct {
	conn   net.Conn
	pushed bool // its place was taken; guarded by crowd.mu
}

// enter gives a connection a place. The caller calls leave once, when the connection has
// proved something or has failed.
func (c *crowd) enter(conn net.Conn) *greeting {
	g := &greeting{conn: conn}
	c.mu.Lock()
	var oldest *greeting
	if len(c.here) >= c.places {
		oldest = c.here[0]
		oldest.pushed = true
		c.here = slices.Delete(c.here, 0, 1)
	}
	c.here = append(c.here, g)
	c.mu.Unlock()
	if oldest != nil {
		_ = oldest.conn.Close()
	}
	return g
}

// leave gives the place back, and reports whether another connection has taken it.
func (c *crowd) leave(g *greeting) (pushed bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if i := slices.Index(c.here, g); i >= 0 {
		c.here = slices.Delete(c.here, i, i+1)
	}
	return g.pushed
}

// size returns how many connections are there.
func (c *crowd) size() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.here)
}
