package edge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// drain is how a Server that stops gets rid of its readers: evenly over a window, each
// between two events, so that those who take them in meet no crowd. Plain requests and
// long-polls are served on; only new event streams are refused.
type drain struct {
	on      atomic.Bool // changed under mu
	leaving atomic.Bool // answers say so; nothing else has changed

	mu      sync.Mutex
	begun   chan struct{} // closed by Drain; a new one after Undrain
	gone    chan struct{} // closed once there are no readers, after Drain
	window  time.Duration
	readers map[mode]int
	owned   int // of the readers: those that have a goroutine
}

func newDrain() drain {
	return drain{begun: make(chan struct{}), gone: make(chan struct{}), readers: map[mode]int{}}
}

func (d *drain) empty() bool { return d.readers[modeSSE]+d.readers[modeLongPoll] == 0 }

// youngest is the least age of an event stream that a drain with a window ends: real
// clients give SSE up for good after a few short ones.
const youngest = 2 * time.Second

// The pause after which an EventSource comes back, at random between these.
const (
	comeBackSoon = 500 * time.Millisecond
	comeBackLate = 3 * time.Second
)

// Leave has answers say that their connection is the last one here. Drain comes next; Undrain
// takes it back.
func (s *Server) Leave() { s.drain.leaving.Store(true) }

// Drain ends the readers that are there, over the window, and refuses new event streams.
// Without a window they end at once. It returns when the last reader is gone. Requests
// that are no readers are served on, with a hint to open no more connections here.
func (s *Server) Drain(ctx context.Context, window time.Duration) error {
	d := &s.drain
	s.Leave()
	d.mu.Lock()
	if !d.on.Load() {
		d.on.Store(true)
		d.window = window
		close(d.begun)
		if d.empty() {
			close(d.gone)
		}
	}
	gone := d.gone
	d.mu.Unlock()
	s.reactor.each((*loop).drained)
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// CancelDrain takes Leave and Drain back, whose caller has given it up: who is still here stays.
func (s *Server) CancelDrain() {
	d := &s.drain
	d.leaving.Store(false)
	d.mu.Lock()
	if d.on.Load() {
		d.on.Store(false)
		d.begun, d.gone = make(chan struct{}), make(chan struct{})
	}
	d.mu.Unlock()
	s.reactor.each((*loop).drained)
}

// Readers is the number of event streams that are open.
func (s *Server) Readers() int {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readers[modeSSE]
}

// turn is how long a reader that has been here for an age may stay once a drain has
// begun.
func (d *drain) turn(age time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.window <= 0 {
		return 0
	}
	return max(rand.N(d.window), youngest-age)
}

// admit counts a reader in, and dismiss out; own: it has a goroutine.
func (s *Server) admit(m mode, own bool) error {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.on.Load() && m == modeSSE:
		return s.m.refuse(errDraining)
	case d.readers[modeSSE]+d.readers[modeLongPoll] >= s.cfg.MaxReaders:
		return s.m.refuse(errFull)
	case s.cfg.ConnectionsFull():
		return s.m.refuse(errFiles)
	case own && d.owned >= s.cfg.MaxGoroutineReaders:
		return s.m.refuse(errFullOwn)
	case own:
		d.owned++
	}
	d.readers[m]++
	s.m.readers.WithLabelValues(string(m)).Inc()
	return nil
}

// own counts a reader that is in as one that has a goroutine.
func (s *Server) own() error {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.owned >= s.cfg.MaxGoroutineReaders {
		return s.m.refuse(errFullOwn)
	}
	d.owned++
	return nil
}

func (s *Server) dismiss(m mode, own bool) {
	s.m.readers.WithLabelValues(string(m)).Dec()
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readers[m]--
	if own {
		d.owned--
	}
	if !d.empty() || !d.on.Load() {
		return
	}
	select {
	case <-d.gone: // a long-poll that came since
	default:
		close(d.gone)
	}
}

// farewell is one reader's part in a drain.
type farewell struct {
	drain *drain
	began time.Time
	at    time.Time       // the turn; zero until a drain has begun
	next  <-chan struct{} // closed when due is to be asked again
}

func (s *Server) farewell() *farewell {
	f := &farewell{drain: &s.drain, began: time.Now()}
	f.forget()
	return f
}

// know finds out when the reader's turn is, once a drain has begun.
func (f *farewell) know() {
	f.at = time.Now().Add(f.drain.turn(time.Since(f.began)))
	turn := make(chan struct{})
	f.next = turn
	time.AfterFunc(time.Until(f.at), func() { close(turn) })
}

// forget begins again: no drain is known of.
func (f *farewell) forget() {
	f.drain.mu.Lock()
	defer f.drain.mu.Unlock()
	f.at, f.next = time.Time{}, f.drain.begun
}

// due reports whether the reader's turn has come.
func (f *farewell) due() bool {
	if f.at.IsZero() {
		select {
		case <-f.next:
			f.know()
		default:
			return false
		}
	}
	if time.Now().Before(f.at) {
		return false
	}
	if !f.drain.on.Load() { // it was taken back
		f.forget()
		return false
	}
	return true
}

// comeBack is what an event stream ends with whose reader should go on elsewhere: no
// event, only how long an EventSource is to wait, at random between the two.
func comeBack(soon, late time.Duration) []byte {
	wait := soon + rand.N(late-soon+1)
	return fmt.Appendf(nil, "retry: %d\n\n", wait.Milliseconds())
}
