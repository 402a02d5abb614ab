package s2s

import (
	"sync/atomic"
	"time"
)

// The receive window of a session begins small, grows while data fills it quickly, and shrinks once it
// comes slowly. What it has beyond the beginning is taken from the Client's budget, and is back there
// when the session ends. What a peer may send cannot be taken back from it, so a window shrinks by what
// is not credited again.

const (
	// quickCredit is the time between two credits of a session, each a quarter of its window, below
	// which the window grows. slowCredit is the time above which it shrinks.
	quickCredit = 100 * time.Millisecond
	slowCredit  = 10 * time.Second
)

// windowBudget counts the receive windows of a Client's sessions.
type windowBudget struct {
	most   int64        // of beyond
	beyond atomic.Int64 // what windows have beyond Config.Window
	all    atomic.Int64 // of all sessions
}

// reserve takes n bytes for a window that grows; false: there are not so many.
func (b *windowBudget) reserve(n int32) bool {
	if b.beyond.Add(int64(n)) > b.most {
		b.beyond.Add(-int64(n))
		return false
	}
	b.all.Add(int64(n))
	return true
}

// giveBack gives back n bytes of a window.
func (b *windowBudget) giveBack(n int32) {
	b.beyond.Add(-int64(n))
	b.all.Add(-int64(n))
}

// WindowBytes returns how many bytes the peers may send on all sessions together before their
// consumers have taken any.
func (c *Client) WindowBytes() int64 { return c.windows.all.Load() }

// openWindow gives a new session its window.
func (s *stream) openWindow() {
	c := s.conn.client
	s.size, s.window = c.cfg.Window, c.cfg.Window
	c.windows.all.Add(int64(s.size))
}

// closeWindow gives the window of a session back that has ended.
func (s *stream) closeWindow() {
	c := s.conn.client
	c.windows.giveBack(s.size - c.cfg.Window)
	c.windows.all.Add(-int64(c.cfg.Window))
}

// credit lets the peer send n more bytes, of which the consumer holds none any longer.
func (s *stream) credit(n int32) {
	s.owed, s.held = s.owed+n, s.held-n
	c := s.conn.client
	since := c.now() - s.credited
	slow := since >= slowCredit && s.size > c.cfg.Window
	enough := max(s.size/4, 1)
	if slow {
		enough = max(c.cfg.Window/4, 1)
	}
	if s.ended || s.owed < enough {
		return
	}
	switch {
	case slow:
		s.shrinkWindow(min(s.owed, s.size-c.cfg.Window))
	case s.credited > 0 && since < quickCredit:
		s.growWindow(min(s.size, c.cfg.MaxWindow-s.size))
	}
	s.credited = max(c.now(), 1)
	if s.owed == 0 {
		return
	}
	s.conn.emit(s.conn.frames.WriteWindowUpdate(s.id, uint32(s.owed)))
	s.window, s.owed = s.window+s.owed, 0
	s.conn.flush()
}

// growWindow makes the window n bytes larger, if the budget has them.
func (s *stream) growWindow(n int32) {
	if n > 0 && s.conn.client.windows.reserve(n) {
		s.size, s.owed = s.size+n, s.owed+n
	}
}

// shrinkWindow keeps n bytes that the peer would be credited again.
func (s *stream) shrinkWindow(n int32) {
	s.size, s.owed = s.size-n, s.owed-n
	s.conn.client.windows.giveBack(n)
}
