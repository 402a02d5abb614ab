package s2

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Appends, reads and sessions all go through the proxy, to an S2 with a name that only
// the proxy can resolve.
func TestCallsAndSessionsGoThroughTheProxy(t *testing.T) {
	r := newTestEnv(t)
	behind, err := url.Parse(r.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	var mu sync.Mutex
	var asked []string
	conns := new(http.Transport)
	defer conns.CloseIdleConnections()
	pass := &httputil.ReverseProxy{FlushInterval: -1, Transport: conns, Rewrite: func(p *httputil.ProxyRequest) {
		mu.Lock()
		asked = append(asked, p.In.URL.Host+" "+p.In.Method+" "+p.In.URL.Path)
		mu.Unlock()
		p.SetURL(behind)
	}}
	srv := httptest.NewServer(pass)
	defer srv.Close()
	proxy, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	log, err := Open(Config{
		Endpoint: "http://s2.invalid/v1", Token: "the-token", Basin: testBasin,
		proxy: func(*url.URL) (*url.URL, error) { return proxy, nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	if err := log.Create(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if _, err := log.Append(t.Context(), id, 0, []shard.Entry{{Body: []byte("x")}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	err = log.Follow(ctx, id, 0, func(p shard.Page) error {
		if len(p.Records) > 0 {
			return context.Canceled
		}
		return nil
	})
	if !errors.Is(err, context.Canceled) {
		t.Fatalf("a session through the proxy: %v", err)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 3 || slices.ContainsFunc(asked, func(s string) bool { return !strings.HasPrefix(s, "s2.invalid ") }) {
		t.Errorf("the proxy was asked for %q", asked)
	}
	// Requests without our token are refused by the bridge.
	resp, err := log.bridge.client().Get(log.bridge.baseURL("") + "/basins") //nolint:noctx // loopback
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusForbidden {
		t.Errorf("without the token: %d", resp.StatusCode)
	}
}

// client returns an HTTP client that speaks as the SDK's sessions do.
func (b *bridge) client() *http.Client {
	var p http.Protocols
	p.SetUnencryptedHTTP2(true)
	return &http.Client{Transport: &http.Transport{Protocols: &p, DisableKeepAlives: true}}
}

// The proxy is asked to connect to the hosts of the managed S2.
func TestProxyReachesTheManagedService(t *testing.T) {
	hosts := make(chan string, 16)
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		hosts <- r.Method + " " + r.Host
		w.WriteHeader(http.StatusForbidden)
	}))
	defer srv.Close()
	proxy, err := url.Parse(srv.URL)
	if err != nil {
		t.Fatal(err)
	}
	log, err := Open(Config{Token: "t", Basin: testBasin, proxy: func(*url.URL) (*url.URL, error) { return proxy, nil }})
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close()
	want := "CONNECT " + net.JoinHostPort(testBasin+managedBasinSuffix, "443")
	if _, err := log.Tail(t.Context(), id); err == nil {
		t.Error("an answer of a proxy that refuses")
	}
	if got := <-hosts; got != want {
		t.Errorf("a call: %s, want %s", got, want)
	}
	ctx, cancel := context.WithCancel(t.Context())
	followed := make(chan error, 1)
	go func() { followed <- log.Follow(ctx, id, 0, func(shard.Page) error { return nil }) }()
	if got := <-hosts; got != want {
		t.Errorf("a session: %s, want %s", got, want)
	}
	cancel()
	<-followed
}
