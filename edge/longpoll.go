package edge

import (
	"context"
	"math/rand/v2"
	"net/http"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// serveLongPoll answers as soon as there is something at the position, or with 204 when the time
// of longest is over (PROTOCOL 5.7).
func (s *Server) serveLongPoll(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at position.Position, dec decision, longest time.Duration) {
	done, err := s.admitOnConn(w, r)
	if err != nil {
		writeError(w, err)
		return
	}
	defer done()
	if err = s.admitReader(modeLongPoll, true); err != nil {
		writeError(w, err)
		return
	}
	defer s.releaseReader(modeLongPoll, true)
	stay, denial := s.beginStay(r, dec)
	if denial != nil {
		writeDenial(w, r, denial)
		return
	}
	defer stay.finish()
	if at.AtEnd(info) && !info.Closed {
		ctx, cancel := context.WithTimeout(clientContext(r), longest)
		defer cancel()
		if info, err = s.awaitNews(ctx, id, info, at.Pos, stay); err != nil {
			writeError(w, err)
			return
		}
	}
	h := w.Header()
	if !info.Closed || !at.AtEnd(info) {
		h.Set(hCursor, strconv.FormatUint(position.NextCursor(s.cfg.Now(), q.cursor, rand.Int64N), 10))
	}
	if !at.AtEnd(info) {
		c, err := s.loadChunk(r.Context(), id, info, at, q.at.Kind == position.OffsetStart)
		if err != nil {
			writeError(w, err)
			return
		}
		defer s.releaseChunk(&c)
		long := cacheLongPoll
		if q.at.IsRelative() { // a later request for it means another position
			long = cacheNoStore
		}
		s.setCacheControl(w, r, dec, long)
		s.sendChunk(w, r, info, &c, false)
		return
	}
	s.setCacheControl(w, r, dec, cacheNoStore)
	h.Set(hNextOffset, position.FormatOffset(info.Generation, max(info.Tail, at.Pos)))
	h.Set(hUpToDate, "true")
	if info.Closed {
		h.Set(hClosed, "true")
	}
	w.WriteHeader(http.StatusNoContent)
}

// awaitNews follows the stream until there is news above pos, it is closed, or ctx
// ends; it returns the stream's Info at that moment.
func (s *Server) awaitNews(ctx context.Context, id shard.StreamID, info shard.Info, pos shard.Pos, stay *stay) (shard.Info, error) {
	tail, release, err := s.streams.Follow(ctx, id, pos)
	if err != nil {
		if ctx.Err() != nil { // nothing came in time, or the client sends no more
			return info, nil
		}
		return info, err
	}
	defer release()
	if tail.Generation() != info.Generation { // the stream was created again between the two calls
		return info, position.ErrGone
	}
	w := make(sse.WakeSignal, 1)
	defer tail.Unwatch(w)
	departure := sse.NewDeparture(s.rules, stay.permit(), s.rules.At(time.Now()))
	for tail.Watch(w, pos) {
		why, until := departure.Next(s.rules.At(time.Now()))
		if why != 0 { // immediately for a request that comes during a drain without a window
			return info, nil
		}
		select {
		case <-w:
		case <-ctx.Done():
			return info, nil
		case <-departure.Changed():
		case <-time.After(until.Sub(s.rules.At(time.Now()))):
		}
	}
	if tail.EndError() == nil {
		return tail.Info(), nil
	}
	now, err := s.streams.Info(ctx, id, 0)
	if err == nil {
		err = now.Absent()
	}
	if err == nil { // the stream was created again already
		err = position.ErrGone
	}
	return info, err
}
