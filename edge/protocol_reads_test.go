package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// Tests of rows in testdata/protocol.txt that a list of requests cannot show.

// PROTOCOL 5.6: a long stream is read in chunks. Each begins where the one before it says, and only the last reaches the end.
func TestLongReadComesInChunks(t *testing.T) {
	s := newSite(t, Config{LongPoll: time.Minute})
	s.fill("/v1/stream/x")
	last := s.do("POST", "/v1/stream/x", `"the end"`, header{"Content-Type": "application/json", hClosed: "true"})
	s.want(last, 204)
	for name, query := range map[string]string{"catch-up": "", "long-poll": "&live=long-poll"} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			var chunks []string
			for offset := "-1"; ; {
				resp := s.do("GET", "/v1/stream/x?offset="+offset+query, "", nil)
				body := s.want(resp, 200)
				chunks = append(chunks, strings.TrimSuffix(strings.TrimPrefix(body, "["), "]"))
				next := resp.Header.Get(hNextOffset)
				isEnd := next == last.Header.Get(hNextOffset)
				if (resp.Header.Get(hUpToDate) == "true") != isEnd || (resp.Header.Get(hClosed) == "true") != isEnd {
					t.Fatalf("chunk %d, which is the end: %t, has %v", len(chunks), isEnd, resp.Header)
				}
				if isEnd {
					break
				}
				if next <= offset && offset != "-1" {
					t.Fatalf("%s after %s", next, offset)
				}
				offset = next
			}
			want := strings.Repeat(`"a message of some length that compresses well",`, maxChunkMessages) + "1," +
				strings.Repeat(strings.Repeat("2,", maxChunkMessages)+"3,", 2) + `"the end"`
			if got := strings.Join(chunks, ","); got != want || len(chunks) < 3 {
				t.Errorf("%d bytes in %d chunks, want %d bytes in several", len(got), len(chunks), len(want))
			}
		})
	}
}

// PROTOCOL 5.7: what a long-poll waits for is data or the end. Data that came with the end is told before it.
func TestLongPollIsAnsweredByNews(t *testing.T) {
	s := newSite(t, Config{LongPoll: time.Minute})
	closing := header{"Content-Type": "text/plain", hClosed: "true"}
	for name, c := range map[string]struct {
		body   string
		header header
		status int
		closed string
	}{
		"data":         {"news", text, 200, ""},
		"end":          {"", closing, 204, "true"},
		"data and end": {"news", closing, 200, "true"},
	} {
		t.Run(name, func(t *testing.T) {
			s := s.in(t)
			path := "/v1/stream/" + strings.ReplaceAll(name, " ", "-")
			tail := s.put(path, "one", text).Header.Get(hNextOffset)
			answers := make(chan *http.Response, 1)
			go func() {
				defer close(answers)
				answers <- s.do("GET", path+"?live=long-poll&offset="+tail, "", nil)
			}()
			waiting := s.srv.metrics.readers.WithLabelValues(string(modeLongPoll))
			for testutil.ToFloat64(waiting) == 0 {
				<-time.After(time.Millisecond)
			}
			end := s.do("POST", path, c.body, c.header).Header.Get(hNextOffset)
			resp, ok := <-answers
			if !ok {
				t.FailNow()
			}
			if got := s.want(resp, c.status); got != c.body || resp.Header.Get(hClosed) != c.closed || resp.Header.Get(hNextOffset) != end {
				t.Errorf("%q, %v, want %q", got, resp.Header, c.body)
			}
			if c.closed == "" {
				return
			}
			last := s.do("GET", path+"?live=long-poll&offset="+end, "", nil)
			if s.want(last, 204); last.Header.Get(hClosed) != "true" || last.Header.Get(hUpToDate) != "true" {
				t.Errorf("at the end: %v", last.Header)
			}
		})
	}
}

// PROTOCOL 5.1: every read and write that reaches a stream renews its TTL, HEAD does not.
func TestUsesRenewATTL(t *testing.T) {
	for name, c := range map[string]struct {
		method, query, body string
		header              header
		status              int
		expires             bool // the TTL is not renewed
	}{
		"read":                      {method: "GET", query: "?offset=-1", status: 200},
		"read of nothing new":       {method: "GET", query: "?offset={tail}", status: 200},
		"read of the tail's place":  {method: "GET", query: "?offset=now", status: 200},
		"long-poll":                 {method: "GET", query: "?offset={tail}&live=long-poll", status: 204},
		"events":                    {method: "GET", query: "?offset=-1&live=sse", status: 200},
		"append":                    {method: "POST", body: "two", header: text, status: 204},
		"repeated append":           {method: "POST", body: "one", header: header{"Content-Type": "text/plain", hProducerID: "p", hProducerEpoch: "0", hProducerSeq: "0"}, status: 204, expires: true}, // it writes nothing
		"close":                     {method: "POST", header: header{hClosed: "true"}, status: 204},
		"close with a producer":     {method: "POST", header: header{hClosed: "true", hProducerID: "p", hProducerEpoch: "0", hProducerSeq: "1"}, status: 204},
		"HEAD":                      {method: "HEAD", status: 200, expires: true},
		"append of a refused type":  {method: "POST", body: "1", header: jsonType, status: 409, expires: true},
		"read of a malformed place": {method: "GET", query: "?offset=-2", status: 400, expires: true},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				host := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{})
				defer func() { _ = host.Close() }()
				srv := New(Config{LongPoll: time.Second, NoReactor: true}, host)
				defer srv.Close()
				ask(t, srv, "PUT", "/v1/stream/x", nil, header{"Content-Type": "text/plain", hTTL: "60"})
				w := ask(t, srv, "POST", "/v1/stream/x", strings.NewReader("one"), header{"Content-Type": "text/plain", hProducerID: "p", hProducerEpoch: "0", hProducerSeq: "0"})
				if w.Code != 200 {
					t.Fatalf("%d %s", w.Code, w.Body)
				}
				use := func() int {
					target := "/v1/stream/x" + strings.ReplaceAll(c.query, "{tail}", w.Header().Get(hNextOffset))
					ctx, leave := context.WithTimeout(t.Context(), 2*time.Second) // as a reader of events does
					defer leave()
					r := httptest.NewRequestWithContext(ctx, c.method, target, strings.NewReader(c.body))
					for k, v := range c.header {
						r.Header.Set(k, v)
					}
					got := httptest.NewRecorder()
					srv.ServeHTTP(got, r)
					return got.Code
				}
				<-time.After(40 * time.Second) // a bubble's
				if got := use(); got != c.status {
					t.Fatalf("%d, want %d", got, c.status)
				}
				<-time.After(40 * time.Second)
				if got, want := ask(t, srv, "HEAD", "/v1/stream/x", nil, nil).Code, map[bool]int{true: 404, false: 200}[c.expires]; got != want {
					t.Errorf("after 80 s: %d, want %d", got, want)
				}
				<-time.After(61 * time.Second)
				if got := ask(t, srv, "HEAD", "/v1/stream/x", nil, nil).Code; got != 404 {
					t.Errorf("unused for a whole TTL: %d", got)
				}
			})
		})
	}
}
