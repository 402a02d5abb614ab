package edge

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	"github.com/fantail-dev/fantail/shard"
)

// A catch-up chunk ends before the message that would take it over these; it
// holds at least one. The rule knows nothing of pages, so the same offset gives
// the same bytes on every node.
const (
	chunkMessages = 1000
	chunkBytes    = 1 << 20
)

// head describes a stream (PROTOCOL 4.3).
func (s *Server) head(w http.ResponseWriter, r *http.Request, id shard.StreamID) {
	keep(w, r, keepNot)
	info, err := s.streams.State(r.Context(), id, 0)
	if err == nil {
		err = info.Absent()
	}
	if err != nil {
		fail(w, err)
		return
	}
	describe(w.Header(), info)
	w.WriteHeader(http.StatusOK)
}

// query is a GET's query, read strictly where the protocol says so.
type query struct {
	at    offset
	given bool // an offset was given
	live  string
	cur   uint64 // the client's cursor; 0: none
	old   bool   // storage does not answer: the stream is as this fleet last knew it
}

func parseQuery(r *http.Request) (query, error) {
	v := r.URL.Query()
	q := query{at: offset{kind: offsetStart}, live: v.Get("live"), cur: parseCursor(v.Get("cursor"))}
	offsets := v["offset"]
	if len(offsets) > 1 {
		return q, errOffset
	}
	if q.given = len(offsets) == 1; q.given {
		var err error
		if q.at, err = parseOffset(offsets[0]); err != nil {
			return q, err
		}
	}
	switch q.live {
	case "", "long-poll", "sse":
		return q, nil
	default:
		return q, fmt.Errorf("%w: live: want long-poll or sse", errQuery)
	}
}

// read is every GET (PROTOCOL 5.6 to 5.8). An event stream is returned, to be served; its
// head is not written yet.
func (s *Server) read(w http.ResponseWriter, r *http.Request, id shard.StreamID) (events *driver) {
	q, err := parseQuery(r)
	last := r.Header.Get("Last-Event-ID")
	if q.live == "sse" && last != "" {
		if o, ok := lastEventID(last); ok {
			q.at, q.given, err = o, true, nil
		} else {
			last = ""
		}
	}
	if err == nil && q.live != "" && !q.given {
		err = fmt.Errorf("%w: a live read needs an offset", errQuery)
	}
	if err != nil {
		fail(w, err)
		return nil
	}
	info, at, err := s.locate(r.Context(), id, &q)
	switch {
	case q.live == "sse":
		if err == nil && last != "" && info.Closed && at.atEnd(info) {
			w.WriteHeader(http.StatusNoContent) // EventSource stops for good
			return nil
		}
		if err == nil {
			events, err = s.driver(r, info, id, q, at)
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
// read that names a place may rest on this node's own Tail; if that does not
// know the place yet, the answer is asked for anew: at the owner, and, because there may
// be two of them, of storage in the end. While storage does not answer, catching up goes
// on in what is known: such an answer does not say that it is up to date.
func (s *Server) locate(ctx context.Context, id shard.StreamID, q *query) (shard.Info, place, error) {
	ask := shard.AskTouch
	if q.live != "" && q.at.kind != offsetNow {
		ask |= shard.AskLocal
	}
	for {
		info, err := s.streams.State(ctx, id, ask)
		var at place
		if err == nil {
			err = info.Absent()
		}
		if err == nil {
			at, err = q.at.resolve(info)
		}
		switch {
		case errors.Is(err, shard.ErrStoreDown) && q.live == "" && q.at.kind != offsetNow && !q.old:
			q.old, ask = true, shard.AskLocal
		case q.old && restsOnInfo(err):
			return info, at, shard.ErrStoreDown
		case ask&shard.AskSure != 0 || !restsOnInfo(err):
			return info, at, err
		case ask&shard.AskLocal != 0:
			ask &^= shard.AskLocal
		default:
			ask |= shard.AskSure
		}
	}
}

// restsOnInfo reports whether newer information could make the error go away.
func restsOnInfo(err error) bool {
	return shard.IsAbsent(err) ||
		errors.Is(err, errOffsetBeyond) || errors.Is(err, errOffsetGone)
}

// chunk is a run of messages for one answer.
type chunk struct {
	messages [][]byte
	next     place // after the last one
	bytes    int
	full     bool // it ends by its own rule, and not at the tail
}

// collect reads messages from a place up to the tail that info tells, as far as a
// chunk goes.
func (s *Server) collect(ctx context.Context, id shard.StreamID, info shard.Info, at place, fromStart bool) (chunk, error) {
	c := chunk{next: at}
	for !at.atEnd(info) {
		l := at.leg(id, info)
		rg, err := s.streams.ReadPage(ctx, l.id, l.info, at.pos)
		var trimmed *shard.TrimmedError
		if errors.As(err, &trimmed) && fromStart && len(c.messages) == 0 && trimmed.First > at.pos {
			at.pos = trimmed.First // the first that is kept
			at = at.normal(info.Start)
			c.next = at
			continue
		}
		if err != nil {
			return c, err
		}
		for i := rg.Search(at.pos); i < rg.Len(); i++ {
			m := rg.Message(i)
			if m.Pos >= l.info.Tail {
				break
			}
			full := len(c.messages) == chunkMessages || c.bytes+len(m.Body) > chunkBytes
			if full && len(c.messages) > 0 {
				c.full = true
				return c, nil
			}
			c.messages = append(c.messages, m.Body)
			c.bytes += len(m.Body)
			c.next = place{at.past, m.Next}.normal(info.Start)
		}
		at.pos = max(rg.To(), at.pos)
		at = at.normal(info.Start)
	}
	c.next = place{pos: max(at.pos, info.Tail)}
	return c, nil
}

// catchUp answers a plain GET.
func (s *Server) catchUp(w http.ResponseWriter, r *http.Request, info shard.Info, id shard.StreamID, q query, at place) {
	defer s.m.reader(modeCatchUp)()
	if q.at.kind == offsetNow {
		keep(w, r, keepNot)
		s.send(w, info, chunk{next: at}, false)
		return
	}
	c, err := s.collect(r.Context(), id, info, at, q.at.kind == offsetStart)
	if err != nil {
		fail(w, err)
		return
	}
	if q.old && !info.Closed {
		keep(w, r, keepNot)
		s.send(w, info, c, true)
		return
	}
	keep(w, r, c.lasting(q.at, info))
	tag := etag(info, at, c.next)
	w.Header().Set("ETag", tag)
	if has, ok := matches(r.Header.Get("If-None-Match"), tag); ok {
		w.Header().Set("ETag", has)
		w.WriteHeader(http.StatusNotModified)
		return
	}
	s.send(w, info, c, false)
}

// send answers 200 with a chunk; old: nobody knows whether there is more by now.
func (s *Server) send(w http.ResponseWriter, info shard.Info, c chunk, old bool) {
	h := w.Header()
	h.Set("Content-Type", info.Type)
	h.Set(hNextOffset, c.next.offset(info))
	if c.next.atEnd(info) && !old {
		h.Set(hUpToDate, "true")
		if info.Closed {
			h.Set(hClosed, "true")
		}
	}
	parts, size := body(info.Type, c.messages), 0
	for _, b := range parts {
		size += len(b)
	}
	h.Set("Content-Length", strconv.Itoa(size)) // unless it is compressed
	w.WriteHeader(http.StatusOK)
	out := s.pacer(w)
	for _, b := range parts {
		if out.write(b) != nil {
			return // the client is gone, or takes nothing
		}
	}
	s.m.deliveries.Add(float64(len(c.messages)))
}

// body is the messages as the stream's type wants them: one JSON array, or one
// after the other.
func body(typ string, messages [][]byte) [][]byte {
	if !shard.IsJSON(typ) {
		return messages
	}
	out := make([][]byte, 0, 2*len(messages)+1)
	sep := []byte("[")
	for _, m := range messages {
		out = append(out, sep, m)
		sep = []byte(",")
	}
	if len(messages) == 0 {
		return [][]byte{[]byte("[]")}
	}
	return append(out, []byte("]"))
}
