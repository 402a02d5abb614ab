package s2dev

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxInflight is how many batches of one append session wait for their durability. At the bound
// the session stops reading its body, and HTTP/2's flow control stops the client.
const maxInflight = 32

// appendSession is one append session: the request's goroutine reads and orders batches, a second
// one waits for their durability and writes the acks in order. Either ending ends the other.
type appendSession struct {
	c     *call
	st    *stream
	name  string
	queue chan queued // bounded by maxInflight

	stop sync.Once
	over chan struct{} // closed when nothing more is written
	lost bool          // the connection is to be cut; read after the writer's end
}

// queued is a batch in order, or the error that ends the session.
type queued struct {
	p   *pending
	n   int
	err *apiError
}

func (c *call) appendSession(basin, name string) *apiError {
	st, err := c.openStream(basin, name, OpAppendSession, onAppend)
	if err != nil {
		return err
	}
	defer c.meter.begin(st.used, OpAppendSession)()
	s := &appendSession{
		c: c, st: st, name: name,
		queue: make(chan queued, maxInflight), over: make(chan struct{}),
	}
	c.startSession()
	var writer sync.WaitGroup
	writer.Go(s.write)
	s.read()
	close(s.queue)
	writer.Wait()
	s.drain()
	if s.lost {
		cut()
	}
	return nil
}

// startSession sends the headers before anything is read: the client waits for them.
func (c *call) startSession() {
	h := c.w.Header()
	h.Set("Content-Type", mimeS2S)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(c.w)
	// Only HTTP/1.1 needs it, and only there it can fail.
	_ = rc.EnableFullDuplex()
	c.w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
}

func (s *appendSession) finished() bool {
	select {
	case <-s.over:
		return true
	default:
		return false
	}
}

func (s *appendSession) read() {
	for !s.finished() {
		raw, err := readFrame(s.c.r.Body)
		if err != nil {
			if bad, ok := errors.AsType[*apiError](err); ok {
				s.push(queued{err: bad})
			} else if !errors.Is(err, io.EOF) {
				s.finish(true)
			}
			return
		}
		if !s.take(raw) {
			return
		}
	}
}

// take orders one batch; false ends the reading.
func (s *appendSession) take(raw []byte) bool {
	msg, bad := decodeAppendInput(raw, "bad_frame")
	if bad != nil {
		return s.push(queued{err: bad})
	}
	in, bad := checkInput(msg)
	if bad != nil {
		return s.push(queued{err: bad})
	}
	lost, bad := s.c.faults.before(s.c.r.Context(), s.name, OpAppendSession, s.st)
	if lost {
		s.finish(true)
		return false
	}
	if bad != nil {
		return s.push(queued{err: bad})
	}
	p := s.st.begin(in, s.c.cfg.Now())
	if !s.push(queued{p: p, n: len(in.records)}) {
		_, _ = p.settle()
		return false
	}
	return p.refused == nil
}

// drain settles what was ordered and will not be answered: every batch in a stream's order is
// published, or the stream's tail would stay behind its head.
func (s *appendSession) drain() {
	for q := range s.queue {
		if q.p != nil {
			_, _ = q.p.settle()
		}
	}
}

func (s *appendSession) push(q queued) bool {
	select {
	case s.queue <- q:
		return q.err == nil
	case <-s.over:
		return false
	}
}

// finish ends the session: nothing more is written, and the reader's wait for the body ends.
func (s *appendSession) finish(lost bool) {
	s.stop.Do(func() {
		s.lost = lost
		close(s.over)
		// Where it cannot be set the body ends with the connection.
		_ = http.NewResponseController(s.c.w).SetReadDeadline(time.Unix(1, 0))
	})
}

func (s *appendSession) write() {
	for {
		changed := s.c.faults.watch()
		if s.c.faults.take(s.name, OpAppendSession, EndSession) != nil {
			s.finish(false)
			return
		}
		select {
		case q, more := <-s.queue:
			if !more {
				return
			}
			if !s.answer(q) {
				return
			}
		case <-s.over:
			return
		case <-s.c.stopping.Done():
			s.finish(true)
			return
		case <-changed:
		}
	}
}

// answer writes one ack, or the terminal frame that ends the session.
func (s *appendSession) answer(q queued) bool {
	err := q.err
	var tail position
	if err == nil {
		tail, err = q.p.settle()
	}
	if err != nil {
		s.send(terminalFrame(err))
		s.finish(false)
		return false
	}
	s.c.meter.appended(s.st.used, q.n)
	if s.c.faults.after(s.c.r.Context(), s.name, OpAppendSession) {
		s.finish(true)
		return false
	}
	f := dataFrame(plain, jsonAck{Start: q.p.start, End: q.p.end, Tail: tail}.wire())
	if s.c.faults.take(s.name, OpAppendSession, CutFrame) != nil {
		s.send(f[:len(f)/2])
		s.finish(true)
		return false
	}
	if !s.send(f) {
		s.finish(true)
		return false
	}
	return true
}

func (s *appendSession) send(f []byte) bool {
	if _, err := s.c.w.Write(f); err != nil {
		return false
	}
	return http.NewResponseController(s.c.w).Flush() == nil
}
