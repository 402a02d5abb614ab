package edge

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// maxRequestTime bounds how long a request that has arrived whole is executed, except reads that
// wait for news.
const maxRequestTime = time.Minute

// requestContext is the context of a request that has arrived whole. The request is executed even if
// its client sends no more, which net/http takes for a disconnection: a client that has sent a FIN may
// still read the answer, and for an append a certain outcome is better than an unknown one. Reads that
// wait for news end with the client instead (clientContext). The time counts from when a caller first
// waits for the context's end; until then the context costs nothing.
type requestContext struct {
	client context.Context

	mu     sync.Mutex
	ctx    context.Context // nil until a caller asks
	cancel context.CancelFunc
	ended  bool
}

// withRequestContext returns the request for its handler; call end when the handler is done.
func withRequestContext(r *http.Request) (_ *http.Request, end func()) {
	c := &requestContext{client: r.Context()}
	return r.WithContext(c), c.end
}

// bounded returns the context with the time limit, which the first call starts.
func (c *requestContext) bounded() context.Context {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx == nil {
		c.ctx, c.cancel = context.WithTimeout(context.WithoutCancel(c.client), maxRequestTime)
		if c.ended {
			c.cancel()
		}
	}
	return c.ctx
}

// Deadline implements context.Context.
func (c *requestContext) Deadline() (time.Time, bool) { return c.bounded().Deadline() }

// Done implements context.Context.
func (c *requestContext) Done() <-chan struct{} { return c.bounded().Done() }

// Err implements context.Context.
func (c *requestContext) Err() error { return c.bounded().Err() }

// Value implements context.Context.
func (c *requestContext) Value(key any) any {
	switch key {
	case clientKey{}:
		return c.client
	case netconn.ConnKey{}, tracing.ContextKey{}:
		return c.client.Value(key)
	}
	return c.bounded().Value(key)
}

func (c *requestContext) end() {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ended = true; c.cancel != nil {
		c.cancel()
	}
}

type clientKey struct{}

// clientContext returns the context that ends when the client of a request disconnects, or half-closes.
func clientContext(r *http.Request) context.Context {
	if c, ok := r.Context().Value(clientKey{}).(context.Context); ok {
		return c
	}
	return r.Context()
}
