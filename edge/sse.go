package edge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// writeBudget is about how many bytes one turn of an SSE reader writes.
const writeBudget = 256 << 10

// serve streams (PROTOCOL 5.8). The reactor takes what it can; the handler driver, which
// is here, works wherever net/http does. What is done before the reader waits has frames of
// its own: see run.
func (d *driver) serve(w http.ResponseWriter, r *http.Request) {
	if d.taken(w, r) {
		return
	}
	defer d.leave()
	if d.enter(w, r) == nil {
		d.run(r.Context())
	}
}

// taken reports whether the reader is the reactor's now, or was refused.
func (d *driver) taken(w http.ResponseWriter, r *http.Request) bool {
	sseHead(w.Header(), d.c.form)
	switch {
	case d.own:
		return false
	case d.server.reactor.take(w, r, d):
		return true
	}
	if err := d.server.own(); err != nil { // the reactor could not, after all
		d.close()
		failEvents(w, r, err)
		return true
	}
	d.own = true
	return false
}

// enter writes the head at once, whatever the first event waits for.
func (d *driver) enter(w http.ResponseWriter, r *http.Request) error {
	d.out, d.news = d.server.pacer(w, r), make(signal, 1)
	d.server.frames.pins.add(d.out)
	w.WriteHeader(http.StatusOK)
	return d.out.flush()
}

// leave gives back what the reader held. It is deferred by itself: a panic costs the one
// reader, whose connection is cut.
func (d *driver) leave() {
	v := recover()
	d.c.tail.Unwatch(d.news)
	d.server.frames.pins.remove(d.out)
	d.close()
	if v != nil {
		d.server.abort(v)
	}
}

// driver makes a reader that has its first page, if it needs one.
func (s *Server) driver(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at place) (*driver, error) {
	done, err := s.occupy(w, r)
	if err != nil {
		return nil, err
	}
	own := !s.reactor.serves(r)
	if err := s.admit(modeSSE, own); err != nil {
		done()
		return nil, err
	}
	tail, unfollow, err := s.streams.Follow(r.Context(), id, at.own(info))
	if err != nil {
		done()
		s.dismiss(modeSSE, own)
		return nil, err
	}
	release := unfollow
	if r.ProtoMajor > 1 {
		release = func() {
			unfollow()
			done()
		}
	}
	form := framingOf(info.Type)
	set := s.frames.open(tail, form)
	d := &driver{
		server: s, release: release, own: own,
		c:     *newCursor(tail, set, form, at, ahead(s.cfg.Now(), q.cur)),
		start: q.at.kind == offsetStart,
	}
	if form == framingText && !d.start {
		d.c.joint = joint{kind: jointUnknown, left: characterRest}
	}
	if err = errOffsetGone; tail.Generation() == info.Generation { // or made anew between the two calls
		err = d.prepare(r.Context())
	}
	if err != nil {
		d.close()
		return nil, err
	}
	return d, nil
}

// close gives back what the reader held.
func (d *driver) close() {
	d.c.drop()
	d.c.set.close()
	d.release()
	d.server.dismiss(modeSSE, d.own)
}

// ahead is the smallest streamCursor for a client that came with cursor client.
func ahead(now time.Time, client uint64) uint64 {
	if client == 0 {
		return 0
	}
	return nextCursor(now, client, rand.Int64N)
}

// sseHead sets the headers of an SSE response.
func sseHead(h http.Header, form framing) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "private, no-cache, no-store, no-transform") // no-cache is the protocol's word
	h.Set("X-Accel-Buffering", "no")
	if form == framingBase64 {
		h.Set(hEncoding, "base64")
	}
}

// driver is an event stream: its cursor and what it holds of the server. It writes what
// the cursor owes on the goroutine of its request, unless the reactor has taken it.
type driver struct {
	server  *Server
	c       cursor
	release func() // follows the stream no more
	start   bool   // began at the start: what is trimmed there is no loss
	own     bool   // has a goroutine, and is counted as one that has

	out  *pacer // nil: the reactor's
	news signal
}

// prepare brings the page that a reader needs who stands below the TailBuffer, before the
// head is written: what is no longer kept is 410, and not an empty stream that an
// EventSource would come back to for ever.
func (d *driver) prepare(ctx context.Context) (err error) {
	defer d.server.guard(&err)
	d.c.interval = interval(d.server.cfg.Now())
	if len(d.c.pending(writeBudget)) > 0 || d.c.state() != stateBehind {
		return nil
	}
	return d.behind(ctx)
}

// run is the life of the reader: write what is pending; when idle, wait for news,
// silence, the client's leaving, or the node's. From its frame down to the goroutine's
// first there are 1,248 bytes at most where the reader waits, over HTTPAddr/2 too: with more,
// the runtime does not shrink the stack from 8 KiB to 4 (bench/readers shows it).
func (d *driver) run(ctx context.Context) {
	s := d.server
	quiet := time.NewTimer(d.heartbeat())
	defer quiet.Stop()
	bye := s.farewell()
	for {
		more, err := d.turn(ctx)
		var again <-chan time.Time
		if err != nil && passes(err) { // storage has what is needed, and does not answer
			again = time.After(pageAgain/2 + rand.N(pageAgain))
		} else if err != nil || ctx.Err() != nil {
			s.m.countCut(d.out, err)
			return
		}
		if more && again == nil {
			quiet.Reset(d.heartbeat())
			d.out.holding = 0
			if bye.due() { // between two events
				d.farewell(movedDrain)
				return
			}
			continue
		}
		if st := d.c.state(); st == stateClosed || st == stateGone {
			return
		}
		if again == nil && !d.c.tail.Watch(d.news, d.c.at.pos) {
			continue
		}
		d.hold(quiet)
		select {
		case <-again:
		case <-d.news:
		case <-ctx.Done():
			return
		case <-bye.next:
			if bye.due() {
				d.farewell(movedDrain)
				return
			}
		case <-s.sheds(bye.began):
			d.farewell(movedRebalance)
			return
		case <-quiet.C:
			if d.silence(quiet) != nil {
				return
			}
		}
	}
}

// hold sets the timer for what the cursor holds, if that is news.
func (d *driver) hold(timer *time.Timer) {
	if held := d.c.holds(); held != d.out.holding {
		d.out.holding = held
		timer.Reset(heldFor)
	}
}

// silence does what the timer was for: it has the cursor let go of what it holds, or sends a
// heartbeat.
func (d *driver) silence(timer *time.Timer) error {
	if d.c.late = d.c.holds() != 0; d.c.late {
		return nil
	}
	timer.Reset(d.heartbeat())
	return errors.Join(d.out.write([]byte(":\n\n")), d.out.flush())
}

// pageAgain is about how long a reader waits before it asks again for a page that
// nobody could read.
const pageAgain = time.Second

// farewell ends the response: the reader is to go on elsewhere.
func (d *driver) farewell(why reason) {
	d.server.m.moved.WithLabelValues(string(why)).Inc()
	_ = errors.Join(d.out.write(comeBack(comeBackSoon, comeBackLate)), d.out.flush())
}

func (d *driver) heartbeat() time.Duration {
	h := d.server.cfg.Heartbeat
	return h + rand.N(h/4+1)
}

// turn writes what is pending, or fetches the page that the reader needs; more:
// something was done.
func (d *driver) turn(ctx context.Context) (more bool, err error) {
	d.c.interval = interval(d.server.cfg.Now())
	bufs, newest := d.c.news(writeBudget)
	if len(bufs) == 0 {
		if d.c.state() != stateBehind {
			return false, nil
		}
		return true, d.behind(ctx)
	}
	for _, b := range append([][]byte(nil), bufs...) {
		if err := d.out.write(b); err != nil {
			return true, err
		}
		d.c.wrote(len(b))
		d.server.m.delivered.Add(float64(len(b)))
	}
	d.server.m.count(&d.c)
	err = d.out.flush()
	if newest != 0 {
		d.server.m.observeDelivery(newest)
	}
	return true, err
}

// behind brings the page at the reader's position.
func (d *driver) behind(ctx context.Context) error {
	l, pos := d.c.wants()
	return d.turned(d.server.streams.ReadPage(ctx, l.id, l.info, pos))
}

// turned takes the page that was read, or why none could be.
func (d *driver) turned(r shard.RecordBatch, err error) error {
	var trimmed *shard.TrimmedError
	if errors.As(err, &trimmed) && d.c.look > 0 {
		d.c.beginAnew()
		d.c.now = stateIdle
		return nil
	}
	if errors.As(err, &trimmed) && d.start && trimmed.First > d.c.at.pos && d.c.skip(trimmed.First) {
		return nil
	}
	if err != nil {
		return err
	}
	d.start = false
	if !d.c.page(r) {
		return errPage
	}
	return nil
}

// errPage: a page does not hold the position that it was asked for. The reader is
// cut rather than sent past a hole.
var errPage = errors.New("page does not join")
