package edge

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/http"
	"os"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// writeBudget is about how many bytes one turn of an SSE reader writes.
const writeBudget = 256 << 10

// sse streams (PROTOCOL 5.8): the handler driver of a cursor. It works wherever
// net/http does.
func (s *Server) sse(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, pos uint64) {
	leave, err := s.admit(modeSSE)
	if err != nil {
		fail(w, err)
		return
	}
	defer leave()
	tail, release, err := s.streams.Follow(r.Context(), id, pos)
	if err != nil {
		fail(w, err)
		return
	}
	defer release()
	if tail.Life() != info.Life { // made anew between the two calls
		fail(w, shard.ErrNotFound)
		return
	}
	form := framingOf(info.Type)
	set := s.frames.open(tail, form)
	defer set.close()
	sseHead(w.Header(), form)
	w.WriteHeader(http.StatusOK)
	d := &driver{
		server: s, w: w, rc: http.NewResponseController(w), id: id, info: info, news: make(signal, 1),
		c:     newCursor(tail, set, form, pos, ahead(s.cfg.Now(), q.cur)),
		start: q.at.kind == offsetStart,
	}
	defer tail.Unwatch(d.news)
	if d.rc.Flush() == nil { // the head at once, whatever the first event waits for
		d.run(r.Context())
	}
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
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	if form == framingBase64 {
		h.Set(hEncoding, "base64")
	}
}

// driver writes what a cursor owes, on the goroutine of its request.
type driver struct {
	server *Server
	w      http.ResponseWriter
	rc     *http.ResponseController
	id     shard.StreamID
	info   shard.Info
	news   signal
	c      *cursor
	start  bool // began at the start: what is trimmed there is no loss
}

// run is the life of the reader: write what is pending; when idle, wait for news,
// silence, the client's leaving, or the node's.
func (d *driver) run(ctx context.Context) {
	s := d.server
	quiet := time.NewTimer(d.heartbeat())
	defer quiet.Stop()
	for {
		more, err := d.turn(ctx)
		if err != nil || ctx.Err() != nil {
			if errors.Is(err, os.ErrDeadlineExceeded) {
				s.m.cut.Inc()
			}
			return
		}
		if more {
			quiet.Reset(d.heartbeat())
			if s.isDraining() { // between two events
				return
			}
			continue
		}
		if st := d.c.state(); st == stateClosed || st == stateGone {
			return
		}
		if !d.c.tail.Watch(d.news, d.c.pos) {
			continue
		}
		select {
		case <-d.news:
		case <-ctx.Done():
			return
		case <-s.draining:
			return
		case <-quiet.C:
			if d.write([]byte(":\n\n")) != nil || d.rc.Flush() != nil {
				return
			}
			quiet.Reset(d.heartbeat())
		}
	}
}

func (d *driver) heartbeat() time.Duration {
	h := d.server.cfg.Heartbeat
	return h + rand.N(h/4+1)
}

// turn writes what is pending, or fetches the page that the reader needs; more:
// something was done.
func (d *driver) turn(ctx context.Context) (more bool, err error) {
	d.c.interval = interval(d.server.cfg.Now())
	bufs := d.c.pending(writeBudget)
	if len(bufs) == 0 {
		if d.c.state() != stateBehind {
			return false, nil
		}
		return true, d.behind(ctx)
	}
	for _, b := range append([][]byte(nil), bufs...) {
		if err := d.write(b); err != nil {
			return true, err
		}
		d.c.wrote(len(b))
	}
	d.server.m.deliveries.Add(float64(d.c.messages))
	d.server.m.gaps.Add(float64(d.c.gaps))
	d.c.messages, d.c.gaps = 0, 0
	return true, d.rc.Flush()
}

// behind brings the page at the reader's position.
func (d *driver) behind(ctx context.Context) error {
	info := d.c.tail.Info()
	r, err := d.server.streams.ReadPage(ctx, d.id, info, d.c.pos)
	var trimmed *shard.TrimmedError
	if errors.As(err, &trimmed) && d.start && trimmed.First > d.c.pos {
		d.c.skip(trimmed.First)
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

// write writes b; a reader that takes nothing of it for a while is cut.
func (d *driver) write(b []byte) error {
	for len(b) > 0 {
		n := min(len(b), 64<<10)
		if err := d.rc.SetWriteDeadline(time.Now().Add(d.server.cfg.Stall)); err != nil && !errors.Is(err, http.ErrNotSupported) {
			return err
		}
		if _, err := d.w.Write(b[:n]); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}
