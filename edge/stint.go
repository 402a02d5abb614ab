package edge

import (
	"runtime"
	"time"
)

// stint is a catch-up answer on a TCP connection that serves nothing else: it is written in
// calls as large as what there is, and in turns.
//
// A socket takes megabytes at once, which is milliseconds for the goroutine that writes.
// When thousands catch up, thousands are ready to run, each for that long, and whatever else
// the node does waits for its turn among them for seconds: what S2 answers, heartbeats of
// the fleet, live events. So as many as there are CPUs have a turn, and the others wait without being ready, in
// the order in which they came. A turn lasts until the answer is written, or until its
// connection takes no more; it waits for the next one when that does again. A client is
// never waited for with a turn in hand. No more wait than there are connections.
//
// The deadline moves on with each turn, and while the client's kernel takes something of
// what has been written: so a slow client is not cut.
type stint struct {
	p     *pacer
	wire  *wire
	turns chan struct{}
	has   bool // a turn

	look  *time.Timer
	acked uint64 // what the client's kernel had taken at the last look
	over  bool   // both under p.mu
}

// lookAfter is how often an answer is looked at that is being written.
const lookAfter = time.Second

// work waits for a turn to write through p, until end. A connection without a wire is
// written to in pieces, and lets others run after each; see pacer.
func (s *Server) work(p *pacer, w *wire) (end func()) {
	if w == nil {
		return func() {}
	}
	t := &stint{p: p, wire: w, turns: s.turns}
	t.begin()
	p.stint, w.stint = t, t
	every := min(lookAfter, p.stall/4)
	p.mu.Lock()
	defer p.mu.Unlock()
	t.look = time.AfterFunc(every, func() {
		s.chunks.relieve()
		if t.goesOn() {
			t.look.Reset(every)
		}
	})
	return t.end
}

// begin waits for a turn, unless it has one. Meanwhile it is not stuck.
func (t *stint) begin() {
	if !t.has {
		t.p.began.Store(0)
		select {
		case t.turns <- struct{}{}:
		default:
			t.turns <- struct{}{}
			runtime.Gosched() // who is handed a turn runs next, and so would the one after it: others first
		}
		t.has = true
		t.p.mu.Lock()
		defer t.p.mu.Unlock()
		t.moveOn()
	}
}

// pause gives the turn up: the connection takes no more.
func (t *stint) pause() {
	t.p.began.Store(time.Now().UnixNano())
	t.has = false
	<-t.turns
}

func (t *stint) end() {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.over = true
	t.look.Stop()
	t.p.stint, t.wire.stint = nil, nil
	t.p.began.Store(0)
	if t.has {
		<-t.turns
	}
}

// goesOn moves the deadline on if the client has taken something; false: it is over.
func (t *stint) goesOn() bool {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.over || t.p.isCut.Load() {
		return false
	}
	if acked := acknowledged(t.wire.tcp); acked > t.acked {
		t.acked = acked
		if at := t.p.began.Load(); at != 0 {
			t.p.began.CompareAndSwap(at, time.Now().UnixNano()) // or it has its turn by now
		}
		t.moveOn()
	}
	return true
}

// moveOn gives the client Stall from now on.
func (t *stint) moveOn() {
	if !t.p.isCut.Load() {
		_ = t.p.until(time.Now().Add(t.p.stall)) // what is wrong with it the write will tell
	}
}
