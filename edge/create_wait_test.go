package edge

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
)

const waitForX = "/v1/stream/x?offset=-1&live=sse&create=wait"

// openWait opens a live read of a stream that does not exist, over a version of HTTP. It returns once
// the response has begun.
func (s *site) openWait(major int, path string) *http.Response {
	s.Helper()
	req, err := http.NewRequestWithContext(s.Context(), http.MethodGet, s.url+path, nil)
	if err != nil {
		s.Fatal(err)
	}
	resp, err := s.client(major).Do(req)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = resp.Body.Close() })
	if resp.StatusCode != http.StatusOK || resp.Header.Get("Content-Type") != "text/event-stream" {
		s.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	return resp
}

// waiters returns how many readers wait for streams.
func (s *site) waiters() int { return s.srv.createWaits.count() }

// An event stream that is opened before its stream begins with the first message, and goes on as any
// other: on the reactor where that could serve it from the start.
func TestEventStreamAwaitsItsStream(t *testing.T) {
	s := newSite(t, Config{})
	for _, major := range []int{1, 2} {
		if major == 2 && overTLS {
			continue // the site offers HTTP/2 by prior knowledge only
		}
		for _, offset := range []string{"-1", "now", "tail-1"} {
			t.Run(fmt.Sprintf("HTTP/%d, %s", major, offset), func(t *testing.T) {
				s := s.in(t)
				name := fmt.Sprintf("/v1/stream/p/%d/%s", major, offset)
				sessions := s.log.OpenSessions() // of streams before, which linger
				resp := s.openWait(major, name+"?live=sse&create=wait&offset="+offset)
				if n := s.waiters(); n != 1 {
					t.Errorf("%d waiters", n)
				}
				if n := s.log.OpenSessions() - sessions; n != 0 {
					t.Errorf("%d sessions", n)
				}
				s.put(name, `{"n":1}`, jsonType)
				if es := s.events(resp, 2); es[0].Data != `[{"n":1}]` || es[1].Name != "control" {
					t.Errorf("%+v", es)
				}
				s.want(s.do("POST", name, `{"n":2}`, jsonType), 204)
				if es := s.events(resp, 2); es[0].Data != `[{"n":2}]` {
					t.Errorf("%+v", es)
				}
				if n := s.waiters(); n != 0 {
					t.Errorf("%d waiters after it has begun", n)
				}
				if major == 1 && !handlers {
					if n := s.srv.reactor.Readers(); n != 1 {
						t.Errorf("%d readers on the reactor", n)
					}
					if n := s.srv.counts.haveGoroutine(); n != 0 {
						t.Errorf("%d readers with a goroutine", n)
					}
				}
				_ = resp.Body.Close()
				for s.srv.Readers() > 0 {
					<-time.After(time.Millisecond)
				}
			})
		}
	}
	if n := testutil.ToFloat64(s.srv.metrics.createWaits.WithLabelValues("created")); n < 3 {
		t.Errorf("%v waits ended by a creation", n)
	}
}

// A fork under the name begins its waiters too: at what it inherited, or, if they waited for what
// comes, at its own.
func TestEventStreamAwaitsAFork(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/source", "old", text)
	fromStart := s.openWait(1, "/v1/stream/fork?live=sse&create=wait&offset=-1")
	fromNow := s.openWait(1, "/v1/stream/fork?live=sse&create=wait&offset=now")
	s.put("/v1/stream/fork", "", header{"Content-Type": "text/plain", hForkedFrom: "/v1/stream/source"})
	if es := s.events(fromStart, 3); es[0].Data != "old" || !strings.Contains(es[2].Data, "upToDate") {
		t.Errorf("%+v", es)
	}
	if es := s.events(fromNow, 1); es[0].Name != "control" {
		t.Errorf("%+v", es)
	}
	s.want(s.do("POST", "/v1/stream/fork", "new", text), 204)
	for _, resp := range []*http.Response{fromStart, fromNow} {
		if es := s.events(resp, 2); es[0].Data != "new" {
			t.Errorf("%+v", es)
		}
	}
}

// The response of a stream of bytes has a header that was not known when it began: the reader is sent
// back, with the place from which it goes on.
func TestWaitForAStreamOfBytes(t *testing.T) {
	s := newSite(t, Config{})
	for _, offset := range []string{"-1", "now"} {
		name := "/v1/stream/bytes" + offset
		resp := s.openWait(1, name+"?live=sse&create=wait&offset="+offset)
		s.put(name, "one", header{"Content-Type": "application/octet-stream"})
		b, err := io.ReadAll(resp.Body)
		es, rest, perr := ssetest.Parse(b)
		if err != nil || perr != nil || len(es) != 1 || es[0].Name != "control" || !strings.Contains(string(b), "retry: ") {
			t.Fatalf("%q %+v %q %v %v", b, es, rest, err, perr)
		}
		again := s.do("GET", name+"?live=sse&create=wait&offset="+offset, "", header{"Last-Event-ID": es[0].ID})
		if again.Header.Get(hEncoding) != "base64" {
			t.Errorf("%v", again.Header)
		}
		if es := s.events(again, 1); es[0].Data != "b25l" {
			t.Errorf("%+v", es)
		}
	}
}

// A long-poll waits as an event stream does. When its time is over there is no offset to name, so it is
// 404 then, as without waiting.
func TestLongPollAwaitsItsStream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{LongPoll: 20 * time.Second}, nil)
		for name, c := range map[string]struct {
			create bool
			first  string
			status int
			after  time.Duration
		}{
			"never": {false, "", 404, 20 * time.Second}, "empty": {true, "", 204, 20 * time.Second}, "filled": {true, "one", 200, 5 * time.Second},
		} {
			path := "/v1/stream/" + name
			go func() {
				if <-time.After(5 * time.Second); c.create {
					b.write("PUT", path, c.first, 201)
				}
			}()
			began := time.Now()
			w := ask(t, b.srv, "GET", path+"?offset=now&live=long-poll&create=wait", nil, nil)
			if took := time.Since(began); w.Code != c.status || took != c.after || (w.Header().Get(hNextOffset) != "") != c.create {
				t.Errorf("%s: %d after %v %v", name, w.Code, took, w.Header())
			}
			if w.Header().Get("Cache-Control") != cacheNoStore { // the same request means another position later
				t.Errorf("%s: %v", name, w.Header())
			}
			if c.first != "" && w.Body.String() != c.first {
				t.Errorf("%s: %q", name, w.Body)
			}
		}
	})
}

// Whatever does not wait for a stream to be created is answered as if the parameter were not there, or
// as a malformed query where it could mean nothing.
func TestWhatDoesNotWait(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/gone", "one", text)
	was := s.do("HEAD", "/v1/stream/gone", "", nil).Header.Get(hNextOffset)
	s.want(s.do("DELETE", "/v1/stream/gone", "", nil), 204)
	s.put("/v1/stream/held", "one", text)
	s.put("/v1/stream/fork", "", header{"Content-Type": "text/plain", hForkedFrom: "/v1/stream/held"})
	s.want(s.do("DELETE", "/v1/stream/held", "", nil), 204)
	s.put("/v1/stream/there", "one", text)
	for _, c := range []struct {
		method, path string
		status       int
	}{
		{"GET", "x?live=sse&offset=-1", 404},
		{"GET", "gone?live=sse&create=wait&offset=" + was, 404},
		{"GET", "gone?live=sse&create=wait&offset=-1&lastEventId=" + was, 404},
		{"GET", "gone?live=long-poll&create=wait&offset=" + was, 404},
		{"GET", "held?live=sse&create=wait&offset=-1", 410},
		{"GET", "held?live=long-poll&create=wait&offset=-1", 410},
		{"GET", "there?live=long-poll&create=wait&offset=-1", 200},
		{"GET", "x?create=wait", 400},
		{"GET", "x?create=wait&offset=-1", 400},
		{"GET", "x?live=sse&offset=-1&create=now", 400},
		{"GET", "x?live=sse&offset=-1&create=", 400},
		{"GET", "x?live=sse&offset=-1&create=wait&create=wait", 400},
		{"GET", "x?live=sse&create=wait", 400},
		{"HEAD", "x?create=wait", 404},
	} {
		resp := s.do(c.method, "/v1/stream/"+c.path, "", nil)
		if s.want(resp, c.status); s.waiters() != 0 {
			t.Errorf("%s %s waits", c.method, c.path)
		}
	}
	s.events(s.do("GET", "/v1/stream/there?live=sse&create=wait&offset=-1", "", nil), 2)
}

// A wait is kept in use by comments, and ends after five minutes with the advice to come back.
func TestWaitEndsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		began := time.Now()
		resp := b.get("offset=-1&create=wait", nil).resp
		body, err := io.ReadAll(resp.Body)
		if took := time.Since(began); err != nil || took != maxCreateWait {
			t.Errorf("it ended after %v: %v", took, err)
		}
		comments, ok := strings.CutSuffix(string(body[:strings.LastIndex(string(body), "retry: ")]), "")
		if n := strings.Count(comments, ":\n\n"); !ok || n < 14 || len(comments) != 3*n {
			t.Errorf("%q", body)
		}
		if b.srv.createWaits.count() != 0 || b.srv.Readers() != 0 {
			t.Error("it is still counted")
		}
	})
}

// A client that leaves waits no longer.
func TestWaitEndsWithItsClient(t *testing.T) {
	s := newSite(t, Config{})
	for _, major := range []int{1, 2} {
		if major == 2 && overTLS {
			continue
		}
		resp := s.openWait(major, waitForX)
		_ = resp.Body.Close()
		for s.waiters() > 0 || s.srv.counts.count() > 0 {
			<-time.After(time.Millisecond)
		}
	}
	for testutil.ToFloat64(s.srv.metrics.createWaits.WithLabelValues("left")) < 1 {
		<-time.After(time.Millisecond)
	}
}

// A drain ends waiters as it ends readers: over its window, each with the advice to come back.
func TestDrainEndsWaiters(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		const waiters, window = 50, 10 * time.Second
		ends := make(chan time.Duration)
		began := time.Now()
		for range waiters {
			s := b.get("offset=-1&create=wait", nil)
			go func() {
				body, err := io.ReadAll(s.resp.Body)
				if err != nil || !strings.HasPrefix(string(body), "retry: ") {
					t.Errorf("%q %v", body, err)
				}
				ends <- time.Since(began)
			}()
		}
		drained := make(chan error, 1)
		go func() { drained <- b.srv.Drain(context.Background(), window) }()
		early := 0
		for range waiters {
			if <-ends < window/2 {
				early++
			}
		}
		if err := <-drained; err != nil || early < waiters/4 || early > waiters*3/4 {
			t.Errorf("%d of %d ended in the first half of the window (%v)", early, waiters, err)
		}
	})
}

// Waiters are bounded, on a node and in a project. What is beyond is told when to come back, and an
// EventSource does so by itself.
func TestWaitersAreBounded(t *testing.T) {
	s := newSite(t, Config{})
	const asksEvents = "text/event-stream"
	refuse := func(path, slug string, status int) {
		t.Helper()
		before := testutil.ToFloat64(s.srv.metrics.refused.WithLabelValues(slug))
		for _, live := range []string{"sse", "long-poll"} {
			refused(t, ask(t, s.srv, "GET", path+"?offset=-1&create=wait&live="+live, nil, nil), status, slug)
		}
		w := ask(t, s.srv, "GET", path+"?offset=-1&create=wait&live=sse", nil, header{"Accept": asksEvents})
		if w.Code != 200 || !strings.HasPrefix(w.Body.String(), "retry: ") {
			t.Errorf("an EventSource got %d %q", w.Code, w.Body)
		}
		if n := testutil.ToFloat64(s.srv.metrics.refused.WithLabelValues(slug)) - before; n != 3 {
			t.Errorf("%v were counted", n)
		}
		if n := s.srv.counts.count(); n != 0 {
			t.Errorf("%d readers are left", n)
		}
	}
	for range maxProjectCreateWaits {
		if err := s.srv.createWaits.add("p"); err != nil {
			t.Fatal(err)
		}
	}
	refuse("/v1/stream/p/x", "create-waits-limit", 429)
	for i := s.waiters(); i < maxCreateWaits; i++ {
		if err := s.srv.createWaits.add(fmt.Sprint("q", i)); err != nil {
			t.Fatal(err)
		}
	}
	refuse("/v1/stream/r/x", "create-waits-full", 503)
	s.srv.createWaits.remove("p")
	resp := s.openWait(1, "/v1/stream/p/x?live=sse&offset=-1&create=wait")
	s.put("/v1/stream/p/x", "one", text)
	s.events(resp, 2)
}

// A wait ends with the right to read: when its token expires, and when it is revoked.
func TestWaitEndsWithItsRight(t *testing.T) {
	const path = "/v1/stream/acme/rooms/later?offset=-1&create=wait&live="
	synctest.Test(t, func(t *testing.T) {
		b, _ := bubbleWithRights(t, rightsFile(t))
		left := 5 * time.Second
		for live, status := range map[string]int{"sse": 200, "long-poll": 404} {
			token := bearer(tokenOf(t, map[string]any{"exp": time.Now().Add(left - access.Leeway).Unix()}))
			began := time.Now()
			w := ask(t, b.srv, "GET", path+live, nil, token)
			if took := time.Since(began); w.Code != status || took < left-time.Second || took > left+6*time.Second || strings.Contains(w.Body.String(), "retry:") {
				t.Errorf("%s: %d %q after %v", live, w.Code, w.Body, took)
			}
		}
		if n := b.srv.createWaits.count(); n != 0 {
			t.Errorf("%d waiters are left", n)
		}
		if got := endedReaders(t, b, "expired"); got != 2 {
			t.Errorf("%v readers ended because of their token", got)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		b, j := bubbleWithRights(t, rightsFile(t))
		began, done := time.Now(), make(chan string)
		go func() { done <- ask(t, b.srv, "GET", path+"sse", nil, bearer(tokenOf(t, nil))).Body.String() }()
		<-time.After(3 * time.Second)
		revoke(t, j, access.RevokeRequest{Issuer: "app", Subject: "ada"})
		if body, took := <-done, time.Since(began); body != "" || took < 3*time.Second || took > 4*time.Second {
			t.Errorf("%q after %v", body, took)
		}
	})
}
