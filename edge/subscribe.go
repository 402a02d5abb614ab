package edge

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/shard"
)

// head describes a stream (PROTOCOL 4.3).
func (s *Server) head(w http.ResponseWriter, r *http.Request, id shard.StreamID) {
	keep(w, r, keepNot)
	info, err := s.streams.Info(r.Context(), id, 0)
	if err == nil {
		err = info.Absent()
	}
	if err != nil {
		fail(w, about(id, err))
		return
	}
	describe(w.Header(), info)
	w.WriteHeader(http.StatusOK)
}

// read is every GET (PROTOCOL 5.6 to 5.8). An event stream is returned, to be served; its
// head is not written yet.
func (s *Server) read(w http.ResponseWriter, r *http.Request, id shard.StreamID) (events *driver) {
	err := checkHeaders(r)
	var q query
	if err == nil {
		q, err = parseQuery(r)
	}
	if err != nil {
		fail(w, err)
		return nil
	}
	switch q.live {
	case "sse":
		noteMode(w, modeSSE)
	case "long-poll":
		noteMode(w, modeLongPoll)
	}
	info, at, err := s.locate(r.Context(), id, &q)
	err = about(id, err)
	switch {
	case q.live == "sse":
		if err == nil && q.again && info.Closed && at.atEnd(info) {
			w.WriteHeader(http.StatusNoContent) // EventSource stops for good
			return nil
		}
		if err == nil {
			events, err = s.driver(w, r, info, id, q, at)
		}
		if err != nil {
			failEvents(w, r, err)
			return nil
		}
		return events
	case err != nil:
		fail(w, err)
	case q.live == "long-poll":
		s.longPoll(w, r, info, id, q, at)
	default:
		s.compressed(w, r, func(w http.ResponseWriter, r *http.Request) { s.catchUp(w, r, info, id, q, at) })
	}
	return nil
}

// locate finds the stream and the place that the query names in it. A live
// read that names a place may rest on this node's own TailBuffer; if that does not
// know the place yet, the answer is asked for anew: at the owner, and, because there may
// be two of them, of storage in the end. While storage does not answer, catching up goes
// on in what is known: such an answer does not say that it is up to date.
func (s *Server) locate(ctx context.Context, id shard.StreamID, q *query) (shard.Info, place, error) {
	ask := shard.InfoTouch
	if q.live != "" && q.at.kind != offsetNow {
		ask |= shard.InfoAllowCached
	}
	if q.live != "" {
		ask |= shard.InfoWillFollow
	}
	for {
		info, err := s.streams.Info(ctx, id, ask)
		var at place
		if err == nil {
			err = info.Absent()
		}
		if err == nil {
			at, err = q.at.resolve(info)
		}
		switch {
		case errors.Is(err, shard.ErrStoreDown) && q.live == "" && q.at.kind != offsetNow && !q.old:
			q.old, ask = true, shard.InfoAllowCached
		case q.old && restsOnInfo(err):
			return info, at, shard.ErrStoreDown
		case ask&shard.InfoRequireFresh != 0 || !restsOnInfo(err):
			return info, at, err
		case ask&shard.InfoAllowCached != 0:
			ask &^= shard.InfoAllowCached
		default:
			ask |= shard.InfoRequireFresh
		}
	}
}

// restsOnInfo reports whether newer information could make the error go away.
func restsOnInfo(err error) bool {
	return shard.IsAbsent(err) ||
		errors.Is(err, errOffsetBeyond) || errors.Is(err, errOffsetGone)
}

// catchUp answers a plain GET.
func (s *Server) catchUp(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at place) {
	defer s.m.reader(modeCatchUp)()
	if q.at.kind == offsetNow {
		keep(w, r, keepNot)
		s.send(w, r, info, &chunk{next: at}, false)
		return
	}
	c, err := s.collect(r.Context(), id, info, at, q.at.kind == offsetStart)
	if err != nil {
		fail(w, err)
		return
	}
	defer s.drop(&c)
	if q.old && !info.Closed {
		keep(w, r, keepNot)
		s.send(w, r, info, &c, true)
		return
	}
	keep(w, r, c.lasting(q.at, info))
	tag := etag(info, at, c.next)
	w.Header().Set("ETag", tag)
	if has, ok := matches(strings.Join(r.Header.Values("If-None-Match"), ","), tag); ok {
		w.Header().Set("ETag", has)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.send(w, r, info, &c, false)
}
