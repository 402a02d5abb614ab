// Command distance measures appends while S2 is far away, one batch of a stream in flight beside
// several (--s2-pipelining), and first requests for streams that a node does not have in memory, with a
// column for another build if -before names its binary. A node, the embedded S2 and the link are one machine's; the link is a
// TUN device into a network of S2's own, so it needs root, and Linux. With -tokens an LLM's tokens are
// written and read by the protocol's own client for Node (make clients installs it), too.
package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

var (
	trips = flag.String("trips", "5ms,50ms,400ms", "round trips to S2")
	rates = flag.String("rates", "50,1000,5000", "appends a second on one stream")
	lasts = flag.Duration("for", 3*time.Second, "length of each measurement")
	sink  = flag.String("sink", "", "be the far end of the bare path, at an address; the command starts itself so")

	tokens = flag.Int("tokens", 0, "also measure the gaps that a reader over SSE sees in a stream of so many tokens a second, written through IdempotentProducer")
	only   = flag.String("only", "", "one part: rates, one, large, tokens, closed, touch")
	before = flag.String("before", "", "binary of another build, for a column of its own in the table of first requests")
)

func main() {
	flag.Parse()
	if *sink != "" {
		fmt.Fprintln(os.Stderr, "sink:", runSink(*sink))
		os.Exit(1)
	}
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "distance:", err)
		os.Exit(1)
	}
}

func run() error {
	dir, err := os.MkdirTemp("", "fantail-distance-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	bin := filepath.Join(dir, "fantail")
	if out, err := exec.Command("go", "build", "-o", bin, "./cmd/fantail").CombinedOutput(); err != nil {
		return fmt.Errorf("build: %w: %s", err, out)
	}
	l, err := openLink()
	if err != nil {
		return err
	}
	defer l.close()
	over := make(chan os.Signal, 1)
	signal.Notify(over, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-over
		l.close()
		os.Exit(1)
	}()
	store, err := child.Start("ip", "", "netns", "exec", namespace, bin, "s2", "--listen="+farAddr, "--allow-remote", "--basin=fantail-bench")
	if err != nil {
		return err
	}
	defer store.Stop()
	if err := wait.For(10*time.Second, "S2 answers", func() bool {
		c, err := net.DialTimeout("tcp", farAddr, time.Second)
		if err == nil {
			_ = c.Close()
		}
		return err == nil
	}); err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	far, err := child.Start("ip", "", "netns", "exec", namespace, self, "-sink="+net.JoinHostPort(farIP, sinkPort))
	if err != nil {
		return err
	}
	defer far.Stop()
	var all []time.Duration
	for _, text := range strings.Split(*trips, ",") {
		trip, err := time.ParseDuration(text)
		if err != nil {
			return err
		}
		all = append(all, trip)
	}
	if *only != "touch" {
		if err := runAppends(bin, l, all); err != nil {
			return err
		}
	}
	if *only == "" || *only == "touch" {
		return runTouches(bin, l, all)
	}
	return nil
}

func runAppends(bin string, l *link, trips []time.Duration) error {
	var nodes []*node
	for i, mode := range []string{"off", "on"} {
		n, err := startNode(bin, mode, i)
		if err != nil {
			return err
		}
		defer n.child.Stop()
		nodes = append(nodes, n)
	}
	fmt.Printf("%-9s %-28s %24s %24s\n", "trip", "appends", "one batch in flight", "several in flight")
	for _, trip := range trips {
		l.setRoundTrip(trip)
		if err := measure(trip, nodes); err != nil {
			return err
		}
	}
	return nil
}

// node is a Fantail process.
type node struct {
	child *child.Child
	url   string
	http  *http.Client
	made  int
}

func startNode(bin, pipelining string, i int) (*node, error) {
	addr := fmt.Sprintf("127.0.2.%d:4437", i+1)
	c, err := child.Start(bin, "", "serve", fmt.Sprintf("--name=distance-%d", i), "--http="+addr, fmt.Sprintf("--admin=127.0.2.%d:4447", i+1),
		"--linger=0s", "--drain=1s", "--s2-endpoint=http://"+farAddr, "--s2-basin=fantail-bench", "--s2-pipelining="+pipelining)
	if err != nil {
		return nil, err
	}
	n := &node{child: c, url: "http://" + addr, http: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 4000, MaxConnsPerHost: 4000}}}
	return n, wait.For(20*time.Second, "the node is ready", func() bool {
		s, err := n.newStream()
		return err == nil && s != ""
	})
}

func (n *node) newStream() (string, error) {
	n.made++
	s := fmt.Sprintf("%s/v1/stream/d%d-%d", n.url, os.Getpid(), n.made)
	return s, n.do(http.MethodPut, s, nil)
}

func (n *node) do(method, url string, body []byte) error {
	req, err := http.NewRequest(method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := n.http.Do(req)
	if err != nil {
		return err
	}
	_, _ = io.Copy(io.Discard, resp.Body)
	_ = resp.Body.Close()
	if resp.StatusCode >= 300 {
		return errors.New(resp.Status)
	}
	return nil
}

func measure(trip time.Duration, nodes []*node) error {
	line := func(part, what string, one func(n *node) (string, error)) error {
		if *only != "" && *only != part || part == "tokens" && *tokens == 0 {
			return nil
		}
		fmt.Printf("%-9s %-28s", trip, what)
		for _, n := range nodes {
			text, err := one(n)
			if err != nil {
				return fmt.Errorf("%s, %s: %w", what, n.url, err)
			}
			fmt.Printf(" %24s", text)
		}
		fmt.Println()
		return nil
	}
	for _, text := range strings.Split(*rates, ",") {
		var rate int
		if _, err := fmt.Sscan(text, &rate); err != nil {
			return err
		}
		if err := line("rates", text+"/s: p50, p99 in trips", func(n *node) (string, error) { return n.openLoop(rate, trip) }); err != nil {
			return err
		}
	}
	if err := line("one", "one after the other: trips", func(n *node) (string, error) { return n.oneByOne(trip) }); err != nil {
		return err
	}
	if err := line("large", "16 MiB in one: trips", func(n *node) (string, error) { return n.large(trip) }); err != nil {
		return err
	}
	if *only == "" || *only == "large" {
		bare, err := bareTCP(trip)
		if err != nil {
			return err
		}
		fmt.Printf("%-9s %-28s %24s\n", trip, "16 MiB over TCP alone: trips", bare)
	}
	if err := line("tokens", fmt.Sprintf("%d tokens/s: gaps in ms", *tokens), (*node).tokenGaps); err != nil {
		return err
	}
	if err := line("closed", "1,000 on one stream: /s", func(n *node) (string, error) { return n.closedLoop(1, 1000) }); err != nil {
		return err
	}
	return line("closed", "1,000 on 1,000: /s", func(n *node) (string, error) { return n.closedLoop(1000, 1000) })
}

// tokenGaps returns what a reader of tokens sees: the median and p99 of the gaps, and how much larger
// the one is.
func (n *node) tokenGaps() (string, error) {
	n.made++
	url := fmt.Sprintf("%s/v1/stream/d%d-%d", n.url, os.Getpid(), n.made)
	out, err := exec.Command("node", "bench/clients/tokens.mjs", url, fmt.Sprint(*tokens), fmt.Sprint(lasts.Seconds())).Output()
	if err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			err = fmt.Errorf("%w: %s", err, ended.Stderr)
		}
		return "", err
	}
	var saw struct {
		Tokens   int
		Gap, Way struct{ P50, P99 float64 }
	}
	if err := json.Unmarshal(out, &saw); err != nil {
		return "", err
	}
	return fmt.Sprintf("%.0f %.0f (%.2f), way %.0f %.0f", saw.Gap.P50, saw.Gap.P99, saw.Gap.P99/saw.Gap.P50, saw.Way.P50, saw.Way.P99), nil
}

var body = bytes.Repeat([]byte("x"), 200)

// openLoop appends at a rate, whether earlier appends are answered or not.
func (n *node) openLoop(rate int, trip time.Duration) (string, error) {
	s, err := n.newStream()
	if err != nil {
		return "", err
	}
	var (
		mu    sync.Mutex
		took  []time.Duration
		first error
		all   sync.WaitGroup
	)
	began := time.Now()
	warm := time.Second + 4*trip
	for i := 0; ; i++ {
		due := began.Add(time.Duration(i) * time.Second / time.Duration(rate))
		if due.Sub(began) > warm+*lasts {
			break
		}
		if wait := time.Until(due); wait > 0 {
			<-time.After(wait)
		}
		all.Go(func() {
			err := n.do(http.MethodPost, s, body)
			d := time.Since(due)
			mu.Lock()
			defer mu.Unlock()
			if err != nil && first == nil {
				first = err
			}
			if due.Sub(began) > warm {
				took = append(took, d)
			}
		})
	}
	all.Wait()
	if first != nil {
		return "", first
	}
	slices.Sort(took)
	at := func(p float64) float64 { return float64(took[int(p*float64(len(took)-1))]) / float64(trip) }
	return fmt.Sprintf("%.2f  %.2f", at(0.5), at(0.99)), nil
}

// oneByOne appends again and again, each append after the answer to the one before.
func (n *node) oneByOne(trip time.Duration) (string, error) {
	s, err := n.newStream()
	if err != nil {
		return "", err
	}
	var took []time.Duration
	for began := time.Now(); time.Since(began) < *lasts; {
		sent := time.Now()
		if err := n.do(http.MethodPost, s, body); err != nil {
			return "", err
		}
		took = append(took, time.Since(sent))
	}
	slices.Sort(took)
	return fmt.Sprintf("%.2f", float64(took[len(took)/2])/float64(trip)), nil
}

// large appends 16 MiB, on a connection that is warm.
func (n *node) large(trip time.Duration) (string, error) {
	s, err := n.newStream()
	if err != nil {
		return "", err
	}
	var took []time.Duration
	for range 4 {
		sent := time.Now()
		if err := n.do(http.MethodPost, s, bytes.Repeat(body, 16<<20/len(body))); err != nil {
			return "", err
		}
		took = append(took, time.Since(sent))
	}
	return fmt.Sprintf("%.1f  first %.1f", float64(slices.Min(took))/float64(trip), float64(took[0])/float64(trip)), nil
}

// closedLoop has writers append, each to its stream, as fast as answers come.
func (n *node) closedLoop(streams, writers int) (string, error) {
	names := make([]string, streams)
	var (
		makers sync.WaitGroup
		mu     sync.Mutex
		first  error
		done   int
	)
	note := func(err error) {
		mu.Lock()
		defer mu.Unlock()
		if first == nil {
			first = err
		}
	}
	slots := make(chan struct{}, 64)
	for i := range names {
		mu.Lock()
		n.made++
		names[i] = fmt.Sprintf("%s/v1/stream/d%d-%d", n.url, os.Getpid(), n.made)
		mu.Unlock()
		slots <- struct{}{}
		makers.Go(func() {
			defer func() { <-slots }()
			if err := n.do(http.MethodPut, names[i], nil); err != nil {
				note(err)
			}
		})
	}
	makers.Wait()
	began := time.Now()
	warm, end := began.Add(time.Second), began.Add(time.Second+*lasts)
	var all sync.WaitGroup
	for w := range writers {
		all.Go(func() {
			for time.Now().Before(end) && first == nil {
				if err := n.do(http.MethodPost, names[w%streams], body); err != nil {
					note(err)
					return
				}
				if now := time.Now(); now.After(warm) && now.Before(end) {
					mu.Lock()
					done++
					mu.Unlock()
				}
			}
		})
	}
	all.Wait()
	return fmt.Sprintf("%.0f", float64(done)/lasts.Seconds()), first
}
