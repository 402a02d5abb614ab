package shard

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// creationWaits holds the names of streams that do not exist and that callers wait for. A name costs
// an entry and nothing else: no State, no session, no goroutine. What Fantail creates is noticed when
// its tail.Buffer opens; what others write to S2 by a check of each name, within createdCheckEvery.
//
// At most maxAwaitedNames names; more are refused as overloaded, and those that wait stay. A node of the
// fleet has far fewer waiters than that: the edge bounds them.
type creationWaits struct {
	manager *Manager
	wake    chan struct{} // cap 1, never closed
	names   atomic.Int64  // the length of byName, for the opening of a stream to look at without the lock

	mu       sync.Mutex // the last in the order of locks
	byName   map[StreamID]*awaitedName
	appeared []StreamID // may exist by now: their waiters are to be woken
	checking int
}

// awaitedName is one name, with the wakers of those that wait for it.
type awaitedName struct {
	waiters  map[*creationWaiter]struct{}
	checkAt  time.Time
	appeared bool // listed in creationWaits.appeared
}

type creationWaiter struct{ waker tail.Waker }

const (
	maxAwaitedNames = 16 << 10
	// createdCheckEvery is the longest time between two checks of a name.
	createdCheckEvery = 30 * time.Second
	// createdCheckRetry is the pause after a check that could not be made.
	createdCheckRetry = 2 * time.Second
	// maxCreatedChecks bounds the checks that are under way. Later ones wait for the next second.
	maxCreatedChecks = 16
)

func newCreationWaits(m *Manager) *creationWaits {
	c := &creationWaits{manager: m, wake: make(chan struct{}, 1), byName: map[StreamID]*awaitedName{}}
	m.spawn(c.run)
	return c
}

// AwaitCreation has w woken each time that a stream of that name may have come to exist, until stop
// is called. A stream that exists already wakes no waiter: ask for its Info after the call. w is woken on a
// goroutine of the Manager, without a lock. ErrOverloaded: too many names are waited for.
func (m *Manager) AwaitCreation(id StreamID, w tail.Waker) (stop func(), err error) {
	return m.creationWaits.add(id, &creationWaiter{w})
}

func (c *creationWaits) add(id StreamID, w *creationWaiter) (stop func(), err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byName[id]
	if n == nil {
		if len(c.byName) >= maxAwaitedNames {
			return nil, ErrOverloaded
		}
		n = &awaitedName{waiters: map[*creationWaiter]struct{}{}, checkAt: nextCreatedCheck(time.Now())}
		c.byName[id] = n
		c.names.Store(int64(len(c.byName)))
		c.signal()
	}
	n.waiters[w] = struct{}{}
	return func() { c.remove(id, n, w) }, nil
}

func (c *creationWaits) remove(id StreamID, n *awaitedName, w *creationWaiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(n.waiters, w)
	if len(n.waiters) == 0 && c.byName[id] == n {
		delete(c.byName, id)
		c.names.Store(int64(len(c.byName))) // at 0 run finds it with its next tick
	}
}

// nextCreatedCheck spreads the checks of names that came together.
func nextCreatedCheck(now time.Time) time.Time {
	return now.Add(createdCheckEvery - rand.N(createdCheckEvery/4))
}

// noteExists notes that a stream exists. It may be called under any lock of the package.
func (c *creationWaits) noteExists(id StreamID) {
	if c.names.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	n := c.byName[id]
	if n == nil || n.appeared {
		return
	}
	n.appeared = true
	c.appeared = append(c.appeared, id)
	c.signal()
}

// signal wakes run.
func (c *creationWaits) signal() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

// run wakes waiters and begins the checks that are due, until ctx ends. While there are none it sleeps.
func (c *creationWaits) run(ctx context.Context) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	tick.Stop()
	for ticks := false; ; {
		if wanted := c.names.Load() > 0; wanted != ticks {
			if ticks = wanted; ticks {
				tick.Reset(time.Second)
			} else {
				tick.Stop()
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-c.wake:
			for _, w := range c.takeWoken() {
				w.Wake()
			}
		case <-tick.C:
			c.startChecks(time.Now())
		}
	}
}

// takeWoken returns the wakers of the names that appeared.
func (c *creationWaits) takeWoken() (woken []tail.Waker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, id := range c.appeared {
		n := c.byName[id]
		if n == nil {
			continue
		}
		n.appeared = false
		for w := range n.waiters {
			woken = append(woken, w.waker)
		}
	}
	c.appeared = nil
	return woken
}

// startChecks begins the checks that are due.
func (c *creationWaits) startChecks(now time.Time) {
	if c.names.Load() == 0 {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, n := range c.byName {
		if c.checking >= maxCreatedChecks {
			return
		}
		if now.Before(n.checkAt) {
			continue
		}
		n.checkAt = nextCreatedCheck(now)
		if !c.manager.spawn(func(ctx context.Context) { c.check(ctx, id, n) }) {
			return
		}
		c.checking++
	}
}

// check asks storage whether the stream exists by now.
func (c *creationWaits) check(ctx context.Context, id StreamID, n *awaitedName) {
	info, err := c.manager.Info(ctx, id, 0)
	if err == nil && info.Exists {
		c.noteExists(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.checking--
	if err != nil {
		n.checkAt = time.Now().Add(createdCheckRetry)
	}
}
