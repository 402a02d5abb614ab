package edge

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/edge/sse"
)

// drain counts the readers that a stopping Server waits for. Their disconnection is spread evenly over
// a window, each between two events, so that the nodes that receive them meet no crowd: the orders of
// Server.rules tell them. Plain requests and long-polls are still served; only new event streams are
// refused.
type drain struct {
	closesConns atomic.Bool // answers close their connections; nothing else has changed

	mu               sync.Mutex
	emptied          chan struct{} // closed once there are no readers, after Drain; replaced by CancelDrain
	readers          map[requestMode]int
	goroutineReaders int // the readers that have a goroutine
}

func newDrain() drain {
	return drain{emptied: make(chan struct{}), readers: map[requestMode]int{}}
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
	if !s.rules.Orders().Drain {
		s.rules.Change(true, window)
		if d.hasNoReaders() {
			close(d.emptied)
		}
	}
	gone := d.emptied
	d.mu.Unlock()
	s.reactor.LookAgain()
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
	if s.rules.Orders().Drain {
		s.rules.Change(false, 0)
		d.emptied = make(chan struct{})
	}
	d.mu.Unlock()
	s.reactor.LookAgain()
}

// Readers returns the number of open event streams.
func (s *Server) Readers() int {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readers[modeSSE]
}

// admitReader counts a reader, and releaseReader uncounts it; own: it has a goroutine.
func (s *Server) admitReader(m requestMode, hasGoroutine bool) error {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case s.rules.Orders().Drain && m == modeSSE:
		return s.metrics.countRefused(errDraining)
	case d.readers[modeSSE]+d.readers[modeLongPoll] >= s.cfg.MaxReaders:
		return s.metrics.countRefused(errFull)
	case s.cfg.ConnectionsFull():
		return s.metrics.countRefused(errConnectionsFull)
	case hasGoroutine && d.goroutineReaders >= s.cfg.MaxGoroutineReaders:
		return s.metrics.countRefused(errGoroutinesFull)
	case hasGoroutine:
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

func (s *Server) releaseReader(m requestMode, hasGoroutine bool) {
	s.metrics.readers.WithLabelValues(string(m)).Dec()
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	d.readers[m]--
	if hasGoroutine {
		d.goroutineReaders--
	}
	if !d.hasNoReaders() || !s.rules.Orders().Drain {
		return
	}
	select {
	case <-d.emptied: // closed already; the last reader was a long-poll that came later
	default:
		close(d.emptied)
	}
}

// retryEvent returns what tells a client to reconnect after a random delay between soon and late.
func retryEvent(soon, late time.Duration) []byte {
	return sse.RenderRetry(soon + rand.N(late-soon+1))
}
