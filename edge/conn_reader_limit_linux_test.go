package edge

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// http2Client is a client that has one connection until it is told to open another.
func http2Client(t *testing.T) *http.Client {
	t.Helper()
	tr := &http.Transport{
		TLSClientConfig: trusting.Clone(), Protocols: new(http.Protocols), HTTP2: &http.HTTP2Config{StrictMaxConcurrentRequests: true},
	}
	tr.Protocols.SetHTTP2(true)
	tr.Protocols.SetUnencryptedHTTP2(true)
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
}

// However many readers a client begins on one connection of HTTP/2, an append beside them is
// carried out: those beyond a bound are refused, and told what to do.
func TestReadersLeaveRoomOnHTTP2(t *testing.T) {
	for _, live := range []string{"sse", "long-poll"} {
		s := newSiteOver(t, Config{LongPoll: time.Minute}, false)
		s.put("/v1/stream/x", "", text)
		c := http2Client(t)
		ask := func(method, query, body string) *http.Response {
			r, err := http.NewRequestWithContext(t.Context(), method, s.url+"/v1/stream/x"+query, strings.NewReader(body))
			if err != nil {
				t.Error(err)
				return nil
			}
			r.Header.Set("Content-Type", "text/plain")
			resp, err := c.Do(r)
			if err != nil {
				t.Error(err)
				return nil
			}
			return resp
		}
		waiting := s.srv.metrics.readers.WithLabelValues(live)
		answers := make(chan *http.Response, maxConnReaders)
		for n := range maxConnReaders {
			go func() {
				resp := ask("GET", "?live="+live+"&offset=now", "")
				if resp != nil && resp.StatusCode == http.StatusOK && live == "sse" {
					s.events(resp, 3) // where it stands, the message, and where it stands then
				}
				answers <- resp
			}()
			s.eventually("it waits", func() bool { return testutil.ToFloat64(waiting) == float64(n+1) })
		}
		for range 2 * maxConnStreams {
			resp := ask("GET", "?live="+live+"&offset=now", "")
			if p := readProblem(t, 503, resp.Header.Get("Content-Type"), s.want(resp, 503)); p.Type != problemBase+"full-connection" {
				t.Errorf("%+v", p)
			}
		}
		s.want(ask("POST", "", "hello"), http.StatusNoContent)
		for range maxConnReaders {
			if resp := <-answers; resp.StatusCode != http.StatusOK {
				t.Errorf("%s: %d", live, resp.StatusCode)
			} else {
				_ = resp.Body.Close()
			}
		}
		s.eventually("nobody is counted", func() bool { return s.srv.counts.haveGoroutine() == 0 })
	}
}

// A browser is told to open another connection, on which it goes on; the readers that were there stay.
func TestBrowserIsToldToOpenAnotherConnection(t *testing.T) {
	s := newSiteOver(t, Config{}, false)
	s.put("/v1/stream/x", "a", text)
	c := http2Client(t)
	get := func() *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/stream/x?live=sse&offset=-1", nil)
		if err != nil {
			t.Fatal(err)
		}
		r.Header.Set("Accept", "text/event-stream")
		r.Header.Set("Sec-Fetch-Mode", "cors")
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	var all []*http.Response
	for range maxConnReaders {
		all = append(all, get())
	}
	if b := s.want(get(), http.StatusOK); !strings.HasPrefix(b, "retry: ") {
		t.Errorf("%q", b)
	}
	for range maxConnReaders / 2 {
		all = append(all, get())
	}
	s.want(s.do("POST", "/v1/stream/x", "b", text), http.StatusNoContent)
	for _, resp := range all {
		if es := s.events(resp, 4); es[2].Data != "b" {
			t.Errorf("%+v", es)
		}
	}
}

// Readers that have a goroutine have a bound of their own.
func TestGoroutineReadersAreBounded(t *testing.T) {
	s := newSiteOver(t, Config{MaxGoroutineReaders: 1, LongPoll: time.Minute}, false)
	s.put("/v1/stream/x", "a", text)
	c := http2Client(t)
	get := func(query string) *http.Response {
		r, err := http.NewRequestWithContext(t.Context(), "GET", s.url+"/v1/stream/x?"+query, nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = resp.Body.Close() })
		return resp
	}
	s.events(get("live=sse&offset=-1"), 2)
	for _, query := range []string{"live=sse&offset=-1", "live=long-poll&offset=-1"} {
		resp := get(query)
		if p := readProblem(t, 503, resp.Header.Get("Content-Type"), s.want(resp, 503)); p.Type != problemBase+"full-waiting" {
			t.Errorf("%s: %+v", query, p)
		}
	}
	if n := testutil.ToFloat64(s.srv.metrics.refused.WithLabelValues("full-waiting")); n != 2 {
		t.Errorf("%v were refused", n)
	}
	if handlers {
		return
	}
	s.events(s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil), 2) // the reactor's
}

// A connection is kept for as long as a setting says once something was asked on it.
func TestIdleTimeout(t *testing.T) {
	hs := New(Config{}, nil).HTTPServer()
	if hs.IdleTimeout <= 600*time.Second || hs.ReadHeaderTimeout > 10*time.Second || hs.HTTP2.MaxConcurrentStreams != 100 {
		t.Errorf("%v, %v, %+v", hs.IdleTimeout, hs.ReadHeaderTimeout, hs.HTTP2)
	}
	if hs := New(Config{IdleTimeout: time.Second}, nil).HTTPServer(); hs.IdleTimeout != time.Second {
		t.Errorf("%v", hs.IdleTimeout)
	}
}
