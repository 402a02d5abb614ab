package edge

import (
	"io"
	"maps"
	"net/http"
	"net/http/httptrace"
	"strings"
	"testing"
)

// A refusal ends its own stream of an HTTP/2 connection, and not the connection: it may be a proxy's.
func TestRefusalKeepsTheHTTP2Connection(t *testing.T) {
	s, clients := siteWithRights(t, rightsFile(t))
	client := clients["HTTP/2"]
	if client == nil {
		t.Skip("without TLS")
	}
	for i := range 3 {
		reused := false
		ctx := httptrace.WithClientTrace(t.Context(), &httptrace.ClientTrace{GotConn: func(c httptrace.GotConnInfo) { reused = c.Reused }})
		r, err := http.NewRequestWithContext(ctx, "POST", s.url+"/v1/stream/acme/secret", io.NopCloser(strings.NewReader("x")))
		if err != nil {
			t.Fatal(err)
		}
		r.ContentLength = -1
		resp, err := client.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		_, _ = io.Copy(io.Discard, resp.Body)
		_ = resp.Body.Close()
		if resp.StatusCode != 401 || i > 0 && !reused {
			t.Errorf("refusal %d: %d, on the same connection: %v", i, resp.StatusCode, reused)
		}
	}
}

// The 204 by which an EventSource ends for good is not kept: a cache may keep a 204 that says nothing.
func TestEndOfEventsIsNotCached(t *testing.T) {
	s := newSite(t, Config{Judge: nil})
	h := header{"Stream-Closed": "true"}
	maps.Copy(h, text)
	resp := s.put("/v1/stream/acme/done", "x", h)
	last := header{"Last-Event-ID": resp.Header.Get("Stream-Next-Offset")}
	resp = s.do("GET", "/v1/stream/acme/done?offset=-1&live=sse", "", last)
	if s.want(resp, 204); resp.Header.Get("Cache-Control") != "no-store" {
		t.Errorf("%v", resp.Header)
	}
}
