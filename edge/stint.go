package edge

import (
	"net/http"
	"runtime"
	"time"
)

// stint is a catch-up answer on a TCP connection that serves nothing else: it is written in
// calls as large as what there is (under TLS, its records), and in turns.
//
// A socket takes megabytes at once, which is milliseconds for the goroutine that writes.
// When thousands catch up, thousands are ready to run, each for that long, and whatever else
// the node does waits for its turn among them for seconds: what S2 answers, heartbeats of
// the fleet, live events. So as many answers as there are CPUs have a turn, and the others wait
// without being ready, in the order in which they came. A turn lasts until the answer is
// written, or until its connection takes no more; it waits for the next one when that does
// again. A client is never waited for with a turn in hand. No more wait than there are
// connections.
//
// The deadline moves on with each turn, and while the client's kernel takes something of
// what has been written: so a slow client is not cut.
type stint struct {
	s    *Server
	p    *pacer
	wire *wire
	look *time.Timer

	// Under TLS net/http's own reading may write, too, one with the handler at a time: an
	// answer to new keys, which may come through when the stint is over.
	// All under p.mu:
	has   bool // a turn
	over  bool
	acked uint64 // what the client's kernel had taken at the last look
}

// lookAfter is how often an answer is looked at that is being written.
const lookAfter = time.Second

// work has what is written through p written in turns, until end. A connection without a
// wire is written to in pieces, and lets others run after each; see pacer.
func (s *Server) work(p *pacer, r *http.Request) (end func()) {
	w := wireOf(r)
	if w == nil {
		return func() {}
	}
	t := &stint{s: s, p: p, wire: w, acked: acknowledged(w)}
	if r.TLS == nil {
		// So that an array is laid out by who has a turn. The request's body has come, which
		// net/http reads first (see expect). Under TLS write does it, that has the tls.Conn for itself.
		t.begin()
	}
	p.stint = t
	w.stint.Store(t)
	every := min(lookAfter, p.stall/4)
	p.mu.Lock() // goesOn takes it before look is used
	defer p.mu.Unlock()
	t.look = time.AfterFunc(every, func() {
		if t.goesOn() {
			t.look.Reset(every)
		}
	})
	return t.end
}

// begin waits for a turn, unless it has one. Meanwhile it is not stuck. When the stint is
// over it needs none.
func (t *stint) begin() {
	t.p.mu.Lock()
	needs := !t.has && !t.over
	t.p.mu.Unlock()
	if !needs {
		return
	}
	t.p.began.Store(0)
	select {
	case t.s.turns <- struct{}{}:
	default:
		t.s.m.waitTurn.Inc()
		t.s.turns <- struct{}{}
		t.s.m.waitTurn.Dec()
		runtime.Gosched() // who is handed a turn runs next, and so would the one after it: others first
	}
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.over {
		<-t.s.turns
		return
	}
	t.has = true
	t.moveOn()
}

// pause gives the turn up: the connection takes no more.
func (t *stint) pause() {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.has {
		t.p.began.Store(time.Now().UnixNano())
		t.has = false
		<-t.s.turns
	}
}

func (t *stint) end() {
	t.wire.stint.Store(nil)
	t.p.stint = nil
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	t.look.Stop()
	if t.over = true; t.has {
		t.has = false
		<-t.s.turns
	}
	t.p.began.Store(0)
}

// goesOn moves the deadline on if the client has taken something; false: it is over.
func (t *stint) goesOn() bool {
	t.p.mu.Lock()
	defer t.p.mu.Unlock()
	if t.over || t.p.isCut.Load() {
		return false
	}
	if acked := acknowledged(t.wire); acked > t.acked {
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
