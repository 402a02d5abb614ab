package edge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"
)

// drain is how a Server that stops gets rid of its readers: evenly over a window, each
// between two events, so that those who take them in meet no crowd. Plain requests and
// long-polls are served on; only new event streams are refused.
type drain struct {
	begun chan struct{} // closed by Drain

	mu      sync.Mutex
	on      bool
	window  time.Duration
	readers int
	gone    chan struct{} // closed once there are none, after Drain
}

// youngest is the least age of an event stream that a drain with a window ends: real
// clients give SSE up for good after a few short ones.
const youngest = 2 * time.Second

// The pause after which an EventSource comes back, at random between these.
const (
	comeBackSoon = 500 * time.Millisecond
	comeBackLate = 3 * time.Second
)

// Drain ends the readers that are there, over the window, and refuses new event streams.
// Without a window they end at once. It returns when the last reader is gone. Requests
// that are no readers are served on, with a hint to open no more connections here.
func (s *Server) Drain(ctx context.Context, window time.Duration) error {
	d := &s.drain
	d.mu.Lock()
	if !d.on {
		d.on, d.window = true, window
		close(d.begun)
		if d.readers == 0 {
			close(d.gone)
		}
	}
	d.mu.Unlock()
	select {
	case <-d.gone:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *Server) isDraining() bool {
	select {
	case <-s.drain.begun:
		return true
	default:
		return false
	}
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

// admit counts a reader in; leave counts it out.
func (s *Server) admit(m mode) (leave func(), err error) {
	d := &s.drain
	d.mu.Lock()
	defer d.mu.Unlock()
	switch {
	case d.on && m == modeSSE:
		return nil, errDraining
	case d.readers >= s.cfg.MaxReaders:
		return nil, errFull
	}
	d.readers++
	out := s.m.reader(m)
	return func() {
		out()
		d.mu.Lock()
		defer d.mu.Unlock()
		if d.readers--; d.readers == 0 && d.on {
			select {
			case <-d.gone: // a long-poll that came since
			default:
				close(d.gone)
			}
		}
	}, nil
}

// farewell is one reader's part in a drain.
type farewell struct {
	drain *drain
	began time.Time
	begun <-chan struct{} // nil once the turn is known
	turn  <-chan time.Time
	at    time.Time
}

func (s *Server) farewell() *farewell {
	return &farewell{drain: &s.drain, began: time.Now(), begun: s.drain.begun}
}

// know finds out when the reader's turn is, once a drain has begun.
func (f *farewell) know() {
	f.begun = nil
	f.at = time.Now().Add(f.drain.turn(time.Since(f.began)))
	f.turn = time.After(time.Until(f.at))
}

// due reports whether the reader's turn has come.
func (f *farewell) due() bool {
	if f.begun != nil {
		select {
		case <-f.begun:
			f.know()
		default:
			return false
		}
	}
	return !time.Now().Before(f.at)
}

// comeBack is what an event stream ends with whose reader should go on elsewhere: no
// event, only how long an EventSource is to wait, at random between the two.
func comeBack(soon, late time.Duration) []byte {
	wait := soon + rand.N(late-soon+1)
	return fmt.Appendf(nil, "retry: %d\n\n", wait.Milliseconds())
}
