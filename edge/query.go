package edge

import (
	"fmt"
	"net/http"
	"net/url"
	"strings"

	"github.com/fantail-dev/fantail/edge/position"
)

// query is the parsed query of a GET.
type query struct {
	at         position.Offset
	hasOffset  bool // at comes from the request
	reconnects bool // at is the id of an event: an EventSource reconnects
	live       string
	cursor     uint64 // the client's Stream-Cursor; 0: none
	staleInfo  bool   // storage does not answer: the stream is shown as this fleet last knew it
	// awaitsCreation: a live read waits for a stream that does not exist.
	awaitsCreation bool
	// countsReaders: the answer shows the number of the stream's readers, where it can.
	countsReaders bool
}

// The parameters of a GET. Other parameters are ignored.
const (
	paramOffset = "offset"
	paramLive   = "live"
	paramCursor = "cursor"
	paramCreate = "create"
	// paramReaders is a parameter of HEAD, too.
	paramReaders = "readers"
)

// createWaitValue is the only value of paramCreate.
const createWaitValue = "wait"

// parseQuery reads a GET's query strictly. A known parameter that cannot be read is an error,
// because without it the query would mean another position in the stream; so is a query that
// does not parse as a whole.
func parseQuery(r *http.Request) (query, error) {
	q := query{at: position.Offset{Kind: position.OffsetStart}}
	v, err := url.ParseQuery(r.URL.RawQuery)
	if err != nil {
		return q, fmt.Errorf("%w: %w; separate parameters with &, and write a %% as %%25", errQuery, err)
	}
	for _, name := range []string{paramOffset, paramLive, paramCursor, paramCreate} {
		if n := len(v[name]); n > 1 {
			return q, fmt.Errorf("%w: %s comes %d times; send it once", errQuery, name, n)
		}
	}
	switch q.live = v.Get(paramLive); q.live {
	case "", "long-poll", "sse":
	default:
		return q, fmt.Errorf("%w: live is %.40q; want long-poll or sse, or leave it out", errQuery, q.live)
	}
	if q.countsReaders, err = asksForReaders(v); err != nil {
		return q, err
	}
	if q.awaitsCreation = v.Has(paramCreate); q.awaitsCreation {
		switch create := v.Get(paramCreate); {
		case create != createWaitValue:
			return q, fmt.Errorf("%w: create is %.40q; want wait, or leave it out", errQuery, create)
		case q.live == "":
			return q, fmt.Errorf("%w: create=wait is for a live read: add live=sse or live=long-poll", errQuery)
		}
	}
	var ok bool
	if q.cursor, ok = position.ParseCursor(v.Get(paramCursor)); !ok {
		return q, fmt.Errorf("%w: cursor is %.40q; want the Stream-Cursor of the last answer, or leave it out", errQuery, v.Get(paramCursor))
	}
	if q.hasOffset = v.Has(paramOffset); q.hasOffset {
		if q.at, err = position.ParseReadOffset(v.Get(paramOffset)); err != nil {
			err = fmt.Errorf("%w: %.40q; want -1, now, tail-N, at: and a time such as at:2026-01-31T12:00:00Z or at:1769860800000, or a Stream-Next-Offset of the stream", position.ErrMalformed, v.Get(paramOffset))
		}
	}
	last, has, lerr := lastEventIDOf(r, v)
	switch {
	case lerr != nil:
		return q, lerr
	case q.live == "sse" && has: // it wins over the offset, which is where the reader once began
		q.at, q.hasOffset, q.reconnects = last, true, true
	case err != nil:
		return q, err
	case q.live != "" && !q.hasOffset:
		return q, fmt.Errorf("%w: a live read needs an offset: add offset=-1, offset=now, or a Stream-Next-Offset", errQuery)
	}
	return q, nil
}

// asksForReaders reports whether a query asks for the number of a stream's readers.
func asksForReaders(v url.Values) (bool, error) {
	switch values := v[paramReaders]; {
	case len(values) == 0:
		return false, nil
	case len(values) > 1 || values[0] != "1":
		return false, fmt.Errorf("%w: readers is %.40q; want readers=1 once, or leave it out", errQuery, strings.Join(values, ","))
	}
	return true, nil
}

// lastEventIDOf returns the id of the last event that a reconnecting client received, from the
// Last-Event-ID header or from a parameter, as libraries send it that may not set the header
// (lastEventId, Last-Event-ID, in any case). A URL may hold an id from when its page was made, and
// the header may come from a client that never reconnected, so of several ids the furthest in the
// stream counts, and the client gets nothing twice. A header that is not the id of an event of
// this server counts as absent.
func lastEventIDOf(r *http.Request, v url.Values) (last position.Offset, has bool, err error) {
	var best string
	if id := lenientValue(r.Header, "Last-Event-ID"); id != "" {
		if _, ok := position.ParseEventID(id); ok {
			best = id
		}
	}
	for name, ids := range v {
		if !isLastEventIDParam(name) {
			continue
		}
		for _, id := range ids {
			if _, ok := position.ParseEventID(id); !ok && id != "" {
				return last, false, fmt.Errorf("%w: %s is %.40q; want the id of an event, or leave it out", errQuery, name, id)
			}
			best = max(best, id)
		}
	}
	last, has = position.ParseEventID(best)
	return last, has, nil
}

func isLastEventIDParam(name string) bool {
	return strings.EqualFold(name, "lastEventId") || strings.EqualFold(name, "Last-Event-ID")
}

// isKnownParam reports whether a parameter is one of the above.
func isKnownParam(name string) bool {
	return name == paramOffset || name == paramLive || name == paramCursor || name == paramCreate || name == paramReaders || isLastEventIDParam(name)
}
