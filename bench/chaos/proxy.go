package main

import (
	"context"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// proxy stands between the nodes and S2: it counts what S2 is asked for, read
// sessions above all (S2 bills those), and can be slow, busy or broken in S2's place.
type proxy struct {
	server   *http.Server
	one, two *httputil.ReverseProxy // by version of HTTP
	// What goes wrong, set by faults.
	delay  atomic.Int64 // before a request is passed on
	status atomic.Int64 // answered instead
	faulty atomic.Int64 // requests that met either

	reads, appends, opened atomic.Int64 // unary reads, appends, sessions

	mu       sync.Mutex
	sessions map[string]int // of the main load, open now, by stream
	area     float64        // session-seconds so far
	since    time.Time
	open     int // sum of sessions
	peak     int // of open, since the last look
}

func startProxy(listen, store string) (*proxy, error) {
	target, err := url.Parse(store)
	if err != nil {
		return nil, err
	}
	p := &proxy{sessions: map[string]int{}, since: time.Now(), one: passage(target, 1), two: passage(target, 2)}
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	p.server = &http.Server{
		Handler: p, Protocols: &both, ReadHeaderTimeout: time.Minute,
		ErrorLog: log.New(io.Discard, "", 0), //nolint:forbidigo // what net/http takes
	}
	l, err := net.Listen("tcp", listen)
	if err != nil {
		return nil, err
	}
	go func() { _ = p.server.Serve(l) }()
	return p, nil
}

// passage passes requests on as they were spoken: the SDK's sessions are HTTP/2 in
// the clear, everything else is HTTP/1.1.
func passage(target *url.URL, major int) *httputil.ReverseProxy {
	t := &http.Transport{
		MaxIdleConnsPerHost: 1024, DialContext: (&net.Dialer{Timeout: 3 * time.Second}).DialContext,
	}
	if major == 2 {
		t.Protocols = new(http.Protocols)
		t.Protocols.SetUnencryptedHTTP2(true)
	}
	return &httputil.ReverseProxy{
		Rewrite:       func(r *httputil.ProxyRequest) { r.SetURL(target); r.Out.Host = r.In.Host },
		Transport:     t,
		FlushInterval: -1,
		ErrorLog:      log.New(io.Discard, "", 0), //nolint:forbidigo // what httputil takes
		ErrorHandler: func(http.ResponseWriter, *http.Request, error) {
			panic(http.ErrAbortHandler) // S2 is gone: no answer, rather than one of ours
		},
	}
}

func (p *proxy) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if d := time.Duration(p.delay.Load()); d > 0 {
		p.faulty.Add(1)
		if !sleep(r.Context(), d) {
			return
		}
	}
	if s := int(p.status.Load()); s != 0 {
		p.faulty.Add(1)
		w.Header().Set("Content-Type", "application/json")
		w.WriteHeader(s)
		_, _ = w.Write([]byte(refusals[s]))
		return
	}
	records := strings.HasSuffix(r.URL.Path, "/records")
	switch {
	case records && r.Method == http.MethodPost:
		p.appends.Add(1)
	case records && r.ProtoMajor == 2:
		p.opened.Add(1)
		stream := strings.TrimPrefix(strings.TrimSuffix(r.URL.Path, "/records"), "/v1/streams/")
		p.session(stream, 1)
		defer p.session(stream, -1)
	case records:
		p.reads.Add(1)
	}
	if r.ProtoMajor == 2 {
		p.two.ServeHTTP(w, r)
		return
	}
	p.one.ServeHTTP(w, r)
}

// refusals maps a status to what S2 says when it refuses.
var refusals = map[int]string{ //nolint:gochecknoglobals // a table
	http.StatusTooManyRequests:    `{"code":"rate_limited","message":"too many requests"}`,
	http.StatusServiceUnavailable: `{"code":"unavailable","message":"try again"}`,
}

// sleep waits, or not, if ctx ends.
func sleep(ctx context.Context, d time.Duration) bool {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	}
}

func (p *proxy) session(stream string, by int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !strings.HasPrefix(stream, project+"/"+mainLoad+"-") {
		return
	}
	p.advance()
	p.sessions[stream] += by
	if p.sessions[stream] == 0 {
		delete(p.sessions, stream)
	}
	p.open += by
	p.peak = max(p.peak, p.open)
}

// advance brings area up to now.
func (p *proxy) advance() {
	now := time.Now()
	p.area += float64(p.open) * now.Sub(p.since).Seconds()
	p.since = now
}

// look is a moment's view of the sessions.
type look struct {
	at                     time.Time
	area                   float64
	open, peak             int
	reads, appends, opened int64
}

func (p *proxy) look() look {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.advance()
	l := look{p.since, p.area, p.open, p.peak, p.reads.Load(), p.appends.Load(), p.opened.Load()}
	p.peak = p.open
	return l
}

// mean returns the mean number of open sessions between two looks.
func (l look) mean(before look) float64 {
	return (l.area - before.area) / l.at.Sub(before.at).Seconds()
}

// doubled names a few streams with more than one session.
func (p *proxy) doubled() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	all := slices.DeleteFunc(slices.Sorted(maps.Keys(p.sessions)), func(s string) bool { return p.sessions[s] < 2 })
	return all[:min(5, len(all))]
}

// lacking names a few of n streams that have no session.
func (p *proxy) lacking(n int) []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for i := range n {
		if name := streamName(mainLoad, i); p.sessions[name] == 0 && len(all) < 5 {
			all = append(all, name)
		}
	}
	return all
}
