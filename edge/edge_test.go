package edge

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

func TestMain(m *testing.M) {
	tr, _ := http.DefaultTransport.(*http.Transport)
	tr.TLSClientConfig, tr.ForceAttemptHTTP2 = trusting, false
	goleak.VerifyTestMain(m)
}

// handlers has every test use the handler driver where the reactor would serve, and has every
// append make a writer; overTLS has them use TLS. make test runs all three.
var (
	handlers = os.Getenv("TEST_EDGE_HANDLERS") != ""
	overTLS  = os.Getenv("TEST_EDGE_TLS") != ""
	trusting = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // of a server of the test's own
)

// site is a lone node over a Log in memory.
type site struct {
	*testing.T
	url string
	log *logtest.Memory
	srv *Server
}

// in returns the site for a subtest.
func (s *site) in(t *testing.T) *site { //nolint:thelper // it is no helper, but the subtest's view
	sub := *s
	sub.T = t
	return &sub
}

func newSite(t *testing.T, cfg Config) *site {
	t.Helper()
	return newSiteOver(t, cfg, overTLS)
}

func newSiteOver(t *testing.T, cfg Config, overTLS bool) *site {
	t.Helper()
	return newSiteOn(t, cfg, overTLS, logtest.NewMemory(1))
}

// appendsToTakeOver appends make a connection of net/http an append connection.
const appendsToTakeOver = 4

// newSiteOn is a lone node over a Log that others may use, too.
func newSiteOn(t *testing.T, cfg Config, overTLS bool, log *logtest.Memory) *site {
	t.Helper()
	host := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
	cfg.NoReactor = cfg.NoReactor || handlers
	cfg.Lister, cfg.Creations, cfg.ReaderCounts = host, host, host
	srv := New(cfg, host)
	if handlers {
		srv.appendConns.MinAppends = 1
	}
	hs := httptest.NewUnstartedServer(srv)
	hs.Config = srv.HTTPServer()
	hs.Listener = netconn.Listen(hs.Listener)
	if overTLS {
		hs.StartTLS()
	} else {
		hs.Start()
	}
	t.Cleanup(func() {
		hs.CloseClientConnections()
		hs.Close()
		srv.Close()
		_ = host.Close()
		http.DefaultClient.CloseIdleConnections()
	})
	return &site{T: t, url: hs.URL, log: log, srv: srv}
}

type header map[string]string

func (s *site) do(method, path, body string, h header) *http.Response {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 30*time.Second)
	s.Cleanup(cancel)
	req, err := http.NewRequestWithContext(ctx, method, s.url+path, strings.NewReader(body))
	if err != nil {
		s.Fatal(err)
	}
	for k, v := range h {
		req.Header.Set(k, v)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() { _ = resp.Body.Close() })
	return resp
}

func (s *site) want(resp *http.Response, status int) string {
	s.Helper()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != status {
		s.Fatalf("%s %s: %d %s, want %d (%v)", resp.Request.Method, resp.Request.URL, resp.StatusCode, b, status, err)
	}
	return string(b)
}

var text = header{"Content-Type": "text/plain"}

func (s *site) put(path, body string, h header) *http.Response {
	s.Helper()
	resp := s.do("PUT", path, body, h)
	s.want(resp, 201)
	return resp
}

// events reads n events of an SSE response.
func (s *site) events(resp *http.Response, n int) []ssetest.Event {
	s.Helper()
	sc := bufio.NewScanner(resp.Body)
	sc.Buffer(nil, 64<<20)
	var out []ssetest.Event
	var e ssetest.Event
	for len(out) < n && sc.Scan() {
		line := sc.Text()
		switch k, v, _ := strings.Cut(line, ":"); k {
		case "id":
			e.ID = strings.TrimPrefix(v, " ")
		case "event":
			e.Name = strings.TrimPrefix(v, " ")
		case "data":
			if e.Data != "" {
				e.Data += "\n"
			}
			e.Data += v
		case "":
			if line == "" && e.Name != "" {
				out = append(out, e)
				e = ssetest.Event{ID: e.ID} // which stands until there is another
			}
		}
	}
	if len(out) < n {
		s.Fatalf("%d events, want %d: %+v (%v)", len(out), n, out, sc.Err())
	}
	return out
}

func TestCreateAppendRead(t *testing.T) {
	s := newSite(t, Config{})
	resp := s.put("/v1/stream/p/a/b", "one", text)
	if loc := resp.Header.Get("Location"); loc != s.url+"/v1/stream/p/a/b" {
		t.Errorf("Location %q", loc)
	}
	s.want(s.do("POST", "/v1/stream/p/a/b", "two", text), 204)
	got := s.do("GET", "/v1/stream/p/a/b", "", nil)
	if b := s.want(got, 200); b != "onetwo" {
		t.Errorf("%q", b)
	}
	head := s.do("HEAD", "/v1/stream/p/a/b", "", nil)
	s.want(head, 200)
	if a, b := got.Header.Get(hNextOffset), head.Header.Get(hNextOffset); a != b || a == "" {
		t.Errorf("GET says %s, HEAD %s", a, b)
	}
	s.want(s.do("GET", "/v1/stream/p/a/b?offset="+head.Header.Get(hNextOffset), "", nil), 200)
	s.want(s.do("DELETE", "/v1/stream/p/a/b", "", nil), 204)
	s.want(s.do("GET", "/v1/stream/p/a/b", "", nil), 404)
}

// Clients that get a 409 without a header to go by tell its causes apart by the
// protocol's word for this one.
func TestStreamSeq(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	s.want(s.do("POST", "/v1/stream/x", "two", header{"Content-Type": "text/plain", hSeq: "002"}), 204)
	for _, seq := range []string{"001", "002"} {
		resp := s.do("POST", "/v1/stream/x", "again", header{"Content-Type": "text/plain", hSeq: seq})
		p := readProblem(t, 409, resp.Header.Get("Content-Type"), s.want(resp, 409))
		if p.Type != problemBase+"stream-seq-order" || !strings.Contains(p.Title, "sequence") {
			t.Errorf("%s: %+v", seq, p)
		}
	}
	s.want(s.do("POST", "/v1/stream/x", "ten", header{"Content-Type": "text/plain", hSeq: "0020"}), 204)
	if b := s.want(s.do("GET", "/v1/stream/x", "", nil), 200); b != "twoten" {
		t.Errorf("%q", b)
	}
}

func TestDefaultProject(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	if b := s.want(s.do("GET", "/v1/stream/default/x", "", nil), 200); b != "one" {
		t.Errorf("%q", b)
	}
}

func TestEventStreamOfText(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	first := s.events(resp, 2)
	if first[0].Name != "data" || first[0].Data != "one" || first[1].Name != "control" ||
		!strings.Contains(first[1].Data, `"upToDate":true`) || first[0].ID != first[1].ID {
		t.Errorf("%+v", first)
	}
	s.want(s.do("POST", "/v1/stream/x", "a\r\nb\rc\nd", text), 204)
	rest := s.events(resp, 2)
	s.want(s.do("POST", "/v1/stream/x", "", header{hClosed: "TRUE"}), 204)
	rest = append(rest, s.events(resp, 1)...)
	if rest[0].Data != "a\nb\nc\nd" || !strings.Contains(rest[2].Data, `"streamClosed":true`) {
		t.Errorf("%+v", rest)
	}
	if b, err := io.ReadAll(resp.Body); err != nil || len(b) > 0 {
		t.Errorf("after the end: %q %v", b, err)
	}
	// What an EventSource does after the end, and in the middle.
	s.want(s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", header{"Last-Event-ID": rest[2].ID}), 204)
	again := s.events(s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", header{"Last-Event-ID": first[0].ID}), 2)
	if again[0].Data != "a\nb\nc\nd" {
		t.Errorf("%+v", again)
	}
}

// A text record that ends inside a character waits for the next one.
func TestSSEHoldsHalfCharacters(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "a", text)
	resp := s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil)
	s.events(resp, 2)
	euro := "€"
	s.want(s.do("POST", "/v1/stream/x", euro[:1], text), 204)
	s.want(s.do("POST", "/v1/stream/x", euro[1:2], text), 204)
	s.want(s.do("POST", "/v1/stream/x", euro[2:]+"!", text), 204)
	for _, e := range s.events(resp, 2) {
		if e.Name == "data" && e.Data != "€!" {
			t.Errorf("%q", e.Data)
		}
	}
}

func TestLongPollWaitsForNews(t *testing.T) {
	s := newSite(t, Config{LongPoll: 50 * time.Millisecond})
	resp := s.put("/v1/stream/x", "one", text)
	at := resp.Header.Get(hNextOffset)
	quiet := s.do("GET", "/v1/stream/x?live=long-poll&offset="+at, "", nil)
	s.want(quiet, 204)
	if quiet.Header.Get(hCursor) == "" || quiet.Header.Get(hNextOffset) != at {
		t.Errorf("%v", quiet.Header)
	}
	if b := s.want(s.do("GET", "/v1/stream/x?live=long-poll&offset=-1", "", nil), 200); b != "one" {
		t.Errorf("%q", b)
	}
}

func TestJSONMessagesAreSplit(t *testing.T) {
	s := newSite(t, Config{})
	js := header{"Content-Type": "application/json; charset=utf-8"}
	s.put("/v1/stream/x", `[{"a":[1,2]}, "b,]" ,[3]]`, js)
	s.want(s.do("POST", "/v1/stream/x", `nonsense`, js), 400)
	s.want(s.do("POST", "/v1/stream/x", `[]`, js), 400)
	if b := s.want(s.do("GET", "/v1/stream/x", "", nil), 200); b != `[{"a":[1,2]},"b,]",[3]]` {
		t.Errorf("%s", b)
	}
	e := s.events(s.do("GET", "/v1/stream/x?live=sse&offset=-1", "", nil), 1)
	if e[0].Data != `[{"a":[1,2]},"b,]",[3]]` {
		t.Errorf("%s", e[0].Data)
	}
}

func TestRefusedRequestsHaveTheirProblem(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "one", text)
	for _, c := range []struct {
		method, path string
		h            header
		status       int
	}{
		{"GET", "/elsewhere", nil, 404},
		{"GET", "/v1/stream/", nil, 400},
		{"GET", "/v1/stream/a%2Fb", nil, 400},
		{"GET", "/v1/stream/a/../b", nil, 400},
		{"GET", "/v1/stream/a%00", nil, 400},
		{"GET", "/v1/stream/%ff", nil, 400},
		{"GET", "/v1/stream/" + strings.Repeat("a", 600), nil, 400},
		{"PUT", "/v1/stream/__ds/subscriptions/x", nil, 501},
		{"PUT", "/v1/stream/y", header{hForkedFrom: "/v1/stream/none"}, 404},
		{"PATCH", "/v1/stream/x", nil, 405},
		{"GET", "/v1/stream/x?offset=9999999999999999_9999999999999999", nil, 400},
		{"GET", "/v1/stream/x?offset=", nil, 400},
		{"GET", "/v1/stream/x?live=sse", nil, 400},
		{"GET", "/v1/stream/x?live=carrier-pigeon&offset=-1", nil, 400},
		{"GET", "/v1/stream/x?offset=0000000000000001_0000000000000000", nil, 410},
		{"PUT", "/v1/stream/y", header{hTTL: "01"}, 400},
		{"PUT", "/v1/stream/y", header{hTTL: "1", hExpires: "2030-01-01T00:00:00Z"}, 400},
		{"POST", "/v1/stream/x", header{hProducerID: "p"}, 400},
		{"POST", "/v1/stream/none", header{hProducerID: "p"}, 404},
		{"POST", "/v1/stream/x", header{hProducerID: "p", hProducerEpoch: "0", hProducerSeq: "9007199254740992"}, 400},
		{"POST", "/v1/stream/x", nil, 400},
	} {
		t.Run(fmt.Sprint(c.method, " ", c.path, c.h), func(t *testing.T) {
			s := s.in(t)

			resp := s.do(c.method, c.path, "", c.h)
			s.want(resp, c.status)
			if ct := resp.Header.Get("Content-Type"); ct != "application/problem+json" {
				t.Errorf("%s %s: %s", c.method, c.path, ct)
			}
			if resp.Header.Get("X-Content-Type-Options") != "nosniff" {
				t.Errorf("%s %s: no nosniff", c.method, c.path)
			}
		})
	}
}

func TestLargestBodyFits(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", "", text)
	s.want(s.do("POST", "/v1/stream/x", strings.Repeat("x", shard.MaxBody+1), text), 413)
	s.want(s.do("POST", "/v1/stream/x", strings.Repeat("x", shard.MaxBody), text), 204)
	resp := s.do("GET", "/v1/stream/x", "", nil)
	if b := s.want(resp, 200); len(b) != shard.MaxBody {
		t.Errorf("%d bytes", len(b))
	}
	many := "[" + strings.Repeat("1,", shard.MaxMessages) + "1]"
	s.want(s.do("PUT", "/v1/stream/j", many, header{"Content-Type": "application/json"}), 413)
	s.put("/v1/stream/j", many[:len(many)-3]+"]", header{"Content-Type": "application/json"})
}

// lateInfos answers once it may.
type lateInfos struct {
	Backend
	gate atomic.Pointer[chan struct{}]
}

func (l *lateInfos) Info(ctx context.Context, id shard.StreamID, ask shard.InfoOptions) (shard.Info, error) {
	if gate := l.gate.Load(); gate != nil {
		<-*gate
	}
	return l.Backend.Info(ctx, id, ask)
}

// A long-poll whose stream is made again while it waits has an offset of an earlier
// generation: 410, and no word that there is no stream.
func TestLongPollOfARecreatedStreamIsGone(t *testing.T) {
	s := newSite(t, Config{LongPoll: 20 * time.Second})
	states := &lateInfos{Backend: s.srv.streams}
	s.srv.streams = states
	at := s.put("/v1/stream/s", "old", text).Header.Get(hNextOffset)
	polled := make(chan *http.Response, 1)
	go func() { polled <- s.do("GET", "/v1/stream/s?live=long-poll&offset="+at, "", nil) }()
	for s.log.OpenSessions() == 0 {
		runtime.Gosched()
	}
	gate := make(chan struct{})
	states.gate.Store(&gate)
	s.want(s.do("DELETE", "/v1/stream/s", "", nil), 204)
	s.put("/v1/stream/s", "new", text)
	close(gate)
	s.want(<-polled, 410)
}

func (s *site) eventually(what string, ok func() bool) {
	s.Helper()
	ctx, cancel := context.WithTimeout(s.Context(), 20*time.Second)
	defer cancel()
	for !ok() {
		select {
		case <-ctx.Done():
			s.Fatalf("not within 20 s: %s", what)
		case <-time.After(5 * time.Millisecond):
		}
	}
}
