package s2dev

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"
)

// recordSink takes what a read session reads: a connection (frameSink), or a caller in this process
// (directSink). An error ends the session.
type recordSink interface {
	// sendRecords sends records. following: the session was at the tail before them.
	sendRecords(recs []record, tail position, following bool) error
	// sendTail tells the tail, on arrival there and after each heartbeat's time without records.
	sendTail(tail position) error
}

// readSession is one read session. It has no queue: it reads the stream at its own position, as
// fast as its sink takes the records. Owned by the goroutine that runs it.
type readSession struct {
	server *Server
	ctx    context.Context // ends when the client has left
	st     *stream
	bounds readBounds
	sink   recordSink
	pos    uint64
	// following is true from the first arrival at the tail until the session lags a whole page
	// behind.
	following bool
}

var (
	// errSessionEnded ends a session without another word: the fault EndSession.
	errSessionEnded = errors.New("s2dev: the session was ended")
	// errSessionLost ends a session as a lost connection does: the server stops, or a fault loses
	// it.
	errSessionLost = errors.New("s2dev: the session was lost")
)

// run reads until the bounds are reached (nil), or an error: the sink's, an *apiError,
// errSessionEnded, errSessionLost, or ctx's cause.
func (s *readSession) run() error {
	defer s.server.meter.openSession(s.st.usage, OpReadSession)()
	if s.bounds.isExhausted() {
		return nil
	}
	var deadline <-chan time.Time
	for {
		// A long stream takes many pages, and waitAtTail comes only after them.
		if err := s.check(); err != nil {
			return err
		}
		p, bad := s.st.read(s.pos, s.bounds.maxRecords())
		if bad != nil {
			return bad
		}
		recs, done := s.bounds.limitRecords(p.recs)
		if len(recs) > 0 {
			if err := s.sink.sendRecords(recs, p.tail, s.following); err != nil {
				return err
			}
			s.server.meter.countRead(s.st.usage, len(recs))
			deadline = nil
		}
		if done {
			return nil
		}
		if s.pos = p.next; s.pos < p.tail.Seq {
			s.following = false
			continue
		}
		if !s.bounds.isFollowing() {
			return nil
		}
		if deadline == nil && s.bounds.wait != nil {
			deadline = time.After(*s.bounds.wait)
		}
		more, err := s.waitAtTail(p, deadline)
		if err != nil || !more {
			return err
		}
	}
}

// check returns why the session cannot go on, or nil.
func (s *readSession) check() error {
	switch {
	case s.ctx.Err() != nil:
		return context.Cause(s.ctx)
	case s.server.stopping.Err() != nil:
		return errSessionLost
	default:
		return nil
	}
}

// waitAtTail waits at the tail for more records, and tells the tail meanwhile; false: the deadline
// has come.
func (s *readSession) waitAtTail(p page, deadline <-chan time.Time) (more bool, err error) {
	if !s.following {
		s.following = true
		if err := s.sink.sendTail(p.tail); err != nil {
			return false, err
		}
	}
	beat := time.NewTimer(s.server.heartbeat())
	defer beat.Stop()
	for {
		changed := s.server.faults.changes()
		if err := s.applyFaults(); err != nil {
			return false, err
		}
		select {
		case <-p.changed:
			return true, nil
		case <-beat.C:
			if err := s.sink.sendTail(p.tail); err != nil {
				return false, err
			}
			beat.Reset(s.server.heartbeat())
		case <-deadline:
			return false, nil
		case <-s.ctx.Done():
			return false, context.Cause(s.ctx)
		case <-s.server.stopping.Done():
			return false, errSessionLost
		case <-changed:
		}
	}
}

// randomHeartbeat returns S2's interval: 5 to 15 s of silence.
func randomHeartbeat() time.Duration {
	return 5*time.Second + rand.N(10*time.Second)
}

// applyFaults applies the faults that hit a session between what it sends.
func (s *readSession) applyFaults() error {
	f := s.server.faults
	if f.hit(s.st.name, OpReadSession, EndSession) != nil {
		return errSessionEnded
	}
	if i := f.hit(s.st.name, OpReadSession, Silence); i != nil {
		i.addHeld(1)
		defer i.addHeld(-1)
		select {
		case <-i.removed:
		case <-s.ctx.Done():
			return context.Cause(s.ctx)
		case <-s.server.stopping.Done():
			return errSessionLost
		}
	}
	return nil
}
