package s2

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// gate is a proxy before S2 that holds calls about records and new streams, until it is told that a
// round of them is complete.
type gate struct {
	next http.Handler

	mu      sync.Mutex
	holds   bool
	held    []chan struct{}
	changed chan struct{} // closed and replaced when one more is held
}

// ServeHTTP implements http.Handler.
func (g *gate) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if strings.Contains(r.URL.Path, "/records") || r.Method == http.MethodPost || r.Method == http.MethodPut {
		g.hold(r.Context())
	}
	g.next.ServeHTTP(w, r)
}

func (g *gate) hold(ctx context.Context) {
	g.mu.Lock()
	if !g.holds {
		g.mu.Unlock()
		return
	}
	passes := make(chan struct{})
	g.held = append(g.held, passes)
	close(g.changed)
	g.changed = make(chan struct{})
	g.mu.Unlock()
	select {
	case <-passes:
	case <-ctx.Done():
	}
}

func (g *gate) setHolding(holds bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.holds = holds
	g.release()
}

func (g *gate) release() {
	for _, c := range g.held {
		close(c)
	}
	g.held = nil
}

// round lets n calls through once all of them are held.
func (g *gate) round(ctx context.Context, n int) error {
	for {
		g.mu.Lock()
		if len(g.held) >= n {
			g.release()
			g.mu.Unlock()
			return nil
		}
		held, changed := len(g.held), g.changed
		g.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("%d calls of a round of %d", held, n)
		}
	}
}

// rounds does something that makes rounds of so many calls, each round after the answers to the one
// before.
func (g *gate) rounds(t *testing.T, do func(), counts ...int) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	g.setHolding(true)
	defer g.setHolding(false)
	done := make(chan struct{})
	go func() {
		defer close(done)
		do()
	}()
	for i, n := range counts {
		if err := g.round(ctx, n); err != nil {
			t.Fatalf("round %d: %v", i+1, err)
		}
	}
	select {
	case <-done:
	case <-ctx.Done():
		t.Fatalf("it is not done after %d rounds", len(counts))
	}
}

// newGatedEnv returns an S2 behind a gate. makes: appends make their streams.
func newGatedEnv(t *testing.T, makes bool, logger *slog.Logger) (*testEnv, *gate) {
	t.Helper()
	r := newTestEnv(t)
	if makes {
		r.configureBasin(howToAllow)
	}
	at, err := url.Parse(r.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	proxy := httputil.NewSingleHostReverseProxy(at)
	transport := &http.Transport{MaxIdleConnsPerHost: 100}
	proxy.Transport = transport
	proxy.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	g := &gate{next: proxy, changed: make(chan struct{})}
	server := httptest.NewServer(g)
	t.Cleanup(func() {
		server.Close()
		transport.CloseIdleConnections()
	})
	log, err := Open(Config{Endpoint: server.URL, Basin: testBasin, Logger: logger})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = log.Close() })
	r.log = log
	log.CreatesByAppend(id)
	log.creations.asking.Wait()
	if got := log.CreatesByAppend(id); got != makes {
		t.Fatalf("appends make streams: %t", got)
	}
	return r, g
}

// configureBasin changes the configuration of the basin.
func (r *testEnv) configureBasin(patch string) {
	r.Helper()
	req, err := http.NewRequestWithContext(r.Context(), http.MethodPatch, r.server.URL()+"/v1/basins/"+testBasin, strings.NewReader(patch))
	if err != nil {
		r.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		r.Fatal(err)
	}
	_ = resp.Body.Close()
	http.DefaultTransport.(*http.Transport).CloseIdleConnections() //nolint:forcetypeassert // it is one
	if resp.StatusCode != http.StatusOK {
		r.Fatal(resp.Status)
	}
}

// The rounds of calls that the first request for a stream waits for, and the operations that S2 counts.
func TestRoundsOfAFirstTouch(t *testing.T) {
	type ops = map[s2dev.Op]int64
	const (
		appends, reads, creates = s2dev.OpAppend, s2dev.OpRead, s2dev.OpCreateStream
	)
	small := func(r *testEnv, h *shard.Manager) {
		r.mustDo(h, request(shard.OpCreate, "text/plain", "a"), shard.CodeCreated)
		r.mustDo(h, request(shard.OpAppend, "text/plain", "b"), shard.CodeAppended)
	}
	none := func(*testEnv, *shard.Manager) {}
	write := func(op shard.Op, want shard.Code, msgs ...string) func(*testEnv, *shard.Manager) {
		return func(r *testEnv, h *shard.Manager) { r.mustDo(h, request(op, "text/plain", msgs...), want) }
	}
	head := func(r *testEnv, h *shard.Manager) {
		if info, err := h.Info(r.Context(), id, 0); err != nil || !info.Checked {
			r.Errorf("%+v %v", info, err)
		}
	}
	for _, c := range []struct {
		name         string
		makes        bool
		setUp, touch func(*testEnv, *shard.Manager)
		rounds       []int
		ops          ops
	}{
		{"PUT of a new stream", true, none, write(shard.OpCreate, shard.CodeCreated), []int{3}, ops{appends: 1, creates: 1, reads: 2}},
		{"PUT of a new stream where appends make none", false, none, write(shard.OpCreate, shard.CodeCreated), []int{3, 1}, ops{appends: 1, creates: 1, reads: 2}},
		{"PUT of a stream that exists", true, small, write(shard.OpCreate, shard.CodeExists), []int{3}, ops{appends: 1, reads: 2}},
		{"PUT of a stream that exists where appends make none", false, small, write(shard.OpCreate, shard.CodeExists), []int{3}, ops{creates: 1, reads: 2}},
		{"POST", true, small, write(shard.OpAppend, shard.CodeAppended, "c"), []int{2, 1}, ops{appends: 1, reads: 2}},
		{"POST to no stream", true, none, write(shard.OpAppend, shard.CodeNotFound, "c"), []int{2}, ops{reads: 2}},
		{"HEAD", true, small, head, []int{2}, ops{reads: 2}},
		{"HEAD of no stream", true, none, head, []int{2}, ops{reads: 2}},
	} {
		t.Run(c.name, func(t *testing.T) {
			t.Parallel()
			r, g := newGatedEnv(t, c.makes, nil)
			before := r.newManager()
			c.setUp(r, before)
			_ = before.Close()
			counted := maps.Clone(r.server.Usage().Total.Ops)
			h := r.newManager()
			g.rounds(t, func() { c.touch(r, h) }, c.rounds...)
			_ = h.Close()
			now := r.server.Usage().Total.Ops
			for _, op := range []s2dev.Op{appends, reads, creates, s2dev.OpCheckTail, s2dev.OpEnsureStream, s2dev.OpReadSession} {
				if got := now[op] - counted[op]; got != c.ops[op] {
					t.Errorf("%s: %d, want %d", op, got, c.ops[op])
				}
			}
		})
	}
}

// What a basin gives its streams by default has changed since it was read: the next stream gets what it
// needs all the same.
func TestStreamsMadeByAppendsAreConfigured(t *testing.T) {
	var lines lockedBuffer
	r, _ := newGatedEnv(t, true, slog.New(slog.NewTextHandler(&lines, nil)))
	r.configureBasin(`{"default_stream_config":{"retention_policy":{"age":60},"delete_on_empty":{"min_age_secs":60},"timestamping":{"uncapped":true}}}`)
	h := shard.NewManager(r.log, shard.NewTailBuffers(0, 0), shard.Config{Logger: slog.New(slog.NewTextHandler(&lines, nil))})
	defer func() { _ = h.Close() }()
	r.mustDo(h, request(shard.OpCreate, "text/plain"), shard.CodeCreated)
	for config := new(sdk.StreamConfig); !keepsRecords(config) || !isCapped(config.Timestamping) || !strings.Contains(lines.String(), "had another configuration"); {
		var err error
		if config, err = r.basinClient().Streams.GetConfig(r.Context(), sdk.StreamName(id)); err != nil {
			t.Fatalf("%v; %s", err, lines.String())
		}
	}
}

// An append makes a stream only in a basin whose configuration says so, and keeps records.
func TestBasinsInWhichAppendsMakeStreams(t *testing.T) {
	good := func(change string) string {
		var all map[string]any
		if err := json.Unmarshal([]byte(howToAllow), &all); err != nil {
			t.Fatal(err)
		}
		if err := json.Unmarshal([]byte(change), &all); err != nil { // one level deep
			t.Fatal(err)
		}
		b, err := json.Marshal(all)
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	for _, c := range []struct{ config, want string }{
		{howToAllow, ""},
		{`{}`, "create_stream_on_append"},
		{good(`{"create_stream_on_append":false}`), "create_stream_on_append"},
		{`{"create_stream_on_append":true}`, "keep their records"},
		{good(`{"default_stream_config":{}}`), "keep their records"},
		{good(`{"default_stream_config":{"retention_policy":{"infinite":{}}}}`), ""},
		{good(`{"default_stream_config":{"retention_policy":{"age":86400}}}`), "keep their records"},
		{good(`{"default_stream_config":{"retention_policy":{"infinite":{}},"delete_on_empty":{"min_age_secs":60}}}`), "keep their records"},
		{good(`{"default_stream_config":{"retention_policy":{"infinite":{}},"timestamping":{"uncapped":true}}}`), "timestamps"},
		{good(`{"default_stream_config":{"retention_policy":{"infinite":{}},"timestamping":{"mode":"client-require"}}}`), "timestamps"},
	} {
		config := new(sdk.BasinConfig)
		if err := json.Unmarshal([]byte(c.config), config); err != nil {
			t.Fatal(err)
		}
		if got := creationProblem(config); (got == "") != (c.want == "") || !strings.Contains(got, c.want) {
			t.Errorf("%s: %q, want %q", c.config, got, c.want)
		}
	}
}

// What a basin allows is logged once, with what to do, and asked again where an append has shown that it
// is known no more.
func TestWhatABasinAllowsIsLogged(t *testing.T) {
	var lines lockedBuffer
	r, _ := newGatedEnv(t, false, slog.New(slog.NewTextHandler(&lines, nil)))
	for _, want := range []string{"could take one", "PATCH /v1/basins/" + testBasin, "create_stream_on_append"} {
		if !strings.Contains(lines.String(), want) {
			t.Errorf("%q does not say %q", lines.String(), want)
		}
	}
	r.configureBasin(howToAllow)
	r.log.creations.mu.Lock()
	r.log.creations.basins[testBasin].known, r.log.creations.basins[testBasin].asked = time.Now().Add(-2*configEvery), time.Time{}
	r.log.creations.mu.Unlock()
	r.log.creations.review()
	r.log.creations.asking.Wait()
	if !r.log.CreatesByAppend(id) {
		t.Error("it allows it by now")
	}
	r.configureBasin(`{"create_stream_on_append":false}`)
	h := r.newManager()
	r.mustDo(h, request(shard.OpCreate, "text/plain", "a"), shard.CodeCreated)
	if r.log.CreatesByAppend(id) {
		t.Error("an append made no stream")
	}
}

// A basin that is made for a new project makes streams by appends; one that is there stays as it is.
func TestNewBasinsMakeStreamsByAppends(t *testing.T) {
	r := newTestEnv(t)
	if err := r.log.EnsureBasin(t.Context(), testBasin); err != nil {
		t.Fatal(err)
	}
	if err := r.log.EnsureBasin(t.Context(), "fantail-another"); err != nil {
		t.Fatal(err)
	}
	for basin, want := range map[string]bool{testBasin: false, "fantail-another": true} {
		config, err := r.log.basinConfig(t.Context(), basin)
		if err != nil || (creationProblem(config) == "") != want {
			t.Errorf("%s: %+v %v", basin, config, err)
		}
	}
}
