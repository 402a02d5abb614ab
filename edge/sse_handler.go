package edge

import (
	"context"
	"math/rand/v2"
	"net/http"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// serve streams (PROTOCOL 5.8). The reactor takes the streams that it can serve; the goroutine
// here works wherever net/http does. What happens before the reader waits is in functions
// that return first, so that the stack of the waiting goroutine stays small: see run.
func (d *eventStream) serve(w http.ResponseWriter, r *http.Request) {
	if d.handToReactor(w, r) {
		return
	}
	defer d.finish()
	if d.writeHead(w, r) == nil {
		d.run(r.Context())
	}
}

// handToReactor reports whether the response is no longer the handler's: the reactor has taken
// the reader, or it was refused.
func (d *eventStream) handToReactor(w http.ResponseWriter, r *http.Request) bool {
	setSSEHeaders(w.Header(), d.session.Key().Framing)
	switch {
	case d.hasGoroutine:
		return false
	case d.server.reactor.TakeOver(w, r, d.session, d.release):
		return true
	}
	if err := d.server.countGoroutineReader(); err != nil { // the reactor could not take it after all
		d.close()
		writeEventsError(w, r, err)
		return true
	}
	d.hasGoroutine = true
	return false
}

// writeHead writes the response header immediately, before the first event.
func (d *eventStream) writeHead(w http.ResponseWriter, r *http.Request) error {
	d.out, d.wake = netconn.NewStallWriter(w, r, d.server.cfg.Stall), make(sse.WakeSignal, 1)
	d.server.readerBudget.AddReader(d.out)
	w.WriteHeader(http.StatusOK)
	return d.out.Flush()
}

// finish releases what the reader held. It must be deferred directly, because it recovers: a panic
// costs this one reader, and closes its connection.
func (d *eventStream) finish() {
	v := recover()
	d.session.Unwatch(d.wake)
	d.server.readerBudget.RemoveReader(d.out)
	d.close()
	if v != nil {
		d.server.abortStream(v)
	}
}

// openEventStream returns the event stream of a reader, with its first page if it needs one.
func (s *Server) openEventStream(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at position.Position, p permit) (*eventStream, error) {
	done, err := s.admitOnConn(w, r)
	if err != nil {
		return nil, err
	}
	hasGoroutine := !s.canReactorServe(r)
	if err := s.admitReader(modeSSE, hasGoroutine); err != nil {
		done()
		return nil, err
	}
	stay, denial := s.beginStay(r, p)
	if denial != nil {
		done()
		s.releaseReader(modeSSE, hasGoroutine)
		return nil, denial
	}
	tail, unfollow, err := s.streams.Follow(r.Context(), id, at.OwnLogStart(info))
	if err != nil {
		done()
		stay.end()
		s.releaseReader(modeSSE, hasGoroutine)
		return nil, err
	}
	release := unfollow
	if stay != nil {
		release = func() {
			unfollow()
			stay.end()
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
	d := &eventStream{
		server: s, release: release, hasGoroutine: hasGoroutine,
		session: sse.NewSession(s.frames, s.rules, tail, form, sse.Start{
			At: at, FromStart: q.at.Kind == position.OffsetStart, MinCursor: minCursorFor(s.cfg.Now(), q.cursor), Permit: stay.permit(),
		}, s.rules.At(time.Now())),
	}
	if err = position.ErrGone; tail.Generation() == info.Generation { // else the stream was created again between the two calls
		err = d.prepareFirstPage(r.Context())
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

func (s *Server) canReactorServe(r *http.Request) bool {
	return !s.cfg.NoReactor && s.reactor.CanServe(r)
}

// close releases what the reader held.
func (d *eventStream) close() {
	d.session.Close()
	d.release()
	d.server.releaseReader(modeSSE, d.hasGoroutine)
}

// minCursorFor returns the smallest Stream-Cursor for a client that sent the cursor client.
func minCursorFor(now time.Time, client uint64) uint64 {
	if client == 0 {
		return 0
	}
	return position.NextCursor(now, client, rand.Int64N)
}

// setSSEHeaders sets the headers of an SSE response.
func setSSEHeaders(h http.Header, form sse.Framing) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "private, no-cache, no-store, no-transform") // the protocol demands no-cache
	h.Set("X-Accel-Buffering", "no")
	if form == sse.FramingBase64 {
		h.Set(hEncoding, "base64")
	}
}

// eventStream is a reader's session and what it holds of the server. The goroutine of the
// request writes the session's output, unless the reactor has taken the stream.
type eventStream struct {
	server       *Server
	session      sse.Session
	release      func() // ends following the stream
	hasGoroutine bool   // it has a goroutine, and is counted as such

	out  *netconn.StallWriter // nil: the reactor has the stream
	wake sse.WakeSignal
}

// prepareFirstPage fetches the first page of a reader below the TailBuffer before the response
// header is written, so that a trimmed offset answers 410 and not an empty stream that an
// EventSource would reopen without end.
func (d *eventStream) prepareFirstPage(ctx context.Context) (err error) {
	defer d.server.recoverReader(&err)
	if d.next().Do != sse.Fetch {
		return nil
	}
	page, err := d.readPage(ctx)
	if err != nil && isTemporary(err) { // the client is to come back, and does not wait here
		return err
	}
	return d.session.AcceptPage(page, err, d.now())
}

func (d *eventStream) now() sse.Instant { return d.server.rules.At(time.Now()) }

// next asks the session what to do.
func (d *eventStream) next() sse.Action {
	return d.session.Next(d.now(), position.CursorAt(d.server.cfg.Now()), sse.TurnBytes)
}

// run does what the session says, until the response ends. While there is nothing to do it waits for
// news, a timer, the client's leaving, new orders, or to be sent to another node. Where the reader
// waits, its stack has at most 1,248 bytes from run's frame to the goroutine's first, over HTTP/2 too:
// with more, the runtime does not shrink the stack from 8 KiB to 4 (bench/readers shows it).
func (d *eventStream) run(ctx context.Context) {
	timer := time.NewTimer(d.server.cfg.Heartbeat)
	defer timer.Stop()
	for {
		a := d.next()
		var err error
		switch a.Do {
		case sse.End:
			return
		case sse.Write:
			err = d.writePending(a)
		case sse.Fetch:
			page, readErr := d.readPage(ctx)
			err = d.session.AcceptPage(page, readErr, d.now())
		case sse.WaitForNews, sse.Wait:
			if a.Do == sse.WaitForNews && !d.session.Watch(d.wake) {
				continue
			}
			timer.Reset(a.Until.Sub(d.now()))
			select {
			case <-timer.C:
			case <-d.wake:
			case <-d.session.Changed():
			case <-d.rebalanceSignal():
				d.session.Leave(sse.EndRebalance)
			case <-ctx.Done():
				return
			}
			continue
		}
		if err != nil || ctx.Err() != nil {
			d.server.metrics.countDisconnect(d.out, err)
			return
		}
	}
}

// rebalanceSignal returns the channel that tells a reader to leave; nil: it may not be told yet.
func (d *eventStream) rebalanceSignal() <-chan struct{} {
	if !d.session.MayMove(d.now()) {
		return nil
	}
	return d.server.rebalanceSignals
}

// writePending writes the session's output.
func (d *eventStream) writePending(a sse.Action) error {
	if a.Why != 0 {
		d.server.metrics.CountMoved(a.Why)
	}
	for _, b := range slices.Clone(d.session.Pending()) {
		if _, err := d.out.Write(b); err != nil {
			return err
		}
		d.session.MarkWritten(len(b), d.now())
		d.server.metrics.delivered.Add(float64(len(b)))
	}
	d.server.metrics.CountSession(&d.session)
	err := d.out.Flush()
	if a.Newest != 0 {
		d.server.metrics.ObserveDelivery(a.Newest)
	}
	return err
}

// readPage reads the page that the session wants.
func (d *eventStream) readPage(ctx context.Context) (shard.RecordBatch, error) {
	segment, pos := d.session.WantedPage()
	return d.server.streams.ReadPage(ctx, segment.ID, segment.Info, pos)
}

// pageRetryDelay is about how long a reader waits before it asks again for a page that
// could not be read.
const pageRetryDelay = time.Second
