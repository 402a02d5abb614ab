package s2

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/iotest"
	"time"
)

// httpCalls is a server with a client.
type httpCalls struct {
	*testing.T
	*httptest.Server
	u      *http1Transport
	opened atomic.Int64 // connections
}

func newHTTPCalls(t *testing.T, serve http.HandlerFunc) *httpCalls {
	c := &httpCalls{T: t}
	c.Server = httptest.NewUnstartedServer(serve)
	c.Config.ConnState = func(_ net.Conn, s http.ConnState) {
		if s == http.StateNew {
			c.opened.Add(1)
		}
	}
	c.Start()
	c.u = &http1Transport{dial: new(net.Dialer).DialContext, maxIdle: 4}
	t.Cleanup(func() {
		c.u.CloseIdleConnections()
		c.Close()
	})
	return c
}

// call makes a call and reads its answer.
func (c *httpCalls) call(ctx context.Context, method, body string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, method, c.URL, strings.NewReader(body))
	if err != nil {
		return "", err
	}
	resp, err := c.u.RoundTrip(req)
	if err != nil {
		return "", err
	}
	b, err := io.ReadAll(resp.Body)
	return string(b), errors.Join(err, resp.Body.Close())
}

func (c *httpCalls) want(method, body, want string) {
	c.Helper()
	if got, err := c.call(c.Context(), method, body); err != nil || got != want {
		c.Fatalf("%s %q: %q, %v; want %q", method, body, got, err, want)
	}
}

// echo answers with the request's body, with a known length, with an unknown one, or without a
// body.
func echo(w http.ResponseWriter, r *http.Request) {
	b, _ := io.ReadAll(r.Body)
	if len(b) == 0 {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	_, _ = w.Write(b[:len(b)/2])
	_ = http.NewResponseController(w).Flush()
	_, _ = w.Write(b[len(b)/2:])
}

// Consecutive calls use one connection. After simultaneous calls, up to maxIdle connections stay.
func TestConnectionsAreReused(t *testing.T) {
	t.Parallel()
	c := newHTTPCalls(t, echo)
	for _, body := range []string{"a", "", strings.Repeat("x", 1<<20), "b"} {
		c.want("POST", body, body)
	}
	if n := c.opened.Load(); n != 1 {
		t.Errorf("%d connections", n)
	}
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			for j := range 20 {
				body := fmt.Sprint(i, " ", j)
				if got, err := c.call(t.Context(), "POST", body); err != nil || got != body {
					t.Errorf("%q, %v; want %q", got, err, body)
				}
			}
		})
	}
	wg.Wait()
	if n := len(c.u.idle); n > 4 {
		t.Errorf("%d connections are kept", n)
	}
}

// An answer that is not read to its end does not spoil the next call.
func TestUnreadAnswerDoesNotSpoilTheNext(t *testing.T) {
	t.Parallel()
	c := newHTTPCalls(t, echo)
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), "POST", c.URL, strings.NewReader(strings.Repeat("x", 1<<20)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.u.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(resp.Body, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Fatal(err)
		}
		c.want("POST", "next", "next")
	}
}

// A connection that the server has closed is not used again. If the call is the first to notice, a
// GET is repeated, and a call with possible effects is not.
func TestClosedConnectionIsNotUsedAgain(t *testing.T) {
	t.Parallel()
	var served atomic.Int64
	c := newHTTPCalls(t, func(w http.ResponseWriter, r *http.Request) {
		served.Add(1)
		echo(w, r)
	})
	age := func(d time.Duration) {
		t.Helper()
		c.u.mu.Lock()
		defer c.u.mu.Unlock()
		if len(c.u.idle) != 1 {
			t.Fatalf("%d idle", len(c.u.idle))
		}
		c.u.idle[0].idleSince = time.Now().Add(-d)
		c.CloseClientConnections()
	}
	c.want("POST", "a", "a")
	age(time.Second)
	c.want("POST", "b", "b")
	age(-time.Minute) // as if it had just been used
	c.want("GET", "", "")
	age(-time.Minute)
	if got, err := c.call(t.Context(), "POST", "d"); err == nil {
		t.Errorf("%q on a connection that is closed", got)
	}
	c.want("POST", "e", "e")
	if n := served.Load(); n != 4 {
		t.Errorf("%d served", n)
	}
}

// A request body that fails ends its call and the connection.
func TestFailingRequestBodyEndsTheCall(t *testing.T) {
	t.Parallel()
	c := newHTTPCalls(t, echo)
	broken := errors.New("broken")
	req, err := http.NewRequestWithContext(t.Context(), "POST", c.URL, io.MultiReader(strings.NewReader("x"), iotest.ErrReader(broken)))
	if err != nil {
		t.Fatal(err)
	}
	req.ContentLength = 2
	if _, err := c.u.RoundTrip(req); err == nil || !strings.Contains(err.Error(), broken.Error()) { //nolint:bodyclose // there is no body
		t.Error(err) // net/http's own error has no Unwrap
	}
	if n := len(c.u.idle); n != 0 {
		t.Errorf("%d idle", n)
	}
}

// The context ends the wait for an answer, and for the rest of one.
func TestContextEndsACall(t *testing.T) {
	t.Parallel()
	gone := errors.New("gone")
	for _, first := range []string{"", "half"} {
		at := make(chan struct{})
		c := newHTTPCalls(t, func(w http.ResponseWriter, r *http.Request) {
			_, _ = io.WriteString(w, first)
			if first != "" {
				_ = http.NewResponseController(w).Flush()
			}
			close(at)
			<-r.Context().Done()
		})
		ctx, cancel := context.WithCancelCause(t.Context())
		go func() {
			<-at
			cancel(gone)
		}()
		if got, err := c.call(ctx, "GET", ""); !errors.Is(err, gone) {
			t.Errorf("%q, %v", got, err)
		}
		if n := len(c.u.idle); n != 0 {
			t.Errorf("%d idle", n)
		}
	}
}

// Interim answers are passed over, and a server that says it closes the connection is believed.
func TestInterimAnswersArePassedOver(t *testing.T) {
	t.Parallel()
	var lc net.ListenConfig
	l, err := lc.Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	opened := make(chan int, 1)
	go func() {
		n := 0
		for ; ; n++ {
			c, err := l.Accept()
			if err != nil {
				break
			}
			if req, err := http.ReadRequest(bufio.NewReader(c)); err == nil {
				_, _ = io.Copy(io.Discard, req.Body)
				_, _ = io.WriteString(c, "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 102 Processing\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")
			}
			_ = c.Close()
		}
		opened <- n
	}()
	u := &http1Transport{dial: new(net.Dialer).DialContext, maxIdle: 4}
	for range 2 {
		req, err := http.NewRequestWithContext(t.Context(), "POST", "http://"+l.Addr().String(), bytes.NewReader([]byte("x")))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := u.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || string(b) != "ok" || resp.StatusCode != 200 {
			t.Errorf("%s: %q, %v", resp.Status, b, err)
		}
		if len(u.idle) != 0 {
			t.Error("kept though the server closes it")
		}
	}
	_ = l.Close()
	if n := <-opened; n != 2 {
		t.Errorf("%d connections", n)
	}
	req, err := http.NewRequestWithContext(t.Context(), "GET", "http://"+l.Addr().String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := u.RoundTrip(req); !isDialError(err) { //nolint:bodyclose // there is no body
		t.Errorf("nobody listens: %v", err)
	}
}

// The answer of a server that refuses a body before reading it is returned.
func TestEarlyRefusalOfABodyIsRead(t *testing.T) {
	t.Parallel()
	c := newHTTPCalls(t, func(w http.ResponseWriter, _ *http.Request) {
		http.Error(w, "too large", http.StatusRequestEntityTooLarge)
	})
	for range 3 {
		req, err := http.NewRequestWithContext(t.Context(), "POST", c.URL, bytes.NewReader(make([]byte, 32<<20)))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.u.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if b, err := io.ReadAll(resp.Body); err != nil || resp.StatusCode != 413 || string(b) != "too large\n" {
			t.Errorf("%s: %q, %v", resp.Status, b, err)
		}
		if len(c.u.idle) != 0 {
			t.Error("a connection with half a request is kept")
		}
	}
}

// A connection with bytes after the answer is closed.
func TestConnectionWithSurplusBytesIsClosed(t *testing.T) {
	t.Parallel()
	for _, says := range []string{
		"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nbad",
		"HTTP/1.1 204 No Content\r\n\r\nbody",
		"HTTP/1.1 101 Switching Protocols\r\n\r\n",
	} {
		server, client := net.Pipe()
		u := &http1Transport{maxIdle: 4, dial: func(context.Context, string, string) (net.Conn, error) { return client, nil }}
		go func() {
			if _, err := http.ReadRequest(bufio.NewReader(server)); err != nil {
				t.Error(err)
			}
			_, _ = io.WriteString(server, says)
		}()
		req, err := http.NewRequestWithContext(t.Context(), "GET", "http://x", nil)
		if err != nil {
			t.Fatal(err)
		}
		resp, err := u.RoundTrip(req)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadAll(resp.Body); err != nil || resp.Body.Close() != nil || len(u.idle) != 0 {
			t.Errorf("%q: %v, %d idle", says, err, len(u.idle))
		}
		_ = server.Close()
	}
}

// Connections that have been idle for maxIdleTime are closed.
func TestIdleConnectionsAreClosed(t *testing.T) {
	t.Parallel()
	c := newHTTPCalls(t, echo)
	c.want("POST", "a", "a")
	c.u.closeExpired()
	c.u.mu.Lock()
	if len(c.u.idle) != 1 || c.u.pruneTimer == nil {
		t.Errorf("%d idle", len(c.u.idle))
	}
	c.u.idle[0].idleSince = time.Now().Add(-maxIdleTime)
	c.u.mu.Unlock()
	c.u.closeExpired()
	if len(c.u.idle) != 0 || c.u.pruneTimer != nil {
		t.Errorf("%d idle", len(c.u.idle))
	}
}
