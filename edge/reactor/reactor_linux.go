package reactor

import (
	"context"
	"net/http"
	"sync"
	"sync/atomic"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/sse"
)

// Reactor executes the sessions of event streams on HTTP/1.1: a few loops, each the
// owner of its connections and of an epoll descriptor. A reader costs no goroutine, no
// timer, no channel and no buffer. News of a stream wakes each loop once, and the loop then
// writes to each of its readers all the reader's output in one call.
//
// A connection comes from net/http, which has read the request and enforced its limits: Detach
// duplicates its descriptor and closes the net.Conn, so that the runtime's poller forgets
// it. Only the loop writes to it or closes it; other goroutines mail the loop. Under TLS the loop
// has the tls.Conn as well, and encrypts what it sends.
type Reactor struct {
	cfg  Config
	ctx  context.Context // ends with Close
	stop context.CancelFunc
	wg   sync.WaitGroup

	readers atomic.Int64

	mu       sync.Mutex
	loops    []*loop // made with the first reader
	nextLoop int     // gets the next reader
	closed   bool
}

// New returns a Reactor without readers.
func New(cfg Config) *Reactor {
	r := &Reactor{cfg: cfg}
	r.ctx, r.stop = context.WithCancel(context.Background())
	return r
}

// Readers returns the number of readers that the reactor has.
func (r *Reactor) Readers() int { return int(r.readers.Load()) }

// CanServe reports whether a loop can serve the event stream that r asks for.
func (*Reactor) CanServe(r *http.Request) bool {
	return netconn.SoleOf(r) != nil && r.ContentLength == 0
}

// reader holds what the reactor takes over of an event stream.
type reader struct {
	session sse.Session
	release func() // ends following the stream
}

// closeReader releases what a reader held.
func (r *Reactor) closeReader(session *sse.Session, release func()) {
	session.Close()
	release()
	r.cfg.OnClose()
}
