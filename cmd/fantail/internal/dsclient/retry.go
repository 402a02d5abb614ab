package dsclient

import (
	"context"
	"fmt"
	"math/rand/v2"
	"time"
)

const (
	minBackoff      = 100 * time.Millisecond
	maxBackoff      = 5 * time.Second
	maxRetryAfter   = time.Minute // of what a server may ask for
	defaultPatience = 30 * time.Second
)

// retrier waits between the attempts of one request.
type retrier struct {
	client *Client
	began  time.Time // the first failure since the last success; zero: there is none
	next   time.Duration
}

func (c *Client) newRetrier() *retrier {
	return &retrier{client: c, next: minBackoff}
}

// succeeded forgets earlier failures.
func (r *retrier) succeeded() { r.began, r.next = time.Time{}, minBackoff }

// GaveUpError is the error of a request that had no success for as long as Patience says.
type GaveUpError struct {
	After time.Duration
	Err   error // of the last attempt
}

func (e *GaveUpError) Error() string {
	return fmt.Sprintf("no success for %v: %v", e.After.Round(time.Second), e.Err)
}

// Unwrap returns the last error, for errors.Is.
func (e *GaveUpError) Unwrap() error { return e.Err }

// pause waits before the next attempt, after an attempt that failed. It returns an error if there
// is to be none: err itself if it is final, or if patience has run out.
func (r *retrier) pause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if !IsTemporary(err) {
		return err
	}
	wait := rand.N(r.next) + minBackoff/2
	r.next = min(2*r.next, maxBackoff)
	if p, ok := err.(*Problem); ok { //nolint:errorlint // send returns it as it is
		wait = max(wait, p.retryAfter())
	}
	patience := r.client.Patience
	if patience <= 0 {
		patience = defaultPatience
	}
	if r.began.IsZero() {
		r.began = time.Now()
	}
	if failing := time.Since(r.began); failing+wait > patience {
		return &GaveUpError{failing, err}
	}
	if r.client.OnRetry != nil {
		r.client.OnRetry(err, wait)
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
