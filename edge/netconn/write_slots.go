package netconn

import (
	"net/http"
	"runtime"
	"time"
)

// slotWriter writes a catch-up answer to a TCP connection that serves only this request: in
// calls as large as the data (under TLS, as its records), and only while it has a write slot.
//
// A socket may accept megabytes in one call, which occupies the writing goroutine for
// milliseconds. When thousands of clients catch up, thousands of goroutines are ready to run for
// that long, and everything else waits behind them for seconds: answers of S2, the fleet's
// heartbeats, live events. So there are as many slots as CPUs. The other answers wait for a slot
// blocked, in order of arrival. An answer keeps its slot until it is written or until its
// connection accepts no more, and then waits for the connection first and for a slot after that.
// No slot is held while waiting for a client. There are never more waiters than connections.
//
//	acquireSlot                      wait for a slot; extend the deadline
//	  write until done or EAGAIN
//	  on EAGAIN: releaseSlot, wait for the poller, acquireSlot
//	end                              release the slot
//	every progressInterval: checkProgress extends the deadline if the peer acknowledged bytes
//
// net/http calls Write on the connection, not on this type, so the handler stores the slotWriter
// in Conn.slots and the connection calls it back.
//
// The deadline is extended with each slot, and while the client's kernel acknowledges bytes,
// so a slow client is not disconnected.
type slotWriter struct {
	group         *WriteSlots
	out           *StallWriter
	conn          *Conn
	progressTimer *time.Timer

	// Under TLS, net/http's background read may write as well (an answer to a key update), at
	// most one such write beside the handler's. It may come through after end.
	// All fields below are guarded by out.mu:
	hasSlot bool
	ended   bool
	acked   uint64 // bytes that the client's kernel had acknowledged at the last check
}

// progressInterval separates two calls of checkProgress for an answer in progress.
const progressInterval = time.Second

// WriteSlots holds the slots of all slotWriters.
type WriteSlots struct {
	slots   chan struct{} // a semaphore
	waiting Gauge
}

// Gauge counts the answers that wait for a slot.
type Gauge interface {
	Inc()
	Dec()
}

// NewWriteSlots returns slots that are counted in the given semaphore.
func NewWriteSlots(slots chan struct{}, waiting Gauge) *WriteSlots {
	return &WriteSlots{slots: slots, waiting: waiting}
}

// Use makes out write in slots until the returned function is called. A connection that is no Conn is
// written to in pieces, yielding after each: see StallWriter. The request's body must have been read,
// because net/http reads what is left of it before it writes.
func (s *WriteSlots) Use(out *StallWriter, r *http.Request) (end func()) {
	c := SoleOf(r)
	if c == nil {
		return func() {}
	}
	w := &slotWriter{group: s, out: out, conn: c, acked: ackedByPeer(c)}
	if r.TLS == nil {
		// Without TLS the slot is acquired here, before the answer is laid out in memory. Under TLS
		// write acquires it, because it runs under the tls.Conn's lock.
		w.acquireSlot()
	}
	out.inSlots = true
	c.slots.Store(w)
	every := min(progressInterval, out.stall/4)
	out.mu.Lock() // checkProgress locks it before it uses progressTimer
	defer out.mu.Unlock()
	w.progressTimer = time.AfterFunc(every, func() {
		if w.checkProgress() {
			w.progressTimer.Reset(every)
		}
	})
	return w.end
}

// acquireSlot waits for a slot, unless w has one or has ended. The wait does not count as blocked.
func (w *slotWriter) acquireSlot() {
	w.out.mu.Lock()
	needs := !w.hasSlot && !w.ended
	w.out.mu.Unlock()
	if !needs {
		return
	}
	w.out.writeBegan.Store(0)
	select {
	case w.group.slots <- struct{}{}:
	default:
		w.group.waiting.Inc()
		w.group.slots <- struct{}{}
		w.group.waiting.Dec()
		runtime.Gosched() // a goroutine that is handed a slot runs next, and so would its successor: let others run first
	}
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	if w.ended {
		<-w.group.slots
		return
	}
	w.hasSlot = true
	w.extendDeadline()
}

// releaseSlot releases the slot, because the connection accepts no more.
func (w *slotWriter) releaseSlot() {
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	if w.hasSlot {
		w.out.writeBegan.Store(time.Now().UnixNano())
		w.hasSlot = false
		<-w.group.slots
	}
}

func (w *slotWriter) end() {
	w.conn.slots.Store(nil)
	w.out.inSlots = false
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	w.progressTimer.Stop()
	if w.ended = true; w.hasSlot {
		w.hasSlot = false
		<-w.group.slots
	}
	w.out.writeBegan.Store(0)
}

// checkProgress extends the deadline if the client has acknowledged something. It returns false once w has ended.
func (w *slotWriter) checkProgress() bool {
	w.out.mu.Lock()
	defer w.out.mu.Unlock()
	if w.ended || w.out.disconnected.Load() {
		return false
	}
	if acked := ackedByPeer(w.conn); acked > w.acked {
		w.acked = acked
		if at := w.out.writeBegan.Load(); at != 0 {
			w.out.writeBegan.CompareAndSwap(at, time.Now().UnixNano()) // fails if w has a slot by now, which is fine
		}
		w.extendDeadline()
	}
	return true
}

// extendDeadline gives the client the stall time from now on.
func (w *slotWriter) extendDeadline() {
	if !w.out.disconnected.Load() {
		_ = w.out.setDeadline(time.Now().Add(w.out.stall)) // the next write returns the error
	}
}
