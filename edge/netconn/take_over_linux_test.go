package netconn

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

// echo is a server whose handler notes what it is asked.
type echo struct {
	addr string
	fast *AppendConns
	hs   *http.Server
}

type echoKey struct{}

// newEcho serves from the first append on by writers, or never.
func newEcho(t testing.TB, writers bool, ask http.HandlerFunc, settings ...func(*http.Server)) *echo {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it does not wait
	if err != nil {
		t.Fatal(err)
	}
	e := &echo{addr: l.Addr().String(), fast: NewAppendConns(slog.New(slog.DiscardHandler), time.Minute)}
	if e.fast.MinAppends = math.MaxInt; writers {
		e.fast.MinAppends = 1
	}
	e.hs = newHTTPServer()
	e.hs.RegisterOnShutdown(e.fast.FinishAll)
	e.hs.Handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Context().Value(echoKey{}) != nil {
			t.Error("what a handler adds to one request's context is in the next one's")
		}
		r = r.WithContext(context.WithValue(r.Context(), echoKey{}, true))
		if ask(w, r); r.Method == http.MethodPost {
			e.fast.TakeOver(w, r)
		}
	})
	for _, set := range settings {
		set(e.hs)
	}
	done := make(chan error, 1)
	go func() { done <- e.hs.Serve(Listen(l)) }()
	t.Cleanup(func() {
		_ = e.hs.Close()
		e.fast.Close()
		<-done
	})
	return e
}

// newHTTPServer has the settings that package edge gives its server.
func newHTTPServer() *http.Server {
	var p http.Protocols
	p.SetHTTP1(true)
	p.SetHTTP2(true)
	p.SetUnencryptedHTTP2(true)
	return &http.Server{
		Protocols: &p, ReadHeaderTimeout: 10 * time.Second, IdleTimeout: 620 * time.Second, MaxHeaderBytes: 32 << 10,
		ConnContext: func(ctx context.Context, c net.Conn) context.Context { return ConnContext(ctx, c, time.Minute) },
		ErrorLog:    slog.NewLogLogger(slog.DiscardHandler, slog.LevelDebug),
	}
}

// dial opens a connection that lasts no longer than a test may.
func (e *echo) dial(t testing.TB) *net.TCPConn {
	t.Helper()
	from := net.IPv4(127, byte(rand.N(200)+1), byte(rand.N(200)), byte(rand.N(200)+1)) // a fuzz target needs many ports
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}}
	c, err := dialer.DialContext(context.Background(), "tcp", e.addr)
	if err != nil {
		t.Fatal(err)
	}
	if err := c.SetDeadline(time.Now().Add(30 * time.Second)); err != nil {
		t.Fatal(err)
	}
	return c.(*net.TCPConn)
}

// twoServers is a server with append connections and one without, and what their handlers were asked.
type twoServers struct {
	with, without *echo
	asked         map[*echo]*[]string
	silent        bool // what is said to no request does not count: to one of three bytes net/http says nothing, if it is new
}

func newTwoServers(t testing.TB) *twoServers {
	u := &twoServers{asked: map[*echo]*[]string{}}
	one := func(writers bool) *echo {
		var asked []string
		e := newEcho(t, writers, func(w http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			var head bytes.Buffer
			_ = r.Header.Write(&head)
			ctx := r.Context()
			asked = append(asked, fmt.Sprintf("%s %q %v %s %q %d %v %t %q %v %t %t\n%s", r.Method, r.RequestURI, r.URL, r.Proto, r.Host,
				r.ContentLength, r.TransferEncoding, r.Close, body, err,
				ctx.Value(http.ServerContextKey) != nil, ctx.Value(http.LocalAddrContextKey) != nil, head.Bytes()))
			if r.Method == http.MethodPost {
				w.Header()["X-Told"] = []string{"one\r\nline", "and another"}
				w.WriteHeader(http.StatusNoContent)
				return
			}
			_, _ = io.WriteString(w, "ok")
		})
		u.asked[e] = &asked
		return e
	}
	u.with, u.without = one(true), one(false)
	return u
}

// converse has one of the servers hear the pieces, and returns what its handler was asked and what
// the client was told, but for its order and the time.
func (u *twoServers) converse(t testing.TB, e *echo, pieces ...string) (asked, told []string) {
	t.Helper()
	*u.asked[e] = nil
	c := e.dial(t)
	defer c.Close()
	sent := make(chan struct{})
	go func() {
		defer close(sent)
		for _, p := range pieces {
			if _, err := io.WriteString(c, p); err != nil {
				return // it has been refused
			}
		}
		_ = c.CloseWrite()
	}()
	all, err := io.ReadAll(c)
	if err != nil && !errors.Is(err, syscall.ECONNRESET) {
		t.Fatalf("%q: %v", pieces, err)
	}
	_ = c.Close()
	<-sent
	told = strings.Split(string(all), "\r\n")
	told = slices.DeleteFunc(told, func(line string) bool {
		return strings.HasPrefix(line, "Date: ") || u.silent && slices.Contains(refusal, line)
	})
	slices.Sort(told)
	return *u.asked[e], told
}

// check has both hear the same after an append, which makes a writer.
func (u *twoServers) check(t testing.TB, pieces ...string) {
	t.Helper()
	u.same(t, append([]string{simple}, pieces...)...)
}

// same has both hear the same.
func (u *twoServers) same(t testing.TB, pieces ...string) {
	t.Helper()
	asked, told := u.converse(t, u.without, pieces...)
	gotAsked, gotTold := u.converse(t, u.with, pieces...)
	if !slices.Equal(asked, gotAsked) {
		t.Errorf("of %q:\nthe handler is asked\n%q\nby a writer, and\n%q\nby net/http", pieces, gotAsked, asked)
	}
	if !slices.Equal(told, gotTold) {
		t.Errorf("of %q:\nthe client is told\n%q\nby a writer, and\n%q\nby net/http", pieces, gotTold, told)
	}
}

// refusal holds the answer of net/http to what is no request.
var refusal = []string{"HTTP/1.1 400 Bad Request", "400 Bad Request", "Connection: close", "Content-Type: text/plain; charset=utf-8"}

const simple = "POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: 5\r\n\r\nhello"

// requests are some that a writer answers, and some that it had better not.
var requests = []string{
	simple,
	"POST /v1/stream/x?a=%20b&c HTTP/1.1\r\nhost: h\r\ncontent-length: 0\r\n\r\n",
	"POST /v1/stream/x HTTP/1.1\r\nHost:h\r\nA: 1\r\nB:\r\na:  2 \t\r\nX_y: \t\r\nConnection: Keep-Alive\r\nContent-Length: 007\r\n\r\n\r\n\r\n\r\n.",
	"POST /v1/stream/%zz HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/a%2Fb HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST //v1/../x#f HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST http://h/v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST  /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1 \r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.0\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"post /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: other\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\n\r\n",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: +1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1, 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length:\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 99999999999999999999\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 70000\r\n\r\n" + strings.Repeat("b", 70000),
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 4000\r\nA: " + strings.Repeat("c", 200) + "\r\n\r\n" + strings.Repeat("d", 4000),
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nA: " + strings.Repeat("e", 9000) + "\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\n",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n1\r\na\r\n0\r\n\r\n",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding : chunked\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding:\x0bchunked\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nExpect: 100-continue\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: close\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nConnection: keep-alive, close\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nPragma: no-cache\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\nHost: h\nContent-Length: 1\n\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nA: b\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nA: b\r\n folded\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\n Host: h\r\nContent-Length: 1\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nA\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n: a\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nA: \x00\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nA: \xe9\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\nA: b\rc\r\n\r\na",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nshort",
	"POST /v1/stream/x HTTP/1.1\r\nHost: h\r\nConte",
	"PUT /v1/stream/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
	"GET /v1/stream/x HTTP/1.1\r\nHost: h\r\n\r\n",
	"\r\n" + simple,
	"\r\n\r\n",
	"\x16\x03\x01\x00\x05hello",
	"",
}

// Whatever comes after an append, and in whatever pieces, handler and client get of it what they
// would by net/http alone. What a request is followed by is a request, or part of the one before.
func TestAppendConnAnswersAsNetHTTP(t *testing.T) {
	t.Parallel()
	u := newTwoServers(t)
	for _, r := range requests {
		u.check(t, r)
		u.check(t, simple+r+r+simple+simple)
		if len(r) < 1000 {
			u.check(t, strings.Split(r+simple+r, "")...)
		}
		for _, at := range []string{"\n", "\r\n\r\n"} {
			if head, rest, found := strings.Cut(r, at); found {
				u.check(t, head+at, rest, simple)
			}
		}
	}
}

// What makes a writer decides what it may be asked next.
func TestTakeOverNeedsPlainAppends(t *testing.T) {
	t.Parallel()
	u := newTwoServers(t)
	for _, first := range []string{
		"POST /x HTTP/1.1\r\nHost:\r\nContent-Length: 1\r\n\r\na",
		"POST http://a<b/x HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na",
		"POST http://h/x HTTP/1.1\r\nHost: i\r\nContent-Length: 1\r\n\r\na",
		"POST /x HTTP/1.0\r\nHost: h\r\nConnection: keep-alive\r\nContent-Length: 1\r\n\r\na",
		"POST /x HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\na",
		"POST /x HTTP/1.1\r\nHost: h\r\nConnection: close\r\nContent-Length: 1\r\n\r\na",
		"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\nA: b\r\n\r\n",
	} {
		for _, host := range []string{"Host: h\r\n", "Host: a<b\r\n", "Host:\r\n", ""} {
			u.same(t, first, "POST /y HTTP/1.1\r\n"+host+"Content-Length: 1\r\n\r\nb")
		}
	}
}

func FuzzWriter(f *testing.F) {
	for _, r := range requests {
		f.Add(r, simple)
		f.Add(simple[:20], simple[20:]+r)
	}
	u := newTwoServers(f)
	u.silent = true
	f.Fuzz(func(t *testing.T, a, b string) {
		if strings.Contains(a+b, string(http2Preface)) {
			t.Skip("a writer hangs up")
		}
		u.check(t, a, b)
	})
}

// takenOverConn returns a connection that was taken over, after one append.
func (e *echo) takenOverConn(t testing.TB) (net.Conn, *bufio.Reader) {
	t.Helper()
	c := e.dial(t)
	t.Cleanup(func() { _ = c.Close() })
	r := bufio.NewReader(c)
	post(t, c, r, simple)
	for !e.hasTakenOver(1) { // the answer comes first
		runtime.Gosched()
	}
	return c, r
}

// hasTakenOver reports whether there are n append connections.
func (e *echo) hasTakenOver(n int) bool {
	a := e.fast
	a.mu.Lock()
	defer a.mu.Unlock()
	return len(a.conns) >= n
}

func sendText(t testing.TB, c net.Conn, what string) {
	t.Helper()
	if _, err := io.WriteString(c, what); err != nil {
		t.Fatal(err)
	}
}

// post asks, and wants a 204.
func post(t testing.TB, c net.Conn, r *bufio.Reader, request string) {
	t.Helper()
	sendText(t, c, request)
	readAnswer(t, r)
}

func readAnswer(t testing.TB, r *bufio.Reader) (last bool) {
	t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusNoContent {
		t.Fatalf("%v, %v", resp, err)
	}
	_ = resp.Body.Close()
	return resp.Close
}

func wantClosed(t testing.TB, r *bufio.Reader) {
	t.Helper()
	if b, err := io.ReadAll(r); err != nil || len(b) > 0 {
		t.Fatalf("%q, %v, want the end", b, err)
	}
}

func noContent(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	w.WriteHeader(http.StatusNoContent)
}

// A client that sends nothing, or does not finish its request, is disconnected, as by net/http.
func TestIdleAppendConnIsClosed(t *testing.T) {
	t.Parallel()
	for _, said := range []string{"", "PO", "POST /x HTTP/1.1\r\nHost: h"} {
		e := newEcho(t, true, noContent, func(hs *http.Server) {
			hs.IdleTimeout, hs.ReadHeaderTimeout = 100*time.Millisecond, 50*time.Millisecond
		})
		c, r := e.takenOverConn(t)
		post(t, c, r, simple)
		sendText(t, c, said)
		wantClosed(t, r)
	}
}

// A server that shuts down answers what it was asked, hears no more, and waits for that.
func TestShutdownAnswersTheRequestInProgress(t *testing.T) {
	t.Parallel()
	asked, answered := make(chan struct{}), make(chan struct{})
	e := newEcho(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(asked)
			<-answered
		}
		noContent(w, r)
	})
	_, idle := e.takenOverConn(t)
	c, busy := e.takenOverConn(t)
	sendText(t, c, "POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na")
	<-asked
	if err := e.hs.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	wantClosed(t, idle)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the grace ran out")
	cancel(why)
	if err := e.fast.Shutdown(ctx); !errors.Is(err, why) {
		t.Errorf("%v while something is asked", err)
	}
	close(answered)
	if err := e.fast.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	if !readAnswer(t, busy) {
		t.Error("the last answer does not say so")
	}
	wantClosed(t, busy)
}

// An append that has come is carried out though its client hangs up, and for a bounded time. A client that
// still listens hears of it.
func TestSweeperEndsWhatTakesTooLong(t *testing.T) {
	t.Parallel()
	e := newEcho(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			<-r.Context().Done()
		}
		noContent(w, r)
	})
	e.fast.mu.Lock()
	e.fast.maxRounds = 2
	e.fast.mu.Unlock()
	c, r := e.takenOverConn(t)
	sendText(t, c, "POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na")
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.CloseWrite()
	}
	if !readAnswer(t, r) {
		t.Error("the connection goes on")
	}
	wantClosed(t, r)
}

// A Server that closes ends what is asked.
func TestCloseEndsTheRequestInProgress(t *testing.T) {
	t.Parallel()
	asked := make(chan struct{})
	e := newEcho(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/slow" {
			close(asked)
			<-r.Context().Done()
		}
		noContent(w, r)
	})
	c, r := e.takenOverConn(t)
	sendText(t, c, "POST /slow HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na")
	<-asked
	e.fast.Close()
	wantClosed(t, r)
}

// A handler that panics ends its connection, and nothing else.
func TestPanicEndsOneAppendConn(t *testing.T) {
	t.Parallel()
	e := newEcho(t, true, func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/abort" {
			panic(http.ErrAbortHandler)
		}
		noContent(w, r)
	})
	c, r := e.takenOverConn(t)
	d, s := e.takenOverConn(t)
	sendText(t, c, "POST /abort HTTP/1.1\r\nHost: h\r\nContent-Length: 1\r\n\r\na")
	wantClosed(t, r)
	post(t, d, s, simple)
}

// What a writer's request costs in allocations, with a field or two; the handler's are not in it.
func TestAppendConnAllocations(t *testing.T) {
	e := newEcho(t, true, noContent)
	c, r := e.takenOverConn(t)
	b := make([]byte, 512)
	request := []byte(simple)
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := c.Write(request); err != nil {
			t.Error(err)
		}
		if _, err := r.Read(b); err != nil {
			t.Error(err)
		}
	}); n > 12 { // 10, and what the pools of the race detector forget
		t.Errorf("%v allocations", n)
	}
}
