package edge

import (
	"math/rand/v2"
	"slices"
)

// tick is time passing: heartbeats, pages to be asked for again, readers that take
// nothing or do not hang up.
func (l *loop) tick() {
	l.interval = cursorAt(l.server.cfg.Now())
	every := l.server.cfg.tickInterval()
	for n := 0; n < wheelSlots && l.now.Sub(l.lastTick) >= every; n++ {
		l.lastTick = l.lastTick.Add(every)
		l.wheelSlot = (l.wheelSlot + 1) % wheelSlots
		due := l.wheel[l.wheelSlot]
		l.wheel[l.wheelSlot] = nil
		for _, f := range due {
			if r := l.conns.lookup(f); r != nil {
				l.heartbeatIfQuiet(r)
			}
		}
	}
	l.pageRetries = l.runDue(l.pageRetries, func(r *conn) {
		if r.state == connBehind {
			l.pageQueue = append(l.pageQueue, r.connRef)
		}
	})
	l.fetchPages()
	l.releaseHeld()
	for r := range l.blocked {
		if !l.hasProgress(r) && r.blockedFor(l.now) >= l.server.cfg.Stall {
			l.server.metrics.disconnected.WithLabelValues(string(reasonStalled)).Inc()
			l.closeConn(r)
		}
	}
	for r := range l.ending {
		if l.elapsed()-r.activeAt >= maxEndingTime {
			l.closeConn(r)
		}
	}
}

// runDue does something for those whose turn has come; the others are left.
func (l *loop) runDue(turns []scheduledConn, do func(*conn)) (left []scheduledConn) {
	return slices.DeleteFunc(turns, func(t scheduledConn) bool {
		if t.at.After(l.now) {
			return false
		}
		if r := l.conns.lookup(t.ref); r != nil {
			do(r)
		}
		return true
	})
}

// heartbeatIfQuiet sends a heartbeat if the reader has heard nothing for long.
func (l *loop) heartbeatIfQuiet(r *conn) {
	quiet := l.elapsed()-r.activeAt >= l.server.cfg.Heartbeat
	if quiet && r.leaveReason == 0 && len(r.preamble) == 0 && !r.stream.session.hasOutput() && !r.tls.hasOutput() {
		switch r.state {
		case connIdle:
			r.preamble = heartbeat
			l.writePending(r)
		case connBehind: // pump would ask for its page once more; what is not taken now it sends
			r.preamble = heartbeat
			if _, _, err := l.writeOnce(r, nil); err != nil {
				l.closeConn(r)
			} else {
				r.activeAt = l.elapsed()
			}
		}
	}
	if r.state != connClosed {
		l.scheduleHeartbeat(r)
	}
}

// heartbeat holds the bytes of a comment.
var heartbeat = []byte(":\n\n")

// scheduleHeartbeat puts a reader where the wheel comes by when it may be due for a heartbeat:
// a little later than the least silence, at random.
func (l *loop) scheduleHeartbeat(r *conn) {
	h := l.server.cfg.Heartbeat
	due := r.activeAt + h + rand.N(h/4+1) - l.elapsed()
	n := int(due/l.server.cfg.tickInterval()) + 1
	n = (l.wheelSlot + min(max(n, 1), wheelSlots-1)) % wheelSlots
	l.wheel[n] = append(l.wheel[n], r.connRef)
}

// scheduleDrain gives a reader its turn in the drain that is under way.
func (l *loop) scheduleDrain(r *conn) {
	l.drainTurns = append(l.drainTurns, scheduledConn{l.now.Add(l.server.drain.delayFor(l.elapsed() - r.connectedAt)), r.connRef})
}

// onDrainChange begins a drain, or ends it.
func (l *loop) onDrainChange() {
	l.drainTurns = nil
	if !l.server.drain.active.Load() {
		return
	}
	for r := range l.conns.all() {
		l.scheduleDrain(r)
	}
	l.runDrainTurns()
}

// runDrainTurns has those leave whose turn has come.
func (l *loop) runDrainTurns() {
	l.drainTurns = l.runDue(l.drainTurns, func(r *conn) { l.disconnectAfterEvent(r, leaveForDrain) })
}

// disconnectAfterEvent has a reader leave once the event is complete that it is being written.
func (l *loop) disconnectAfterEvent(r *conn, why leaveReason) {
	if r.leaveReason != 0 || r.state == connEnding {
		return
	}
	r.leaveReason = why
	switch r.state {
	case connBehind:
		r.state = connIdle
		fallthrough
	case connIdle:
		l.writePending(r)
	}
}

// rebalanceSignal returns the channel that tells the loop to send one of its readers elsewhere.
func (l *loop) rebalanceSignal() <-chan struct{} {
	if l.conns.used == 0 {
		return nil
	}
	return l.server.rebalanceSignals
}

// disconnectForBalance sends one reader elsewhere that has been here for a while, if it finds one.
func (l *loop) disconnectForBalance() {
	for range 64 {
		r := l.conns.at(rand.Uint32N(uint32(len(l.conns.rows) * connsPerRow)))
		if r.state == connIdle && r.leaveReason == 0 && l.elapsed()-r.connectedAt >= minRebalanceAge {
			l.disconnectAfterEvent(r, leaveForBalance)
			return
		}
	}
}
