package sse

import "time"

// The reasons. A reader whose stream ends by EndDrain or EndRebalance is told to reconnect.
const (
	EndOfStream  EndReason = iota + 1 // the stream has ended, or its generation
	EndDrain                          // the node is stopping
	EndRebalance                      // other nodes have fewer readers
	EndPermit                         // its Permit is over
	EndStalled                        // it accepted nothing for Times.Stall
	EndMemory                         // it was blocked while readers held too much memory
)

// EndReason says why a reader's event stream ends.
type EndReason uint8

// String returns the label of the reason in metrics.
func (e EndReason) String() string {
	return [...]string{"", "end", "drain", "rebalance", "permit", "stalled", "memory"}[e]
}

// tellsToReconnect reports whether the stream ends with a retry event.
func (e EndReason) tellsToReconnect() bool { return e == EndDrain || e == EndRebalance }

// Permit says for how long a reader may stay.
type Permit interface {
	// EndsAt returns the moment at which the reader has to go: a past one if its permit was revoked,
	// and the largest Instant if it may stay. It is called when a session begins and whenever Orders
	// change.
	EndsAt() Instant
}

// Departure says when one reader has to go, and why. A Session has one; a long-poll, which has no
// session, uses one alone.
type Departure struct {
	rules    *Rules
	permit   Permit  // nil: without an end
	orders   *Orders // that drainAt and permitAt are of
	openedAt Instant
	drainAt  Instant
	permitAt Instant
	asked    EndReason // by Session.Leave; 0: the reader was not asked to leave
}

// NewDeparture returns the Departure of a reader that begins now.
func NewDeparture(rules *Rules, permit Permit, now Instant) Departure {
	d := Departure{rules: rules, permit: permit, openedAt: now, drainAt: never, permitAt: never}
	d.follow(rules.Orders(), now)
	return d
}

// follow takes note of orders.
func (d *Departure) follow(o *Orders, now Instant) {
	if o == d.orders {
		return
	}
	if d.orders == nil || o.drain != d.orders.drain {
		d.drainAt = never
		if o.Drain {
			d.drainAt = now
			if o.Window > 0 {
				d.drainAt = max(now.Add(d.rules.random(o.Window)), d.openedAt.Add(d.rules.MinDrainAge))
			}
		}
	}
	d.orders = o
	if d.permit != nil {
		d.permitAt = d.permit.EndsAt()
	}
}

// Next returns why the reader has to go now, or 0 and the moment at which to ask again.
func (d *Departure) Next(now Instant) (why EndReason, until Instant) {
	d.follow(d.rules.Orders(), now)
	switch {
	case d.permitAt <= now:
		return EndPermit, now
	case d.drainAt <= now:
		return EndDrain, now
	case d.asked != 0:
		return d.asked, now
	}
	return 0, min(d.drainAt, d.permitAt)
}

// MaxOverstay bounds for how long a reader whose Permit is over may go on to take what was begun. A
// client that takes nothing, or next to nothing, would stay until Times.Stall, or forever.
const MaxOverstay = 5 * time.Second

// HasOverstayed reports whether the reader is to be cut off: its Permit is over for MaxOverstay.
func (d *Departure) HasOverstayed(now Instant) bool {
	d.follow(d.rules.Orders(), now)
	return d.permit != nil && d.permitAt < now && now.Sub(d.permitAt) >= MaxOverstay
}

// Changed returns the channel that is closed when Next is to be asked again.
func (d *Departure) Changed() <-chan struct{} { return d.orders.Changed }
