package edge

import (
	"context"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// fakeBackend is a Backend that answers what a test wants; unset methods do not answer.
type fakeBackend struct {
	do     func(*shard.Request) (shard.Outcome, error)
	state  func(shard.InfoOptions) (shard.Info, error)
	follow func() (*shard.TailBuffer, error)
	page   func(from shard.Pos) (shard.RecordBatch, error)
}

func (f fakeBackend) Do(_ context.Context, req *shard.Request) (shard.Outcome, error) {
	if f.do == nil {
		return shard.Outcome{}, shard.ErrUnavailable
	}
	return f.do(req)
}

func (f fakeBackend) Info(_ context.Context, _ shard.StreamID, ask shard.InfoOptions) (shard.Info, error) {
	if f.state == nil {
		return shard.Info{}, shard.ErrUnavailable
	}
	return f.state(ask)
}

func (f fakeBackend) Follow(context.Context, shard.StreamID, shard.Pos) (*shard.TailBuffer, func(), error) {
	if f.follow == nil {
		return nil, nil, shard.ErrUnavailable
	}
	t, err := f.follow()
	return t, func() {}, err
}

func (f fakeBackend) ReadPage(_ context.Context, _ shard.StreamID, _ shard.Info, from shard.Pos) (shard.RecordBatch, error) {
	if f.page == nil {
		return shard.RecordBatch{}, shard.ErrUnavailable
	}
	return f.page(from)
}

func (fakeBackend) FindTime(context.Context, shard.StreamID, shard.Info, shard.Millis) (shard.Pos, error) {
	return 0, shard.ErrUnavailable
}

// ask is one request without a network.
func ask(t *testing.T, s *Server, method, target string, body io.Reader, h header) *httptest.ResponseRecorder {
	t.Helper()
	r := httptest.NewRequestWithContext(t.Context(), method, target, body)
	for k, v := range h {
		r.Header.Set(k, v)
	}
	w := httptest.NewRecorder()
	s.ServeHTTP(w, r)
	return w
}

// refused checks a problem and its Retry-After.
func refused(t *testing.T, w *httptest.ResponseRecorder, status int, slug string) {
	t.Helper()
	p := recordedProblem(t, w)
	if w.Code != status || p.Type != problemBase+slug {
		t.Errorf("%d %+v, want %d %s", w.Code, p, status, slug)
	}
	n, err := strconv.Atoi(w.Header().Get("Retry-After"))
	if later := status == 429 || status == 503; later != (err == nil && n > 0) {
		t.Errorf("%d with Retry-After %q", status, w.Header().Get("Retry-After"))
	}
}

// unreadBody is a body that must not be looked at.
type unreadBody struct{ *testing.T }

func (u unreadBody) Read([]byte) (int, error) {
	u.Error("the body was read")
	return 0, io.ErrUnexpectedEOF
}

// endlessReader is a body without an end that counts what was taken of it.
type endlessReader struct{ n int }

func (e *endlessReader) Read(b []byte) (int, error) {
	e.n += len(b)
	return len(b), nil
}

func TestLargeBodyIsRefusedUnread(t *testing.T) {
	s := New(Config{}, fakeBackend{})
	for _, method := range []string{"PUT", "POST"} {
		r := httptest.NewRequestWithContext(t.Context(), method, "/v1/stream/x", unreadBody{t})
		r.ContentLength = shard.MaxBody + 1
		r.Header.Set("Content-Type", "text/plain")
		w := httptest.NewRecorder()
		s.ServeHTTP(w, r)
		refused(t, w, 413, "too-large")
	}
	body := &endlessReader{}
	refused(t, ask(t, s, "POST", "/v1/stream/x", body, text), 413, "too-large")
	if body.n > shard.MaxBody+1 {
		t.Errorf("%d bytes were read", body.n)
	}
	if n := s.writesBudget.held.Load(); n != 0 {
		t.Errorf("%d bytes are still accounted for", n)
	}
}

func TestTooManyMessages(t *testing.T) {
	s := New(Config{}, fakeBackend{})
	many := "[" + strings.Repeat("1,", shard.MaxMessages) + "1]"
	js := header{"Content-Type": "application/json"}
	refused(t, ask(t, s, "POST", "/v1/stream/x", strings.NewReader(many), js), 413, "too-many-messages")
	// It is refused while it comes, not when it is there.
	rest := &endlessReader{}
	body := io.MultiReader(strings.NewReader(" "+many[:len(many)-1]+",\"a,b\","), rest)
	refused(t, ask(t, s, "POST", "/v1/stream/x", body, js), 413, "too-many-messages")
	if rest.n > 1<<20 {
		t.Errorf("%d bytes beyond the last message were read", rest.n)
	}
}

func TestMaxBodies(t *testing.T) {
	begun, end := make(chan struct{}), make(chan struct{})
	s := New(Config{MaxBodies: 256 << 10}, fakeBackend{do: func(req *shard.Request) (shard.Outcome, error) {
		begun <- struct{}{}
		<-end
		return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true}}, nil
	}})
	// A write holds its room until it is answered, and gives it back.
	post := func() *httptest.ResponseRecorder {
		return ask(t, s, "POST", "/v1/stream/x", strings.NewReader("abc"), text)
	}
	answers := make(chan int, 100)
	flying := 0
	for full := false; !full && flying < 100; {
		go func() { answers <- post().Code }()
		select {
		case <-begun:
			flying++
		case code := <-answers:
			if full = true; code != 429 {
				t.Fatal(code)
			}
		}
	}
	refused(t, post(), 429, "overloaded")
	if flying < 10 || flying == 100 {
		t.Errorf("%d writes of 3 bytes have room", flying)
	}
	close(end)
	for range flying {
		if code := <-answers; code != 204 {
			t.Errorf("one that has room: %d", code)
		}
	}
	if n := s.writesBudget.held.Load(); n != 0 {
		t.Errorf("%d bytes are held in the end", n)
	}
	go func() { <-begun }()
	if w := post(); w.Code != 204 {
		t.Errorf("once there is room: %d", w.Code)
	}
}

// Large bodies that come slowly hold what has come of them, four times at most, and leave
// room for small ones.
func TestSlowBodies(t *testing.T) {
	accept := func(*shard.Request) (shard.Outcome, error) {
		return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true}}, nil
	}
	s := New(Config{MaxBodies: 1 << 20}, fakeBackend{do: accept})
	var clients []*io.PipeWriter
	answers := make(chan int)
	for range 3 {
		body, client := io.Pipe()
		clients = append(clients, client)
		go func() {
			r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/stream/x", body)
			r.Header.Set("Content-Type", "text/plain")
			r.ContentLength = 1 << 20
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			_ = body.Close()
			answers <- w.Code
		}()
	}
	small := func() {
		t.Helper()
		if w := ask(t, s, "POST", "/v1/stream/x", strings.NewReader("abc"), text); w.Code != 204 {
			t.Errorf("a small one: %d", w.Code)
		}
	}
	for _, c := range clients {
		if _, err := io.WriteString(c, "abc"); err != nil {
			t.Fatal(err)
		}
	}
	small()
	if n := s.writesBudget.held.Load(); n > 3*firstReadBytes {
		t.Errorf("%d bytes are held of three bodies that have hardly begun", n)
	}
	for _, c := range clients {
		go func() { _, _ = io.Copy(c, strings.NewReader(strings.Repeat("x", 1<<20))) }()
		if status := <-answers; status != 429 {
			t.Errorf("too large a part of all: %d", status)
		}
		small()
	}
	if n := s.writesBudget.held.Load(); n != 0 {
		t.Errorf("%d bytes are held in the end", n)
	}
}

// Readers beyond the limit are told to come back; no reader is sent away for them, and
// a plain read is no such reader.
func TestMaxReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		host := shard.NewManager(logtest.NewMemory(1), shard.NewTailBuffers(0, 0), shard.Config{})
		defer func() { _ = host.Close() }()
		s := New(Config{MaxReaders: 1}, host)
		if w := ask(t, s, "PUT", "/v1/stream/x", strings.NewReader("a"), text); w.Code != 201 {
			t.Fatal(w.Code)
		}
		ctx, leave := context.WithCancel(t.Context())
		left := make(chan struct{})
		go func() {
			r := httptest.NewRequestWithContext(ctx, "GET", "/v1/stream/x?live=sse&offset=-1", nil)
			s.ServeHTTP(httptest.NewRecorder(), r)
			close(left)
		}()
		synctest.Wait()
		for _, live := range []string{"sse", "long-poll"} {
			refused(t, ask(t, s, "GET", "/v1/stream/x?offset=-1&live="+live, nil, nil), 503, "full")
		}
		if w := ask(t, s, "GET", "/v1/stream/x", nil, nil); w.Code != 200 {
			t.Errorf("a plain read: %d", w.Code)
		}
		leave()
		<-left
		if w := ask(t, s, "GET", "/v1/stream/x?offset=-1&live=long-poll", nil, nil); w.Code != 200 {
			t.Errorf("once there is room: %d", w.Code)
		}
	})
}

func TestReservedNamesAreNotSupported(t *testing.T) {
	s := New(Config{}, fakeBackend{})
	for _, h := range []header{
		{hForkOffset: position.FormatOffset(1, 1)},
		{hForkSub: "1"},
		{hForkSub: "0"},
		{hForkedFrom: ""},
		{hForkedFrom: "x"},
		{hForkedFrom: "/v1/stream/x", hForkOffset: "x"},
		{hForkedFrom: "/v1/stream/x", hForkSub: "-1"},
		{hForkedFrom: "/v1/stream/x", hForkSub: "05"},
	} {
		refused(t, ask(t, s, "PUT", "/v1/stream/y", nil, h), 400, "bad-header")
	}
	for _, path := range []string{"__ds", "__ds/subscriptions/x", "p/__ds", "p/__ds/x", "%5F%5Fds/x"} {
		for _, method := range []string{"GET", "PUT", "POST", "DELETE", "HEAD"} {
			refused(t, ask(t, s, method, "/v1/stream/"+path, nil, nil), 501, "not-supported")
		}
	}
}

// Invariant 6: that an owner cannot be reached never says that a stream, or a place
// in it, is gone.
func TestUnavailableIsNotGone(t *testing.T) {
	info := shard.Info{Exists: true, Generation: 9, Tail: 4, LogTail: 4, Type: "text/plain"}
	known := func(shard.InfoOptions) (shard.Info, error) { return info, nil }
	// What this node remembers is old: no stream, another generation, or a shorter one.
	old := func(was shard.Info) func(shard.InfoOptions) (shard.Info, error) {
		return func(a shard.InfoOptions) (shard.Info, error) {
			if a&shard.InfoAllowCached != 0 {
				return was, nil
			}
			return shard.Info{}, shard.ErrUnavailable
		}
	}
	tail := shard.NewTailBuffers(0, 0).Open("default/x", info, 4)
	for name, f := range map[string]fakeBackend{
		"nothing answers":       {},
		"no page":               {state: known, follow: func() (*shard.TailBuffer, error) { return tail, nil }},
		"no tail":               {state: known},
		"old: none":             {state: old(shard.Info{})},
		"old: other generation": {state: old(shard.Info{Exists: true, Generation: 10})},
		"old: shorter":          {state: old(shard.Info{Exists: true, Generation: 9, Tail: 1, LogTail: 1})},
		"not the owner": {
			do:    func(*shard.Request) (shard.Outcome, error) { return shard.Outcome{}, shard.ErrNotOwner },
			state: func(shard.InfoOptions) (shard.Info, error) { return shard.Info{}, shard.ErrNotOwner },
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) { unavailable(t, f) }) // a long-poll may wait
		})
	}
}

func unavailable(t *testing.T, f fakeBackend) {
	s := New(Config{}, f)
	at := position.FormatOffset(9, 2)
	for _, c := range []struct{ method, query string }{
		{"HEAD", ""},
		{"GET", ""},
		{"GET", "?offset=" + at},
		{"GET", "?offset=-1"},
		{"GET", "?offset=now"},
		{"GET", "?live=long-poll&offset=" + at},
		{"GET", "?live=sse&offset=" + at},
		{"GET", "?live=long-poll&offset=now"},
		{"PUT", ""},
		{"POST", ""},
		{"DELETE", ""},
	} {
		h := header{"Content-Type": "text/plain"}
		w := ask(t, s, c.method, "/v1/stream/x"+c.query, strings.NewReader("a"), h)
		switch reads := c.method == "GET" || c.method == "HEAD"; {
		case w.Code != 200 && w.Code != 204:
			refused(t, w, 503, "owner-unreachable")
		case !reads || f.state == nil: // what can be said without the owner is said
			t.Errorf("%s %s: %d %s", c.method, c.query, w.Code, w.Body)
		}
	}
	// To refuse a header takes no owner, but says nothing about the stream.
	if w := ask(t, s, "POST", "/v1/stream/x", nil, header{hProducerID: "p"}); w.Code != 400 {
		t.Errorf("bad header: %d", w.Code)
	}
}

// The room of a body that breaks off is free again.
func TestBrokenBody(t *testing.T) {
	s := New(Config{}, fakeBackend{})
	body := io.MultiReader(strings.NewReader("abc"), errReader{errors.New("reset by peer")})
	refused(t, ask(t, s, "POST", "/v1/stream/x", body, text), 400, "bad-body")
	if n := s.writesBudget.held.Load(); n != 0 {
		t.Errorf("%d bytes are still accounted for", n)
	}
}

type errReader struct{ err error }

func (e errReader) Read([]byte) (int, error) { return 0, e.err }

var _ http.Handler = (*Server)(nil)
