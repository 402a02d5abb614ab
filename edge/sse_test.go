package edge

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse/ssetest"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// bubble is a lone node whose connections are pipes without any buffer: in a
// synctest bubble its time is the test's.
type bubble struct {
	*testing.T
	srv   *Server
	conns chan net.Conn
	reg   *prometheus.Registry
}

func newBubble(t *testing.T, cfg Config, streams Backend) *bubble {
	t.Helper()
	b := &bubble{T: t, conns: make(chan net.Conn), reg: prometheus.NewRegistry()}
	if streams == nil {
		host := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{})
		t.Cleanup(func() { _ = host.Close() })
		streams, cfg.Creations, cfg.ReaderCounts = host, host, host
	}
	cfg.Metrics = b.reg
	b.srv = New(cfg, streams)
	hs := b.srv.HTTPServer()
	served := make(chan error)
	go func() { served <- hs.Serve(b) }()
	t.Cleanup(func() {
		_ = hs.Close()
		<-served
	})
	return b
}

// Accept, Close and Addr are what http.Server wants of a listener.
func (b *bubble) Accept() (net.Conn, error) {
	if c, ok := <-b.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (b *bubble) Close() error {
	close(b.conns)
	return nil
}

func (b *bubble) Addr() net.Addr { return &net.TCPAddr{} }

func (b *bubble) dial() net.Conn {
	server, client := net.Pipe()
	b.conns <- server
	b.Cleanup(func() { _ = client.Close() })
	return client
}

// write is a request whose answer must be of status.
func (b *bubble) write(method, path, body string, status int) {
	b.Helper()
	w := ask(b.T, b.srv, method, path, strings.NewReader(body), text)
	if w.Code != status {
		b.Fatalf("%s %s: %d %s", method, path, w.Code, w.Body)
	}
}

// stream is an SSE response as it comes in.
type stream struct {
	*bubble
	conn net.Conn
	resp *http.Response
	buf  []byte          // what is not a whole event yet
	come []ssetest.Event // what was not asked for yet
	id   string          // of the last event that came
}

// get opens an SSE response and takes nothing but its head.
func (b *bubble) get(query string, h header) *stream {
	b.Helper()
	conn := b.dial()
	go func() { // a pipe: the server may answer before it has read all
		_, _ = fmt.Fprintf(conn, "GET /v1/stream/x?live=sse&%s HTTP/1.1\r\nHost: x\r\n", query)
		for k, v := range h {
			_, _ = fmt.Fprintf(conn, "%s: %s\r\n", k, v)
		}
		_, _ = io.WriteString(conn, "\r\n")
	}()
	resp, err := http.ReadResponse(bufio.NewReaderSize(conn, 16), nil)
	if err != nil || resp.StatusCode != 200 {
		b.Fatal(resp, err)
	}
	return &stream{bubble: b, conn: conn, resp: resp}
}

// next is the next n events.
func (s *stream) next(n int) []ssetest.Event {
	s.Helper()
	p := make([]byte, 4096)
	for len(s.come) < n {
		m, err := s.resp.Body.Read(p)
		if s.buf = append(s.buf, p[:m]...); err != nil && m == 0 {
			s.Fatalf("%d events, want %d: %v", len(s.come), n, err)
		}
		es, rest, err := ssetest.Parse(s.buf)
		if err != nil {
			s.Fatal(err)
		}
		s.take(es)
		s.buf = rest
	}
	es := s.come[:n:n]
	s.come = s.come[n:]
	return es
}

// rest is every event until the server ends the response, which must be well-formed.
func (s *stream) rest() []ssetest.Event {
	s.Helper()
	b, err := io.ReadAll(s.resp.Body)
	if err != nil {
		s.Fatal(err)
	}
	es, rest, err := ssetest.Parse(append(s.buf, b...))
	if err != nil || len(rest) > 0 {
		s.Fatalf("ends inside an event: %q, %v", rest, err)
	}
	s.take(es)
	return s.come
}

// take adds events, each with its id.
func (s *stream) take(es []ssetest.Event) {
	for _, e := range es {
		if e.ID == "" {
			e.ID = s.id
		}
		s.id = e.ID
		s.come = append(s.come, e)
	}
}

// count is the value of a counter of the Server, over all its labels.
func (b *bubble) count(name string) float64 {
	b.Helper()
	all, err := b.reg.Gather()
	if err != nil {
		b.Fatal(err)
	}
	for _, f := range all {
		if f.GetName() == name {
			sum := 0.0
			for _, m := range f.GetMetric() {
				sum += m.GetCounter().GetValue()
			}
			return sum
		}
	}
	b.Fatal("no such metric")
	return 0
}

func TestFirstEventIsImmediate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "", 201)
		start := time.Now()
		for _, at := range []string{"-1", "now"} {
			s := b.get("offset="+at, nil)
			e := s.next(1)[0]
			if e.Name != "control" || !strings.Contains(e.Data, `"upToDate":true`) || !strings.Contains(e.Data, e.ID) {
				t.Errorf("%+v", e)
			}
			if d := time.Since(start); d != 0 {
				t.Errorf("after %v", d)
			}
			h := s.resp.Header
			if h.Get("Content-Type") != "text/event-stream" || h.Get("X-Accel-Buffering") != "no" ||
				h.Get("Cache-Control") != "private, no-cache, no-store, no-transform" || s.resp.ContentLength != -1 {
				t.Errorf("%v", h)
			}
		}
	})
}

func TestSilenceIsBrokenByHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "", 201)
		s := b.get("offset=-1", nil)
		s.next(1)
		start := time.Now()
		for range 3 {
			p := make([]byte, 64)
			n, err := s.resp.Body.Read(p)
			if d := time.Since(start); err != nil || string(p[:n]) != ":\n\n" || d < 20*time.Second || d > 25*time.Second {
				t.Errorf("%q after %v, %v", p[:n], d, err)
			}
			start = time.Now()
		}
		b.write("POST", "/v1/stream/x", "a", 204)
		if e := s.next(2); e[0].Data != "a" || time.Since(start) != 0 {
			t.Errorf("%+v", e)
		}
	})
}

// What an EventSource does: it repeats its URL, and says what it got last.
func TestLastEventID(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		b.write("PUT", "/v1/stream/x", "", 201)
		empty := b.get("offset=-1", nil).next(1)[0].ID
		b.write("POST", "/v1/stream/x", "one", 204)
		now := b.get("offset=now", nil).next(1)[0].ID
		b.write("POST", "/v1/stream/x", "two", 204)
		for _, c := range []struct{ query, id, want string }{
			{"offset=-1", empty, "onetwo"},
			{"offset=now", empty, "onetwo"},
			{"offset=now", now, "two"},
			{"offset=" + empty, now, "two"},
			{"", now, "two"}, // it is an offset enough
			{"offset=nonsense", now, "two"},
			{"offset=-1", "nonsense", "onetwo"}, // no id of ours counts as none
			{"offset=-1", "now", "onetwo"},
			{"offset=" + empty, "-1", "onetwo"},
		} {
			s := b.get(c.query, header{"Last-Event-ID": c.id})
			got := ""
			for done := false; !done; {
				e := s.next(2)
				got += e[0].Data
				done = strings.Contains(e[1].Data, "upToDate")
			}
			if got != c.want {
				t.Errorf("%s after %s: %q, want %q", c.query, c.id, got, c.want)
			}
		}
	})
}

// Invariant 5: a drain ends a connection after a whole event, however little of it
// the reader has taken.
func TestDrainInsideEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{}, nil)
		large := strings.Repeat("0123456789\n", 30_000)
		b.write("PUT", "/v1/stream/x", large, 201)
		s := b.get("offset=-1", nil)
		s.buf = make([]byte, 100)
		if _, err := io.ReadFull(s.resp.Body, s.buf); err != nil {
			t.Fatal(err)
		}
		drained := make(chan error)
		go func() { drained <- b.srv.Drain(context.Background(), 0) }()
		synctest.Wait()
		select {
		case err := <-drained:
			t.Fatalf("drained with a reader inside an event: %v", err)
		default:
		}
		es := s.rest()
		if err := <-drained; err != nil {
			t.Error(err)
		}
		if len(es) != 2 || es[0].Data != large || es[1].Name != "control" {
			t.Errorf("%d events: %.200v", len(es), es)
		}
	})
}

// A slow reader is never cut while it takes something, however long that lasts.
func TestSlowReaderIsNeverDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{Stall: time.Minute}, nil)
		large := strings.Repeat("0123456789abcdef", 16<<10)
		b.write("PUT", "/v1/stream/x", large, 201)
		s := b.get("offset=-1", nil)
		start := time.Now()
		for p := make([]byte, 1024); ; <-time.After(time.Second) { // the bubble's second
			n, err := s.resp.Body.Read(p)
			if s.buf = append(s.buf, p[:n]...); err != nil {
				t.Fatalf("cut after %v: %v", time.Since(start), err)
			}
			if es, _, err := ssetest.Parse(s.buf); err != nil {
				t.Fatal(err)
			} else if len(es) == 2 {
				if es[0].Data != large {
					t.Error("not what was written")
				}
				break
			}
		}
		if d := time.Since(start); d < 2*time.Minute || b.count("fantail_readers_cut_total") != 0 {
			t.Errorf("it took %v", d)
		}
	})
}

// A reader that takes nothing is cut, and counted.
func TestStalledReaderIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{Stall: time.Minute}, nil)
		b.write("PUT", "/v1/stream/x", strings.Repeat("x", 256<<10), 201)
		s := b.get("offset=-1", nil)
		start := time.Now()
		for b.srv.counts.count() > 0 {
			if <-time.After(time.Second); time.Since(start) > 2*time.Minute {
				t.Fatal("never cut")
			}
		}
		if d := time.Since(start); d < time.Minute-time.Second || b.count("fantail_readers_cut_total") != 1 {
			t.Errorf("cut after %v, %v counted", d, b.count("fantail_readers_cut_total"))
		}
		if _, err := io.Copy(io.Discard, s.resp.Body); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("the client takes half an event for a whole one: %v", err)
		}
	})
}

// Readers that take nothing hold what is written to them. Of too many, those go first
// that have been stuck for longest; one that takes what it gets is never cut for it.
func TestLongestBlockedIsDisconnectedForMemory(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{Stall: time.Minute, PinnedBytes: 1 << 20}, nil)
		const stuck = 10
		offsets := []string{"-1"}
		b.write("PUT", "/v1/stream/x", "", 201)
		for range stuck + 1 {
			w := ask(b.T, b.srv, "POST", "/v1/stream/x", strings.NewReader(strings.Repeat("x", 200<<10)), text)
			offsets = append(offsets, w.Header().Get(hNextOffset))
		}
		for i := range stuck { // each at a frame of its own, a second apart
			b.get("offset="+offsets[i], nil)
			<-time.After(time.Second)
		}
		synctest.Wait()
		<-time.After(2 * time.Second)
		good := b.get("offset="+offsets[stuck], nil)
		if e := good.next(2); len(e[0].Data) != 200<<10 {
			t.Errorf("%d bytes", len(e[0].Data))
		}
		// Each newcomer makes room, one reader at a time.
		for range stuck {
			b.get("offset="+offsets[stuck], nil).next(2)
		}
		if held := b.srv.readerBudget.Held(); held > 1<<20 {
			t.Errorf("%d bytes are held", held)
		}
		cut := b.count("fantail_readers_cut_total")
		if cut < 3 || b.srv.counts.count() != 1+stuck+stuck-int(cut) {
			t.Errorf("%v cut, %d readers", cut, b.srv.counts.count())
		}
		b.write("POST", "/v1/stream/x", "still here", 204)
		if e := good.next(2); e[0].Data != "still here" {
			t.Errorf("%+v", e)
		}
	})
}

// A plain read of a client that takes nothing ends, too.
func TestStalledCatchUpIsDisconnected(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{Stall: time.Minute}, nil)
		b.write("PUT", "/v1/stream/x", strings.Repeat("x", 256<<10), 201)
		conn := b.dial()
		if _, err := io.WriteString(conn, "GET /v1/stream/x HTTP/1.1\r\nHost: x\r\n\r\n"); err != nil {
			t.Fatal(err)
		}
		<-time.After(time.Minute + time.Second)
		synctest.Wait()
		if n, err := io.Copy(io.Discard, conn); err != nil || n >= 256<<10 {
			t.Errorf("%d bytes were kept for it: %v", n, err)
		}
	})
}

// A write's deadline is not one of the silence after it. HTTP/2 in particular ends
// the response when a deadline passes, whether or not something is being written.
func TestSilenceHasNoWriteDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := newBubble(t, Config{Stall: 5 * time.Second}, nil)
		b.write("PUT", "/v1/stream/x", "", 201)
		var p http.Protocols
		p.SetUnencryptedHTTP2(true)
		tr := &http.Transport{Protocols: &p, DialContext: func(context.Context, string, string) (net.Conn, error) { return b.dial(), nil }}
		defer tr.CloseIdleConnections()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x/v1/stream/x?live=sse&offset=-1", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := tr.RoundTrip(req)
		if err != nil || resp.ProtoMajor != 2 {
			t.Fatal(resp, err)
		}
		defer func() { _ = resp.Body.Close() }()
		s := &stream{bubble: b, resp: resp}
		s.next(1)
		<-time.After(10 * time.Second)
		b.write("POST", "/v1/stream/x", "a", 204)
		if e := s.next(2); e[0].Data != "a" {
			t.Errorf("%+v", e)
		}
	})
}

// Invariant 3: a reader that was told where it stands is cut rather than sent past
// what is no longer kept; one that was told nothing begins where the stream begins.
func TestReaderIsNeverSentPastWhatWasTrimmed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info := shard.Info{Exists: true, Generation: 7, Type: "text/plain"}
		tail := shard.NewTailBuffers(0, 0).Open("default/x", info, 0)
		m := shard.Message{Pos: 5, Next: 6, Body: []byte("five")}
		b := newBubble(t, Config{}, fakeBackend{
			state:  func(shard.InfoOptions) (shard.Info, error) { return info, nil },
			follow: func() (*shard.TailBuffer, error) { return tail, nil },
			page: func(from shard.Pos) (shard.RecordBatch, error) {
				if from < 5 {
					return shard.RecordBatch{}, &shard.TrimmedError{First: 5}
				}
				return ssetest.Batch(t, from, 6, 6, false, []shard.Message{m}), nil
			},
		})
		early := b.get("offset=-1", nil)
		early.next(1)
		synctest.Wait()
		if err := early.conn.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		tail.SkipTo(6, 6, false)
		if es := early.rest(); len(es) != 0 {
			t.Errorf("sent past a hole: %+v", es)
		}
		late := b.get("offset=-1", nil)
		if e := late.next(2); e[0].Data != "five" {
			t.Errorf("%+v", e)
		}
	})
}

// A reader that is in the middle of history when storage stops to answer stays, and gets
// the rest once it is back.
func TestReaderSurvivesAnOutageOfStorage(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		info := shard.Info{Exists: true, Generation: 7, Type: "text/plain", Tail: 4, LogTail: 4}
		tail := shard.NewTailBuffers(0, 0).Open("default/x", info, 4)
		back := time.Now().Add(5 * time.Minute)
		b := newBubble(t, Config{}, fakeBackend{
			state:  func(shard.InfoOptions) (shard.Info, error) { return info, nil },
			follow: func() (*shard.TailBuffer, error) { return tail, nil },
			page: func(from shard.Pos) (shard.RecordBatch, error) {
				if from >= 2 && time.Now().Before(back) {
					return shard.RecordBatch{}, shard.ErrStoreDown
				}
				m := shard.Message{Pos: from, Next: from + 1, Body: fmt.Append(nil, "m", from)}
				return ssetest.Batch(t, from, from+1, from+1, false, []shard.Message{m}), nil
			},
		})
		s := b.get("offset=-1", nil)
		var got []string
		for _, e := range s.next(8) {
			if e.Name == "data" {
				got = append(got, e.Data)
			}
		}
		if fmt.Sprint(got) != "[m0 m1 m2 m3]" {
			t.Errorf("%q", got)
		}
		if late := time.Since(back); late < 0 || late > 2*pageRetryDelay {
			t.Errorf("%v after storage is back", late)
		}
	})
}

// While storage does not answer, what is known is served, and not called up to date; what
// rests on more than that is 503.
func TestCatchUpWithoutStore(t *testing.T) {
	info := shard.Info{Exists: true, Generation: 7, Type: "text/plain", Tail: 2, LogTail: 2}
	local := func(a shard.InfoOptions) (shard.Info, error) {
		if a&shard.InfoAllowCached == 0 {
			return shard.Info{}, shard.ErrStoreDown
		}
		return info, nil
	}
	srv := New(Config{}, fakeBackend{state: local, page: func(from shard.Pos) (shard.RecordBatch, error) {
		m := shard.Message{Pos: from, Next: from + 1, Body: fmt.Append(nil, "m", from)}
		return ssetest.Batch(t, from, from+1, from+1, false, []shard.Message{m}), nil
	}})
	w := ask(t, srv, "GET", "/v1/stream/x?offset=-1", nil, nil)
	if h := w.Header(); w.Code != 200 || w.Body.String() != "m0m1" || h.Get(hNextOffset) != position.FormatOffset(7, 2) ||
		h.Get(hUpToDate) != "" || h.Get("ETag") != "" || h.Get("Cache-Control") != "no-store" {
		t.Errorf("%d %q %v", w.Code, w.Body, h)
	}
	beyond := position.FormatOffset(7, 5)
	for _, q := range []string{"?offset=now", "?offset=" + beyond} {
		refused(t, ask(t, srv, "GET", "/v1/stream/x"+q, nil, nil), 503, "store-down")
	}
	if w := ask(t, srv, "HEAD", "/v1/stream/x", nil, nil); w.Code != 503 {
		t.Errorf("HEAD: %d", w.Code)
	}
	info.Closed = true
	w = ask(t, srv, "GET", "/v1/stream/x?offset=-1", nil, nil)
	if h := w.Header(); w.Code != 200 || h.Get(hUpToDate) != "true" || h.Get(hClosed) != "true" {
		t.Errorf("a closed stream is never longer: %d %v", w.Code, h)
	}
}

// An offset that is no longer kept is 410 to a live reader too: after an empty 200 an
// EventSource would reconnect without end.
func TestTrimmedOffsetIsGone(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/s", "a", text)
	var ids []string
	for _, m := range []string{"b", "c"} {
		ids = append(ids, s.do("POST", "/v1/stream/s", m, text).Header.Get(hNextOffset))
	}
	if _, err := s.log.Append(t.Context(), "default/s", 4, []shard.Entry{{Trim: true, TrimTo: 3}}); err != nil {
		t.Fatal(err)
	}
	s.want(s.do("POST", "/v1/stream/s", "d", text), 204) // with a checkpoint, for the one that is trimmed
	host := shard.NewManager(s.log, shard.NewTailBuffers(0, 0), shard.Config{})
	defer func() { _ = host.Close() }()
	o, _ := position.ParseOffset(ids[0])
	early := position.FormatOffset(o.Generation, 1)
	for _, live := range []string{"", "&live=long-poll", "&live=sse"} {
		refused(t, ask(t, New(Config{}, host), "GET", "/v1/stream/s?offset="+early+live, nil, nil), 410, "offset-gone")
	}
}
