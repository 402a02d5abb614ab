package main

import (
	"net/http"
	"net/url"
	"sync"
	"time"
)

// nodeSet holds the public addresses of a fleet's nodes, as they come and go.
type nodeSet struct {
	mu  sync.Mutex
	all []*url.URL
}

func (s *nodeSet) set(all []*url.URL) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all = all
}

// at returns the i-th node, counted around.
func (s *nodeSet) at(i int) *url.URL {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.all[i%len(s.all)]
}

func (s *nodeSet) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.all)
}

// backHome is the time after which a client that went to another node tries its own again.
const backHome = 3 * time.Second

// nodeTransport sends requests to one node, and to the next one after a failure, as a balancer would.
type nodeTransport struct {
	nodes *nodeSet
	home  int
	base  http.RoundTripper

	mu    sync.Mutex
	away  int // nodes after home
	since time.Time
}

// RoundTrip implements http.RoundTripper. A request that a node refuses for now goes to the next node: each
// is a read or has a producer's number, so it may be sent again.
func (t *nodeTransport) RoundTrip(r *http.Request) (*http.Response, error) {
	for tries := t.nodes.count(); ; tries-- {
		away := t.current()
		to := t.nodes.at(t.home + away)
		out := r.Clone(r.Context())
		out.URL.Scheme, out.URL.Host, out.Host = to.Scheme, to.Host, ""
		if r.GetBody != nil {
			var err error
			if out.Body, err = r.GetBody(); err != nil {
				return nil, err
			}
		}
		resp, err := t.base.RoundTrip(out)
		if r.Context().Err() != nil || err == nil && resp.StatusCode < 500 && resp.StatusCode != http.StatusTooManyRequests {
			return resp, err
		}
		t.leave(away)
		if tries <= 1 {
			return resp, err
		}
		if err == nil {
			_ = resp.Body.Close()
		}
	}
}

// current returns how many nodes after its home a request goes to.
func (t *nodeTransport) current() int {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.away > 0 && time.Since(t.since) > backHome {
		t.away = 0
	}
	return t.away
}

// leave makes the next node the current node.
func (t *nodeTransport) leave(away int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.away == away {
		t.away, t.since = (away+1)%max(1, t.nodes.count()), time.Now()
	}
}
