package edge

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// serveHead describes a stream (PROTOCOL 5.5).
func (s *Server) serveHead(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) {
	s.setCacheControl(w, r, dec, cacheNoStore)
	counts, err := asksForReaders(r.URL.Query())
	if err != nil {
		writeError(w, err)
		return
	}
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
	if counts && s.cfg.ReaderCounts != nil {
		if n, known := s.cfg.ReaderCounts.CountReaders(r.Context(), id); known {
			w.Header().Set(hReaders, strconv.Itoa(n))
		}
	}
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
		if s.mayAwaitCreation(q, err) {
			return s.eventsOfCreated(w, r, id, q, dec)
		}
		if err == nil {
			events, err = s.openEventStream(w, r, info, id, q, at, dec)
		}
		if err != nil {
			writeReaderError(w, r, err)
			return nil
		}
		return events
	case q.live == "long-poll" && s.mayAwaitCreation(q, err):
		s.longPollCreated(w, r, id, q, dec, err)
	case err != nil:
		writeError(w, err)
	case q.live == "long-poll":
		s.serveLongPoll(w, r, info, id, q, at, dec, s.cfg.LongPoll)
	default:
		s.serveCompressed(w, r, func(w http.ResponseWriter, r *http.Request) { s.serveCatchUp(w, r, info, id, q, at, dec) })
	}
	return nil
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
