package edge

import (
	"fmt"
	"net/url"
	"strings"
	"testing"
)

// A query that cannot be read is refused: what is left out of it would mean another place.
func TestBadQueries(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	off := s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset)
	for query, slug := range map[string]string{
		"offset=" + off + ";live=long-poll": "bad-query", "offset=" + off + "%": "bad-query", "x=1;offset=" + off: "bad-query", "%zz=1": "bad-query",
		"offset=" + off + "&x=%": "bad-query",
		"offset=-1&offset=-1":    "bad-query", "offset=" + off + "&live=sse&live=sse": "bad-query", "cursor=1&cursor=2": "bad-query",
		"live=push": "bad-query", "live=sse": "bad-query", "cursor=x": "bad-query", "cursor=-1": "bad-query", "cursor=1.5": "bad-query",
		"offset=yesterday": "bad-offset", "offset=": "bad-offset", "offset=%00": "bad-offset", "offset=" + off + "x": "bad-offset",
		"lastEventId=x": "bad-query", "live=sse&offset=-1&Last-Event-ID=" + off + "0": "bad-query",
	} {
		t.Run(query, func(t *testing.T) {
			w := ask(t, s.srv, "GET", "/v1/stream/x?"+query, nil, header{"Accept": "text/event-stream"})
			refused(t, w, 400, slug)
			if p := recordedProblem(t, w); p.Detail == "" || strings.EqualFold(p.Detail, p.Title) {
				t.Errorf("%s: %+v", query, p)
			}
		})
	}
	for _, query := range []string{"", "&", "?offset=-1&x=%25%3B", "live=&cursor=", "&offset=-1&&", "cursor=99999999999999999999", "utm=1&x=1&x=2"} {
		if w := ask(t, s.srv, "GET", "/v1/stream/x?"+strings.TrimPrefix(query, "?"), nil, nil); w.Code != 200 {
			t.Errorf("%s: %d %s", query, w.Code, w.Body)
		}
	}
}

// A client that cannot set Last-Event-ID says it in the query. It beats the offset, and of several the one
// that is furthest on counts.
func TestLastEventIDInTheQuery(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	var ids []string
	for _, m := range []string{"one", "two", "three"} {
		s.want(s.do("POST", "/v1/stream/x", m, text), 204)
		ids = append(ids, s.do("HEAD", "/v1/stream/x", "", nil).Header.Get(hNextOffset))
	}
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "true"}), 204)
	for _, c := range []struct {
		query string
		h     header
		want  string // empty: 204
	}{
		{"offset=-1&lastEventId=" + ids[0], nil, "twothree"},
		{"offset=-1&Last-Event-ID=" + ids[1], nil, "three"},
		{"last-event-id=" + ids[1], nil, "three"},
		{"offset=yesterday&lastEventID=" + ids[1], nil, "three"},
		{"offset=-1&lastEventId=" + ids[2], nil, ""},
		{"offset=-1&lastEventId=", nil, "onetwothree"},
		{"offset=-1&lastEventId=" + ids[0], header{"Last-Event-ID": ids[1]}, "three"},
		{"offset=-1&lastEventId=" + ids[1], header{"Last-Event-ID": ids[0]}, "three"},
		{"offset=-1&lastEventId=" + ids[0] + "&lastEventId=" + ids[1], nil, "three"},
		{"offset=-1&lastEventId=" + ids[1], header{"Last-Event-ID": "of another server"}, "three"},
		{"offset=-1&lastEventId=" + url.QueryEscape(ids[1]), header{"Last-Event-ID": strings.Repeat("9", 100)}, "three"},
	} {
		t.Run(fmt.Sprintf("%s %.40v", c.query, c.h), func(t *testing.T) {
			s := s.in(t)

			resp := s.do("GET", "/v1/stream/x?live=sse&"+c.query, "", c.h)
			if c.want == "" {
				s.want(resp, 204)
			} else if got := s.textOfEvents(resp, "text/plain"); got != c.want {
				t.Errorf("%s, %v: %q, want %q", c.query, c.h, got, c.want)
			}
		})
	}
	w := ask(t, s.srv, "GET", "/v1/stream/x?lastEventId="+ids[0], nil, nil) // of event streams only
	if w.Body.String() != "onetwothree" {
		t.Errorf("%q", w.Body)
	}
}
