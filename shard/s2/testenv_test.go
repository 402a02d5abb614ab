package s2

import (
	"context"
	"fmt"
	"net/http"
	"os"
	"testing"
	"time"

	sdk "github.com/s2-streamstore/s2-sdk-go/s2"
	"go.uber.org/goleak"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

func TestMain(m *testing.M) {
	var allow []goleak.Option
	if os.Getenv("TEST_S2_ENDPOINT") != "" {
		// The SDK cannot close its idle session connection. The embedded S2 closes it at its own
		// end. Another S2 does not.
		allow = append(allow, goleak.IgnoreAnyFunction("golang.org/x/net/http2.(*clientConnReadLoop).run"))
	}
	goleak.VerifyTestMain(m, allow...)
}

const (
	testBasin = "fantail-test"
	id        = shard.StreamID("default/s")
)

// testEnv is an embedded S2 and a Log that reaches it over a socket.
type testEnv struct {
	*testing.T
	server *s2dev.Server
	log    *Log
}

func newTestEnv(t *testing.T) *testEnv {
	t.Helper()
	s, err := s2dev.Open(s2dev.Config{Listen: "127.0.0.1:0", Basins: []string{testBasin}})
	if err != nil {
		t.Fatal(err)
	}
	log, err := Open(Config{
		Endpoint: s.URL(), Basin: testBasin, backoff: 200 * time.Millisecond, timeout: 5 * time.Second,
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = log.Close()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return &testEnv{t, s, log}
}

// basin returns a basin of the same S2 without a socket.
func (r *testEnv) basin(name string) Basin { return r.server.Direct(name) }

// newManager returns a manager that owns all streams.
func (r *testEnv) newManager() *shard.Manager { return r.newManagerAt(nil) }

// newManagerAt returns a manager with its own clock.
func (r *testEnv) newManagerAt(now func() time.Time) *shard.Manager {
	h := shard.NewManager(r.log, shard.NewTailBuffers(0, 0), shard.Config{Now: now})
	r.Cleanup(func() { _ = h.Close() })
	return h
}

// nativeClient returns a client of the stream, as a program has it that uses S2 and knows nothing
// of us.
func (r *testEnv) nativeClient() *sdk.StreamClient { return r.basinClient().Stream(sdk.StreamName(id)) }

func (r *testEnv) basinClient() *sdk.BasinClient {
	c := sdk.New("none", &sdk.ClientOptions{
		BaseURL: r.server.URL() + "/v1", MakeBasinBaseURL: func(string) string { return r.server.URL() + "/v1" },
		HTTPClient: &http.Client{Transport: r.log.transport},
	})
	return c.Basin(testBasin)
}

// appendForeign appends records straight to S2.
func (r *testEnv) appendForeign(bodies ...string) {
	r.Helper()
	recs := make([]sdk.AppendRecord, len(bodies))
	for i, b := range bodies {
		recs[i] = sdk.AppendRecord{Body: []byte(b)}
	}
	r.appendRaw(recs...)
}

func (r *testEnv) appendRaw(recs ...sdk.AppendRecord) *sdk.AppendAck {
	r.Helper()
	ack, err := r.nativeClient().Append(r.Context(), &sdk.AppendInput{Records: recs})
	if err != nil {
		r.Fatal(err)
	}
	return ack
}

// createStream creates the stream in S2, without a record.
func (r *testEnv) createStream() {
	r.Helper()
	if err := r.log.Create(r.Context(), id); err != nil {
		r.Fatal(err)
	}
}

func request(op shard.Op, typ string, messages ...string) *shard.Request {
	q := &shard.Request{
		Stream: id, Op: op, ID: shard.NewAppendID(), MintedMillis: shard.MillisOf(time.Now()), Type: typ,
	}
	for _, m := range messages {
		q.Messages.Add([]byte(m))
	}
	return q
}

func (r *testEnv) mustDo(h *shard.Manager, q *shard.Request, want shard.Code) shard.Outcome {
	r.Helper()
	out, err := h.Do(r.Context(), q)
	if err != nil || out.Code != want {
		r.Fatalf("code %d %s (%v), want %d", out.Code, out.Why, err, want)
	}
	return out
}

func (r *testEnv) info(h *shard.Manager) shard.Info {
	r.Helper()
	info, err := h.Info(r.Context(), id, 0)
	if err != nil {
		r.Fatal(err)
	}
	return info
}

// readAll returns all visible messages, read in pages.
func (r *testEnv) readAll(h *shard.Manager) []string {
	r.Helper()
	info := r.info(h)
	var got []string
	for at := info.Start; at < info.Tail; {
		p, err := h.ReadPage(r.Context(), id, info, at)
		if err != nil {
			r.Fatal(err)
		}
		for i := p.Search(at); i < p.Len(); i++ {
			got = append(got, string(p.Message(i).Body))
		}
		at = p.To()
	}
	return got
}

// readLive reads the stream's tail buffer from its beginning until it has n messages.
func (r *testEnv) readLive(h *shard.Manager, n int) []string {
	r.Helper()
	info := r.info(h)
	tail, release, err := h.Follow(r.Context(), id, info.Start)
	if err != nil {
		r.Fatal(err)
	}
	defer release()
	ctx, cancel := context.WithTimeout(r.Context(), time.Minute)
	defer cancel()
	w := make(waker, 1)
	defer tail.Unwatch(w)
	var got []string
	for at := info.Start; len(got) < n; {
		ranges, st := tail.ReadAt(at, 1<<20, nil)
		if st == shard.StatusBelow {
			p, err := h.ReadPage(ctx, id, tail.Info(), at)
			if err != nil {
				r.Fatal(err)
			}
			ranges = append(ranges, p)
		}
		for _, g := range ranges {
			for i := g.Search(at); i < g.Len(); i++ {
				got = append(got, string(g.Message(i).Body))
			}
			at = max(at, g.To())
		}
		if len(ranges) > 0 || !tail.Watch(w, at) {
			if st == shard.StatusGone || st == shard.StatusClosed {
				return got
			}
			continue
		}
		select {
		case <-w:
		case <-ctx.Done():
			r.Fatalf("%d of %d messages: %q", len(got), n, got)
		}
	}
	return got
}

type waker chan struct{}

func (w waker) Wake() {
	select {
	case w <- struct{}{}:
	default:
	}
}

func (r *testEnv) wantEqual(what string, got []string, want ...string) {
	r.Helper()
	if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", want) {
		r.Fatalf("%s: %.300q, want %.300q", what, got, want)
	}
}

// wantHistory waits until the node sees these messages: it may learn of foreign records 250 ms
// late.
func (r *testEnv) wantHistory(h *shard.Manager, want ...string) {
	r.Helper()
	var got []string
	r.eventually("the history is as wanted", func() bool {
		got = r.readAll(h)
		return len(got) >= len(want)
	})
	r.wantEqual("history", got, want...)
}

// eventually waits until ok returns true.
func (r *testEnv) eventually(what string, ok func() bool) {
	r.Helper()
	ctx, cancel := context.WithTimeout(r.Context(), 20*time.Second)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for !ok() {
		select {
		case <-tick.C:
		case <-ctx.Done():
			r.Fatalf("does not happen: %s", what)
		}
	}
}
