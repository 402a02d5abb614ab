package cluster

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// A client that waits for a stream that does not exist waits at its owner, which sees each creation.
// The owner's stream manager has an entry for the name. The node of the client has a subscription that
// brings no records and ends with the creation. Whatever else ends it (another owner, a lost link) has
// the node ask again, from the owner table of that moment, and a stream that was created in between is
// found then: the owner looks before it waits.

// creationWaits holds the names that clients of this node wait for. A name has one goroutine, which asks
// its owner, however many wait for it; the edge bounds how many clients wait.
type creationWaits struct {
	mu     sync.Mutex
	byName map[shard.StreamID]*awaitedName
	closed bool
}

type awaitedName struct {
	waiters map[*creationWaiter]struct{} // guarded by creationWaits.mu
	cancel  context.CancelFunc
	joined  chan struct{} // cap 1, never closed: another waiter has come
}

type creationWaiter struct{ waker shard.Waker }

// Timing of a wait for a creation.
const (
	// awaitSettled is the time after which an owner that was asked counts as one that had agreed to tell:
	// what ends the wait later is no refusal, and the next owner is asked from the beginning.
	awaitSettled = time.Second
	// awaitUnownedFor bounds a wait at this node while another one owns the name and cannot be reached.
	awaitUnownedFor = 2 * time.Second
	// A name is asked for again after a random pause between these: after a creation, for those that
	// found nothing, and where the owner's release cannot wait.
	awaitAgainMinDelay = time.Second
	awaitAgainMaxDelay = 2 * time.Second
	// awaitMovedMaxDelay bounds the pause before the next owner is asked.
	awaitMovedMaxDelay = 100 * time.Millisecond
)

// panicInCreationWait is the place of panics of the goroutine that waits for one name.
const panicInCreationWait = "relay_await"

// AwaitCreation has w woken each time that a stream of that name may have come to exist, through any
// node, until stop is called: see shard.Manager. w is woken as well if the stream exists already.
func (n *Node) AwaitCreation(id shard.StreamID, w shard.Waker) (stop func(), err error) {
	c := &n.creationWaits
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return nil, shard.ErrStopped
	}
	name := c.byName[id]
	if name == nil {
		ctx, cancel := context.WithCancel(n.ctx)
		name = &awaitedName{waiters: map[*creationWaiter]struct{}{}, cancel: cancel, joined: make(chan struct{}, 1)}
		if c.byName == nil {
			c.byName = map[shard.StreamID]*awaitedName{}
		}
		c.byName[id] = name
		n.wg.Go(func() { n.awaitName(ctx, id, name) })
	}
	waiter := &creationWaiter{w}
	name.waiters[waiter] = struct{}{}
	notify.Send(name.joined)
	return func() { c.remove(id, name, waiter) }, nil
}

// remove removes a waiter. The last one ends the name's goroutine.
func (c *creationWaits) remove(id shard.StreamID, name *awaitedName, w *creationWaiter) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(name.waiters, w)
	if len(name.waiters) > 0 {
		return
	}
	name.cancel()
	if c.byName[id] == name {
		delete(c.byName, id)
	}
}

// close refuses further waits, before Node.wg is waited for.
func (c *creationWaits) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
}

// wakeAll wakes all that wait for a name.
func (c *creationWaits) wakeAll(name *awaitedName) {
	c.mu.Lock()
	wakers := make([]shard.Waker, 0, len(name.waiters))
	for w := range name.waiters {
		wakers = append(wakers, w.waker)
	}
	c.mu.Unlock()
	for _, w := range wakers {
		w.Wake()
	}
}

// awaitName runs as a name's goroutine: it asks for the name until ctx ends.
func (n *Node) awaitName(ctx context.Context, id shard.StreamID, name *awaitedName) {
	for ctx.Err() == nil {
		pause := randomBetween(0, awaitMovedMaxDelay)
		switch err := n.awaitAtOwner(ctx, id); {
		case err == nil:
			n.creationWaits.wakeAll(name)
			pause = randomBetween(awaitAgainMinDelay, awaitAgainMaxDelay)
		case !errors.Is(err, errAwaitMoved):
			pause = randomBetween(awaitAgainMinDelay, awaitAgainMaxDelay)
		}
		select {
		case <-time.After(pause):
		case <-name.joined:
		case <-ctx.Done():
		}
	}
}

// errAwaitMoved ends a wait at a node that was the one to ask and is not any more.
var errAwaitMoved = errors.New("another node is to be asked")

// awaitAtOwner returns nil once the stream may exist.
func (n *Node) awaitAtOwner(ctx context.Context, id shard.StreamID) (err error) {
	defer guard.ToError(n.stateCalls.panics, panicInCreationWait, &err)
	moved := false
	err = n.routeRequest(ctx, id, func(ctx context.Context, l *transport.Link, rt placement.Route) error {
		began := time.Now()
		var err error
		if l == nil {
			err = n.awaitHere(ctx, id, rt.Hop == placement.HopForce)
		} else {
			err = l.AwaitCreation(ctx, id, rt)
		}
		if moved = err != nil && time.Since(began) >= awaitSettled; moved {
			return nil // the routing of this request is over
		}
		return err
	})
	if err == nil && moved {
		err = errAwaitMoved
	}
	return err
}

// awaitHere waits at this node's stream manager, while this node is the one to ask.
func (n *Node) awaitHere(ctx context.Context, id shard.StreamID, force bool) error {
	w := make(creationSignal, 1)
	stop, exists, err := n.local.awaitCreation(ctx, id, force, w)
	if err != nil || exists {
		return err
	}
	defer stop()
	var late <-chan time.Time
	if force {
		timer := time.NewTimer(awaitUnownedFor)
		defer timer.Stop()
		late = timer.C
	}
	for {
		changed := n.nextChange()
		if _, ok := n.servingRule()(id); !ok && !force {
			return errAwaitMoved
		}
		select {
		case <-w:
			return nil
		case <-changed:
		case <-late:
			return errAwaitMoved
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// creationSignal is a Waker that holds one wake-up.
type creationSignal chan struct{}

// Wake implements shard.Waker.
func (s creationSignal) Wake() { notify.Send(s) }

// awaitCreation has w woken when a stream of that name may have come to exist, until stop is called;
// exists: there is one already.
func (l *localStreams) awaitCreation(ctx context.Context, id shard.StreamID, force bool, w shard.Waker) (
	stop func(), exists bool, err error,
) {
	if stop, err = l.manager.AwaitCreation(id, w); err != nil {
		return nil, false, err
	}
	info, err := l.info(ctx, id, shard.InfoAllowCached, force)
	if err != nil || info.Exists {
		stop()
		return nil, info.Exists, err
	}
	return stop, false, nil
}

// AwaitCreation implements transport.Streams.
func (o *ownerSide) AwaitCreation(ctx context.Context, id shard.StreamID, force bool, w shard.Waker) (
	stop func(), exists bool, err error,
) {
	return o.local.awaitCreation(ctx, id, force, w)
}
