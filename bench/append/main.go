// Command append measures appends side by side, in rounds that alternate, so that a noisy
// machine is noisy for all of them. One after the other: the SDK alone, Fantail on the same
// embedded S2 over the wire, and a lone node with its embedded S2 in the process. Many
// posters, on one stream and over many: the same, and a handler of net/http that does
// nothing, which is what a Go server cannot be better than. With a disk (fsync): Pebble
// alone, and a handler that writes to it. On an S2 that is there already, as s2-lite: the SDK alone with as many writers, and
// a handler of net/http that calls it.
//
//	make build && go run ./bench/append
//	bench/with-lite go run ./bench/append
//	go run ./bench/append -against /tmp/fantail-of-an-older-tree
package main

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "append:", err)
		os.Exit(1)
	}
}

// contender appends one message after the other, with each of the workers that open
// makes for a round.
type contender struct {
	name   string
	server *child.Child // its CPU is counted; nil: none is
	open   func() ([]worker, error)
	rates  []float64 // appends per second, by round
	cpu    []float64 // µs of the server's for each
}

// group is contenders of one kind of load; ratios are to the first.
type group struct {
	title string
	all   []*contender
}

type worker struct {
	work  func() error
	close func()
}

// The servers' addresses.
const (
	storeAddr = "127.0.0.1:4630"
	wireAddr  = "127.0.0.1:4637"
	loneAddr  = "127.0.0.1:4638"
	diskAddr  = "127.0.0.1:4639"
	emptyAddr = "127.0.0.1:4640"
	keepAddr  = "127.0.0.1:4641"

	wireBefore = "127.0.0.1:4657"
	loneBefore = "127.0.0.1:4658"
)

func run() error {
	binary := flag.String("fantail", "bin/fantail", "the binary")
	rounds := flag.Int("rounds", 5, "rounds of each")
	length := flag.Duration("round", 3*time.Second, "length of a round")
	n := flag.Int("posters", 64, "number of concurrent posters")
	streams := flag.Int("streams", 1000, "streams that they share")
	size := flag.Int("size", 210, "bytes of a message")
	against := flag.String("against", "", "measure this build of the binary as well, as \"NAME, before\", and nothing else beside the two")
	endpoint := flag.String("s2", os.Getenv("TEST_S2_ENDPOINT"), "measure on this S2, beside the SDK alone with as many writers, and with four times as many")
	empty := flag.Bool("empty", false, "be the handler that does nothing")
	thin := flag.String("thin", "", "be the handler that calls the SDK for this S2, and does nothing else")
	keep := flag.String("keep", "", "be the handler that writes to a Pebble in this folder, durably, and does nothing else")
	flag.Parse()
	switch {
	case *empty:
		return serve(emptyAddr, func(*http.Request) error { return nil })
	case *thin != "":
		return serveThin(*thin)
	case *keep != "":
		return serveKeep(*keep)
	}
	o := options{*binary, *n, *streams, fmt.Appendf(nil, `{"p":%q}`, bytes.Repeat([]byte("x"), max(*size-8, 0)))}
	setUp, what := o.embedded, "embedded S2 in memory"
	if *against != "" {
		setUp = func(s *servers) ([]group, error) { return o.compare(s, *against) }
	}
	if *endpoint != "" {
		setUp, what = func(s *servers) ([]group, error) { return o.given(s, *endpoint) }, "S2 at "+*endpoint
	}
	s := &servers{}
	defer s.stop()
	groups, err := setUp(s)
	if err != nil {
		return err
	}
	for range *rounds {
		for _, g := range groups {
			for _, c := range g.all {
				if err := c.round(*length); err != nil {
					return fmt.Errorf("%s: %w", c.name, err)
				}
			}
		}
	}
	fmt.Printf("messages of %d bytes, %s, medians of %d rounds of %v;\nCPU is the node's, with its client of S2, and with S2 where it is in the process\n", *size, what, *rounds, *length)
	for _, g := range groups {
		g.print()
	}
	return nil
}

func (g *group) print() {
	fmt.Printf("\n%-30s %12s %8s %14s\n", g.title, "appends/s", "ratio", "CPU of each")
	for _, c := range g.all {
		rate := hist.Median(c.rates)
		fmt.Printf("%-30s %12.0f %8.2f", c.name, rate, rate/hist.Median(g.all[0].rates))
		if c.server != nil {
			fmt.Printf(" %11.1f µs", hist.Median(c.cpu))
		}
		fmt.Println()
	}
}

// options hold what all contenders share.
type options struct {
	binary     string
	n, streams int // posters, and the streams that they share
	body       []byte
}

// servers are the processes of this run, and what they leave behind.
type servers struct {
	all     []*child.Child
	closers []io.Closer
	scratch []string
}

func (s *servers) stop() {
	for _, c := range s.all {
		c.Stop()
	}
	for _, c := range s.closers {
		_ = c.Close()
	}
	for _, dir := range s.scratch {
		_ = os.RemoveAll(dir)
	}
}

func (s *servers) start(ready, command string, args ...string) (*child.Child, error) {
	c, err := child.Start(command, ready, args...)
	if err == nil {
		s.all = append(s.all, c)
	}
	return c, err
}

// self starts this program as one of its handlers.
func (s *servers) self(as string) (*child.Child, error) {
	path, err := os.Executable()
	if err != nil {
		return nil, err
	}
	return s.start("serving", path, as)
}

// node starts a lone Fantail at addr; its admin port is ten above.
func (s *servers) node(o options, addr string, args ...string) (*child.Child, error) {
	_, text, _ := net.SplitHostPort(addr)
	port, err := strconv.Atoi(text)
	if err != nil {
		return nil, err
	}
	args = append([]string{"dev", fmt.Sprint("--port=", port), fmt.Sprint("--admin-port=", port+10)}, args...)
	c, err := s.start("Fantail is up", o.binary, args...)
	if err == nil {
		err = createAll(addr, o.streams)
	}
	return c, err
}

func answers(url string) bool {
	resp, err := http.Get(url)
	if err != nil {
		return false
	}
	return resp.Body.Close() == nil
}

func streamPath(i int) string { return fmt.Sprint("/v1/stream/bench-", i) }

func createAll(addr string, streams int) error {
	return parallel.Do(streams, func(i int) error {
		return ask.Send(http.DefaultClient, http.MethodPut, "http://"+addr+streamPath(i), "application/json", nil)
	})
}

// round has every worker append until the time is over.
func (c *contender) round(length time.Duration) error {
	workers, err := c.open()
	if err != nil {
		return err
	}
	work := make([]func() error, len(workers))
	for i, w := range workers {
		defer w.close()
		work[i] = w.work
	}
	used := time.Duration(0)
	if c.server != nil {
		used = usage.CPU(c.server.PID())
	}
	total, took, err := parallel.During(length, work)
	c.rates = append(c.rates, float64(total)/took.Seconds())
	if c.server != nil {
		c.cpu = append(c.cpu, (usage.CPU(c.server.PID())-used).Seconds()*1e6/float64(max(total, 1)))
	}
	return err
}
