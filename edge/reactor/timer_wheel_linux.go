package reactor

import "github.com/fantail-dev/fantail/edge/sse"

// schedule has the loop look at a reader when its session says, unless it will look at it before.
func (l *loop) schedule(c *conn, a sse.Action) {
	at := max(a.Until, l.elapsed()+1)
	if c.lookAt != 0 && c.lookAt <= at {
		return
	}
	c.lookAt = at
	l.enter(timer{at, c.connRef}, a.Coarse)
}

// enter puts a timer into its slot or the list.
func (l *loop) enter(t timer, coarse bool) {
	ticks := int(t.at.Sub(l.elapsed()) / l.tickEvery)
	switch {
	case coarse:
		ticks += 2 // the slot comes up after the moment, though part of a tick has passed
	case ticks < 2:
		l.soon = append(l.soon, t)
		return
	}
	slot := (l.wheelSlot + min(ticks, wheelSlots-1)) % wheelSlots
	l.wheel[slot] = append(l.wheel[slot], t)
}
