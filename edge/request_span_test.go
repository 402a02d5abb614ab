package edge

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// newTracedSite returns a site whose requests are all traced, and the spans of its requests that have
// ended: their names, attributes and status.
func newTracedSite(t *testing.T, cfg Config) (*site, func() []string) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	cfg.Tracer = tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), tracing.Policy{Ratio: 1, PerSecond: 1000}, nil)
	t.Cleanup(cfg.Tracer.Close)
	return newSite(t, cfg), func() (told []string) {
		for _, s := range spans.Ended() {
			if s.Parent().IsValid() {
				continue
			}
			all := []string{s.Name()}
			for _, a := range s.Attributes() {
				all = append(all, fmt.Sprintf("%s=%v", strings.TrimPrefix(string(a.Key), "fantail."), a.Value.AsInterface()))
			}
			slices.Sort(all[1:])
			told = append(told, strings.Join(append(all, s.Status().Code.String()), " "))
		}
		return told
	}
}

// The span of a request says what it asked for, by pattern, and what came of it; and nothing that a
// client sent, but for the project's name.
func TestRequestSpans(t *testing.T) {
	s, told := newTracedSite(t, Config{Roots: []Root{{"/streams/", "chats"}}})
	const mark = "m4rked"
	secret := header{"Content-Type": "text/plain", "Authorization": "Bearer " + mark, "Cookie": "x=" + mark, "X-Request-Id": mark, "Referer": "http://h/?" + mark, "User-Agent": mark}
	query := "?token=" + mark + "&sig=" + mark
	s.do("PUT", "/v1/stream/p/"+mark+query, "", secret)
	for range appendsToTakeOver + 1 {
		s.do("POST", "/v1/stream/p/"+mark+query, mark, secret)
	}
	s.do("GET", "/v1/stream/p/"+mark+query+"&offset=-1", "", secret)
	s.do("POST", "/v1/stream/p/"+mark+"-none"+query, mark, secret)
	s.do("PUT", "/streams/a%2F"+mark, "", secret)
	s.do("GET", "/v1/stream/p/__ds/streams"+query, "", secret)
	s.do("GET", "/"+mark, "", secret)
	s.do("BREW"+mark, "/v1/stream/p/"+mark, "", secret)
	appended := "POST /v1/stream/{project}/{stream} http.request.method=POST http.response.status_code=204 http.route=/v1/stream/{project}/{stream} mode=append project=p Unset"
	want := []string{
		"PUT /v1/stream/{project}/{stream} http.request.method=PUT http.response.status_code=201 http.route=/v1/stream/{project}/{stream} mode=create project=p Unset",
		appended, appended, appended, appended, appended,
		"GET /v1/stream/{project}/{stream} http.request.method=GET http.response.status_code=200 http.route=/v1/stream/{project}/{stream} mode=catch-up project=p Unset",
		"POST /v1/stream/{project}/{stream} http.request.method=POST http.response.status_code=404 http.route=/v1/stream/{project}/{stream} mode=append problem=stream-not-found project=p Unset",
		"PUT /streams/{stream} http.request.method=PUT http.response.status_code=201 http.route=/streams/{stream} mode=create project=chats Unset",
		"GET /v1/stream/{project}/__ds/streams http.request.method=GET http.response.status_code=200 http.route=/v1/stream/{project}/__ds/streams mode=catch-up Unset",
		"GET http.request.method=GET http.response.status_code=404 mode=catch-up problem=no-such-path Unset",
		"other /v1/stream/{project}/{stream} http.request.method=other http.response.status_code=405 http.route=/v1/stream/{project}/{stream} mode=other problem=method project=p Unset",
	}
	got := told()
	for i := range max(len(got), len(want)) {
		if i >= len(got) || i >= len(want) || got[i] != want[i] {
			t.Errorf("span %d: got\n%s", i, strings.Join(got, "\n"))
			break
		}
	}
	if strings.Contains(strings.Join(got, " "), mark) {
		t.Error("a span has what only its client should know")
	}
}

// The span of an event stream ends when the stream begins.
func TestEventStreamsHaveAShortSpan(t *testing.T) {
	s, told := newTracedSite(t, Config{})
	s.put("/v1/stream/p/s", "", text)
	req, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/stream/p/s?offset=-1&live=sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req) // its header has arrived, and it stays open
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	got := told()
	if len(got) != 2 || !strings.Contains(got[1], "mode=sse") || !strings.Contains(got[1], "status_code=200") {
		t.Errorf("%v", got)
	}
}

// Requests that are not traced, because the ratio says so, are answered like others, and their contexts
// start no clock.
func TestUntracedRequests(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), tracing.Policy{PerSecond: 1000}, nil)
	defer tracer.Close()
	s := newSite(t, Config{Tracer: tracer})
	s.put("/v1/stream/p/s", "", text)
	c := &requestContext{client: t.Context()}
	defer c.end()
	if tracing.FromContext(c) != nil || c.ctx != nil {
		t.Error("a look for a span started the time of a request")
	}
	if n := len(spans.Started()); n != 0 {
		t.Errorf("%d spans", n)
	}
}
