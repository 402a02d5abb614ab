package edge

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"
)

// query is what a GET asks for.
type query struct {
	at    offset
	given bool // a place was given
	again bool // by the id of an event: an EventSource comes back
	live  string
	cur   uint64 // the client's cursor; 0: none
	old   bool   // storage does not answer: the stream is as this fleet last knew it
}

// The parameters of a GET. What else a query holds is not ours, and is passed over.
const (
	pOffset = "offset"
	pLive   = "live"
	pCursor = "cursor"
)

// parseQuery reads a GET's query strictly. What is ours and cannot be read is an error, for
// what is left out of it means another place in the stream: so is a query that does not parse
// as a whole.
func parseQuery(r *http.Request) (query, error) {
	q := query{at: offset{kind: offsetStart}}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("%w: %w; separate parameters with &, and write a %% as %%25", errQuery, err)
	}
	for _, name := range []string{pOffset, pLive, pCursor} {
		if n := len(v[name]); n > 1 {
			return q, fmt.Errorf("%w: %s comes %d times; send it once", errQuery, name, n)
		}
	}
	switch q.live = v.Get(pLive); q.live {
	case "", "long-poll", "sse":
	default:
		return q, fmt.Errorf("%w: live is %.40q; want long-poll or sse, or leave it out", errQuery, q.live)
	}
	var ok bool
	if q.cur, ok = parseCursor(v.Get(pCursor)); !ok {
		return q, fmt.Errorf("%w: cursor is %.40q; want the Stream-Cursor of the last answer, or leave it out", errQuery, v.Get(pCursor))
	}
	if q.given = v.Has(pOffset); q.given {
		if q.at, err = parseOffset(v.Get(pOffset)); err != nil {
			err = fmt.Errorf("%w: %.40q; want -1, now, or a Stream-Next-Offset of the stream", errOffset, v.Get(pOffset))
		}
	}
	last, has, lerr := lastID(r, v)
	switch {
	case lerr != nil:
		return q, lerr
	case q.live == "sse" && has: // it beats the offset, which is where the reader once began
		q.at, q.given, q.again = last, true, true
	case err != nil:
		return q, err
	case q.live != "" && !q.given:
		return q, fmt.Errorf("%w: a live read needs an offset: add offset=-1, offset=now, or a Stream-Next-Offset", errQuery)
	}
	return q, nil
}

// lastID is the id of the last event that a client got, by which it comes back: what it says in
// Last-Event-ID, or in a parameter, as libraries do that may not set the header (lastEventId,
// Last-Event-ID, in any case). A URL may hold an id from when its page was made, and the header
// may be of a client that never reconnected: of several the one counts that stands furthest on in
// the stream, and nobody is sent twice what it got. A header that no event of ours carries
// counts as absent.
func lastID(r *http.Request, v url.Values) (last offset, has bool, err error) {
	var best string
	if id := soft(r.Header, "Last-Event-ID"); id != "" {
		if _, ok := lastEventID(id); ok {
			best = id
		}
	}
	for name, ids := range v {
		if !isLastID(name) {
			continue
		}
		for _, id := range ids {
			if _, ok := lastEventID(id); !ok && id != "" {
				return last, false, fmt.Errorf("%w: %s is %.40q; want the id of an event, or leave it out", errQuery, name, id)
			}
			best = max(best, id)
		}
	}
	last, has = lastEventID(best)
	return last, has, nil
}

func isLastID(name string) bool {
	return strings.EqualFold(name, "lastEventId") || strings.EqualFold(name, "Last-Event-ID")
}

// ours reports whether a parameter is one of the above.
func ours(name string) bool {
	return name == pOffset || name == pLive || name == pCursor || isLastID(name)
}
