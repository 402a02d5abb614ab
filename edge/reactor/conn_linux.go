package reactor

import (
	"sync/atomic"

	"github.com/fantail-dev/fantail/edge/sse"
)

// conn is one event stream of a loop. The goroutine of the loop owns it; only blockedSince, and the
// fields that BlockedFor and disconnect read (group, connRef), are used by the budget's
// goroutines, between budget.AddReader and budget.RemoveReader.
type conn struct {
	session    sse.Session
	release    func() // ends following the stream
	group      *streamReaders
	groupIndex int32 // in group.readers
	fd         int32
	connRef
	tls *tlsWriter // nil: without TLS

	state         connState
	wantsWritable bool         // epoll reports when it is writable
	queued        bool         // in loop.unfinished
	lookAt        sse.Instant  // when the loop's timers look at it next; 0: they do not
	blockedSince  atomic.Int64 // since when it accepts nothing; 0: it accepts, or is to be disconnected
}

type connState uint8

const (
	connIdle    connState = iota // it waits for news or a page, or for its turn
	connBlocked                  // its connection accepts no more
	connEnding                   // the response has ended; it waits for the client to hang up
	connClosed
)

// connRef names a connection that may be closed by now; gen changes with each use of the slot.
type connRef struct{ slot, gen uint32 }
