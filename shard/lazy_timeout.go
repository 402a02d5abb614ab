package shard

import (
	"context"
	"sync"
	"time"
)

// lazyTimeout is context.WithTimeout for a call that may well return before it looks at its
// context. It creates the timer and registers with the parent only when the context is first used,
// and the time counts from then. A network client uses the context immediately. An S2 in the same
// process does not, and timer and registration would be a tenth of an append.
type lazyTimeout struct {
	parent  context.Context
	timeout time.Duration

	mu     sync.Mutex
	ctx    context.Context // nil until the context is used
	cancel context.CancelFunc
}

// started returns the context, and creates it at the first call.
func (l *lazyTimeout) started() context.Context {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.ctx == nil {
		l.ctx, l.cancel = context.WithTimeout(l.parent, l.timeout)
	}
	return l.ctx
}

// Deadline implements context.Context.
func (l *lazyTimeout) Deadline() (time.Time, bool) { return l.started().Deadline() }

// Done implements context.Context.
func (l *lazyTimeout) Done() <-chan struct{} { return l.started().Done() }

// Err implements context.Context.
func (l *lazyTimeout) Err() error { return l.started().Err() }

// Value implements context.Context.
func (l *lazyTimeout) Value(key any) any { return l.started().Value(key) }

// finish ends the context when the call has returned. A later use finds it ended.
func (l *lazyTimeout) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timeout = 0; l.cancel != nil {
		l.cancel()
	}
}
