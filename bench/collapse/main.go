// Command collapse measures what long-polls cost the nodes behind a cache: many clients wait at the end
// of one stream, as browsers do, and each message answers all of them. It starts a fleet of three nodes
// and runs the recipes of deploy/proxies in front (nginx, varnishd).
package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/fleet"
	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

var (
	clients = flag.Int("clients", 10_000, "clients that wait; each has a connection")
	rounds  = flag.Int("messages", 5, "messages, one after the other, each when all clients wait")
	pause   = flag.Duration("pause", 2*time.Second, "between two messages")
	quiet   = flag.Duration("quiet", 45*time.Second, "time without a message at the end: long-polls end after 20 s")
	nodes   = flag.Int("nodes", 3, "nodes")
	most    = flag.Float64("most", 0, "fail if a cache sends more requests to the nodes for each message (0: no limit)")
	only    = flag.String("only", "", "one of none, nginx, varnish (default: each)")
)

func main() {
	flag.Parse()
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run() error {
	f, err := fleet.Start(*nodes, 0)
	if err != nil {
		return err
	}
	defer f.Stop()
	fmt.Printf("%d clients wait with long-polls at the end of one stream, through a cache in front of %d nodes.\n", *clients, *nodes)
	fmt.Printf("%d messages; then %v without one, in which each long-poll ends once or twice.\n\n", *rounds, *quiet)
	fmt.Printf("%-8s %12s %14s %18s %11s %11s %18s %14s\n", "cache", "requests of", "requests to", "requests to nodes", "last client", "", "requests of", "to nodes,")
	fmt.Printf("%-8s %12s %14s %18s %11s %11s %18s %14s\n", "", "clients", "nodes", "for each message", "median", "worst", "clients, quiet", "quiet")
	for _, c := range caches() {
		if *only != "" && c.name != *only {
			continue
		}
		if err := measure(f, c); err != nil {
			return fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return nil
}

// measure runs the clients behind one cache and prints a line.
func measure(f *fleet.Fleet, c cache) error {
	front, err := c.start()
	if err != nil {
		return err
	}
	defer front.stop()
	path := "/v1/stream/collapse-" + c.name
	web := &http.Client{Timeout: 20 * time.Second}
	if err := ask.Send(web, http.MethodPut, fleet.HTTP(0)+path, "text/plain", nil); err != nil {
		return err
	}
	crowd := &crowd{addr: front.addr, path: path}
	defer crowd.stop()
	if err := crowd.start(*clients); err != nil {
		return err
	}
	atNodes := func() int64 { return int64(f.Sum("fantail_http_requests_total")) }
	began, sent := atNodes(), crowd.sent.Load()
	var last hist.Hist
	for i := range *rounds {
		if err := wait.For(30*time.Second, fmt.Sprintf("all clients wait: %d do", crowd.waiting.Load()), func() bool { return crowd.waiting.Load() == int64(*clients) }); err != nil {
			return err
		}
		time.Sleep(*pause)
		crowd.answered.Store(0)
		at := time.Now()
		if err := ask.Send(web, http.MethodPost, fleet.HTTP(i%*nodes)+path, "text/plain", fmt.Appendf(nil, "message %d\n", i)); err != nil {
			return err
		}
		if err := wait.For(60*time.Second, "every client has the message", func() bool { return crowd.answered.Load() >= int64(*clients) }); err != nil {
			return fmt.Errorf("%w: %d have", err, crowd.answered.Load())
		}
		last.Add(time.Unix(0, crowd.lastAt.Load()).Sub(at))
	}
	requests, asked := atNodes()-began-int64(*rounds), crowd.sent.Load()-sent // the writes are not the clients'
	began, sent = atNodes(), crowd.sent.Load()
	time.Sleep(*quiet)
	fmt.Printf("%-8s %12d %14d %18.1f %9.2f s %9.2f s %18d %14d\n", c.name, asked, requests, float64(requests)/float64(*rounds),
		last.Quantile(0.5).Seconds(), last.Quantile(1).Seconds(), crowd.sent.Load()-sent, atNodes()-began)
	if per := float64(requests) / float64(*rounds); *most > 0 && c.name != "none" && per > *most {
		return fmt.Errorf("%.1f requests for each message, want at most %.1f", per, *most)
	}
	if n := crowd.wrong.Load(); n > 0 {
		return fmt.Errorf("%d answers were wrong, the first: %v", n, crowd.firstWrong.Load())
	}
	return nil
}

// crowd is clients that ask for what comes next, and ask again.
type crowd struct {
	addr, path string

	conns      []net.Conn
	wg         sync.WaitGroup
	stopping   atomic.Bool
	sent       atomic.Int64
	waiting    atomic.Int64
	answered   atomic.Int64 // with a message, since it was set to 0
	lastAt     atomic.Int64 // when the last of them was, Unix ns
	wrong      atomic.Int64
	firstWrong atomic.Value
}

func (c *crowd) start(n int) error {
	for range n {
		conn, err := net.Dial("tcp", c.addr)
		if err != nil {
			return err
		}
		c.conns = append(c.conns, conn)
		c.wg.Go(func() {
			if err := c.run(conn); err != nil && !c.stopping.Load() {
				c.wrong.Add(1)
				c.firstWrong.CompareAndSwap(nil, err.Error())
			}
		})
	}
	return nil
}

func (c *crowd) stop() {
	c.stopping.Store(true)
	for _, conn := range c.conns {
		_ = conn.Close()
	}
	c.wg.Wait()
}

// run asks with the offset and the cursor of each answer, as the protocol's clients do.
func (c *crowd) run(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 1<<10)
	offset, cursor := "-1", ""
	for {
		url := c.path + "?live=long-poll&offset=" + offset
		if cursor != "" {
			url += "&cursor=" + cursor
		}
		c.sent.Add(1)
		if _, err := fmt.Fprintf(conn, "GET %s HTTP/1.1\r\nHost: streams.example.com\r\n\r\n", url); err != nil {
			return err
		}
		c.waiting.Add(1)
		a, err := http.ReadResponse(in, nil)
		c.waiting.Add(-1)
		if err != nil {
			return err
		}
		body, err := io.ReadAll(a.Body)
		_ = a.Body.Close()
		switch {
		case err != nil:
			return err
		case a.StatusCode == http.StatusOK && len(bytes.TrimSpace(body)) > 0:
			c.lastAt.Store(time.Now().UnixNano())
			c.answered.Add(1)
		case a.StatusCode != http.StatusNoContent && a.StatusCode != http.StatusOK:
			return fmt.Errorf("%s: %s", a.Status, body)
		}
		if offset, cursor = a.Header.Get("Stream-Next-Offset"), a.Header.Get("Stream-Cursor"); offset == "" {
			return errors.New("an answer without Stream-Next-Offset")
		}
	}
}
