package cluster

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/shard"
)

// stateCalls shares calls for a stream's Info. At most one call per key is in flight, and its
// answer goes only to callers that asked before it was sent. So a caller that asks after a write
// was acknowledged gets an answer that reflects the write.
type stateCalls struct {
	ctx    context.Context // parent of the calls' contexts
	panics *shard.PanicHandler
	wg     sync.WaitGroup

	mu    sync.Mutex
	byKey map[stateCallKey]*stateCallPair
}

type stateCallKey struct {
	id  shard.StreamID
	ask shard.InfoOptions
}

// stateCallPair is the call in flight and the one after it.
type stateCallPair struct {
	current, next *stateCall
}

type stateCall struct {
	waiters int // guarded by stateCalls.mu
	sent    bool
	cancel  context.CancelFunc

	done chan struct{}
	info shard.Info // set before done is closed
	err  error
}

func newStateCalls(ctx context.Context) *stateCalls {
	return &stateCalls{ctx: ctx, byKey: map[stateCallKey]*stateCallPair{}}
}

// callShared returns what call returns, from a call that was sent after callShared was called.
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
		c.cancel() // no caller waits any more
	}
	fs.mu.Unlock()
	return shard.Info{}, context.Cause(ctx)
}

// joinCall returns the key's call that has not been sent yet, and creates it if there is none.
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

// sendCalls sends the calls of a key, one after the other, while callers wait.
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
