package s2dev

import (
	"errors"
	"io"
	"net/http"
	"sync"
	"time"
)

// maxUnacked bounds the batches of one append session that wait for their durability. At the bound
// the session stops reading its body, and HTTP/2's flow control stops the client.
const maxUnacked = 32

// appendSession is one append session. The request's goroutine reads batches and orders them. A
// second goroutine waits for their durability and writes the acks in order. The end of either ends
// the other.
type appendSession struct {
	c     *apiCall
	st    *stream
	name  string
	queue chan queuedBatch // bounded by maxUnacked

	endOnce    sync.Once
	ended      chan struct{} // closed when nothing more is written
	disconnect bool          // the connection is to be aborted; set before ended is closed, read after the writer's end
}

// queuedBatch holds an ordered batch, or the error that ends the session.
type queuedBatch struct {
	append  *pendingAppend
	records int
	err     *apiError
}

func (c *apiCall) serveAppendSession(basin, name string) *apiError {
	st, err := c.openStream(basin, name, OpAppendSession, createsOnAppend)
	if err != nil {
		return err
	}
	defer c.meter.openSession(st.usage, OpAppendSession)()
	s := &appendSession{
		c: c, st: st, name: name,
		queue: make(chan queuedBatch, maxUnacked), ended: make(chan struct{}),
	}
	c.startS2S()
	var writer sync.WaitGroup
	writer.Go(s.writeAcks)
	s.readBatches()
	close(s.queue)
	writer.Wait()
	s.completeQueued()
	if s.disconnect {
		abortConnection()
	}
	return nil
}

// startS2S sends the response header before anything is read: the client waits for it.
func (c *apiCall) startS2S() {
	h := c.w.Header()
	h.Set("Content-Type", mimeS2S)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	rc := http.NewResponseController(c.w)
	// Only HTTP/1.1 needs this, and it can fail only there.
	_ = rc.EnableFullDuplex()
	c.w.WriteHeader(http.StatusOK)
	_ = rc.Flush()
}

func (s *appendSession) isEnded() bool {
	select {
	case <-s.ended:
		return true
	default:
		return false
	}
}

func (s *appendSession) readBatches() {
	for !s.isEnded() {
		raw, err := readFrame(s.c.r.Body)
		if err != nil {
			if bad, ok := errors.AsType[*apiError](err); ok {
				s.enqueue(queuedBatch{err: bad})
			} else if !errors.Is(err, io.EOF) {
				s.end(true)
			}
			return
		}
		if !s.acceptBatch(raw) {
			return
		}
	}
}

// acceptBatch orders one batch. It returns false if no more may be read.
func (s *appendSession) acceptBatch(raw []byte) bool {
	msg, bad := decodeAppendInput(raw, "bad_frame")
	if bad != nil {
		return s.enqueue(queuedBatch{err: bad})
	}
	in, bad := checkAppend(msg)
	if bad != nil {
		return s.enqueue(queuedBatch{err: bad})
	}
	lost, bad := s.c.faults.applyBefore(s.c.r.Context(), s.name, OpAppendSession, s.st)
	if lost {
		s.end(true)
		return false
	}
	if bad != nil {
		return s.enqueue(queuedBatch{err: bad})
	}
	p := s.st.startAppend(in, s.c.cfg.Now())
	if !s.enqueue(queuedBatch{append: p, records: len(in.records)}) {
		_, _ = p.complete()
		return false
	}
	return p.refusal == nil
}

// completeQueued completes batches that are ordered and will not be acknowledged: otherwise the
// stream's tail would stay behind its head.
func (s *appendSession) completeQueued() {
	for q := range s.queue {
		if q.append != nil {
			_, _ = q.append.complete()
		}
	}
}

func (s *appendSession) enqueue(q queuedBatch) bool {
	select {
	case s.queue <- q:
		return q.err == nil
	case <-s.ended:
		return false
	}
}

// end ends the session: nothing more is written, and the read of the body returns.
func (s *appendSession) end(lost bool) {
	s.endOnce.Do(func() {
		s.disconnect = lost
		close(s.ended)
		// Where the deadline cannot be set, the body ends with the connection.
		_ = http.NewResponseController(s.c.w).SetReadDeadline(time.Unix(1, 0))
	})
}

func (s *appendSession) writeAcks() {
	for {
		changed := s.c.faults.changes()
		if s.c.faults.hit(s.name, OpAppendSession, EndSession) != nil {
			s.end(false)
			return
		}
		select {
		case q, more := <-s.queue:
			if !more {
				return
			}
			if !s.writeAck(q) {
				return
			}
		case <-s.ended:
			return
		case <-s.c.stopping.Done():
			s.end(true)
			return
		case <-changed:
		}
	}
}

// writeAck writes one ack, or the terminal frame that ends the session.
func (s *appendSession) writeAck(q queuedBatch) bool {
	err := q.err
	var tail position
	if err == nil {
		tail, err = q.append.complete()
	}
	if err != nil {
		s.writeFrame(terminalFrame(err))
		s.end(false)
		return false
	}
	s.c.meter.countAppended(s.st.usage, q.records)
	if s.c.faults.applyAfter(s.c.r.Context(), s.name, OpAppendSession) {
		s.end(true)
		return false
	}
	f := dataFrame(plain, appendAck{Start: q.append.start, End: q.append.end, Tail: tail}.encode())
	if s.c.faults.hit(s.name, OpAppendSession, CutFrame) != nil {
		s.writeFrame(f[:len(f)/2])
		s.end(true)
		return false
	}
	if !s.writeFrame(f) {
		s.end(true)
		return false
	}
	return true
}

func (s *appendSession) writeFrame(f []byte) bool {
	if _, err := s.c.w.Write(f); err != nil {
		return false
	}
	return http.NewResponseController(s.c.w).Flush() == nil
}
