package sse

import "github.com/fantail-dev/fantail/shard"

// WakeSignal is a Waker that holds one wake-up.
type WakeSignal chan struct{}

// Wake implements shard.Waker.
func (w WakeSignal) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

var _ shard.Waker = WakeSignal(nil)
