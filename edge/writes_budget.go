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

func (b *writesBudget) init(limit int64, m *metrics) {
	b.limit, b.metrics, b.incoming = limit, m, map[*incomingBody]struct{}{}
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
func (body *incomingBody) bytesPerSecond(now time.Time) float64 {
	return float64(body.received.Load()) / now.Sub(body.began).Seconds()
}

// reserve charges n more bytes. It returns an error, and charges nothing, if there is no room.
func (c *bodyCharge) reserve(n int64) error {
	if n <= 0 {
		return nil
	}
	b, mine := c.budget, c.bytes
	if c.body != nil {
		mine += c.body.bytes.Load()
	}
	limit := b.limit
	if mine+n > smallWriteBytes {
		limit -= b.smallWriteReserve()
	}
	c.add(n)
	if over := b.held.Load() - limit; over > 0 && !b.evictSlowest(over, nil, c.body) {
		c.add(-n)
		return shard.ErrOverloaded
	}
	if c.connHeld == nil {
		return nil
	}
	all := c.connHeld.Load()
	if over := all - b.limit/connFraction; over > 0 && all > mine+n && !b.evictSlowest(over, c.connHeld, c.body) {
		c.add(-n)
		return errConnShare
	}
	return nil
}

// smallWriteReserve returns how much is reserved for small writes: a quarter, or less if the
// largest write would not fit beside that.
func (b *writesBudget) smallWriteReserve() int64 {
	quarter, beside := b.limit/4, b.limit-int64(shard.RequestCost(shard.MaxBody, shard.MaxMessages))
	if beside < 0 { // the largest write does not fit anyway
		return quarter
	}
	return min(quarter, beside)
}

func (c *bodyCharge) add(n int64) {
	if c.body != nil {
		c.body.bytes.Add(n)
	} else {
		c.bytes += n
	}
	addHeld(c.budget, c.connHeld, n)
}

func addHeld(b *writesBudget, conn *atomic.Int64, n int64) {
	b.held.Add(n)
	if conn != nil {
		conn.Add(n)
	}
}

// noteWaiting notes that more of the body is waited for. It returns an error if the body was given up.
func (c *bodyCharge) noteWaiting(w http.ResponseWriter, began time.Time, got int) error {
	body := c.body
	if body == nil {
		body = &incomingBody{connHeld: c.connHeld, began: began, stop: func() {
			_ = http.NewResponseController(w).SetReadDeadline(time.Unix(1, 0))
		}}
		body.bytes.Store(c.bytes)
		c.body, c.bytes = body, 0
		c.budget.mu.Lock()
		c.budget.incoming[body] = struct{}{}
		c.budget.mu.Unlock()
	}
	body.received.Store(int64(got))
	if body.evicted.Load() { // checked after the caller moved the deadline; stop moves it after setting evicted
		return errBodyEvicted
	}
	return nil
}

// finishBody ends the wait for the body, for whatever reason, and reports whether the body was given
// up.
func (c *bodyCharge) finishBody() (cut bool) {
	body := c.body
	if body == nil {
		return false
	}
	c.budget.mu.Lock()
	delete(c.budget.incoming, body)
	c.budget.mu.Unlock()
	c.body, c.bytes = nil, body.bytes.Swap(0)
	return body.evicted.Load()
}

// release returns the whole charge.
func (c *bodyCharge) release() {
	c.finishBody()
	addHeld(c.budget, c.connHeld, -c.bytes)
	c.bytes = 0
}

// evictSlowest gives up the slowest bodies until over bytes are free. It returns false, and gives
// none up, if there are not enough. conn: only bodies of that connection. self is the body that needs
// the room: no body faster than that is given up.
func (b *writesBudget) evictSlowest(over int64, conn *atomic.Int64, self *incomingBody) bool {
	now := time.Now()
	type one struct {
		body *incomingBody
		rate float64
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []one
	for body := range b.incoming {
		if body != self && (conn == nil || body.connHeld == conn) && now.Sub(body.began) > evictableAfter && !body.evicted.Load() {
			all = append(all, one{body, body.bytesPerSecond(now)})
		}
	}
	slices.SortFunc(all, func(x, y one) int { return cmp.Compare(x.rate, y.rate) })
	if self != nil && now.Sub(self.began) > evictableAfter {
		mine := self.bytesPerSecond(now)
		n, _ := slices.BinarySearchFunc(all, mine, func(o one, r float64) int { return cmp.Compare(o.rate, r) })
		all = all[:n]
	}
	free, least, n := int64(0), max(over, b.limit/evictFractionOfBodies), 0
	for n < len(all) && free < least {
		free += all[n].body.bytes.Load()
		n++
	}
	if free < over {
		return false
	}
	for _, o := range all[:n] {
		o.body.evicted.Store(true)
		addHeld(b, o.body.connHeld, -o.body.bytes.Swap(0))
		o.body.stop()
		b.metrics.abandonedBodies.WithLabelValues(string(reasonSlowBody)).Inc()
	}
	return true
}
