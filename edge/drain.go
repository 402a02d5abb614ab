package edge

import (
	"context"
	"time"
)

// minDrainAge is the least age of an event stream that a drain with a window ends: real
// clients stop using SSE after a few short streams.
const minDrainAge = 2 * time.Second

// An EventSource is told to reconnect after a random delay between these.
const (
	minRetryDelay = 500 * time.Millisecond
	maxRetryDelay = 3 * time.Second
)

// Leave makes answers close their connections, so that clients open the next one elsewhere.
// Drain comes next; CancelDrain undoes it.
func (s *Server) Leave() { s.closesConns.Store(true) }

// Drain ends the current readers over the window, and refuses new event streams. Each reader ends
// between two events, at a moment of its own (sse.Orders), so that the nodes that receive them meet
// no crowd. Without a window they end immediately. Drain returns when there are no readers. Plain
// requests and long-polls are still served, with a hint to open no more connections here.
func (s *Server) Drain(ctx context.Context, window time.Duration) error {
	c := &s.counts
	s.Leave()
	c.mu.Lock()
	if !s.rules.Orders().Drain {
		s.rules.Change(true, window)
		if c.all() == 0 {
			close(c.emptied)
		}
	}
	gone := c.emptied
	c.mu.Unlock()
	s.reactor.RecheckSessions()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// CancelDrain undoes Leave and Drain: the remaining readers stay.
func (s *Server) CancelDrain() {
	c := &s.counts
	s.closesConns.Store(false)
	c.mu.Lock()
	if s.rules.Orders().Drain {
		s.rules.Change(false, 0)
		c.emptied = make(chan struct{})
	}
	c.mu.Unlock()
	s.reactor.RecheckSessions()
}
