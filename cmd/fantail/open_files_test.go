package main

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// The number of readers is lowered to what descriptors allow, with one warning that says what to
// do.
func TestReadersAreLimitedByDescriptors(t *testing.T) {
	for _, c := range []struct{ readers, limit, want int }{
		{200_000, 1 << 20, 200_000},
		{200_000, 201_024, 200_000},
		{200_000, 20_000, 18_976},
		{200_000, 1024, 768},
		{200_000, 256, 192},
		{100, 256, 100},
		{200_000, 10, 1},
	} {
		t.Run(fmt.Sprintf("%d readers with %d files", c.readers, c.limit), func(t *testing.T) {
			var b bytes.Buffer
			got := limitReaders(c.readers, c.limit, slog.New(newHandler(&b, slog.LevelInfo, "text")))
			if got != c.want {
				t.Errorf("%d readers with %d files: %d, want %d", c.readers, c.limit, got, c.want)
			}
			if n := strings.Count(b.String(), "ulimit -n"); n != min(c.readers-got, 1) {
				t.Errorf("%d readers with %d files: %s", c.readers, c.limit, b.String())
			}
		})
	}
}

// startWithFewFiles starts a node with a low limit of open files. Its S2 is in this process.
func startWithFewFiles(t *testing.T, files int, args ...string) (public, admin string) {
	t.Helper()
	path, s := startS2(t)
	at := freePorts(t, 2)
	cmd := exec.Command("sh", append([]string{
		"-c", fmt.Sprintf(`ulimit -n %d && exec "$0" "$@"`, files), path,
		"serve", "--http=" + at[0], "--admin=" + at[1], "--s2-endpoint=" + s.URL(), "--s2-basin=" + devBasin,
	}, args...)...)
	var log syncBuffer
	cmd.Stderr = &log
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		if got := log.String(); strings.Contains(got, "too many open files") || t.Failed() {
			t.Errorf("the log:\n%s", got)
		}
	})
	c := newClient(t)
	eventually(t, 20*time.Second, "it serves", func() bool {
		a, err := c.do(t.Context(), "GET", "http://"+at[1]+"/readyz", "")
		return err == nil && a.status == 200
	})
	return at[0], at[1]
}

type syncBuffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

// With more readers than descriptors, each reader is served or gets an answer, and the node's own
// connections go on.
func TestReadersBeyondDescriptorsAreAnswered(t *testing.T) {
	t.Parallel()
	public, admin := startWithFewFiles(t, 256)
	c := newClient(t)
	url := "http://" + public + "/v1/stream/p/s"
	c.must(t, 201, "PUT", url, "", "Content-Type", "text/plain")
	served, refused := 0, 0
	for i := range 400 {
		conn, err := net.Dial("tcp", public)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		fmt.Fprintf(conn, "GET /v1/stream/p/s?live=sse&offset=-1 HTTP/1.1\r\nHost: x\r\nAccept: text/event-stream\r\n\r\n")
		_ = conn.SetReadDeadline(time.Now().Add(30 * time.Second))
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil {
			t.Fatalf("reader %d got no answer: %v", i, err)
		}
		first := make([]byte, 6)
		if _, err := io.ReadFull(resp.Body, first); err != nil || resp.StatusCode != 200 {
			t.Fatalf("reader %d: %d %v", i, resp.StatusCode, err)
		}
		if string(first) == "retry:" {
			refused++
			_ = conn.Close()
		} else {
			served++
		}
	}
	if served < 100 || refused < 100 {
		t.Errorf("%d were served and %d refused", served, refused)
	}
	c.http.CloseIdleConnections()
	c.must(t, 200, "GET", "http://"+admin+"/livez", "")
	c.must(t, 200, "GET", "http://"+admin+"/readyz", "")
	c.must(t, 201, "PUT", url+"2", "x", "Content-Type", "text/plain")
	if v, ok := c.metric(t.Context(), admin, "fantail_open_files_limit"); !ok || v != 256 {
		t.Errorf("the limit: %v %v", v, ok)
	}
	if v, ok := c.metric(t.Context(), admin, "fantail_open_files"); !ok || v < 100 || v > 256 {
		t.Errorf("open: %v %v", v, ok)
	}
}

// Silent and idle connections do not keep the node from its own work.
func TestIdleConnectionsDoNotTakeAllDescriptors(t *testing.T) {
	t.Parallel()
	public, admin := startWithFewFiles(t, 256)
	c := newClient(t)
	for i := range 300 {
		conn, err := net.Dial("tcp", public)
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		if i < 150 { // becomes an idle one
			fmt.Fprintf(conn, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
		}
	}
	c.must(t, 200, "GET", "http://"+admin+"/livez", "")
	c.must(t, 200, "GET", "http://"+admin+"/metrics", "")
	c.must(t, 201, "PUT", "http://"+public+"/v1/stream/p/s", "x", "Content-Type", "text/plain") // within 30 s
	c.must(t, 200, "GET", "http://"+admin+"/readyz", "")
}
