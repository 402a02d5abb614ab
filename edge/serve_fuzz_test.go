package edge

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
	"time"

	"golang.org/x/net/http/httpguts"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// leavingWriter is a client that goes away once it has something.
type leavingWriter struct {
	*httptest.ResponseRecorder
	leave context.CancelFunc
}

func (l leavingWriter) Flush() { l.leave() }

// Whatever a request holds, in its method, URL, headers and body, the answer is no
// server's fault, says what is wrong where it is a refusal, and nothing of it stays
// behind.
func FuzzServe(f *testing.F) {
	for _, s := range []struct{ method, target, headers, body string }{
		{"PUT", "/v1/stream/x", "Content-Type: text/plain", "one"},
		{"PUT", "/v1/stream/p/a/b%20c", "Content-Type: application/json\nStream-TTL: 60\nStream-Closed: true", "[1,2]"},
		{"PUT", "/v1/stream/y", "Stream-Expires-At: 2030-01-01T00:00:00Z", ""},
		{"PUT", "/v1/stream/y", "Stream-TTL: 0", "\x00"},
		{"PUT", "/v1/stream/f", "Stream-Forked-From: /v1/stream/text\nStream-Fork-Offset: -1\nStream-Fork-Sub-Offset: 2", "own"},
		{"PUT", "/v1/stream/f", "Stream-Forked-From: /v1/stream/json\nStream-Fork-Sub-Offset: 1\nStream-Fork-Offset: 0", "[3]"},
		{"PUT", "/v1/stream/f", "Stream-Forked-From: /v1/stream/f", ""},
		{"POST", "/v1/stream/text", "Content-Type: text/plain\nStream-Seq: a", "two"},
		{"POST", "/v1/stream/text", "Content-Type: text/plain\nProducer-Id: p\nProducer-Epoch: 0\nProducer-Seq: 0", "two"},
		{"POST", "/v1/stream/json", "Content-Type: application/json; charset=utf-8", `[{"a":[1,"b,]"]},null]`},
		{"POST", "/v1/stream/closed", "Content-Type: text/plain", "late"},
		{"POST", "/v1/stream/text", "Stream-Closed: TRUE", ""},
		{"GET", "/v1/stream/text", "", ""},
		{"GET", "/v1/stream/text?offset=now", "If-None-Match: *\nAccept-Encoding: gzip;q=0.5, zstd", ""},
		{"GET", "/v1/stream/json?offset=-1&live=long-poll&cursor=5", "Authorization: Bearer x", ""},
		{"GET", "/v1/stream/closed?offset=-1&live=sse", "Last-Event-ID: 0000000000000000_0000000000000000", ""},
		{"GET", "/v1/stream/binary?offset=0&live=sse", "", ""},
		{"GET", "/v1/stream/text?offset=9999999999999999_9999999999999999", "", ""},
		{"GET", "/v1/stream/text?offset=1&offset=2;%zz=&&live=", "", ""},
		{"HEAD", "/v1/stream/json", "", ""},
		{"DELETE", "/v1/stream/text", "", ""},
		{"DELETE", "/v1/stream/closed", "Content-Length: 5", "body"},
		{"OPTIONS", "*", "Origin: null", ""},
		{"PATCH", "/v1/stream/text", "", ""},
		{"GET", "/v1/stream/__ds/subscriptions/x", "", ""},
		{"GET", "/v1/stream/%2e%2e/%2F", "", ""},
	} {
		f.Add(s.method, s.target, s.headers, []byte(s.body))
	}
	host := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{})
	srv := New(Config{LongPoll: time.Millisecond}, host)
	f.Cleanup(func() { _ = host.Close() })
	serve := func(ctx context.Context, method, target string, h http.Header, body []byte) *httptest.ResponseRecorder {
		u, err := url.ParseRequestURI(target)
		if err != nil || !httpguts.ValidHeaderFieldName(method) { // net/http refuses it
			return nil
		}
		ctx, leave := context.WithCancel(ctx)
		defer leave()
		r := httptest.NewRequestWithContext(ctx, method, "/", strings.NewReader(string(body)))
		r.URL, r.Header, r.RequestURI = u, h, target
		w := httptest.NewRecorder()
		srv.ServeHTTP(leavingWriter{w, leave}, r)
		return w
	}
	f.Fuzz(func(t *testing.T, method, target, headers string, body []byte) {
		for _, name := range []string{"text", "json", "binary", "closed"} {
			h := http.Header{"Content-Type": {map[string]string{"json": "application/json", "binary": "a/b"}[name]}}
			if name == "text" || name == "closed" {
				h.Set("Content-Type", "text/plain")
			}
			if name == "closed" {
				h.Set(hClosed, "true")
			}
			serve(t.Context(), "PUT", "/v1/stream/"+name, h, []byte("[1,2,3]"))
		}
		h := http.Header{}
		for line := range strings.SplitSeq(headers, "\n") {
			name, value, _ := strings.Cut(line, ":")
			if value = strings.TrimSpace(value); httpguts.ValidHeaderFieldName(name) && httpguts.ValidHeaderFieldValue(value) {
				h.Add(name, value)
			}
		}
		w := serve(t.Context(), method, target, h, body)
		if w == nil {
			return
		}
		if w.Code >= 500 && w.Code != http.StatusNotImplemented {
			t.Fatalf("%s %s %v %q: %d %s", method, target, h, body, w.Code, w.Body)
		}
		if w.Code >= 400 {
			recordedProblem(t, w)
		}
		if b, r, c := srv.writesBudget.held.Load(), srv.counts.count(), len(srv.compressSlots); b != 0 || r != 0 || c != 0 {
			t.Fatalf("%s %s %v %q: %d bytes, %d readers, %d compressors are left", method, target, h, body, b, r, c)
		}
	})
}
