package edge

import (
	"context"
	"errors"
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// serveHead describes a stream (PROTOCOL 5.5).
func (s *Server) serveHead(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) {
	s.setCacheControl(w, r, dec, cacheNoStore)
	info, err := s.streams.Info(r.Context(), id, 0)
	if err == nil {
		err = info.Absent()
	}
	if err != nil {
		writeError(w, withStreamName(id, err))
		return
	}
	setStreamHeaders(w.Header(), info)
	setTail(w.Header(), info)
	w.WriteHeader(http.StatusOK)
}

// serveGet answers every GET (PROTOCOL 5.6 to 5.8). It returns an event stream that remains to
// be served; the response header of that is not written yet.
func (s *Server) serveGet(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) (events *eventStream) {
	err := checkHeaders(r)
	var q query
	if err == nil {
		q, err = parseQuery(r)
	}
	if err != nil {
		writeError(w, err)
		return nil
	}
	switch q.live {
	case "sse":
		noteMode(w, modeSSE)
	case "long-poll":
		noteMode(w, modeLongPoll)
	}
	info, at, err := s.resolveRead(r.Context(), id, &q)
	err = withStreamName(id, err)
	switch {
	case q.live == "sse":
		if err == nil && q.reconnects && info.Closed && at.AtEnd(info) {
			s.setCacheControl(w, r, dec, cacheNoStore) // caches may keep a 204 that says nothing
			w.WriteHeader(http.StatusNoContent)        // EventSource stops for good
			return nil
		}
		if err == nil {
			events, err = s.openEventStream(w, r, info, id, q, at, dec)
		}
		if err != nil {
			writeReaderError(w, r, err)
			return nil
		}
		return events
	case err != nil:
		writeError(w, err)
	case q.live == "long-poll":
		s.serveLongPoll(w, r, info, id, q, at, dec)
	default:
		s.serveCompressed(w, r, func(w http.ResponseWriter, r *http.Request) { s.serveCatchUp(w, r, info, id, q, at, dec) })
	}
	return nil
}

// resolveRead returns the stream's Info and the position that the query names in it. A live
// read that names a position may use this node's own tail buffer. If that does not know the
// position yet, resolveRead asks the owner, and finally storage, because there may be two owners.
// While storage does not answer, catch-up is served from what is known; such an answer does
// not claim to be up to date.
func (s *Server) resolveRead(ctx context.Context, id shard.StreamID, q *query) (shard.Info, position.Position, error) {
	ask := shard.InfoTouch
	if q.live != "" && !q.at.IsRelative() {
		ask |= shard.InfoAllowCached
	}
	if q.live != "" {
		ask |= shard.InfoWillFollow
	}
	for {
		info, err := s.streams.Info(ctx, id, ask)
		var at position.Position
		if err == nil {
			err = info.Absent()
		}
		if err == nil {
			at, err = s.resolveOffset(ctx, id, info, q.at)
		}
		switch {
		case errors.Is(err, shard.ErrStoreDown) && q.live == "" && !q.at.IsRelative() && !q.staleInfo:
			q.staleInfo, ask = true, shard.InfoAllowCached
		case q.staleInfo && newerInfoMayHelp(err):
			return info, at, shard.ErrStoreDown
		case ask&shard.InfoRequireFresh != 0 || !newerInfoMayHelp(err):
			return info, at, err
		case ask&shard.InfoAllowCached != 0:
			ask &^= shard.InfoAllowCached
		default:
			ask |= shard.InfoRequireFresh
		}
	}
}

// resolveOffset returns the position that an offset names in a stream, which info describes.
func (s *Server) resolveOffset(ctx context.Context, id shard.StreamID, info shard.Info, o position.Offset) (position.Position, error) {
	if o.Kind == position.OffsetTail {
		return s.positionFromEnd(ctx, id, info, o.Count)
	}
	return o.Resolve(info)
}

// newerInfoMayHelp reports whether newer information could make the error go away.
func newerInfoMayHelp(err error) bool {
	return shard.IsAbsent(err) ||
		errors.Is(err, position.ErrBeyond) || errors.Is(err, position.ErrGone)
}

// serveCatchUp answers a plain GET with one chunk.
func (s *Server) serveCatchUp(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at position.Position, dec decision) {
	defer s.metrics.trackReader(modeCatchUp)()
	if q.at.Kind == position.OffsetNow {
		s.setCacheControl(w, r, dec, cacheNoStore)
		s.sendChunk(w, r, info, &catchUpChunk{next: at}, false)
		return
	}
	c, err := s.loadChunk(r.Context(), id, info, at, q.at.Kind == position.OffsetStart)
	if err != nil {
		writeError(w, err)
		return
	}
	defer s.releaseChunk(&c)
	if q.staleInfo && !info.Closed {
		s.setCacheControl(w, r, dec, cacheNoStore)
		s.sendChunk(w, r, info, &c, true)
		return
	}
	s.setCacheControl(w, r, dec, c.cachePolicy(q.at, info))
	tag := etag(info, at, c.next)
	w.Header().Set("ETag", tag)
	if has, ok := matchETag(strings.Join(r.Header.Values("If-None-Match"), ","), tag); ok {
		w.Header().Set("ETag", has)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.sendChunk(w, r, info, &c, false)
}
