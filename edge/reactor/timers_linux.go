package reactor

import (
	"math/rand/v2"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
)

// When a reader is to be looked at is what its session says (sse.Session.Next). A timer is in a wheel
// with slots of one tick. A coarse one, a heartbeat's, is run when its slot comes up, which is after its
// moment. Others come up before their moment, and are then in a list that is checked each fineTick. A
// reader has one timer that counts, conn.lookAt; others of its are dropped when they come up.

const (
	// fineTick is the precision of timers.
	fineTick = 50 * time.Millisecond
	// maxKeptTimers bounds the list that is kept while it is empty.
	maxKeptTimers = 1024
)

// tick turns the wheel, and disconnects readers that accept nothing or do not hang up.
func (l *loop) tick() {
	l.cursor = position.CursorAt(l.cfg.Now())
	every := l.tickEvery
	for n := 0; n < wheelSlots && l.now.Sub(l.lastTick) >= every; n++ {
		l.lastTick = l.lastTick.Add(every)
		l.wheelSlot = (l.wheelSlot + 1) % wheelSlots
		due := l.wheel[l.wheelSlot]
		l.wheel[l.wheelSlot] = nil
		for _, t := range due {
			switch c := l.conns.lookup(t.ref); {
			case c == nil || c.lookAt != t.at:
			case t.at > l.elapsed():
				l.enter(t, false)
			default:
				c.lookAt = 0
				l.askSession(c)
			}
		}
	}
	for c := range l.blocked {
		switch {
		case c.session.HasOverstayed(l.elapsed()): // progress or not
			l.cfg.Metrics.CountDisconnected(sse.EndPermit)
			l.closeConn(c)
		case !l.hasProgress(c) && c.BlockedFor(l.now) >= l.cfg.Rules.Stall:
			l.cfg.Metrics.CountDisconnected(sse.EndStalled)
			l.closeConn(c)
		}
	}
	for c, since := range l.ending {
		if l.elapsed().Sub(since) >= maxEndingTime {
			l.closeConn(c)
		}
	}
}

// runTimers looks at the readers whose moment has come.
func (l *loop) runTimers() {
	timers, now := l.soon, l.elapsed()
	l.soon = l.spareTimers[:0]
	for _, t := range timers {
		switch c := l.conns.lookup(t.ref); {
		case c == nil || c.lookAt != t.at:
		case t.at > now:
			l.soon = append(l.soon, t)
		default:
			c.lookAt = 0
			l.askSession(c)
		}
	}
	if l.spareTimers = timers[:0]; len(l.soon) == 0 && cap(timers) > maxKeptTimers {
		l.spareTimers = nil
	}
}

// askSession asks the session of a reader what to do, unless it is asked soon anyway: when the connection
// accepts more, or in the reader's next turn.
func (l *loop) askSession(c *conn) {
	if c.state == connIdle && !c.queued {
		l.advance(c)
	}
}

// askAllSessions asks every session, because the orders have changed.
func (l *loop) askAllSessions() {
	for c := range l.conns.all() {
		l.askSession(c)
	}
}

// rebalanceSignal returns the channel that tells the loop to send one of its readers elsewhere.
func (l *loop) rebalanceSignal() <-chan struct{} {
	if l.conns.used == 0 {
		return nil
	}
	return l.cfg.Rebalance
}

// disconnectForBalance sends one reader to another node. It tries 64 random slots for an idle reader
// that may move, and gives up if it finds none.
func (l *loop) disconnectForBalance() {
	for range 64 {
		c := l.conns.at(rand.Uint32N(uint32(len(l.conns.rows) * connsPerRow)))
		if c.state == connIdle && !c.queued && !c.session.IsFetching() && c.session.MayMove(l.elapsed()) {
			c.session.Leave(sse.EndRebalance)
			l.advance(c)
			return
		}
	}
}
