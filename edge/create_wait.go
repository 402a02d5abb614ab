package edge

import (
	"context"
	"errors"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// With create=wait a live read of a stream that does not exist waits until it is created. An event
// stream begins immediately, with comments, and goes on as a reader's once the stream exists. A long-poll
// answers as any other then, and 404 when its time is over: a 204 has to name an offset, and there is none.
//
// A waiter holds its connection, its goroutine, and its part of an entry at the name's owner: no
// session with S2 and no stream in memory.

// maxCreateWait is the time after which an event stream without a stream ends. An EventSource comes back
// by itself.
const maxCreateWait = 5 * time.Minute

// mayAwaitCreation reports whether a read that met err is to wait for the stream to be created. One
// that names a place in a stream has read it before: that stream is over.
func (s *Server) mayAwaitCreation(q query, err error) bool {
	return q.awaitsCreation && s.cfg.Creations != nil && errors.Is(err, shard.ErrNotFound) &&
		(q.at.Kind == position.OffsetStart || q.at.IsRelative())
}

// createWait is one client that waits.
type createWait struct {
	server    *Server
	id        shard.StreamID
	wake      sse.WakeSignal
	stay      *stay
	departure sse.Departure
	undo      []func()
}

// beginCreateWait admits a client that waits, as the reader that it is going to be. Call finish.
func (s *Server) beginCreateWait(w http.ResponseWriter, r *http.Request, id shard.StreamID, m requestMode, dec decision) (*createWait, error) {
	c := &createWait{server: s, id: id, wake: make(sse.WakeSignal, 1)}
	err := c.admit(w, r, m, dec)
	if err != nil {
		c.finish()
		return nil, err
	}
	c.departure = sse.NewDeparture(s.rules, c.stay.permit(), c.now())
	return c, nil
}

func (c *createWait) admit(w http.ResponseWriter, r *http.Request, m requestMode, dec decision) error {
	s := c.server
	done, err := s.admitOnConn(w, r)
	if err != nil {
		return err
	}
	c.undo = append(c.undo, done)
	if err := s.admitReader(m, true); err != nil {
		return err
	}
	c.undo = append(c.undo, func() { s.releaseReader(m, true) })
	if err := s.createWaits.add(c.id.Project()); err != nil {
		return s.metrics.countRefused(err)
	}
	c.undo = append(c.undo, func() { s.createWaits.remove(c.id.Project()) })
	stay, denial := s.beginStay(r, dec)
	if denial != nil {
		return denial
	}
	c.stay = stay
	c.undo = append(c.undo, stay.finish)
	stop, err := s.cfg.Creations.AwaitCreation(c.id, c.wake)
	if err != nil {
		return err
	}
	c.undo = append(c.undo, stop)
	return nil
}

// finish releases what the wait held.
func (c *createWait) finish() {
	for i := len(c.undo) - 1; i >= 0; i-- {
		c.undo[i]()
	}
	c.undo = nil
}

func (c *createWait) now() sse.Instant { return c.server.rules.At(time.Now()) }

// wait returns when the stream exists, or why not. It calls beat whenever nothing has happened for
// the time of a heartbeat; an error of beat means that the client has left. It asks for the stream when it
// begins and whenever it is woken: the owner would read S2 for more.
func (c *createWait) wait(ctx context.Context, longest time.Duration, beat func() error) (end waitEnd) {
	defer func() { c.server.metrics.createWaits.WithLabelValues(string(end)).Inc() }()
	over, nextBeat, nextLook := c.now().Add(longest), c.now().Add(c.server.cfg.Heartbeat), c.now()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		select {
		case <-c.wake:
			nextLook = c.now()
		case <-timer.C:
		case <-c.departure.Changed():
		case <-ctx.Done():
			return waitLeft
		}
		if c.now() >= nextLook {
			nextLook = math.MaxInt64
			switch info, err := c.server.streams.Info(ctx, c.id, shard.InfoAllowCached); {
			case err == nil && info.Exists:
				return waitCreated
			case err != nil: // its owner or S2 does not answer now
				nextLook = c.now().Add(pageRetryDelay + rand.N(pageRetryDelay))
			}
		}
		why, until := c.departure.Next(c.now())
		switch {
		case why == sse.EndPermit:
			return waitPermit
		case why != 0:
			return waitDrain
		case c.now() >= over:
			return waitTimeout
		case c.now() >= nextBeat:
			if beat() != nil {
				return waitLeft
			}
			nextBeat = c.now().Add(c.server.cfg.Heartbeat)
		}
		timer.Reset(min(over, nextLook, until, nextBeat).Sub(c.now()))
	}
}

// resolveCreated does what resolveRead does, for a stream that was waited for. A query that meant the end
// of the stream, when there was none, means its beginning: all of it came later. What a fork inherited is
// older.
func (s *Server) resolveCreated(ctx context.Context, id shard.StreamID, q *query) (shard.Info, position.Position, error) {
	info, at, err := s.resolveRead(ctx, id, q)
	if err == nil && q.at.Kind == position.OffsetNow {
		at = position.Position{Pos: info.Start}
	}
	return info, at, err
}

// longPollCreated answers a long-poll of a stream that did not exist when it came.
func (s *Server) longPollCreated(w http.ResponseWriter, r *http.Request, id shard.StreamID, q query, dec decision, absent error) {
	c, err := s.beginCreateWait(w, r, id, modeLongPoll, dec)
	if denial := (*access.Denial)(nil); errors.As(err, &denial) {
		writeDenial(w, r, denial)
		return
	}
	if err != nil {
		writeError(w, err)
		return
	}
	began := time.Now()
	end := c.wait(clientContext(r), s.cfg.LongPoll, func() error { return nil })
	c.finish()
	if end != waitCreated {
		writeError(w, absent)
		return
	}
	r, done := withRequestContext(r.WithContext(clientContext(r))) // the time of a request counts from here
	defer done()
	info, at, err := s.resolveCreated(r.Context(), id, &q)
	if err != nil {
		writeError(w, withStreamName(id, err))
		return
	}
	s.serveLongPoll(w, r, info, id, q, at, dec, s.cfg.LongPoll-time.Since(began))
}

// eventsOfCreated begins the event stream of a stream that did not exist when its reader came, and
// waits for the stream. It returns the event stream that remains to be served; nil: it has ended.
func (s *Server) eventsOfCreated(w http.ResponseWriter, r *http.Request, id shard.StreamID, q query, dec decision) *eventStream {
	c, err := s.beginCreateWait(w, r, id, modeSSE, dec)
	if err != nil {
		writeReaderError(w, r, err)
		return nil
	}
	out := netconn.NewStallWriter(w, r, s.cfg.Stall)
	write := func(b []byte) error {
		if _, err := out.Write(b); err != nil {
			return err
		}
		return out.Flush()
	}
	end := s.waitInEvents(w, r, c, out, write)
	c.finish()
	switch end {
	case waitCreated:
	case waitDrain:
		s.metrics.CountMoved(sse.EndDrain)
		fallthrough
	case waitTimeout:
		_ = write(retryEvent(minRetryDelay, maxRetryDelay))
		return nil
	default:
		return nil
	}
	r, done := withRequestContext(r.WithContext(clientContext(r))) // the time of a request counts from here
	defer done()
	info, at, err := s.resolveCreated(r.Context(), id, &q)
	if err == nil && sse.FramingOf(info.Type) == sse.FramingBase64 {
		// The header that says so has gone out without it, so the reader comes back, to this very place.
		segment := at.CurrentSegment(id, info)
		_ = write(sse.RenderControl(segment.Info.Generation, at.Pos, position.CursorAt(s.cfg.Now())))
		_ = write(retryEvent(minCreatedRetry, maxCreatedRetry))
		return nil
	}
	var events *eventStream
	if err == nil {
		events, err = s.openEventStream(w, r, info, id, q, at, dec)
	}
	if err != nil { // it is gone again, or this node is full by now
		_ = write(retryEvent(minRetryDelay, maxRetryDelay))
		return nil
	}
	events.begun = true
	return events
}

// A reader of a stream of bytes is told to come back after a random delay between these.
const (
	minCreatedRetry = 100 * time.Millisecond
	maxCreatedRetry = 500 * time.Millisecond
)

// waitComment keeps the connection of a waiter in use, for proxies that would end it otherwise.
var waitComment = []byte(":\n\n")

// waitInEvents writes the response header, and comments while the client waits.
func (s *Server) waitInEvents(w http.ResponseWriter, r *http.Request, c *createWait, out *netconn.StallWriter, write func([]byte) error) waitEnd {
	setSSEHeaders(w.Header(), sse.FramingText)
	if s.canReactorServe(r) {
		w.Header().Set("Transfer-Encoding", "identity") // the reactor goes on without chunks
	}
	w.WriteHeader(http.StatusOK)
	if out.Flush() != nil {
		return waitLeft
	}
	return c.wait(clientContext(r), maxCreateWait, func() error { return write(waitComment) })
}
