package s2s

import (
	"fmt"
	"net/http"
	"strconv"
	"time"

	"golang.org/x/net/http2"
)

// session is the part of a session above its stream. Its methods are called under conn.mu.
type session interface {
	// takeFrame takes the payload of a frame. shared: it must be copied to be kept.
	takeFrame(payload []byte, shared bool) error
	// noteEnd is called when stream.err is set.
	noteEnd()
	// isWaiting reports whether the next word is the peer's: then its silence is a loss.
	isWaiting() bool
	// isHolding reports whether the consumer has yet to take what arrived.
	isHolding() bool
	// drain is called when the peer takes no new sessions. It returns false if this stream ends
	// now.
	drain() bool
	// sent is called when a part of the first queued batch is written. whole: the last part.
	sent(whole bool)
}

// stream is the HTTP/2 stream of a session, guarded by conn.mu. It is part of the session's own
// allocation.
type stream struct {
	conn    *conn
	session session
	id      uint32
	status  int  // of the answer; 0: it has not come
	sending bool // the request's body is open
	ended   bool // err is set, and the connection has forgotten the stream
	err     error

	recv     frameReader
	size     int32         // of the window: the sum of the next three
	window   int32         // what the peer may still send
	held     int32         // received, and not yet taken by the consumer
	owed     int32         // taken, and not yet credited to the peer
	credited time.Duration // when the peer was last credited; 0: never
	progress int32         // received since heard
	heard    time.Duration // the last sign of life
	send     sendQueue
}

// lifeBytes is the number of bytes that count as a sign of life, though no frame is complete.
const lifeBytes = 16 << 10

// takeHeaders takes the headers or trailers of the answer.
func (s *stream) takeHeaders(f *http2.MetaHeadersFrame) {
	if s.status == 0 {
		status, err := strconv.Atoi(f.PseudoValue("status"))
		switch {
		case err != nil || f.Truncated:
			s.conn.endStream(s, fmt.Errorf("%w: answer with status %q", ErrProtocol, f.PseudoValue("status")), http2.ErrCodeProtocol)
			return
		case status >= 200:
			s.status = status
		}
	}
	if f.StreamEnded() {
		s.takeEnd()
	}
}

// takeData takes a part of the body. n counts against the window.
func (s *stream) takeData(f *http2.DataFrame, n int32) {
	if s.window -= n; s.window < 0 {
		s.conn.endStream(s, fmt.Errorf("%w: more data than the session's window", ErrProtocol), http2.ErrCodeFlowControl)
		return
	}
	s.held += n
	var err error
	switch {
	case s.status == 0:
		err = fmt.Errorf("%w: data before the answer's headers", ErrProtocol)
	case s.status == http.StatusOK:
		err = s.takeFrames(f.Data())
	case len(s.recv.part)+len(f.Data()) > maxErrorBytes:
		err = fmt.Errorf("%w: answer %d with a body of more than %d bytes", ErrProtocol, s.status, maxErrorBytes)
	default:
		s.recv.part = append(s.recv.part, f.Data()...)
	}
	switch {
	case s.ended:
	case err != nil:
		s.conn.endStream(s, err, http2.ErrCodeProtocol)
	case f.StreamEnded():
		s.takeEnd()
	case !s.session.isHolding():
		s.credit(s.held)
	}
}

// takeFrames takes the frames that data completes.
func (s *stream) takeFrames(data []byte) error {
	if s.progress += int32(len(data)); s.progress >= lifeBytes {
		s.hear()
	}
	for len(data) > 0 && !s.ended {
		frame, shared, rest, err := s.recv.next(data)
		if err != nil {
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		}
		if data = rest; frame == nil {
			return nil
		}
		s.hear()
		payload, copied, end, err := openFrame(frame)
		if err == nil && end == nil {
			err = s.session.takeFrame(payload, shared && !copied)
		}
		switch {
		case err != nil:
			return fmt.Errorf("%w: %w", ErrProtocol, err)
		case end != nil:
			s.conn.endStream(s, end, http2.ErrCodeCancel)
		}
	}
	return nil
}

func (s *stream) hear() { s.heard, s.progress = s.conn.client.now(), 0 }

// takeEnd takes the end of the answer.
func (s *stream) takeEnd() {
	if s.ended {
		return
	}
	err := errCleanEnd
	switch {
	case s.status >= 400:
		err = decodeError(s.status, s.recv.part)
	case s.status != http.StatusOK:
		err = fmt.Errorf("%w: answer with status %d", ErrProtocol, s.status)
	case len(s.recv.part) > 0:
		err = fmt.Errorf("%w: cut within a frame", ErrLost)
	}
	if s.sending {
		s.conn.endStream(s, err, http2.ErrCodeCancel)
	} else {
		s.finish(err)
	}
}

// finish ends the stream on this side.
func (s *stream) finish(err error) {
	if s.ended {
		return
	}
	s.ended, s.err = true, err
	s.closeWindow()
	s.recv, s.send.queue = frameReader{}, nil
	c := s.conn
	if delete(c.streams, s.id); len(c.streams) == 0 {
		c.idleSince = c.client.now()
		c.closeIfDrained()
	}
	s.session.noteEnd()
}

// sweepInterval returns the pause between two sweeps: the delay of what they notice.
func (c *conn) sweepInterval() time.Duration { return max(c.client.cfg.Silence/8, time.Millisecond) }

// sweep ends the sessions that are silent for too long, tests a silent connection, and closes an
// idle one. It takes the place of a timer for each session.
func (c *conn) sweep() {
	if err := c.sweepStreams(); err != nil {
		c.fail(err)
	}
}

func (c *conn) sweepStreams() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.dead != nil {
		return nil
	}
	now, cfg := c.client.now(), &c.client.cfg
	for _, s := range c.streams {
		if s.session.isWaiting() && now-s.heard >= cfg.Silence {
			c.endStream(s, ErrSilent, http2.ErrCodeCancel)
		}
	}
	switch {
	case len(c.streams) == 0:
		c.goingAway = c.goingAway || now-c.idleSince >= cfg.IdleTimeout
		c.closeIfDrained()
	case c.pinged > 0 && now-c.pinged >= pingTimeout:
		return fmt.Errorf("%w: the connection is silent, and a PING has no answer", ErrLost)
	case c.pinged == 0 && now-c.heard >= cfg.Silence/2:
		c.pinged = now
		c.emit(c.frames.WritePing(false, [8]byte{'f'}))
		c.flush()
	}
	c.sweeper.Reset(c.sweepInterval())
	return nil
}
