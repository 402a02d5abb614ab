package reactor

import (
	"bytes"
	"crypto/tls"
	"net/http"
	"runtime"
	"time"

	"golang.org/x/sys/unix"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/sse"
)

// TakeOver moves an event stream to a loop, with the headers of w. release ends following the stream;
// the reactor calls it, and closes the session, when the reader is gone. begun: the header is sent,
// without Transfer-Encoding. It returns false, and has done nothing, if the handler has to serve the stream.
func (r *Reactor) TakeOver(w http.ResponseWriter, req *http.Request, session sse.Session, release func(), begun bool) bool {
	wire, l := netconn.SoleOf(req), r.pickLoop()
	if l == nil {
		return false
	}
	var head []byte
	if !begun {
		head = responseHeader(w.Header())
	}
	c, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		return false
	}
	d := &reader{session, release}
	var encrypted *tlsWriter
	if t, ok := c.(*tls.Conn); ok {
		encrypted = &tlsWriter{tls: t}
	}
	fd, err := wire.Detach(encrypted.transport())
	if err != nil {
		r.cfg.Logger.Warn("detach a connection", "err", err)
		r.closeReader(&d.session, d.release)
		return true
	}
	if encrypted != nil {
		encrypted.buffers.In = fdReader(fd)
	}
	l.post(func() { l.addConn(d, fd, encrypted, head) }, func() {
		_ = unix.Close(fd)
		r.closeReader(&d.session, d.release)
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
func (r *Reactor) pickLoop() *loop {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.closed {
		return nil
	}
	if r.loops == nil {
		for range runtime.GOMAXPROCS(0) {
			l, err := newLoop(r)
			if err != nil {
				r.cfg.Logger.Error("no reactor: every event stream has a goroutine", "err", err)
				break
			}
			r.loops = append(r.loops, l)
		}
		for _, l := range r.loops {
			r.wg.Go(l.run)
			r.wg.Go(l.poll)
		}
		if len(r.loops) > 0 {
			r.wg.Go(r.trimMemory)
		}
	}
	if len(r.loops) == 0 {
		return nil
	}
	r.nextLoop++
	return r.loops[r.nextLoop%len(r.loops)]
}

// RecheckSessions has every reader follow new orders of Config.Rules.
func (r *Reactor) RecheckSessions() { r.postToAll((*loop).askAllSessions) }

// Stats describes what the loops hold.
type Stats struct {
	Readers, Streams, Blocked, Ending, Pending int
}

// Stats asks every loop, and waits.
func (r *Reactor) Stats() (all Stats) {
	r.mu.Lock()
	n := len(r.loops)
	r.mu.Unlock()
	answers := make(chan Stats, n)
	r.postToAll(func(l *loop) {
		answers <- Stats{
			Readers: l.conns.used, Streams: len(l.streams), Blocked: len(l.blocked), Ending: len(l.ending),
			Pending: len(l.withNews) + len(l.unfinished) + len(l.pageQueue),
		}
	})
	for range n {
		s := <-answers
		all.Readers += s.Readers
		all.Streams += s.Streams
		all.Blocked += s.Blocked
		all.Ending += s.Ending
		all.Pending += s.Pending
	}
	return all
}

// postToAll mails a function to every loop.
func (r *Reactor) postToAll(fn func(*loop)) {
	r.mu.Lock()
	loops := r.loops
	r.mu.Unlock()
	for _, l := range loops {
		l.post(func() { fn(l) }, nil)
	}
}

// Close disconnects every reader immediately and waits.
func (r *Reactor) Close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.stop()
	r.wg.Wait()
}
