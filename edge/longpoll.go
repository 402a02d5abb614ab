package edge

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"

	"github.com/fantail-dev/fantail/shard"
)

// longPoll answers as soon as there is something at the place, or that there is
// nothing (PROTOCOL 5.7).
func (s *Server) longPoll(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at place) {
	done, err := s.occupy(w, r)
	if err != nil {
		fail(w, err)
		return
	}
	defer done()
	if err = s.admit(modeLongPoll, true); err != nil {
		fail(w, err)
		return
	}
	defer s.dismiss(modeLongPoll, true)
	if at.atEnd(info) && !info.Closed {
		ctx, cancel := context.WithTimeout(clientOf(r), s.cfg.LongPoll)
		defer cancel()
		if info, err = s.await(ctx, id, info, at.pos); err != nil {
			fail(w, err)
			return
		}
	}
	h := w.Header()
	if !info.Closed || !at.atEnd(info) {
		h.Set(hCursor, strconv.FormatUint(nextCursor(s.cfg.Now(), q.cur, rand.Int64N), 10))
	}
	if !at.atEnd(info) {
		c, err := s.collect(r.Context(), id, info, at, q.at.kind == offsetStart)
		if err != nil {
			fail(w, err)
			return
		}
		defer s.drop(&c)
		long := keepPoll
		if q.at.kind == offsetNow { // by which who comes later means another place
			long = keepNot
		}
		keep(w, r, long)
		s.send(w, r, info, &c, false)
		return
	}
	keep(w, r, keepNot)
	h.Set(hNextOffset, formatOffset(info.Generation, max(info.Tail, at.pos)))
	h.Set(hUpToDate, "true")
	if info.Closed {
		h.Set(hClosed, "true")
	}
	w.WriteHeader(http.StatusNoContent)
}

// await follows the stream until there is news above pos, it is closed, or ctx
// ends; the result describes the stream then.
func (s *Server) await(ctx context.Context, id shard.StreamID, info shard.Info, pos uint64) (shard.Info, error) {
	tail, release, err := s.streams.Follow(ctx, id, pos)
	if err != nil {
		if ctx.Err() != nil { // nothing came in time, or the client says no more
			return info, nil
		}
		return info, err
	}
	defer release()
	if tail.Generation() != info.Generation { // made anew between the two calls
		return info, errOffsetGone
	}
	w := make(signal, 1)
	defer tail.Unwatch(w)
	bye := s.farewell()
	for tail.Watch(w, pos) {
		select {
		case <-w:
		case <-ctx.Done():
			return info, nil
		case <-bye.next: // at once for one that comes during a drain
			if bye.due() {
				return info, nil
			}
		}
	}
	if tail.EndError() == nil {
		return tail.Info(), nil
	}
	now, err := s.streams.Info(ctx, id, 0)
	if err == nil {
		err = now.Absent()
	}
	if err == nil { // made anew already
		err = errOffsetGone
	}
	return info, err
}
