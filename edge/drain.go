package edge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"
)

// drain spreads the disconnection of a stopping Server's readers evenly over a window, each
// between two events, so that the nodes that receive them meet no crowd. Plain requests and
// long-polls are still served; only new event streams are refused.
type drain struct {
	active      atomic.Bool // written under mu, read without
	closesConns atomic.Bool // answers close their connections; nothing else has changed

	mu               sync.Mutex
	started          chan struct{} // closed by Drain; replaced by CancelDrain
	emptied          chan struct{} // closed once there are no readers, after Drain; replaced by CancelDrain
	window           time.Duration
	minAge           time.Duration // see minDrainAge
	readers          map[requestMode]int
	goroutineReaders int // the readers that have a goroutine
}

func newDrain() drain {
	return drain{started: make(chan struct{}), emptied: make(chan struct{}), minAge: minDrainAge, readers: map[requestMode]int{}}
}

func (d *drain) hasNoReaders() bool { return d.readers[modeSSE]+d.readers[modeLongPoll] == 0 }

// minDrainAge is the least age of an event stream that a drain with a window ends: real
// clients stop using SSE after a few short streams.
const minDrainAge = 2 * time.Second

// An EventSource is told to reconnect after a random delay between these.
const (
	minRetryDelay = 500 * time.Millisecond
	maxRetryDelay = 3 * time.Second
)

// Leave makes answers close their connections, so that clients open the next one elsewhere.
// Drain comes next; CancelDrain undoes it.
func (s *Server) Leave() { s.drain.closesConns.Store(true) }

// Drain ends the current readers over the window, and refuses new event streams. Without a
// window they end immediately. Drain returns when there are no readers. Other requests are
// still served, with a hint to open no more connections here.
func (s *Server) Drain(ctx context.Context, window time.Duration) error {
	d := &s.drain
	s.Leave()
	d.mu.Lock()
	if !d.active.Load() {
		d.active.Store(true)
		d.window = window
		close(d.started)
		if d.hasNoReaders() {
			close(d.emptied)
		}
	}
	gone := d.emptied
	d.mu.Unlock()
	s.reactor.DrainChanged()
	select {
	case <-gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// CancelDrain undoes Leave and Drain: the remaining readers stay.
func (s *Server) CancelDrain() {
	d := &s.drain
	d.closesConns.Store(false)
	d.mu.Lock()
	if d.active.Load() {
		d.active.Store(false)
		d.started, d.emptied = make(chan struct{}), make(chan struct{})
	}
	d.mu.Unlock()
	s.reactor.DrainChanged()
}

// Readers returns the number of open event streams.
func (s *Server) Readers() int {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readers[modeSSE]
}

// IsActive reports whether readers are to go.
func (d *drain) IsActive() bool { return d.active.Load() }

// DelayFor returns how long a reader of the given age may stay once a drain has begun.
func (d *drain) DelayFor(age time.Duration) time.Duration {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.window <= 0 {
		return 0
	}
	return max(rand.N(d.window), d.minAge-age)
}

// admitReader counts a reader, and releaseReader uncounts it; own: it has a goroutine.
func (s *Server) admitReader(m requestMode, own bool) error {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.active.Load() && m == modeSSE:
		return s.metrics.countRefused(errDraining)
	case d.readers[modeSSE]+d.readers[modeLongPoll] >= s.cfg.MaxReaders:
		return s.metrics.countRefused(errFull)
	case s.cfg.ConnectionsFull():
		return s.metrics.countRefused(errConnectionsFull)
	case own && d.goroutineReaders >= s.cfg.MaxGoroutineReaders:
		return s.metrics.countRefused(errGoroutinesFull)
	case own:
		d.goroutineReaders++
	}
	d.readers[m]++
	s.metrics.readers.WithLabelValues(string(m)).Inc()
	return nil
}

// countGoroutineReader counts an admitted reader as one with a goroutine.
func (s *Server) countGoroutineReader() error {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.goroutineReaders >= s.cfg.MaxGoroutineReaders {
		return s.metrics.countRefused(errGoroutinesFull)
	}
	d.goroutineReaders++
	return nil
}

func (s *Server) releaseReader(m requestMode, own bool) {
	s.metrics.readers.WithLabelValues(string(m)).Dec()
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readers[m]--
	if own {
		d.goroutineReaders--
	}
	if !d.hasNoReaders() || !d.active.Load() {
		return
	}
	select {
	case <-d.emptied: // closed already; the last reader was a long-poll that came later
	default:
		close(d.emptied)
	}
}

// drainTurn is one reader's part in a drain.
type drainTurn struct {
	drain   *drain
	began   time.Time
	dueAt   time.Time       // when the reader is to go; zero until a drain has begun
	changed <-chan struct{} // closed when isDue is to be asked again
}

func (s *Server) newDrainTurn() *drainTurn {
	f := &drainTurn{drain: &s.drain, began: time.Now()}
	f.reset()
	return f
}

// schedule draws the reader's time to go, once a drain has begun.
func (f *drainTurn) schedule() {
	f.dueAt = time.Now().Add(f.drain.DelayFor(time.Since(f.began)))
	turn := make(chan struct{})
	f.changed = turn
	time.AfterFunc(time.Until(f.dueAt), func() { close(turn) })
}

// reset waits for the next drain.
func (f *drainTurn) reset() {
	f.drain.mu.Lock()
	defer f.drain.mu.Unlock()
	f.dueAt, f.changed = time.Time{}, f.drain.started
}

// isDue reports whether the reader's time to go has come.
func (f *drainTurn) isDue() bool {
	if f.dueAt.IsZero() {
		select {
		case <-f.changed:
			f.schedule()
		default:
			return false
		}
	}
	if time.Now().Before(f.dueAt) {
		return false
	}
	if !f.drain.active.Load() { // it was cancelled
		f.reset()
		return false
	}
	return true
}

// retryEvent returns the retry field that ends a stream when its reader should reconnect to another
// node: no event, only how long an EventSource is to wait, at random between soon and late.
func retryEvent(soon, late time.Duration) []byte {
	wait := soon + rand.N(late-soon+1)
	return fmt.Appendf(nil, "retry: %d\n\n", wait.Milliseconds())
}
