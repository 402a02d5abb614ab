package edge

import (
	"bytes"
	"context"
	"crypto/tls"
	"net/http"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/netconn"
)

// reactor executes the sessions of event streams on HTTP/1.1: a few loops, each the
// owner of its connections and of an epoll descriptor. A reader costs no goroutine, no
// timer, no channel and no buffer. News of a stream wakes each loop once, and the loop then
// writes to each of its readers all the reader's output in one call.
//
// A connection comes from net/http, which has read the request and enforced its limits: Detach
// duplicates its descriptor and closes the net.Conn, so that the runtime's poller forgets
// it. Only the loop writes to it or closes it; other goroutines mail the loop. Under TLS the loop
// has the tls.Conn as well, and encrypts what it sends.
type reactor struct {
	server    *Server
	startedAt time.Time       // the origin of the readers' times
	ctx       context.Context // ends with Close
	stop      context.CancelFunc
	wg        sync.WaitGroup

	readers atomic.Int64

	mu       sync.Mutex
	loops    []*loop // made with the first reader
	nextLoop int     // gets the next reader
	closed   bool
}

func newReactor(s *Server) *reactor {
	x := &reactor{server: s, startedAt: time.Now()}
	x.ctx, x.stop = context.WithCancel(context.Background())
	return x
}

// canServe reports whether a loop can serve the event stream that r asks for.
func (x *reactor) canServe(r *http.Request) bool {
	return !x.server.cfg.NoReactor && netconn.SoleOf(r) != nil && r.ContentLength == 0
}

// TakeOver moves the event stream to a loop. It returns false if the handler has to serve it.
func (x *reactor) takeOver(w http.ResponseWriter, r *http.Request, d *eventStream) bool {
	wire, l := netconn.SoleOf(r), x.pickLoop()
	if l == nil {
		return false
	}
	head := responseHeader(w.Header())
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	var encrypted *tlsWriter
	if t, ok := c.(*tls.Conn); ok {
		encrypted = &tlsWriter{tls: t}
	}
	fd, err := wire.Detach(encrypted.transport())
	if err != nil {
		x.server.cfg.Logger.Warn("detach a connection", "err", err)
		d.close()
		return true
	}
	if encrypted != nil {
		encrypted.buffers.In = fdReader(fd)
	}
	l.post(func() { l.addConn(d, fd, encrypted, head) }, func() {
		_ = unix.Close(fd)
		d.close()
	})
	return true
}

// responseHeader returns the head of a response that ends with its connection.
func responseHeader(h http.Header) []byte {
	var b bytes.Buffer
	b.WriteString("HTTP/1.1 200 OK\r\n")
	h.Set("Date", time.Now().UTC().Format(http.TimeFormat))
	h.Set("Connection", "close")
	_ = h.Write(&b)
	b.WriteString("\r\n")
	return b.Bytes()
}

// pickLoop returns the loop for the next reader; nil: there is none.
func (x *reactor) pickLoop() *loop {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.closed {
		return nil
	}
	if x.loops == nil {
		for range runtime.GOMAXPROCS(0) {
			l, err := newLoop(x)
			if err != nil {
				x.server.cfg.Logger.Error("no reactor: every event stream has a goroutine", "err", err)
				break
			}
			x.loops = append(x.loops, l)
		}
		for _, l := range x.loops {
			x.wg.Go(l.run)
			x.wg.Go(l.poll)
		}
		if len(x.loops) > 0 {
			x.wg.Go(x.trimMemory)
		}
	}
	if len(x.loops) == 0 {
		return nil
	}
	x.nextLoop++
	return x.loops[x.nextLoop%len(x.loops)]
}

// postToAll mails a function to every loop.
func (x *reactor) postToAll(fn func(*loop)) {
	x.mu.Lock()
	loops := x.loops
	x.mu.Unlock()
	for _, l := range loops {
		l.post(func() { fn(l) }, nil)
	}
}

// close disconnects every reader immediately and waits.
func (x *reactor) close() {
	x.mu.Lock()
	x.closed = true
	x.mu.Unlock()
	x.stop()
	x.wg.Wait()
}
