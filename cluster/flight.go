package cluster

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/shard"
)

// flights shares calls for a stream's state: at most one is under way for a key,
// and an answer is shared only by those who asked before its call was sent. So
// whoever asks after a write was acknowledged gets an answer that knows of it.
type flights struct {
	ctx    context.Context // of the calls
	panics *shard.Panics
	wg     sync.WaitGroup

	mu sync.Mutex
	m  map[flightKey]*flight
}

type flightKey struct {
	id  shard.StreamID
	ask shard.Ask
}

// flight is a call under way and the one after it.
type flight struct {
	now, next *stateCall
}

type stateCall struct {
	waiters int // guarded by flights.mu
	sent    bool
	cancel  context.CancelFunc

	done chan struct{}
	info shard.Info // set before done is closed
	err  error
}

func newFlights(ctx context.Context) *flights {
	return &flights{ctx: ctx, m: map[flightKey]*flight{}}
}

// do returns what call returns, from a call that was sent after do was called.
func (fs *flights) do(
	ctx context.Context, key flightKey, call func(context.Context) (shard.Info, error),
) (shard.Info, error) {
	c := fs.board(key, call)
	select {
	case <-c.done:
		return c.info, c.err
	case <-ctx.Done():
	}
	fs.mu.Lock()
	if c.waiters--; c.waiters == 0 && c.cancel != nil {
		c.cancel() // nobody wants to know any more
	}
	fs.mu.Unlock()
	return shard.Info{}, context.Cause(ctx)
}

// board finds the call that is not sent yet, or makes it.
func (fs *flights) board(
	key flightKey, call func(context.Context) (shard.Info, error),
) *stateCall {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.m[key]
	switch {
	case f == nil:
		f = &flight{now: &stateCall{waiters: 1, done: make(chan struct{})}}
		fs.m[key] = f
		fs.wg.Go(func() { fs.run(key, f, call) })
		return f.now
	case !f.now.sent:
		f.now.waiters++
		return f.now
	case f.next == nil:
		f.next = &stateCall{done: make(chan struct{})}
	}
	f.next.waiters++
	return f.next
}

func (fs *flights) send(
	ctx context.Context, call func(context.Context) (shard.Info, error),
) (_ shard.Info, err error) {
	defer guard(fs.panics, caughtState, &err)
	return call(ctx)
}

// run sends the calls of a key, one after the other, while anybody waits.
func (fs *flights) run(
	key flightKey, f *flight, call func(context.Context) (shard.Info, error),
) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f.now != nil {
		if c := f.now; c.waiters > 0 {
			ctx, cancel := context.WithTimeout(fs.ctx, openTimeout)
			c.sent, c.cancel = true, cancel
			fs.mu.Unlock()
			c.info, c.err = fs.send(ctx, call)
			cancel()
			close(c.done)
			fs.mu.Lock()
		}
		f.now, f.next = f.next, nil
	}
	delete(fs.m, key)
}
