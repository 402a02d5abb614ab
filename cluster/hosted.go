package cluster

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/shard"
)

// host is what runs the streams that this node serves: *shard.Host.
type host interface {
	Do(ctx context.Context, req *shard.Request) (shard.Outcome, error)
	State(ctx context.Context, id shard.StreamID, ask shard.Ask) (shard.Info, error)
	Follow(ctx context.Context, id shard.StreamID, from uint64) (*shard.Tail, func(), error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from uint64) (shard.Range, error)
	Owned() []shard.StreamID
	Drop(id shard.StreamID)
}

// hosted is the host with a rule added: a stream is let go of only while nobody
// here is fed by it, and nobody begins to be fed while it is let go of (a Tail
// that its host dropped is fed no more, and would look idle for ever).
type hosted struct {
	host host

	mu       sync.Mutex
	uses     map[shard.StreamID]int32         // feeds taken from the host
	dropping map[shard.StreamID]chan struct{} // closed when it is done
}

func newHosted(h host) *hosted {
	return &hosted{
		host: h, uses: map[shard.StreamID]int32{}, dropping: map[shard.StreamID]chan struct{}{},
	}
}

// feed has the host feed the stream's Tail. The caller calls release and then
// done, once each.
func (h *hosted) feed(ctx context.Context, id shard.StreamID, from uint64) (
	t *shard.Tail, release func(), err error,
) {
	if err := h.settled(ctx, id, 1); err != nil {
		return nil, nil, err
	}
	t, release, err = h.host.Follow(ctx, id, from)
	if err != nil {
		h.done(id)
	}
	return t, release, err
}

// done takes one use back.
func (h *hosted) done(id shard.StreamID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.uses[id]--; h.uses[id] <= 0 {
		delete(h.uses, id)
	}
}

// settled waits until the stream is not being let go of, and adds uses to it.
func (h *hosted) settled(ctx context.Context, id shard.StreamID, uses int32) error {
	for {
		h.mu.Lock()
		gone := h.dropping[id]
		if gone == nil {
			if uses > 0 {
				h.uses[id] += uses
			}
			h.mu.Unlock()
			return nil
		}
		h.mu.Unlock()
		select {
		case <-gone:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// used reports whether somebody here is fed by the host.
func (h *hosted) used(id shard.StreamID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.uses[id] > 0
}

// drop lets go of the stream and reports whether it did: not while it is used.
// It waits for the batch in flight.
func (h *hosted) drop(id shard.StreamID) bool {
	h.mu.Lock()
	if h.uses[id] > 0 || h.dropping[id] != nil {
		h.mu.Unlock()
		return false
	}
	gone := make(chan struct{})
	h.dropping[id] = gone
	h.mu.Unlock()
	h.host.Drop(id)
	h.mu.Lock()
	delete(h.dropping, id)
	h.mu.Unlock()
	close(gone)
	return true
}

func (h *hosted) do(ctx context.Context, req *shard.Request) (shard.Outcome, error) {
	if err := h.settled(ctx, req.Stream, 0); err != nil {
		return shard.Outcome{}, err
	}
	return h.host.Do(ctx, req)
}

// openers runs what may block on S2: at most limit at once. Those that wait are
// at most waiting; beyond that add refuses (the asker tries again later).
type openers struct {
	limit, waiting int

	wg     sync.WaitGroup
	mu     sync.Mutex
	active int
	queue  []func()
	closed bool
}

const (
	openAtOnce  = 64
	openWaiting = 1 << 16
)

// add runs fn soon; false: too many wait, or the openers are closed.
func (o *openers) add(fn func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return false
	case o.active < o.limit:
		o.active++
		o.wg.Go(func() { o.work(fn) })
		return true
	case len(o.queue) < o.waiting:
		o.queue = append(o.queue, fn)
		return true
	default:
		return false
	}
}

func (o *openers) work(fn func()) {
	for fn != nil {
		fn()
		o.mu.Lock()
		fn = nil
		if len(o.queue) > 0 {
			fn, o.queue[0] = o.queue[0], nil
			o.queue = o.queue[1:]
		} else {
			o.active--
		}
		o.mu.Unlock()
	}
}

// close refuses what comes from now on and waits for the rest, which its
// context tells to hurry.
func (o *openers) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.wg.Wait()
}
