package cluster

import (
	"context"
	"sync"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// panicInStateCall is the place of panics in a shared call.
const panicInStateCall = "relay_state"

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
	id      shard.StreamID
	options shard.InfoOptions
}

// stateCallPair is the call in flight and the one after it.
type stateCallPair struct {
	current, next *stateCall
}

type stateCall struct {
	waiters int // guarded by stateCalls.mu
	sent    bool
	cancel  context.CancelFunc
	span    *tracing.Span // of the first caller; nil: that one is not traced

	done chan struct{}
	info shard.Info // set before done is closed
	err  error
}

func newStateCalls(ctx context.Context) *stateCalls {
	return &stateCalls{ctx: ctx, byKey: map[stateCallKey]*stateCallPair{}}
}

// callShared returns what call returns, from a call that was sent after callShared was called.
func (s *stateCalls) callShared(
	ctx context.Context, key stateCallKey, call func(context.Context) (shard.Info, error),
) (shard.Info, error) {
	c := s.joinCall(key, call, tracing.FromContext(ctx))
	select {
	case <-c.done:
		return c.info, c.err
	case <-ctx.Done():
	}
	s.mu.Lock()
	if c.waiters--; c.waiters == 0 && c.cancel != nil {
		c.cancel() // no caller waits any more
	}
	s.mu.Unlock()
	return shard.Info{}, context.Cause(ctx)
}

// joinCall returns the key's call that has not been sent yet, and creates it if there is none.
func (s *stateCalls) joinCall(
	key stateCallKey, call func(context.Context) (shard.Info, error), span *tracing.Span,
) *stateCall {
	s.mu.Lock()
	defer s.mu.Unlock()
	pair := s.byKey[key]
	switch {
	case pair == nil:
		pair = &stateCallPair{current: &stateCall{waiters: 1, done: make(chan struct{}), span: span}}
		s.byKey[key] = pair
		s.wg.Go(func() { s.sendCalls(key, pair, call) })
		return pair.current
	case !pair.current.sent:
		pair.current.waiters++
		return pair.current
	case pair.next == nil:
		pair.next = &stateCall{done: make(chan struct{}), span: span}
	}
	pair.next.waiters++
	return pair.next
}

func (s *stateCalls) callGuarded(
	ctx context.Context, call func(context.Context) (shard.Info, error),
) (_ shard.Info, err error) {
	defer guard.ToError(s.panics, panicInStateCall, &err)
	return call(ctx)
}

// sendCalls sends the calls of a key, one after the other, while callers wait.
func (s *stateCalls) sendCalls(
	key stateCallKey, pair *stateCallPair, call func(context.Context) (shard.Info, error),
) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for pair.current != nil {
		if c := pair.current; c.waiters > 0 {
			ctx, cancel := context.WithTimeout(s.ctx, transport.OpenTimeout)
			c.sent, c.cancel = true, cancel
			s.mu.Unlock()
			c.info, c.err = s.callGuarded(c.span.In(ctx), call)
			cancel()
			close(c.done)
			s.mu.Lock()
		}
		pair.current, pair.next = pair.next, nil
	}
	delete(s.byKey, key)
}
