package edge

import (
	"math/rand/v2"
	"slices"
)

// tick is time passing: heartbeats, pages to be asked for again, readers that take
// nothing or do not hang up.
func (l *loop) tick() {
	l.interval = interval(l.s.cfg.Now())
	every := l.s.cfg.tick()
	for n := 0; n < wheelSlots && l.now.Sub(l.ticked) >= every; n++ {
		l.ticked = l.ticked.Add(every)
		l.spoke = (l.spoke + 1) % wheelSlots
		due := l.wheel[l.spoke]
		l.wheel[l.spoke] = nil
		for _, f := range due {
			if r := l.seats.lookup(f); r != nil {
				l.beat(r)
			}
		}
	}
	l.later = l.due(l.later, func(r *conn) {
		if r.state == connBehind {
			l.pages = append(l.pages, r.ref)
		}
	})
	l.fetch()
	l.letGo()
	for r := range l.blocked {
		if !l.takes(r) && r.stuckFor(l.now) >= l.s.cfg.Stall {
			l.s.m.cut.WithLabelValues(string(cutStalled)).Inc()
			l.gone(r)
		}
	}
	for r := range l.ending {
		if l.since()-r.active >= endTime {
			l.gone(r)
		}
	}
}

// due does something for those whose turn has come; the others are left.
func (l *loop) due(turns []turn, do func(*conn)) (left []turn) {
	return slices.DeleteFunc(turns, func(t turn) bool {
		if t.at.After(l.now) {
			return false
		}
		if r := l.seats.lookup(t.r); r != nil {
			do(r)
		}
		return true
	})
}

// beat sends a heartbeat if the reader has heard nothing for long.
func (l *loop) beat(r *conn) {
	quiet := l.since()-r.active >= l.s.cfg.Heartbeat
	if quiet && r.why == 0 && len(r.pre) == 0 && !r.d.c.owes() && !r.seal.owes() {
		switch r.state {
		case connIdle:
			r.pre = heartbeat
			l.pump(r)
		case connBehind: // pump would ask for its page once more; what is not taken now it sends
			r.pre = heartbeat
			if _, _, err := l.write(r, nil); err != nil {
				l.gone(r)
			} else {
				r.active = l.since()
			}
		}
	}
	if r.state != connGone {
		l.schedule(r)
	}
}

// heartbeat is a comment.
var heartbeat = []byte(":\n\n")

// schedule puts a reader where the wheel comes by when it may be due for a heartbeat:
// a little later than the least silence, at random.
func (l *loop) schedule(r *conn) {
	h := l.s.cfg.Heartbeat
	due := r.active + h + rand.N(h/4+1) - l.since()
	n := int(due/l.s.cfg.tick()) + 1
	n = (l.spoke + min(max(n, 1), wheelSlots-1)) % wheelSlots
	l.wheel[n] = append(l.wheel[n], r.ref)
}

// sendOff gives a reader its turn in the drain that is under way.
func (l *loop) sendOff(r *conn) {
	l.leaving = append(l.leaving, turn{l.now.Add(l.s.drain.turn(l.since() - r.began)), r.ref})
}

// drained begins a drain, or ends it.
func (l *loop) drained() {
	l.leaving = nil
	if !l.s.drain.on.Load() {
		return
	}
	for r := range l.seats.all() {
		l.sendOff(r)
	}
	l.farewells()
}

// farewells has those leave whose turn has come.
func (l *loop) farewells() {
	l.leaving = l.due(l.leaving, func(r *conn) { l.sendAway(r, leavesDrain) })
}

// sendAway has a reader leave once the event is complete that it is being written.
func (l *loop) sendAway(r *conn, why leaving) {
	if r.why != 0 || r.state == connEnding {
		return
	}
	r.why = why
	switch r.state {
	case connBehind:
		r.state = connIdle
		fallthrough
	case connIdle:
		l.pump(r)
	}
}

// sheds is where the loop hears that one of its readers is to go elsewhere.
func (l *loop) sheds() <-chan struct{} {
	if l.seats.taken == 0 {
		return nil
	}
	return l.s.shed
}

// shed sends one reader elsewhere that has been here for a while, if it finds one.
func (l *loop) shed() {
	for range 64 {
		r := l.seats.at(rand.Uint32N(uint32(len(l.seats.rows) * rowSeats)))
		if r.state == connIdle && r.why == 0 && l.since()-r.began >= settledAfter {
			l.sendAway(r, leavesRebalance)
			return
		}
	}
}
