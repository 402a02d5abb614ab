package edge

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// serve streams (PROTOCOL 5.8). The reactor takes the streams that it can serve; the goroutine
// here works wherever net/http does. What happens before the reader waits is in functions
// that return first, so that the stack of the waiting goroutine stays small: see run.
func (e *eventStream) serve(w http.ResponseWriter, r *http.Request) {
	if e.handToReactor(w, r) {
		return
	}
	defer e.finish()
	if e.writeHead(w, r) == nil {
		e.run(r.Context())
	}
}

// handToReactor reports whether the response is no longer the handler's: the reactor has taken
// the reader, or it was refused.
func (e *eventStream) handToReactor(w http.ResponseWriter, r *http.Request) bool {
	if !e.begun {
		setSSEHeaders(w.Header(), e.session.Key().Framing)
	}
	switch {
	case e.hasGoroutine:
		return false
	case e.server.reactor.TakeOver(w, r, e.session, e.release, e.begun):
		return true
	}
	if err := e.server.countGoroutineReader(); err != nil { // the reactor could not take it after all
		e.close()
		if !e.begun {
			writeEventsError(w, r, err)
		}
		return true
	}
	e.hasGoroutine = true
	return false
}

// writeHead writes the response header immediately, before the first event, unless it is written.
func (e *eventStream) writeHead(w http.ResponseWriter, r *http.Request) error {
	e.out, e.wake = netconn.NewStallWriter(w, r, e.server.cfg.Stall), make(sse.WakeSignal, 1)
	e.server.readerBudget.AddReader(e.out)
	e.server.overstays.add(e)
	if !e.begun {
		w.WriteHeader(http.StatusOK)
	}
	return e.out.Flush()
}

// finish releases what the reader held. It must be deferred directly, because it recovers: a panic
// costs this one reader, and closes its connection.
func (e *eventStream) finish() {
	v := recover()
	e.session.Unwatch(e.wake)
	e.server.overstays.remove(e)
	e.server.readerBudget.RemoveReader(e.out)
	e.close()
	if v != nil {
		e.server.abortStream(v)
	}
}

// openEventStream returns the event stream of a reader, with its first page if it needs one.
func (s *Server) openEventStream(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at position.Position, dec decision) (*eventStream, error) {
	done, err := s.admitOnConn(w, r)
	if err != nil {
		return nil, err
	}
	hasGoroutine := !s.canReactorServe(r)
	if err := s.admitReader(modeSSE, hasGoroutine); err != nil {
		done()
		return nil, err
	}
	stay, denial := s.beginStay(r, dec)
	if denial != nil {
		done()
		s.releaseReader(modeSSE, hasGoroutine)
		return nil, denial
	}
	tail, unfollow, err := s.streams.Follow(r.Context(), id, at.OwnLogStart(info))
	if err != nil {
		done()
		stay.finish()
		s.releaseReader(modeSSE, hasGoroutine)
		return nil, err
	}
	release := unfollow
	if stay != nil {
		release = func() {
			unfollow()
			stay.finish()
		}
	}
	counts := q.countsReaders && s.cfg.ReaderCounts != nil
	if counts {
		inner, stop := release, s.watchReaders(r.Context(), id)
		release = func() {
			stop()
			inner()
		}
	}
	if r.ProtoMajor > 1 {
		inner := release
		release = func() {
			inner()
			done()
		}
	}
	form := sse.FramingOf(info.Type)
	e := &eventStream{
		server: s, release: release, hasGoroutine: hasGoroutine, stay: stay,
		session: sse.NewSession(s.frames, s.rules, tail, form, sse.Start{
			At: at, FromStart: q.at.Kind == position.OffsetStart, MinCursor: minCursorFor(s.cfg.Now(), q.cursor), Permit: stay.permit(), CountReaders: counts,
		}, s.rules.At(time.Now())),
	}
	if err = position.ErrGone; tail.Generation() == info.Generation { // else the stream was created again between the two calls
		err = e.prepareFirstPage(r.Context())
	}
	if err != nil {
		e.close()
		return nil, err
	}
	return e, nil
}

// watchReaders has the number of a stream's readers known here, for one more reader that asked for it.
func (s *Server) watchReaders(ctx context.Context, id shard.StreamID) (stop func()) {
	s.metrics.countingReaders.Inc()
	unwatch := s.cfg.ReaderCounts.WatchReaders(ctx, id)
	return func() {
		unwatch()
		s.metrics.countingReaders.Dec()
	}
}

func (s *Server) canReactorServe(r *http.Request) bool {
	return !s.cfg.NoReactor && s.reactor.CanServe(r)
}

// close releases what the reader held.
func (e *eventStream) close() {
	e.session.Close()
	e.release()
	e.server.releaseReader(modeSSE, e.hasGoroutine)
}

// minCursorFor returns the smallest Stream-Cursor for a client that sent the cursor client.
func minCursorFor(now time.Time, client uint64) uint64 {
	if client == 0 {
		return 0
	}
	return position.NextCursor(now, client, rand.Int64N)
}

// eventStream is a reader's session and what it holds of the server. The goroutine of the
// request writes the session's output, unless the reactor has taken the stream.
type eventStream struct {
	server       *Server
	session      sse.Session
	release      func() // ends following the stream
	hasGoroutine bool   // it has a goroutine, and is counted as such
	begun        bool   // the response header is written
	stay         *stay  // nil: no file of rights governs it
	overstayed   atomic.Bool

	out  *netconn.StallWriter // nil: the reactor has the stream
	wake sse.WakeSignal
}

// prepareFirstPage fetches the first page of a reader below the tail buffer before the response
// header is written, so that a trimmed offset answers 410 and not an empty stream that an
// EventSource would reopen without end.
func (e *eventStream) prepareFirstPage(ctx context.Context) (err error) {
	defer e.server.recoverReader(&err)
	if e.next().Do != sse.Fetch {
		return nil
	}
	page, err := e.readPage(ctx)
	if err != nil && isTemporary(err) { // the client is to come back, and does not wait here
		return err
	}
	return e.session.AcceptPage(page, err, e.now())
}

func (e *eventStream) now() sse.Instant { return e.server.rules.At(time.Now()) }

// next asks the session what to do.
func (e *eventStream) next() sse.Action {
	return e.session.Next(e.now(), position.CursorAt(e.server.cfg.Now()), sse.TurnBytes)
}

// run does what the session says, until the response ends. While there is nothing to do it waits for
// news, a timer, the client's leaving, new orders, or to be sent to another node. Where the reader
// waits, its stack has at most 1,248 bytes from run's frame to the goroutine's first, over HTTP/2 too:
// with more, the runtime does not shrink the stack from 8 KiB to 4 (bench/readers shows it).
func (e *eventStream) run(ctx context.Context) {
	timer := time.NewTimer(e.server.cfg.Heartbeat)
	defer timer.Stop()
	for {
		a := e.next()
		var err error
		switch a.Do {
		case sse.End:
			return
		case sse.Write:
			err = e.writePending(a)
		case sse.Fetch:
			page, readErr := e.readPage(ctx)
			err = e.session.AcceptPage(page, readErr, e.now())
		case sse.WaitForNews, sse.Wait:
			if a.Do == sse.WaitForNews && !e.session.Watch(e.wake) {
				continue
			}
			timer.Reset(a.Until.Sub(e.now()))
			select {
			case <-timer.C:
			case <-e.wake:
			case <-e.session.Changed():
			case <-e.rebalanceSignal():
				e.session.Leave(sse.EndRebalance)
			case <-ctx.Done():
				return
			}
			continue
		}
		if err != nil || ctx.Err() != nil {
			e.countDisconnect(err)
			return
		}
	}
}

// countDisconnect counts the reader if this node has disconnected it.
func (e *eventStream) countDisconnect(err error) {
	if e.overstayed.Load() {
		e.server.metrics.CountDisconnected(sse.EndPermit)
		return
	}
	e.server.metrics.countDisconnect(e.out, err)
}

// rebalanceSignal returns the channel that tells a reader to leave; nil: it may not be told yet.
func (e *eventStream) rebalanceSignal() <-chan struct{} {
	if !e.session.MayMove(e.now()) {
		return nil
	}
	return e.server.rebalanceSignals
}

// writePending writes the session's output.
func (e *eventStream) writePending(a sse.Action) error {
	if a.Why != 0 {
		e.server.metrics.CountMoved(a.Why)
	}
	for _, b := range slices.Clone(e.session.Pending()) {
		if _, err := e.out.Write(b); err != nil {
			return err
		}
		e.session.MarkWritten(len(b), e.now())
		e.server.metrics.delivered.Add(float64(len(b)))
	}
	e.server.metrics.CountSession(&e.session)
	err := e.out.Flush()
	if a.Newest != 0 {
		e.server.metrics.ObserveDelivery(a.Newest)
	}
	return err
}

// readPage reads the page that the session wants.
func (e *eventStream) readPage(ctx context.Context) (shard.RecordBatch, error) {
	segment, pos := e.session.WantedPage()
	return e.server.streams.ReadPage(ctx, segment.ID, segment.Info, pos)
}

// pageRetryDelay is about how long a reader waits before it asks again for a page that
// could not be read.
const pageRetryDelay = time.Second
