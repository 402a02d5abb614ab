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

// writesBudget bounds what writes hold, from the first byte of a body to the answer. Nothing is
// charged before it has arrived. The last quarter is reserved for writes of at most smallWriteBytes.
// Where room is short, the slowest of the arriving bodies are given up, but none that has just begun;
// a body that has arrived whole is never given up. The writes of one connection together may hold a
// fraction of the budget; a single write may exceed that.
type writesBudget struct {
	limit int64
	held  atomic.Int64

	mu       sync.Mutex
	incoming map[*incomingBody]struct{} // bodies that took more than one read and have not arrived whole
	metrics  *metrics
}

func (in *writesBudget) init(limit int64, m *metrics) {
	in.limit, in.metrics, in.incoming = limit, m, map[*incomingBody]struct{}{}
}

const (
	// smallWriteBytes is the largest write that may use the reserved quarter of the budget.
	smallWriteBytes = 32 << 10
	// connFraction: the writes of one connection together may hold 1/connFraction of the budget.
	connFraction = 4
	// evictableAfter is the age at which an arriving body can be given up to make room for others.
	evictableAfter = time.Second
	// evictFractionOfBodies: giving bodies up frees at least 1/evictFractionOfBodies of the budget,
	// because each time all arriving bodies are looked at.
	evictFractionOfBodies = 64
)

// bodyCharge records what one write is charged.
type bodyCharge struct {
	budget   *writesBudget
	connHeld *atomic.Int64 // what the connection's writes are charged; nil: not known
	bytes    int64         // charged, without those of body
	body     *incomingBody // nil: the body has arrived, or arrived in one read
}

// incomingBody is a body that is arriving.
type incomingBody struct {
	connHeld *atomic.Int64
	began    time.Time
	received atomic.Int64
	bytes    atomic.Int64
	evicted  atomic.Bool
	stop     func() // makes its reader stop; called under writesBudget.mu
}

// bytesPerSecond returns how fast the body arrives.
func (c *incomingBody) bytesPerSecond(now time.Time) float64 {
	return float64(c.received.Load()) / now.Sub(c.began).Seconds()
}

// reserve charges n more bytes. It returns an error, and charges nothing, if there is no room.
func (h *bodyCharge) reserve(n int64) error {
	if n <= 0 {
		return nil
	}
	in, mine := h.budget, h.bytes
	if h.body != nil {
		mine += h.body.bytes.Load()
	}
	limit := in.limit
	if mine+n > smallWriteBytes {
		limit -= in.smallWriteReserve()
	}
	h.add(n)
	if over := in.held.Load() - limit; over > 0 && !in.evictSlowest(over, nil, h.body) {
		h.add(-n)
		return shard.ErrOverloaded
	}
	if h.connHeld == nil {
		return nil
	}
	all := h.connHeld.Load()
	if over := all - in.limit/connFraction; over > 0 && all > mine+n && !in.evictSlowest(over, h.connHeld, h.body) {
		h.add(-n)
		return errConnShare
	}
	return nil
}

// smallWriteReserve returns how much is reserved for small writes: a quarter, or less if the
// largest write would not fit beside that.
func (in *writesBudget) smallWriteReserve() int64 {
	quarter, beside := in.limit/4, in.limit-int64(shard.RequestCost(shard.MaxBody, shard.MaxMessages))
	if beside < 0 { // the largest write does not fit anyway
		return quarter
	}
	return min(quarter, beside)
}

func (h *bodyCharge) add(n int64) {
	if h.body != nil {
		h.body.bytes.Add(n)
	} else {
		h.bytes += n
	}
	addHeld(h.budget, h.connHeld, n)
}

func addHeld(in *writesBudget, conn *atomic.Int64, n int64) {
	in.held.Add(n)
	if conn != nil {
		conn.Add(n)
	}
}

// noteWaiting notes that more of the body is waited for. It returns an error if the body was given up.
func (h *bodyCharge) noteWaiting(w http.ResponseWriter, began time.Time, got int) error {
	c := h.body
	if c == nil {
		c = &incomingBody{connHeld: h.connHeld, began: began, stop: func() {
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}}
		c.bytes.Store(h.bytes)
		h.body, h.bytes = c, 0
		h.budget.mu.Lock()
		h.budget.incoming[c] = struct{}{}
		h.budget.mu.Unlock()
	}
	c.received.Store(int64(got))
	if c.evicted.Load() { // checked after the caller moved the deadline; stop moves it after setting evicted
		return errBodyEvicted
	}
	return nil
}

// finishBody is called when no more of the body is waited for, for whatever reason. It reports
// whether the body was given up.
func (h *bodyCharge) finishBody() (cut bool) {
	c := h.body
	if c == nil {
		return false
	}
	h.budget.mu.Lock()
	delete(h.budget.incoming, c)
	h.budget.mu.Unlock()
	h.body, h.bytes = nil, c.bytes.Swap(0)
	return c.evicted.Load()
}

// release returns the whole charge.
func (h *bodyCharge) release() {
	h.finishBody()
	addHeld(h.budget, h.connHeld, -h.bytes)
	h.bytes = 0
}

// evictSlowest gives up the slowest bodies until over bytes are free. It returns false, and gives
// none up, if there are not enough. conn: only bodies of that connection. self is the body that needs
// the room: no body faster than that is given up.
func (in *writesBudget) evictSlowest(over int64, conn *atomic.Int64, self *incomingBody) bool {
	now := time.Now()
	type one struct {
		c    *incomingBody
		rate float64
	}
	in.mu.Lock()
	defer in.mu.Unlock()
	var all []one
	for c := range in.incoming {
		if c != self && (conn == nil || c.connHeld == conn) && now.Sub(c.began) > evictableAfter && !c.evicted.Load() {
			all = append(all, one{c, c.bytesPerSecond(now)})
		}
	}
	slices.SortFunc(all, func(a, b one) int { return cmp.Compare(a.rate, b.rate) })
	if self != nil && now.Sub(self.began) > evictableAfter {
		mine := self.bytesPerSecond(now)
		n, _ := slices.BinarySearchFunc(all, mine, func(o one, r float64) int { return cmp.Compare(o.rate, r) })
		all = all[:n]
	}
	free, least, n := int64(0), max(over, in.limit/evictFractionOfBodies), 0
	for n < len(all) && free < least {
		free += all[n].c.bytes.Load()
		n++
	}
	if free < over {
		return false
	}
	for _, o := range all[:n] {
		o.c.evicted.Store(true)
		addHeld(in, o.c.connHeld, -o.c.bytes.Swap(0))
		o.c.stop()
		in.metrics.abandonedBodies.WithLabelValues(string(reasonSlowBody)).Inc()
	}
	return true
}
