package edge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// serve streams (PROTOCOL 5.8). The reactor takes the streams that it can serve; the goroutine
// here works wherever net/http does. What happens before the reader waits has stack frames of
// its own: see run.
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
	own := !s.canReactorServe(r)
	if err := s.admitReader(modeSSE, own); err != nil {
		done()
		return nil, err
	}
	stay, denial := s.beginStay(r, p)
	if denial != nil {
		done()
		s.releaseReader(modeSSE, own)
		return nil, denial
	}
	tail, unfollow, err := s.streams.Follow(r.Context(), id, at.OwnLogStart(info))
	if err != nil {
		done()
		stay.end()
		s.releaseReader(modeSSE, own)
		return nil, err
	}
	release := unfollow
	if p.judged {
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
		server: s, release: release, hasGoroutine: own,
		session: sse.NewSession(s.frames, tail, form, sse.Start{
			At: at, FromStart: q.at.Kind == position.OffsetStart, MinCursor: minCursorFor(s.cfg.Now(), q.cursor),
		}),
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

	out      *netconn.StallWriter // nil: the reactor has the stream
	heldUpTo shard.Pos            // the held message for which its timer is set
	wake     sse.WakeSignal
}

// prepareFirstPage fetches the first page of a reader below the TailBuffer before the response
// header is written, so that a trimmed offset answers 410 and not an empty stream that an
// EventSource would reopen without end.
func (d *eventStream) prepareFirstPage(ctx context.Context) (err error) {
	defer d.server.recoverReader(&err)
	d.session.SetCursor(position.CursorAt(d.server.cfg.Now()))
	if owed, _ := d.session.Output(sse.TurnBytes); len(owed) > 0 || d.session.State() != sse.StateBehind {
		return nil
	}
	return d.fetchPage(ctx)
}

// run drives the reader: it writes the session's output, and when there is none waits for
// news, a timer, the client's leaving, or the node's. Where the reader waits, its stack has at
// most 1,248 bytes from run's frame to the goroutine's first, over HTTP/2 too: with more, the
// runtime does not shrink the stack from 8 KiB to 4 (bench/readers shows it).
func (d *eventStream) run(ctx context.Context) {
	s := d.server
	quiet := time.NewTimer(d.heartbeatDelay())
	defer quiet.Stop()
	bye := s.newDrainTurn()
	for {
		more, err := d.writeOrFetch(ctx)
		var again <-chan time.Time
		if err != nil && isTemporary(err) { // storage has the page, and does not answer
			again = time.After(pageRetryDelay/2 + rand.N(pageRetryDelay))
		} else if err != nil || ctx.Err() != nil {
			s.metrics.countDisconnect(d.out, err)
			return
		}
		if more && again == nil {
			quiet.Reset(d.heartbeatDelay())
			d.heldUpTo = 0
			if bye.isDue() { // between two events
				d.endWithRetry(sse.EndDrain)
				return
			}
			continue
		}
		if st := d.session.State(); st == sse.StateClosed || st == sse.StateGone {
			return
		}
		if again == nil && !d.session.Watch(d.wake) {
			continue
		}
		d.armHeldTimer(quiet)
		select {
		case <-again:
		case <-d.wake:
		case <-ctx.Done():
			return
		case <-bye.changed:
			if bye.isDue() {
				d.endWithRetry(sse.EndDrain)
				return
			}
		case <-s.rebalanceSignal(bye.began):
			d.endWithRetry(sse.EndRebalance)
			return
		case <-quiet.C:
			if d.onTimer(quiet) != nil {
				return
			}
		}
	}
}

// armHeldTimer sets the timer for the message that the session holds, if that has changed.
func (d *eventStream) armHeldTimer(timer *time.Timer) {
	if held := d.session.HeldUpTo(); held != d.heldUpTo {
		d.heldUpTo = held
		timer.Reset(sse.MaxHeldTime)
	}
}

// onTimer has the session release what it holds, or else sends a heartbeat.
func (d *eventStream) onTimer(timer *time.Timer) error {
	if d.session.ReleaseHeld() {
		return nil
	}
	timer.Reset(d.heartbeatDelay())
	return d.writeFlushed([]byte(":\n\n"))
}

// pageRetryDelay is about how long a reader waits before it asks again for a page that
// could not be read.
const pageRetryDelay = time.Second

// endWithRetry ends the response and tells the reader to reconnect to another node.
func (d *eventStream) endWithRetry(why sse.EndReason) {
	d.server.metrics.CountMoved(why)
	_ = d.writeFlushed(retryEvent(minRetryDelay, maxRetryDelay))
}

func (d *eventStream) writeFlushed(b []byte) error {
	_, err := d.out.Write(b)
	return errors.Join(err, d.out.Flush())
}

func (d *eventStream) heartbeatDelay() time.Duration {
	h := d.server.cfg.Heartbeat
	return h + rand.N(h/4+1)
}

// writeOrFetch writes the session's output, or fetches the page that the reader needs; more
// reports whether it did either.
func (d *eventStream) writeOrFetch(ctx context.Context) (more bool, err error) {
	d.session.SetCursor(position.CursorAt(d.server.cfg.Now()))
	bufs, newest := d.session.Output(sse.TurnBytes)
	if len(bufs) == 0 {
		if d.session.State() != sse.StateBehind {
			return false, nil
		}
		return true, d.fetchPage(ctx)
	}
	for _, b := range append([][]byte(nil), bufs...) {
		if _, err := d.out.Write(b); err != nil {
			return true, err
		}
		d.session.MarkWritten(len(b))
		d.server.metrics.delivered.Add(float64(len(b)))
	}
	d.server.metrics.CountSession(&d.session)
	err = d.out.Flush()
	if newest != 0 {
		d.server.metrics.ObserveDelivery(newest)
	}
	return true, err
}

// fetchPage fetches the page at the reader's position.
func (d *eventStream) fetchPage(ctx context.Context) error {
	l, pos := d.session.WantedPage()
	return d.session.AcceptPage(d.server.streams.ReadPage(ctx, l.ID, l.Info, pos))
}
