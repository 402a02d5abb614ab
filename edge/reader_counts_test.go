package edge

import (
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus/testutil"
)

// HEAD and event streams tell the number of a stream's readers to clients that ask for it, over each
// version of HTTP and on each executor; long-polls that wait are readers, too.
func TestReadersAreCounted(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	head := func() string {
		t.Helper()
		resp := s.do("HEAD", "/v1/stream/x?readers=1", "", nil)
		s.want(resp, 200)
		if !strings.Contains(resp.Header.Get("Access-Control-Expose-Headers"), hReaders) {
			t.Errorf("%v", resp.Header)
		}
		return resp.Header.Get(hReaders)
	}
	if n := head(); n != "0" {
		t.Errorf("HEAD says %q", n)
	}
	if h := s.do("HEAD", "/v1/stream/x", "", nil).Header; h.Get(hReaders) != "" {
		t.Errorf("it was not asked for: %v", h)
	}
	open := 0
	for _, major := range []int{1, 2} {
		if major == 2 && overTLS {
			continue // the site offers HTTP/2 by prior knowledge only
		}
		for _, asks := range []bool{false, true} {
			path := "/v1/stream/x?offset=-1&live=sse"
			if asks {
				path += "&readers=1"
			}
			open++
			want := fmt.Sprintf(`"upToDate":true,"readers":%d}`, open)
			if !asks {
				want = `"upToDate":true}`
			}
			resp := s.openWait(major, path)
			// The number may be a second old: that of a reader that came before.
			if es := s.events(resp, 2); !strings.HasSuffix(es[1].Data, want) && (!asks || !strings.Contains(es[1].Data, `,"readers":`)) {
				t.Errorf("HTTP/%d, asks %v: %+v, want %s", major, asks, es, want)
			}
		}
	}
	polled := make(chan *http.Response)
	go func() { polled <- s.do("GET", "/v1/stream/x?offset=now&live=long-poll&readers=1", "", nil) }()
	for head() != fmt.Sprint(open+1) {
		<-time.After(time.Millisecond)
	}
	if n := testutil.ToFloat64(s.srv.metrics.countingReaders); n != float64(open/2) {
		t.Errorf("%v readers count", n)
	}
	s.want(s.do("POST", "/v1/stream/x", "two", text), 204)
	if resp := <-polled; s.want(resp, 200) != "two" || resp.Header.Get(hReaders) != "" {
		t.Errorf("%v", resp.Header)
	}
	for head() != fmt.Sprint(open) {
		<-time.After(time.Millisecond)
	}
}

// The number is what it is after readers have left, and nothing of their wish is left.
func TestReadersThatLeaveAreNotCounted(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	for _, major := range []int{1, 2} {
		if major == 2 && overTLS {
			continue
		}
		resp := s.openWait(major, "/v1/stream/x?offset=-1&live=sse&readers=1")
		s.events(resp, 2)
		_ = resp.Body.Close()
		for s.do("HEAD", "/v1/stream/x?readers=1", "", nil).Header.Get(hReaders) != "0" || testutil.ToFloat64(s.srv.metrics.countingReaders) != 0 {
			<-time.After(time.Millisecond)
		}
	}
}

// A malformed wish is an error, and one that nothing answers is ignored.
func TestWishesForTheNumberOfReaders(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	for _, c := range []struct {
		method, query string
		status        int
	}{
		{"HEAD", "readers=0", 400},
		{"HEAD", "readers=", 400},
		{"HEAD", "readers=1&readers=1", 400},
		{"HEAD", "readers=1", 200},
		{"GET", "readers=yes", 400},
		{"GET", "offset=-1&live=sse&readers=2", 400},
		{"GET", "readers=1", 200},
		{"GET", "offset=-1&live=long-poll&readers=1", 200},
	} {
		resp := s.do(c.method, "/v1/stream/x?"+c.query, "", nil)
		if s.want(resp, c.status); (resp.Header.Get(hReaders) != "") != (c.method == "HEAD" && c.status == 200) {
			t.Errorf("%s %s: %v", c.method, c.query, resp.Header)
		}
	}
	none := newSite(t, Config{})
	none.srv.cfg.ReaderCounts = nil
	none.put("/v1/stream/x", "one", text)
	if h := none.do("HEAD", "/v1/stream/x?readers=1", "", nil).Header; h.Get(hReaders) != "" {
		t.Errorf("%v", h)
	}
	if es := none.events(none.openWait(1, "/v1/stream/x?offset=-1&live=sse&readers=1"), 2); strings.Contains(es[1].Data, "readers") {
		t.Errorf("%+v", es)
	}
}

// A client that may not read a stream is told nothing of its readers.
func TestReadersAreTheReadersAffair(t *testing.T) {
	s, clients := siteWithRights(t, rightsFile(t))
	for over, client := range clients {
		for role, status := range map[string]int{"": 403, "reader": 200} {
			q := refusedRequest{method: "HEAD", query: "readers=1"}
			path := "/v1/stream/acme/secret"
			if status == 200 {
				path = "/v1/stream/acme/rooms/a"
			}
			resp, _ := q.send(t, client, s.url+path, refusedCredential{header: bearer(tokenOf(t, map[string]any{"role": role}))})
			if resp.StatusCode != status || (resp.Header.Get(hReaders) != "") != (status == 200) {
				t.Errorf("%s, role %q: %d %v", over, role, resp.StatusCode, resp.Header)
			}
		}
	}
}
