package main

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
)

// readerPage reads a stream as a web page does, with nothing but EventSource, and reports to the test
// what it received.
const readerPage = `<!doctype html><script>
const events = new EventSource(%q)
const tell = (what) => fetch("/told", {method: "POST", body: what})
events.addEventListener("data", (e) => tell(e.data))
events.addEventListener("control", (e) => {
  const c = JSON.parse(e.data)
  if (c.upToDate && !c.streamClosed) tell("up to date")
})
events.onerror = () => tell("error, state " + events.readyState)
</script>`

// A real browser's EventSource reads, loses its connection, reconnects to another node with its
// Last-Event-ID, gets the rest and stops at the end.
func TestBrowser(t *testing.T) {
	chromium := os.Getenv("TEST_CHROMIUM")
	if chromium == "" {
		t.Skip("TEST_CHROMIUM names no browser")
	}
	f := startFleet(t, 3)
	c := newClient(t)
	c.must(t, 201, "PUT", f.url(0, "page"), "", "Content-Type", "text/plain")
	balancer := startBalancer(t, f)

	told := make(chan string, 100)
	var mux http.ServeMux
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintf(w, readerPage, "http://"+balancer.addr()+"/v1/stream/page?live=sse&offset=now")
	})
	mux.HandleFunc("POST /told", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		told <- string(b)
	})
	site := httptest.NewServer(&mux)
	defer site.Close()
	profile, err := os.MkdirTemp("", "fantail-browser-") //nolint:usetesting // the browser writes there a little longer than it lives
	if err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), chromium, "--headless=new", "--no-sandbox", "--disable-gpu",
		"--user-data-dir="+profile, site.URL)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		eventually(t, 10*time.Second, "the browser's profile is gone", func() bool { return os.RemoveAll(profile) == nil })
	}()
	// Calls of fetch may overtake each other: the reports are compared as a set.
	expect := func(want ...string) {
		t.Helper()
		left := map[string]bool{}
		for _, w := range want {
			left[w] = true
		}
		for len(left) > 0 {
			select {
			case got := <-told:
				if !left[got] && got != "up to date" && !strings.HasPrefix(got, "error, state 0") {
					t.Fatalf("the page says %q, want %v", got, left)
				}
				delete(left, got)
			case <-time.After(60 * time.Second):
				t.Fatalf("the page does not say %v", left)
			}
		}
	}
	post := func(m string) { c.must(t, 204, "POST", f.url(1, "page"), m, "Content-Type", "text/plain") }
	expect("up to date")
	post("one")
	expect("one")
	balancer.breakConnections() // the next connection goes to another node
	post("two")
	post(" three, with a space before it")
	expect("two", " three, with a space before it")
	c.must(t, 204, "POST", f.url(0, "page"), "four", "Content-Type", "text/plain", "Stream-Closed", "true")
	expect("four", "error, state 2") // after a 204 it does not reconnect
}

// balancer passes each connection on to the next node.
type balancer struct {
	net.Listener
	mu    sync.Mutex
	conns []net.Conn
}

func startBalancer(t *testing.T, f *devFleet) *balancer {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	b := &balancer{Listener: l}
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := 0; ; i++ {
			in, err := l.Accept()
			if err != nil {
				return
			}
			out, err := net.Dial("tcp", f.nodes[i%len(f.nodes)].publicListener.Addr().String())
			if err != nil {
				_ = in.Close()
				continue
			}
			b.mu.Lock()
			b.conns = append(b.conns, in, out)
			b.mu.Unlock()
			for _, pair := range [][2]net.Conn{{in, out}, {out, in}} {
				wg.Go(func() {
					_, _ = io.Copy(pair[0], pair[1])
					_ = in.Close()
					_ = out.Close()
				})
			}
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		b.breakConnections()
		wg.Wait()
	})
	return b
}

func (b *balancer) addr() string { return b.Addr().String() }

// breakConnections breaks every connection.
func (b *balancer) breakConnections() {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, c := range b.conns {
		_ = c.Close()
	}
	b.conns = nil
}
