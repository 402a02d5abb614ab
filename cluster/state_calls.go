package cluster

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/shard"
)

// stateCalls shares calls for a stream's state: at most one is under way for a key,
// and an answer is shared only by those who asked before its call was sent. So
// whoever asks after a write was acknowledged gets an answer that knows of it.
type stateCalls struct {
	ctx    context.Context // of the calls
	panics *shard.PanicHandler
	wg     sync.WaitGroup

	mu    sync.Mutex
	byKey map[stateCallKey]*stateCallPair
}

type stateCallKey struct {
	id  shard.StreamID
	ask shard.InfoOptions
}

// stateCallPair is a call under way and the one after it.
type stateCallPair struct {
	current, next *stateCall
}

type stateCall struct {
	waiters int // guarded by flights.mu
	sent    bool
	cancel  context.CancelFunc

	done chan struct{}
	info shard.Info // set before done is closed
	err  error
}

func newStateCalls(ctx context.Context) *stateCalls {
	return &stateCalls{ctx: ctx, byKey: map[stateCallKey]*stateCallPair{}}
}

// callShared returns what call returns, from a call that was sent after do was called.
func (fs *stateCalls) callShared(
	ctx context.Context, key stateCallKey, call func(context.Context) (shard.Info, error),
) (shard.Info, error) {
	c := fs.joinCall(key, call)
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

// joinCall finds the call that is not sent yet, or makes it.
func (fs *stateCalls) joinCall(
	key stateCallKey, call func(context.Context) (shard.Info, error),
) *stateCall {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	f := fs.byKey[key]
	switch {
	case f == nil:
		f = &stateCallPair{current: &stateCall{waiters: 1, done: make(chan struct{})}}
		fs.byKey[key] = f
		fs.wg.Go(func() { fs.sendCalls(key, f, call) })
		return f.current
	case !f.current.sent:
		f.current.waiters++
		return f.current
	case f.next == nil:
		f.next = &stateCall{done: make(chan struct{})}
	}
	f.next.waiters++
	return f.next
}

func (fs *stateCalls) callGuarded(
	ctx context.Context, call func(context.Context) (shard.Info, error),
) (_ shard.Info, err error) {
	defer recoverToError(fs.panics, panicInStateCall, &err)
	return call(ctx)
}

// sendCalls sends the calls of a key, one after the other, while anybody waits.
func (fs *stateCalls) sendCalls(
	key stateCallKey, f *stateCallPair, call func(context.Context) (shard.Info, error),
) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	for f.current != nil {
		if c := f.current; c.waiters > 0 {
			ctx, cancel := context.WithTimeout(fs.ctx, openTimeout)
			c.sent, c.cancel = true, cancel
			fs.mu.Unlock()
			c.info, c.err = fs.callGuarded(ctx, call)
			cancel()
			close(c.done)
			fs.mu.Lock()
		}
		f.current, f.next = f.next, nil
	}
	delete(fs.byKey, key)
}
