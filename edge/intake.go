package edge

import (
	"cmp"
	"net/http"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// intake is the budget for what writes hold, from the first byte of a body to the answer. Nothing is
// counted before it has come. The last quarter is for writes of no more than smallWrite. Where room is
// short, bodies on their way go that came slowest, and nobody who has just begun; what has come
// whole is never taken away. What one connection brings together has a share, beyond one write.
type intake struct {
	limit int64
	held  atomic.Int64

	mu   sync.Mutex
	slow map[*coming]struct{} // bodies that took more than one read and have not come whole
	m    *metrics
}

func (in *intake) init(limit int64, m *metrics) {
	in.limit, in.m, in.slow = limit, m, map[*coming]struct{}{}
}

const (
	// smallWrite is what the last quarter of the budget is kept for.
	smallWrite = 32 << 10
	// connShare is which part of the budget the writes of one connection may hold together.
	connShare = 4
	// slowAfter is how long a body may take before it can be cut to make room for others.
	slowAfter = time.Second
	// slowPart is which part of the budget is made free at least when bodies are cut: each time
	// all that come are looked at.
	slowPart = 64
)

// hold is what one write holds of the budget.
type hold struct {
	in   *intake
	conn *atomic.Int64 // what the connection's writes hold; nil: not known
	room int64         // without coming's
	body *coming       // nil: the body has come, or nothing of it was waited for
}

// coming is a body on its way.
type coming struct {
	conn  *atomic.Int64
	began time.Time
	got   atomic.Int64
	room  atomic.Int64
	isCut atomic.Bool
	stop  func() // has its reader stop; called under intake.mu
}

// rate is how many bytes of the body came in a second.
func (c *coming) rate(now time.Time) float64 {
	return float64(c.got.Load()) / now.Sub(c.began).Seconds()
}

// take adds n bytes. An error: there is no room.
func (h *hold) take(n int64) error {
	if n <= 0 {
		return nil
	}
	in, mine := h.in, h.room
	if h.body != nil {
		mine += h.body.room.Load()
	}
	limit := in.limit
	if mine+n > smallWrite {
		limit -= in.reserve()
	}
	h.add(n)
	if over := in.held.Load() - limit; over > 0 && !in.ease(over, nil, h.body) {
		h.add(-n)
		return shard.ErrOverloaded
	}
	if h.conn == nil {
		return nil
	}
	all := h.conn.Load()
	if over := all - in.limit/connShare; over > 0 && all > mine+n && !in.ease(over, h.conn, h.body) {
		h.add(-n)
		return errShare
	}
	return nil
}

// reserve is what is kept for small writes: a quarter, or as much as leaves room for the largest write.
func (in *intake) reserve() int64 {
	quarter, beside := in.limit/4, in.limit-int64(shard.RequestCost(shard.MaxBody, shard.MaxMessages))
	if beside < 0 { // it has no room anyway
		return quarter
	}
	return min(quarter, beside)
}

func (h *hold) add(n int64) {
	if h.body != nil {
		h.body.room.Add(n)
	} else {
		h.room += n
	}
	count(h.in, h.conn, n)
}

func count(in *intake, conn *atomic.Int64, n int64) {
	in.held.Add(n)
	if conn != nil {
		conn.Add(n)
	}
}

// await notes that more of the body is waited for.
func (h *hold) await(w http.ResponseWriter, began time.Time, got int) error {
	c := h.body
	if c == nil {
		c = &coming{conn: h.conn, began: began, stop: func() {
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}}
		c.room.Store(h.room)
		h.body, h.room = c, 0
		h.in.mu.Lock()
		h.in.slow[c] = struct{}{}
		h.in.mu.Unlock()
	}
	c.got.Store(int64(got))
	if c.isCut.Load() { // asked after the deadline was moved, which is moved back after it was set
		return errBodyCut
	}
	return nil
}

// came is for when no more of the body is waited for, whatever became of it.
func (h *hold) came() (cut bool) {
	c := h.body
	if c == nil {
		return false
	}
	h.in.mu.Lock()
	delete(h.in.slow, c)
	h.in.mu.Unlock()
	h.body, h.room = nil, c.room.Swap(0)
	return c.isCut.Load()
}

// release gives all back.
func (h *hold) release() {
	h.came()
	count(h.in, h.conn, -h.room)
	h.room = 0
}

// ease cuts the slowest bodies until over bytes are free; false: there are none, and none was cut. conn:
// only those of that connection. self is the body for which that is done: no faster one goes.
func (in *intake) ease(over int64, conn *atomic.Int64, self *coming) bool {
	now := time.Now()
	type one struct {
		c    *coming
		rate float64
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	var all []one
	for c := range in.slow {
		if c != self && (conn == nil || c.conn == conn) && now.Sub(c.began) > slowAfter && !c.isCut.Load() {
			all = append(all, one{c, c.rate(now)})
		}
	}
	slices.SortFunc(all, func(a, b one) int { return cmp.Compare(a.rate, b.rate) })
	if self != nil && now.Sub(self.began) > slowAfter {
		mine := self.rate(now)
		n, _ := slices.BinarySearchFunc(all, mine, func(o one, r float64) int { return cmp.Compare(o.rate, r) })
		all = all[:n]
	}
	free, least, n := int64(0), max(over, in.limit/slowPart), 0
	for n < len(all) && free < least {
		free += all[n].c.room.Load()
		n++
	}
	if free < over {
		return false
	}
	for _, o := range all[:n] {
		o.c.isCut.Store(true)
		count(in, o.c.conn, -o.c.room.Swap(0))
		o.c.stop()
		in.m.cutBodies.WithLabelValues(string(cutSlow)).Inc()
	}
	return true
}
