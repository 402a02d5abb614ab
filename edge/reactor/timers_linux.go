package reactor

import (
	"math/rand/v2"
	"slices"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
)

// tick does what is due: heartbeats, page retries, releases of held messages, and the disconnection
// of readers that accept nothing or do not hang up.
func (l *loop) tick() {
	l.interval = position.CursorAt(l.cfg.Now())
	every := l.tickInterval()
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
		if !l.hasProgress(r) && r.BlockedFor(l.now) >= l.cfg.Rules.Stall {
			l.cfg.Metrics.CountDisconnected(sse.EndStalled)
			l.closeConn(r)
		}
	}
	for r := range l.ending {
		if l.elapsed()-r.activeAt >= maxEndingTime {
			l.closeConn(r)
		}
	}
}

// runDue calls do for the readers that are due, and returns the others.
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

// heartbeatIfQuiet sends a heartbeat if the reader has received nothing for Heartbeat.
func (l *loop) heartbeatIfQuiet(r *conn) {
	quiet := l.elapsed()-r.activeAt >= l.cfg.Rules.Heartbeat
	if quiet && r.leaveReason == 0 && len(r.preamble) == 0 && !r.session.HasOutput() && !r.tls.hasOutput() {
		switch r.state {
		case connIdle:
			r.preamble = heartbeat
			l.writePending(r)
		case connBehind: // writePending would request its page again; it sends the rest of the heartbeat later
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

// scheduleHeartbeat puts a reader into the wheel's slot for its next heartbeat: after Heartbeat and
// up to a quarter more, at random.
func (l *loop) scheduleHeartbeat(r *conn) {
	h := l.cfg.Rules.Heartbeat
	due := r.activeAt + h + rand.N(h/4+1) - l.elapsed()
	n := int(due/l.tickInterval()) + 1
	n = (l.wheelSlot + min(max(n, 1), wheelSlots-1)) % wheelSlots
	l.wheel[n] = append(l.wheel[n], r.connRef)
}

// scheduleDrain draws a reader's time to go in the current drain.
func (l *loop) scheduleDrain(r *conn) {
	l.drainTurns = append(l.drainTurns, scheduledConn{l.now.Add(l.cfg.Drain.DelayFor(l.elapsed() - r.connectedAt)), r.connRef})
}

// onDrainChange handles the beginning of a drain, or its cancellation.
func (l *loop) onDrainChange() {
	l.drainTurns = nil
	if !l.cfg.Drain.IsActive() {
		return
	}
	for r := range l.conns.all() {
		l.scheduleDrain(r)
	}
	l.runDrainTurns()
}

// runDrainTurns disconnects the readers that are due in the drain.
func (l *loop) runDrainTurns() {
	l.drainTurns = l.runDue(l.drainTurns, func(r *conn) { l.disconnectAfterEvent(r, sse.EndDrain) })
}

// disconnectAfterEvent disconnects a reader as soon as the event that it is being sent is complete.
func (l *loop) disconnectAfterEvent(r *conn, why sse.EndReason) {
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
	return l.cfg.Rebalance
}

// disconnectForBalance sends one reader to another node. It tries 64 random slots for an idle reader
// that has been here for l.cfg.Rules.MinMoveAge, and gives up if it finds none.
func (l *loop) disconnectForBalance() {
	for range 64 {
		r := l.conns.at(rand.Uint32N(uint32(len(l.conns.rows) * connsPerRow)))
		if r.state == connIdle && r.leaveReason == 0 && l.elapsed()-r.connectedAt >= l.cfg.Rules.MinMoveAge {
			l.disconnectAfterEvent(r, sse.EndRebalance)
			return
		}
	}
}
