package sse

import (
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Rules says when readers hear something, and when they have to go. It is set before the first reader.
type Rules struct {
	// Heartbeat is the silence after which a reader gets a comment, and up to a quarter more.
	Heartbeat time.Duration
	// Stall is the time after which a reader that accepts nothing is disconnected.
	Stall time.Duration
	// PageRetry is about how long a reader waits before it asks again for a page that could not be read.
	PageRetry time.Duration
	// MinDrainAge is the least age of an event stream that a drain with a window ends: real
	// clients stop using SSE after a few short streams.
	MinDrainAge time.Duration
	// MinMoveAge is the age before which no reader is disconnected for balance.
	MinMoveAge time.Duration
}

// EndReason says why this node ended a reader's event stream.
type EndReason uint8

// The reasons. A reader that ends for the first two is told to reconnect.
const (
	EndDrain     EndReason = iota + 1 // the node is stopping
	EndRebalance                      // other nodes have fewer readers
	EndStalled                        // it accepted nothing for Rules.Stall
	EndMemory                         // it was blocked while readers held too much memory
)

// String returns the label of the reason in metrics.
func (e EndReason) String() string {
	switch e {
	case EndDrain:
		return "drain"
	case EndRebalance:
		return "rebalance"
	case EndStalled:
		return "stalled"
	case EndMemory:
		return "memory"
	}
	return ""
}

// WakeSignal is a Waker that holds one wake-up.
type WakeSignal chan struct{}

// Wake implements shard.Waker.
func (c WakeSignal) Wake() {
	select {
	case c <- struct{}{}:
	default:
	}
}

var _ shard.Waker = WakeSignal(nil)
