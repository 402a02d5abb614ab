package unproven

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

// Acquire gives a connection a slot. The caller calls Release once, when the connection has proved
// itself or has failed.
func (s *Slots) Acquire(conn net.Conn) *Slot {
	slot := &Slot{conn: conn}
	s.mu.Lock()
	var oldest *Slot
	if len(s.inOrder) >= s.Limit {
		oldest = s.inOrder[0]
		oldest.evicted = true
		s.inOrder = slices.Delete(s.inOrder, 0, 1)
	}
	s.inOrder = append(s.inOrder, slot)
	s.mu.Unlock()
	if oldest != nil {
		_ = oldest.conn.Close()
	}
	return slot
}

// Release frees the slot, and reports whether the connection was evicted from it.
func (s *Slots) Release(slot *Slot) (evicted bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.inOrder, slot); i >= 0 {
		s.inOrder = slices.Delete(s.inOrder, i, i+1)
	}
	return slot.evicted
}

// Count returns the number of slots in use.
func (s *Slots) Count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.inOrder)
}
