package edge

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/klauspost/compress/gzip"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
)

// deadlines is a ResponseWriter whose body ends when net/http's would.
type deadlines struct {
	*httptest.ResponseRecorder
	sent *io.PipeWriter

	mu    sync.Mutex
	timer *time.Timer
}

func (d *deadlines) SetReadDeadline(at time.Time) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.timer != nil {
		d.timer.Stop()
	}
	if !at.IsZero() {
		d.timer = time.AfterFunc(time.Until(at), func() { _ = d.sent.CloseWithError(os.ErrDeadlineExceeded) })
	}
	return nil
}

// slowBody posts a body of size bytes; what is written to the pipe is what has come of it.
func slowBody(t *testing.T, s *Server, size int, answers chan<- *deadlines) *io.PipeWriter {
	body, client := io.Pipe()
	w := &deadlines{ResponseRecorder: httptest.NewRecorder(), sent: client}
	r := httptest.NewRequestWithContext(t.Context(), "POST", "/v1/stream/x", body)
	r.Header.Set("Content-Type", "text/plain")
	r.ContentLength = int64(size)
	go func() {
		s.ServeHTTP(w, r)
		_ = w.SetReadDeadline(time.Time{})
		_ = body.Close()
		answers <- w
	}()
	return client
}

func acceptingBackend() fakeBackend {
	return fakeBackend{do: func(*shard.Request) (shard.Outcome, error) {
		return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true}}, nil
	}}
}

// Thousands of bodies that do not come, or come a little and no further, keep out no client that sends one.
func TestStalledBodiesKeepNobodyOut(t *testing.T) {
	const clients, size = 4096, 16 << 10
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{}, acceptingBackend())
		defer s.Close()
		answers := make(chan *deadlines, clients)
		var pipes []*io.PipeWriter
		for range clients {
			pipes = append(pipes, slowBody(t, s, size, answers))
		}
		synctest.Wait()
		if n := s.writesBudget.held.Load(); n != 0 {
			t.Errorf("%d bytes are counted of bodies of which nothing has come", n)
		}
		if n := testutil.ToFloat64(s.metrics.bodies); n != clients {
			t.Errorf("%v bodies are on their way", n)
		}
		others := func(when string) {
			t.Helper()
			for _, n := range []int{1, 10 << 10, 1 << 20} {
				if w := ask(t, s, "POST", "/v1/stream/x", strings.NewReader(strings.Repeat("x", n)), text); w.Code != 204 {
					t.Fatalf("%s: one of %d bytes: %d %s", when, n, w.Code, w.Body)
				}
			}
		}
		others("nothing has come")
		for _, n := range []int{1, size - 2} { // a byte each, and then all but the last
			for _, p := range pipes {
				_, _ = p.Write(make([]byte, n))
			}
			<-time.After(2 * evictableAfter)
			synctest.Wait()
			if held := s.writesBudget.held.Load(); held > s.writesBudget.limit {
				t.Errorf("%d bytes are counted", held)
			}
			others(fmt.Sprint(n, " bytes more have come"))
		}
		if n := testutil.ToFloat64(s.metrics.abandonedBodies.WithLabelValues(string(reasonSlowBody))); n == 0 || n > clients/2 {
			t.Errorf("%v of %d were cut to make room", n, clients)
		}
		began := time.Now()
		for range clients { // the deadline for all of a body
			if w := <-answers; w.Code != 408 && w.Code != 429 || w.Header().Get("Connection") != "close" {
				t.Fatalf("%d %v", w.Code, w.Header())
			}
		}
		if d := time.Since(began); d > bodyGrace {
			t.Errorf("the last was given up after %v", d)
		}
		if n := s.writesBudget.held.Load(); n != 0 || len(s.writesBudget.incoming) > 0 {
			t.Errorf("%d bytes are counted in the end, %d bodies", n, len(s.writesBudget.incoming))
		}
	})
}

// The slowest body goes, not the last, and none that comes as fast as its client can send.
func TestTheSlowestBodyIsEvicted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := New(Config{MaxBodies: 7 << 20}, acceptingBackend())
		defer s.Close()
		slowly, quickly := make(chan *deadlines, 1), make(chan *deadlines, 1)
		slow := slowBody(t, s, 4<<20, slowly)
		_, _ = slow.Write(make([]byte, 600<<10))
		<-time.After(4 * time.Second)
		fast := slowBody(t, s, 2<<20, quickly)
		_, _ = fast.Write(make([]byte, 1<<20))
		<-time.After(2 * time.Second)
		_, _ = fast.Write(make([]byte, 1<<20))
		if w := <-quickly; w.Code != 204 {
			t.Errorf("the fast one: %d %s", w.Code, w.Body)
		}
		w := <-slowly
		if p := recordedProblem(t, w.ResponseRecorder); w.Code != 429 || p.Type != problemBase+"body-cut" {
			t.Errorf("%d %+v", w.Code, p)
		}
		if n := s.writesBudget.held.Load(); n != 0 {
			t.Errorf("%d bytes are counted in the end", n)
		}
	})
}

// A body that takes too long is answered, on every kind of connection, and what else the connection
// carries goes on.
func TestLateBodyIsAnswered(t *testing.T) {
	for _, tls := range []bool{false, true} {
		s := newSiteOver(t, Config{}, tls)
		s.srv.bodyGrace = 200 * time.Millisecond
		s.put("/v1/stream/x", "", text)
		for _, major := range []int{1, 2}[:2-boolToInt(tls)] { // HTTP/2 by prior knowledge
			client := s.client(major)
			body, sender := io.Pipe()
			req, err := http.NewRequestWithContext(t.Context(), "POST", s.url+"/v1/stream/x", body)
			if err != nil {
				t.Fatal(err)
			}
			req.Header.Set("Content-Type", "text/plain")
			req.ContentLength = 1 << 10
			go func() { _, _ = sender.Write([]byte("abc")) }()
			resp, err := client.Do(req)
			if err != nil || resp.StatusCode != 408 || resp.ProtoMajor != major || major == 1 && !resp.Close {
				t.Fatalf("HTTP/%d, TLS %v: %v %v", major, tls, resp, err)
			}
			if b, _ := io.ReadAll(resp.Body); !bytes.Contains(b, []byte("body-late")) || bytes.Contains(b, []byte("127.0.0.1")) {
				t.Errorf("%s", b)
			}
			_ = sender.Close()
			next, err := client.Post(s.url+"/v1/stream/x", "text/plain", strings.NewReader("next"))
			if err != nil || next.StatusCode != 204 {
				t.Errorf("HTTP/%d, TLS %v: the next: %v %v", major, tls, next, err)
			}
		}
	}
}

func boolToInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// client speaks one version of HTTP.
func (s *site) client(major int) *http.Client {
	t := http.DefaultTransport.(*http.Transport).Clone() //nolint:errcheck // it is one
	t.TLSClientConfig = trusting.Clone()
	t.Protocols = new(http.Protocols)
	t.Protocols.SetHTTP1(major == 1)
	t.Protocols.SetHTTP2(major == 2)
	t.Protocols.SetUnencryptedHTTP2(major == 2)
	s.Cleanup(t.CloseIdleConnections)
	return &http.Client{Transport: t}
}

// The writes of one connection have a share of what all may hold; other connections have theirs.
func TestConnectionsShareTheBudgetOfWrites(t *testing.T) {
	begun, end := make(chan struct{}, 1000), make(chan struct{})
	s := New(Config{MaxBodies: 1 << 20}, fakeBackend{do: func(*shard.Request) (shard.Outcome, error) {
		begun <- struct{}{}
		<-end
		return shard.Outcome{Code: shard.CodeAppended, Info: shard.Info{Exists: true}}, nil
	}})
	t.Cleanup(s.Close)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	hs := s.HTTPServer()
	t.Cleanup(func() { _ = hs.Close() })
	go func() { _ = hs.Serve(netconn.Listen(ln)) }()
	x := &site{T: t, url: "http://" + ln.Addr().String(), srv: s}
	answers := make(chan *http.Response, 1000)
	post := func(c *http.Client) {
		resp, err := c.Post(x.url+"/v1/stream/x", "text/plain", strings.NewReader("abc"))
		if err != nil {
			t.Error(err)
		}
		answers <- resp
	}
	one, flying := x.client(2), 0
	for refused := false; !refused; {
		go post(one)
		select {
		case <-begun:
			flying++
		case resp := <-answers:
			b, _ := io.ReadAll(resp.Body)
			if refused = true; resp.StatusCode != 429 || !bytes.Contains(b, []byte("connection-share")) {
				t.Errorf("%d %s", resp.StatusCode, b)
			}
		}
	}
	if held := s.writesBudget.held.Load(); held > s.writesBudget.limit/connFraction || flying < 10 {
		t.Errorf("%d writes hold %d bytes", flying, held)
	}
	go post(x.client(2))
	<-begun
	close(end)
	for range flying + 1 {
		if resp := <-answers; resp.StatusCode != 204 {
			t.Error(resp.StatusCode)
		}
	}
}

func gzipOf(b string) string {
	var out bytes.Buffer
	z := gzip.NewWriter(&out)
	_, _ = z.Write([]byte(b))
	_ = z.Close()
	return out.String()
}

// A body that is coded with gzip is stored as what it says, within the limits; one that is coded
// otherwise is refused.
func TestGzipBodiesAreStoredDecoded(t *testing.T) {
	s := newSite(t, Config{})
	s.put("/v1/stream/x", gzipOf("one "), header{"Content-Type": "text/plain", "Content-Encoding": "gzip"})
	coded := func(coding string) header {
		return header{"Content-Type": "text/plain", "Content-Encoding": coding}
	}
	for range 2 * appendsToTakeOver { // a writer's as well
		s.want(s.do("POST", "/v1/stream/x", gzipOf("two "), coded("gzip")), 204)
	}
	s.want(s.do("POST", "/v1/stream/x", gzipOf("three ")+gzipOf("four "), coded(" GZIP ")), 204)
	s.want(s.do("POST", "/v1/stream/x", "five", coded("identity")), 204)
	want := "one " + strings.Repeat("two ", 2*appendsToTakeOver) + "three four five"
	if got := s.want(s.do("GET", "/v1/stream/x", "", nil), 200); got != want {
		t.Errorf("%q", got)
	}
	for _, coding := range []string{"br", "zstd", "deflate", "gzip, gzip", "identity, gzip", "x"} {
		resp := s.do("POST", "/v1/stream/x", "abc", coded(coding))
		if b := s.want(resp, 415); resp.Header.Get("Accept-Encoding") != encodings || !strings.Contains(b, "gzip") {
			t.Errorf("%s: %v %s", coding, resp.Header, b)
		}
	}
	s.want(s.do("PUT", "/v1/stream/y", "abc", coded("br")), 415)
	for _, broken := range []string{"plain text", gzipOf("whole")[:20], gzipOf("a") + "b"} {
		s.want(s.do("POST", "/v1/stream/x", broken, coded("gzip")), 400)
	}
	s.want(s.do("POST", "/v1/stream/x", gzipOf(strings.Repeat("x", shard.MaxBody+1)), coded("gzip")), 413)
	js := header{"Content-Type": "application/json", "Content-Encoding": "gzip"}
	s.put("/v1/stream/j", gzipOf("[1,2]"), js)
	s.want(s.do("POST", "/v1/stream/j", gzipOf("["+strings.Repeat("1,", shard.MaxMessages)+"1]"), js), 413)
	if got := s.want(s.do("GET", "/v1/stream/j", "", nil), 200); got != "[1,2]" {
		t.Errorf("%q", got)
	}
	if n := s.srv.writesBudget.held.Load(); n != 0 {
		t.Errorf("%d bytes are counted in the end", n)
	}
}

// A message whose length could be said in two ways ends its connection.
func TestAmbiguousLengthClosesTheConnection(t *testing.T) {
	s := newSiteOver(t, Config{}, false)
	s.put("/v1/stream/x", "", text)
	var d net.Dialer
	c, err := d.DialContext(context.Background(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_, _ = io.WriteString(c, "POST /v1/stream/x HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 3\r\n"+
		"Transfer-Encoding: chunked\r\n\r\n1\r\na\r\n0\r\n\r\nDELETE /v1/stream/x HTTP/1.1\r\nHost: x\r\n\r\n")
	r := bufio.NewReader(c)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != 204 || !resp.Close {
		t.Fatal(resp, err)
	}
	if rest, _ := io.ReadAll(r); len(rest) > 0 {
		t.Errorf("%s", rest)
	}
}

// A head whose lines end in a bare LF is whole to net/http, and a writer does not wait for the rest.
func TestBareLineEndsGoBackToNetHTTP(t *testing.T) {
	s := newSiteOver(t, Config{}, false)
	s.put("/v1/stream/x", "", text)
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", strings.TrimPrefix(s.url, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(5 * time.Second)) // less than a writer would wait
	r := bufio.NewReader(c)
	head := "POST /v1/stream/x HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\n"
	for i, req := range slices.Concat(slices.Repeat([]string{head}, appendsToTakeOver+1), []string{strings.ReplaceAll(head, "\r", "")}) {
		_, _ = io.WriteString(c, req+"a")
		if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != 204 {
			t.Fatal(i, resp, err)
		}
	}
}
