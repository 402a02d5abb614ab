package edge

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// wholeFor bounds how long a request is carried out that has come whole, reads that wait for news
// aside.
const wholeFor = time.Minute

// whole is the context of a request that has come whole. It is carried out though its client says no
// more, which net/http takes for going away: a client that has sent a FIN may well read the answer,
// and an append is better written than perhaps written. What waits for news ends with the client
// (clientOf). The time counts from when somebody first waits for the context's end; before, it costs
// nothing.
type whole struct {
	request context.Context

	mu     sync.Mutex
	ctx    context.Context // nil until somebody asks
	cancel context.CancelFunc
	over   bool
}

// carryOut is the request as its handler gets it; end is to be called when that is done.
func carryOut(r *http.Request) (_ *http.Request, end func()) {
	c := &whole{request: r.Context()}
	return r.WithContext(c), c.end
}

func (c *whole) real() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithTimeout(context.WithoutCancel(c.request), wholeFor)
		if c.over {
			c.cancel()
		}
	}
	return c.ctx
}

// Deadline implements context.Context.
func (c *whole) Deadline() (time.Time, bool) { return c.real().Deadline() }

// Done implements context.Context.
func (c *whole) Done() <-chan struct{} { return c.real().Done() }

// Err implements context.Context.
func (c *whole) Err() error { return c.real().Err() }

// Value implements context.Context.
func (c *whole) Value(key any) any {
	switch key {
	case clientKey{}:
		return c.request
	case connKey{}:
		return c.request.Value(key)
	}
	return c.real().Value(key)
}

func (c *whole) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.over = true; c.cancel != nil {
		c.cancel()
	}
}

type clientKey struct{}

// clientOf is the context that ends when the client of a request goes away, or half of it.
func clientOf(r *http.Request) context.Context {
	if c, ok := r.Context().Value(clientKey{}).(context.Context); ok {
		return c
	}
	return r.Context()
}

// connKey is in the context of a request whose connection is, or has beneath its TLS, a wire.
type connKey struct{}
