// Command append measures appends side by side on one embedded S2: the SDK alone,
// one at a time; through Fantail, one at a time; through Fantail, many posters on
// one stream, whose appends share batches. Rounds alternate, so that a noisy
// machine is noisy for all of them.
//
//	make build && go run ./bench/append
package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/bench/internal/child"
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
	name  string
	open  func() ([]worker, error)
	rates []float64 // appends per second, by round
}

type worker struct {
	work  func() error
	close func()
}

func run() error {
	binary := flag.String("fantail", "bin/fantail", "the binary")
	rounds := flag.Int("rounds", 5, "rounds of each")
	length := flag.Duration("round", 3*time.Second, "length of a round")
	posterCount := flag.Int("posters", 64, "posters on one stream")
	size := flag.Int("size", 128, "bytes of a message")
	flag.Parse()

	dev, err := child.Start(*binary, "Fantail is up", "dev", "--port=4637", "--admin-port=4647", "--s2-port=4630")
	if err != nil {
		return err
	}
	defer dev.Stop()
	body := bytes.Repeat([]byte("x"), *size)
	const addr, path = "127.0.0.1:4637", "/v1/stream/bench"
	if err := create("http://" + addr + path); err != nil {
		return err
	}
	direct, err := sdk("http://127.0.0.1:4630/v1", body)
	if err != nil {
		return err
	}
	all := []*contender{
		{name: "SDK alone, one at a time", open: direct},
		{name: "Fantail, one at a time", open: posters(1, addr, path, body)},
		{name: fmt.Sprintf("Fantail, %d posters", *posterCount), open: posters(*posterCount, addr, path, body)},
	}
	for range *rounds {
		for _, c := range all {
			if err := c.round(*length); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	base := median(all[0].rates)
	fmt.Printf("%d-byte messages, embedded S2 in memory, medians of %d rounds of %v\n\n", *size, *rounds, *length)
	fmt.Printf("%-28s %12s %8s   %s\n", "", "appends/s", "ratio", "rounds")
	for _, c := range all {
		m := median(c.rates)
		fmt.Printf("%-28s %12.0f %8.2f   %.0f\n", c.name, m, m/base, c.rates)
	}
	return nil
}

// round has every worker append until the time is over.
func (c *contender) round(length time.Duration) error {
	workers, err := c.open()
	if err != nil {
		return err
	}
	errs := make([]error, len(workers))
	counts := make([]int, len(workers))
	began := time.Now()
	var wg sync.WaitGroup
	for i, w := range workers {
		wg.Go(func() {
			defer w.close()
			for time.Since(began) < length && errs[i] == nil {
				errs[i] = w.work()
				counts[i]++
			}
		})
	}
	wg.Wait()
	total := 0
	for _, n := range counts {
		total += n
	}
	c.rates = append(c.rates, float64(total)/time.Since(began).Seconds())
	return errors.Join(errs...)
}

// lean is one connection that sends the same POST again and again. It does as
// little as an HTTP client can, so that two cores measure the server.
type lean struct {
	conn    net.Conn
	in      *bufio.Reader
	request []byte
}

func dial(addr, path string, body []byte) (*lean, error) {
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		return nil, err
	}
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n\r\n", path, addr, len(body))
	return &lean{conn, bufio.NewReader(conn), append([]byte(head), body...)}, nil
}

// post sends the request and reads its answer, which is 204 and has no body.
func (l *lean) post() error {
	if _, err := l.conn.Write(l.request); err != nil {
		return err
	}
	status, err := l.in.ReadSlice('\n')
	if err != nil {
		return err
	}
	if !bytes.HasPrefix(status, []byte("HTTP/1.1 204 ")) {
		return fmt.Errorf("answer %q", status)
	}
	for {
		line, err := l.in.ReadSlice('\n')
		if err != nil {
			return err
		}
		if len(line) == 2 {
			return nil
		}
	}
}

// posters makes n workers with a connection each.
func posters(n int, addr, path string, body []byte) func() ([]worker, error) {
	return func() ([]worker, error) {
		workers := make([]worker, n)
		for i := range workers {
			l, err := dial(addr, path, body)
			if err != nil {
				return nil, err
			}
			workers[i] = worker{l.post, func() { _ = l.conn.Close() }}
		}
		return workers, nil
	}
}

func create(url string) error {
	req, err := http.NewRequest(http.MethodPut, url, nil)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "text/plain")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusCreated {
		return fmt.Errorf("create: %s", resp.Status)
	}
	return nil
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

func median(v []float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[len(s)/2]
}
