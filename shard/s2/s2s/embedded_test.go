package s2s

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"
	"go.uber.org/goleak"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const testBasin = "fantail-s2s"

// env is an S2, its SDK client, and a Client.
type env struct {
	*testing.T
	server *s2dev.Server // nil: another S2
	base   string
	client *Client
	basin  *sdk.BasinClient
	ctx    context.Context
	prefix string // of all names
}

// newEnv returns an env with an embedded S2.
func newEnv(t *testing.T, cfg Config) *env {
	t.Helper()
	server, err := s2dev.Open(s2dev.Config{Listen: "127.0.0.1:0", Basins: []string{testBasin}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := server.Close(); err != nil {
			t.Error(err)
		}
	})
	e := newEnvAt(t, cfg, server.URL())
	e.server = server
	return e
}

func newSDK(endpoint string) (account *sdk.Client, closeIdle func()) {
	transport := &http.Transport{}
	return sdk.New("none", &sdk.ClientOptions{
		BaseURL: endpoint + "/v1", MakeBasinBaseURL: func(string) string { return endpoint + "/v1" },
		HTTPClient: &http.Client{Transport: transport},
	}), transport.CloseIdleConnections
}

func newEnvAt(t *testing.T, cfg Config, endpoint string) *env {
	t.Helper()
	base := endpoint + "/v1"
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	cfg.Token = "none"
	account, closeIdle := newSDK(endpoint)
	e := &env{T: t, base: base, client: NewClient(cfg), basin: account.Basin(testBasin), ctx: ctx}
	t.Cleanup(func() {
		cancel()
		closeIdle()
		if err := e.client.Close(); err != nil {
			t.Error(err)
		}
	})
	return e
}

func (e *env) target(stream string) Target {
	return Target{Base: e.base, Basin: testBasin, Stream: e.prefix + stream}
}

// TestLite runs what needs no faults on the S2 at TEST_S2_ENDPOINT. .ci/run sets it to a real s2-lite.
func TestLite(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	account, closeIdle := newSDK(endpoint)
	defer closeIdle()
	if _, err := account.Basins.Ensure(t.Context(), sdk.EnsureBasinArgs{Basin: testBasin}); err != nil {
		t.Fatal(err)
	}
	for name, fn := range map[string]func(*env){
		"follows": testFollows, "starts": testStarts, "is refused": testIsRefused, "catches up": testCatchesUp,
		"append pipelines": testPipelines, "append is refused": testAppendIsRefused,
		"append without stream": testAppendWithoutStream, "large batches": testLargeBatches, "rivals": testRivals,
	} {
		t.Run(name, func(t *testing.T) {
			e := newEnvAt(t, Config{Window: 64 << 10, MaxWindow: 64 << 10}, endpoint)
			e.prefix = fmt.Sprint(name, time.Now().UnixNano(), "/")
			fn(e)
		})
	}
}

func (e *env) create(streams ...string) {
	e.Helper()
	for _, name := range streams {
		if _, err := e.basin.Streams.Create(e.ctx, sdk.CreateStreamArgs{Stream: sdk.StreamName(e.prefix + name)}); err != nil {
			e.Fatal(err)
		}
	}
}

func (e *env) append(stream string, bodies ...string) {
	e.Helper()
	in := &sdk.AppendInput{}
	for _, b := range bodies {
		in.Records = append(in.Records, sdk.AppendRecord{Body: []byte(b), Headers: []sdk.Header{{Name: []byte("n"), Value: []byte("v")}}})
	}
	if _, err := e.basin.Stream(sdk.StreamName(e.prefix+stream)).Append(e.ctx, in); err != nil {
		e.Fatal(err)
	}
}

// waiter wakes a test's goroutine.
type waiter chan struct{}

func newWaiter() waiter { return make(waiter, 1) }

func (w waiter) wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

// reader is a read session with its waiter.
type reader struct {
	*ReadSession
	waiter
	ctx context.Context
	t   *testing.T
}

func openReader(ctx context.Context, t *testing.T, c *Client, at Target, o ReadOptions) *reader {
	t.Helper()
	w := newWaiter()
	r, err := c.OpenRead(ctx, at, o, w.wake)
	if err != nil {
		t.Fatal(err)
	}
	return &reader{r, w, ctx, t}
}

// take waits for something to take.
func (r *reader) take() (Batch, error) {
	r.t.Helper()
	for {
		var b Batch
		ok, err := r.TakeBatch(&b)
		if ok || err != nil {
			return b, err
		}
		select {
		case <-r.waiter:
		case <-r.ctx.Done():
			r.t.Fatal("nothing more comes")
		}
	}
}

// records takes n records.
func (r *reader) records(n int) []Record {
	r.t.Helper()
	var out []Record
	for len(out) < n {
		b, err := r.take()
		if err != nil {
			r.t.Fatalf("after %d of %d records: %v", len(out), n, err)
		}
		out = append(out, b.Records...)
	}
	return out
}

// end takes until the session ends.
func (r *reader) end() error {
	r.t.Helper()
	for {
		if _, err := r.take(); err != nil {
			return err
		}
	}
}

func ptr(n uint64) *uint64 { return &n }

func TestReadSessionFollows(t *testing.T) { testFollows(newEnv(t, Config{})) }

func testFollows(e *env) {
	t := e.T
	e.create("a/b c")
	e.append("a/b c", "one", "two")
	r := openReader(e.ctx, t, e.client, e.target("a/b c"), ReadOptions{SeqNum: ptr(1)})
	b, err := r.take()
	got := b.Records
	if err != nil || len(got) != 1 || got[0].SeqNum != 1 || string(got[0].Body) != "two" || string(got[0].Headers[0].Name) != "n" || got[0].Timestamp == 0 || got[0].MeteredSize() != 8+2+2+3 {
		t.Fatalf("%+v", got)
	}
	for err == nil && !b.HasTail { // the heartbeat may come with the record
		b, err = r.take()
	}
	if err != nil || b.Tail.SeqNum != 2 {
		t.Fatalf("%+v, %v", b, err)
	}
	for i := range 100 {
		e.append("a/b c", fmt.Sprint(i))
		if b, err = r.take(); err != nil || len(b.Records) != 1 || string(b.Records[0].Body) != fmt.Sprint(i) || !b.HasTail || b.Tail.SeqNum != uint64(3+i) {
			t.Fatalf("%+v, %v", b, err)
		}
	}
	r.Close()
	if err := r.end(); !errors.Is(err, ErrClosed) {
		t.Fatal(err)
	}
}

func TestReadSessionStarts(t *testing.T) { testStarts(newEnv(t, Config{})) }

func testStarts(e *env) {
	t := e.T
	e.create("s", "empty")
	e.append("s", "a", "b", "c")
	open := func(stream string, o ReadOptions) *reader { return openReader(e.ctx, t, e.client, e.target(stream), o) }
	if got := open("s", ReadOptions{TailOffset: ptr(2)}).records(2); got[0].SeqNum != 1 {
		t.Errorf("%+v", got)
	}
	if got := open("s", ReadOptions{Timestamp: ptr(0)}).records(3); got[0].SeqNum != 0 {
		t.Errorf("%+v", got)
	}
	if b, err := open("s", ReadOptions{SeqNum: ptr(9), Clamp: true}).take(); err != nil || b.Tail.SeqNum != 3 {
		t.Errorf("%+v, %v", b, err)
	}
	if b, err := open("empty", ReadOptions{TailOffset: ptr(64)}).take(); err != nil || !b.HasTail || b.Tail.SeqNum != 0 {
		t.Errorf("%+v, %v", b, err)
	}
	r := open("s", ReadOptions{SeqNum: ptr(0), Count: ptr(2), Wait: ptr(0)})
	if got := r.records(2); got[1].SeqNum != 1 {
		t.Errorf("%+v", got)
	}
	if err := r.end(); !errors.Is(err, io.EOF) {
		t.Errorf("a bounded session ends with %v", err)
	}
}

func TestReadSessionIsRefused(t *testing.T) { testIsRefused(newEnv(t, Config{})) }

func testIsRefused(e *env) {
	t := e.T
	e.create("s")
	e.append("s", "a")
	for _, c := range []struct {
		stream string
		o      ReadOptions
		status int
		code   string
		tail   *uint64
	}{
		{"missing", ReadOptions{}, 404, "stream_not_found", nil},
		{"s", ReadOptions{SeqNum: ptr(7)}, 416, "range_not_satisfiable", ptr(1)},
	} {
		err := openReader(e.ctx, t, e.client, e.target(c.stream), c.o).end()
		got, ok := errors.AsType[*Error](err)
		if !ok || got.Status != c.status || got.Code != c.code || (got.Tail == nil) != (c.tail == nil) || c.tail != nil && *got.Tail != *c.tail {
			t.Errorf("%s: %v", c.stream, err)
		}
	}
	at := e.target("s")
	at.Basin = "no-such-basin"
	err := openReader(e.ctx, t, e.client, at, ReadOptions{}).end()
	if got, ok := errors.AsType[*Error](err); !ok || got.Code != "basin_not_found" {
		t.Errorf("%v", err)
	}
}

// A stream of 100 MB passes through a session with a small window, beside one that is not read.
func TestReadSessionCatchesUp(t *testing.T) {
	testCatchesUp(newEnv(t, Config{Window: 64 << 10, MaxWindow: 64 << 10}))
}

func testCatchesUp(e *env) {
	t := e.T
	e.create("s")
	const batches, perBatch, size = 40, 500, 1000
	body := string(make([]byte, size))
	for range batches {
		bodies := make([]string, perBatch)
		for i := range bodies {
			bodies[i] = body
		}
		e.append("s", bodies...)
	}
	stuck := openReader(e.ctx, t, e.client, e.target("s"), ReadOptions{SeqNum: ptr(0)})
	r := openReader(e.ctx, t, e.client, e.target("s"), ReadOptions{SeqNum: ptr(0)})
	next := uint64(0)
	for next < batches*perBatch {
		b, err := r.take()
		if err != nil {
			t.Fatal(err)
		}
		for _, rec := range b.Records {
			if rec.SeqNum != next || len(rec.Body) != size {
				t.Fatalf("record %d of %d bytes at %d", rec.SeqNum, len(rec.Body), next)
			}
			next++
		}
	}
	c := stuck.conn
	c.mu.Lock()
	held := int(stuck.held) + len(stuck.recv.part)
	c.mu.Unlock()
	if held > maxFrameBytes+64<<10 {
		t.Errorf("%d bytes are held for a session that nobody reads", held)
	}
	if n := len(stuck.records(batches * perBatch)); n < batches*perBatch {
		t.Errorf("%d records", n)
	}
}

func TestManySessions(t *testing.T) {
	e := newEnv(t, Config{})
	e.create("s")
	var readers []*reader
	for range 350 {
		readers = append(readers, openReader(e.ctx, t, e.client, e.target("s"), ReadOptions{SeqNum: ptr(0)}))
	}
	for _, r := range readers {
		if b, err := r.take(); err != nil || !b.HasTail {
			t.Fatalf("%+v, %v", b, err)
		}
	}
	e.append("s", "a")
	for _, r := range readers {
		r.records(1)
	}
	o := readers[0].conn.origin
	o.mu.Lock()
	n := len(o.conns)
	o.mu.Unlock()
	if n != 4 {
		t.Errorf("%d connections for 350 sessions, 100 on each", n)
	}
	if err := e.server.Restart(); err != nil {
		t.Fatal(err)
	}
	for _, r := range readers {
		if err := r.end(); !errors.Is(err, ErrLost) {
			t.Fatal(err)
		}
	}
	if got := openReader(e.ctx, t, e.client, e.target("s"), ReadOptions{SeqNum: ptr(0)}).records(1); string(got[0].Body) != "a" {
		t.Errorf("%+v", got)
	}
}

// A proxy of Go asks for gzip where its client names no encoding, and passes frames on as they come.
func TestSessionThroughAProxy(t *testing.T) {
	e := newEnv(t, Config{})
	at, err := url.Parse(e.server.URL())
	if err != nil {
		t.Fatal(err)
	}
	var both http.Protocols
	both.SetHTTP1(true)
	both.SetUnencryptedHTTP2(true)
	out := &http.Transport{Protocols: new(http.Protocols)}
	out.Protocols.SetUnencryptedHTTP2(true)
	proxy := httptest.NewUnstartedServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) { r.SetURL(at) }, Transport: out, FlushInterval: -1,
	})
	proxy.Config.Protocols = &both
	proxy.Start()
	t.Cleanup(proxy.Close)
	t.Cleanup(out.CloseIdleConnections)
	e.create("s")
	body := strings.Repeat("long enough to be compressed ", 100)
	e.append("s", body, "short")
	r := openReader(e.ctx, t, e.client, Target{Base: proxy.URL + "/v1", Basin: testBasin, Stream: "s"}, ReadOptions{SeqNum: ptr(0)})
	if got := r.records(2); string(got[0].Body) != body || string(got[1].Body) != "short" {
		t.Errorf("%+v", got)
	}
	r.Close()
}
