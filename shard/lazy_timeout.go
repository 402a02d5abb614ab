package shard

import (
	"context"
	"sync"
	"time"
)

// lazyTimeout is context.WithTimeout for a call that may well be over before anybody asks for
// the context's end: it costs its timer and its place at the parent only then, and the time counts
// from then. A network client asks at once; an S2 in the process does not, and they would be a
// tenth of an append.
type lazyTimeout struct {
	parent  context.Context
	timeout time.Duration

	mu     sync.Mutex
	ctx    context.Context // nil until somebody asks
	cancel context.CancelFunc
}

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

// finish is for when the call is over. Who asks afterwards finds the context ended.
func (l *lazyTimeout) finish() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.timeout = 0; l.cancel != nil {
		l.cancel()
	}
}
