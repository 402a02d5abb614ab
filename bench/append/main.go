// Command append measures appends side by side, in rounds that alternate, so that a noisy
// machine is noisy for all of them. One after the other: the SDK alone, Fantail on the same
// embedded S2 over the wire, and a lone node with its embedded S2 in the process. Many
// posters, on one stream and over many: the same, the same with a disk (fsync), and a
// handler of net/http that does nothing, which is what a Go server cannot be better than.
//
//	make build && go run ./bench/append
package main

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/parallel"
	"github.com/fantail-dev/fantail/bench/internal/poster"
	"github.com/fantail-dev/fantail/bench/internal/usage"
	"github.com/fantail-dev/fantail/bench/internal/wait"
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
	server *child.Child // whose CPU is counted; nil: nobody's
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
)

func run() error {
	binary := flag.String("fantail", "bin/fantail", "the binary")
	rounds := flag.Int("rounds", 5, "rounds of each")
	length := flag.Duration("round", 3*time.Second, "length of a round")
	n := flag.Int("posters", 64, "posters at once")
	streams := flag.Int("streams", 1000, "streams that they share")
	size := flag.Int("size", 210, "bytes of a message")
	empty := flag.Bool("empty", false, "be the handler that does nothing")
	flag.Parse()
	if *empty {
		return serveEmpty()
	}
	dir, err := os.MkdirTemp("", "fantail-append-")
	if err != nil {
		return err
	}
	defer func() { _ = os.RemoveAll(dir) }()
	self, err := os.Executable()
	if err != nil {
		return err
	}
	servers := map[string]*child.Child{}
	for _, c := range []struct {
		addr, ready string
		command     []string
	}{
		{storeAddr, "", []string{*binary, "s2", "--listen=" + storeAddr, "--basin=fantail-dev"}},
		{wireAddr, "Fantail is up", []string{*binary, "dev", "--port=4637", "--admin-port=4647", "--s2-endpoint=http://" + storeAddr}},
		{loneAddr, "Fantail is up", []string{*binary, "dev", "--port=4638", "--admin-port=4648", "--s2-port=4631"}},
		{diskAddr, "Fantail is up", []string{*binary, "dev", "--port=4639", "--admin-port=4649", "--s2-port=4632", "--data=" + dir}},
		{emptyAddr, "serving", []string{self, "-empty"}},
	} {
		server, err := child.Start(c.command[0], c.ready, c.command[1:]...)
		if err != nil {
			return err
		}
		defer server.Stop()
		servers[c.addr] = server
		if c.addr == storeAddr {
			err = wait.For(10*time.Second, "S2", func() bool { return answers("http://" + storeAddr + "/health") })
		} else if c.addr != emptyAddr {
			err = createAll(c.addr, *streams)
		}
		if err != nil {
			return err
		}
	}
	body := fmt.Appendf(nil, `{"p":%q}`, bytes.Repeat([]byte("x"), max(*size-8, 0)))
	direct, err := sdk("http://"+storeAddr+"/v1", body)
	if err != nil {
		return err
	}
	against := func(name, addr string, n, streams int) *contender {
		return &contender{name: name, server: servers[addr], open: posters(n, addr, streams, body)}
	}
	many := func(streams int) []*contender {
		return []*contender{
			against("a handler that does nothing", emptyAddr, *n, streams),
			against("Fantail, S2 over the wire", wireAddr, *n, streams),
			against("Fantail, S2 in the process", loneAddr, *n, streams),
			against("the same on disk, fsynced", diskAddr, *n, streams),
		}
	}
	groups := []group{
		{"one after the other", []*contender{
			{name: "SDK alone", open: direct},
			against("Fantail, S2 over the wire", wireAddr, 1, 1),
			against("Fantail, S2 in the process", loneAddr, 1, 1),
		}},
		{fmt.Sprintf("%d posters on one stream", *n), many(1)},
		{fmt.Sprintf("%d posters over %d streams", *n, *streams), many(*streams)},
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
	fmt.Printf("messages of %d bytes, embedded S2 in memory, medians of %d rounds of %v;\nCPU is the node's, with its client of S2, and with S2 where it is in the process\n", *size, *rounds, *length)
	for _, g := range groups {
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
	return nil
}

// serveEmpty reads what is posted and says 204.
func serveEmpty() error {
	ln, err := net.Listen("tcp", emptyAddr)
	if err != nil {
		return err
	}
	fmt.Println("serving")
	return http.Serve(ln, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		_, _ = io.Copy(io.Discard, r.Body)
		w.WriteHeader(http.StatusNoContent)
	}))
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

// posters makes n workers with a connection each; they share the streams.
func posters(n int, addr string, streams int, body []byte) func() ([]worker, error) {
	return func() ([]worker, error) {
		all, err := poster.Crowd(n, addr, streams, streamPath, body)
		workers := make([]worker, len(all))
		for i, p := range all {
			workers[i] = worker{p.Post, p.Close}
		}
		return workers, err
	}
}

// sdk appends with S2's own client, as a program without Fantail would.
func sdk(base string, body []byte) (func() ([]worker, error), error) {
	client := s2.New("none", &s2.ClientOptions{
		BaseURL: base, MakeBasinBaseURL: func(string) string { return base },
		HTTPClient: &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 16}},
	})
	basin := client.Basin("fantail-dev")
	ctx := context.Background()
	if _, err := basin.Streams.Ensure(ctx, s2.EnsureStreamArgs{Stream: "bench-direct"}); err != nil {
		return nil, err
	}
	stream := basin.Stream("bench-direct")
	one := worker{func() error {
		_, err := stream.Append(ctx, &s2.AppendInput{Records: []s2.AppendRecord{{Body: body}}})
		return err
	}, func() {}}
	return func() ([]worker, error) { return []worker{one}, nil }, nil
}
