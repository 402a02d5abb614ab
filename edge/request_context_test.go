package edge

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// serveOverTCP returns the address of a node whose storage takes a while.
func serveOverTCP(t *testing.T, log io.Writer) string {
	host := shard.NewManager(logtest.NewMemory(1).NewClient(1, 10*time.Millisecond), shard.NewTailBuffers(0, 0), shard.Config{})
	s := New(Config{Logger: slog.New(slog.NewTextHandler(log, nil))}, host)
	ln, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it is local
	if err != nil {
		t.Fatal(err)
	}
	hs := s.HTTPServer()
	go func() { _ = hs.Serve(netconn.Listen(ln)) }()
	t.Cleanup(func() {
		_ = hs.Close()
		s.Close()
		_ = host.Close()
	})
	return ln.Addr().String()
}

// sendHalfClosed sends requests, says that nothing follows, and reads the last answer.
func sendHalfClosed(t *testing.T, addr string, requests ...string) (*http.Response, string) {
	t.Helper()
	var d net.Dialer
	c, err := d.DialContext(t.Context(), "tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	_ = c.SetDeadline(time.Now().Add(10 * time.Second)) // less than a long-poll waits
	r := bufio.NewReader(c)
	for i, req := range requests {
		head, body, _ := strings.Cut(req, "|")
		method, _, _ := strings.Cut(head, " ")
		_, _ = fmt.Fprintf(c, "%s HTTP/1.1\r\nHost: h\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n%s", head, len(body), body)
		if i == len(requests)-1 {
			if tcp, ok := c.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
		}
		resp, err := http.ReadResponse(r, &http.Request{Method: method})
		if err != nil {
			t.Fatalf("%s: %v", head, err)
		}
		b, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatalf("%s: %v", head, err)
		}
		if i == len(requests)-1 {
			return resp, string(b)
		}
	}
	return nil, ""
}

// A request that has come whole is carried out and answered, though its client has said that
// nothing follows.
func TestHalfClosedRequestIsAnswered(t *testing.T) {
	var log bytes.Buffer
	addr := serveOverTCP(t, &log)
	const at = "/v1/stream/x"
	want := ""
	for _, c := range []struct {
		request string
		status  int
		says    string
	}{
		{"PUT " + at + "|one;", 201, ""},
		{"HEAD " + at, 200, ""},
		{"POST " + at + "|two;", 204, ""},
		{"GET " + at, 200, "one;two;"},
		{"GET " + at + "?offset=now&live=long-poll", 204, ""},
		{"GET " + at + "?offset=-1&live=long-poll", 200, "one;two;"},
		{"GET " + at + "?offset=-1&live=sse", 200, "two;"},
		{"PUT /v1/stream/y", 201, ""},
		{"DELETE /v1/stream/y", 204, ""},
		{"GET /v1/stream/z", 404, ""},
	} {
		t.Run(c.request, func(t *testing.T) {
			resp, b := sendHalfClosed(t, addr, c.request)
			got := strings.Join(strings.Fields(strings.ReplaceAll(b, "data:", "")), "")
			if resp.StatusCode != c.status || !strings.Contains(got, c.says) {
				t.Errorf("%s: %d %q, want %d %q", c.request, resp.StatusCode, b, c.status, c.says)
			}
		})
	}
	for i := range 20 { // by a writer
		requests := make([]string, appendsToTakeOver+2)
		for j := range requests {
			requests[j] = fmt.Sprintf("POST %s|%d.%d;", at, i, j)
			want += fmt.Sprintf("%d.%d;", i, j)
		}
		if resp, b := sendHalfClosed(t, addr, requests...); resp.StatusCode != 204 {
			t.Fatalf("%d %s", resp.StatusCode, b)
		}
	}
	if _, b := sendHalfClosed(t, addr, "GET "+at); b != "one;two;"+want {
		t.Errorf("%q", b)
	}
	if log.Len() > 0 {
		t.Error(log.String())
	}
}

// An append whose client is gone is carried out, and no warning.
func TestAppendOfAGoneClientIsExecuted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var log bytes.Buffer
		seen := make(chan error, 1)
		s := New(Config{Logger: slog.New(slog.NewTextHandler(&log, nil))}, contextBackend{do: func(ctx context.Context) error {
			select {
			case <-ctx.Done():
			case <-time.After(maxRequestTime / 2):
			}
			seen <- ctx.Err()
			if ctx.Err() != nil {
				return context.Cause(ctx)
			}
			<-ctx.Done()
			return context.Cause(ctx)
		}})
		defer s.Close()
		ctx, leave := context.WithCancel(t.Context())
		leave()
		began := time.Now()
		w := httptest.NewRecorder()
		s.ServeHTTP(w, httptest.NewRequestWithContext(ctx, "POST", "/v1/stream/x", strings.NewReader("a")))
		if err := <-seen; err != nil {
			t.Errorf("it ended with its client: %v", err)
		}
		if d := time.Since(began); d != maxRequestTime || w.Code != 503 || log.Len() > 0 {
			t.Errorf("after %v: %d, %s", d, w.Code, log.String())
		}
	})
	refusedBy := problemOf(context.Canceled)
	if refusedBy == unexpectedProblem {
		t.Error("that a request was given up is in no table")
	}
}

// contextBackend is a Backend that looks at contexts.
type contextBackend struct {
	fakeBackend
	do func(context.Context) error
}

func (c contextBackend) Do(ctx context.Context, _ *shard.Request) (shard.Outcome, error) {
	return shard.Outcome{}, c.do(ctx)
}
