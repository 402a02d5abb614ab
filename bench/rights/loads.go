package main

import (
	"bufio"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/poster"
)

var message = []byte(`{"p":"` + strings.Repeat("x", 200) + `"}`)

// appends posts with a token, over so many streams.
func appends(title string, posters, streams int) load {
	return load{title, func(n *node) (func(time.Duration) (int, error), func(), error) {
		all, err := poster.Crowd(posters, n.addr, streams, streamPath("calm"), message, token("calm", "poster"))
		end := func() {
			for _, p := range all {
				p.Close()
			}
		}
		work := func(length time.Duration) (int, error) {
			var done atomic.Int64
			err := together(len(all), func(i int) error {
				for until := time.Now().Add(length); time.Now().Before(until); done.Add(1) {
					if err := all[i].Post(); err != nil {
						return err
					}
				}
				return nil
			})
			return int(done.Load()), err
		}
		return work, end, err
	}}
}

// delivery measures the readers of one stream's event streams, with one writer.
func delivery(title string, readers int) load {
	return load{title, func(n *node) (func(time.Duration) (int, error), func(), error) {
		var got atomic.Int64
		var conns []net.Conn
		end := func() {
			for _, c := range conns {
				_ = c.Close()
			}
		}
		for range readers {
			c, err := net.Dial("tcp", n.addr)
			if err != nil {
				return nil, end, err
			}
			conns = append(conns, c)
			fmt.Fprintf(c, "GET %s?offset=now&live=sse HTTP/1.1\r\nHost: x\r\n%s\r\n\r\n", streamPath("calm")(0), token("calm", "reader"))
			in := bufio.NewReaderSize(c, 16<<10)
			if line, err := in.ReadString('\n'); err != nil || !strings.HasPrefix(line, "HTTP/1.1 200") {
				return nil, end, fmt.Errorf("a reader hears %q: %w", line, err)
			}
			go countEvents(in, &got)
		}
		writers, err := poster.Crowd(1, n.addr, 1, streamPath("calm"), message, token("calm", "writer"))
		work := func(length time.Duration) (int, error) {
			before := got.Load()
			for until := time.Now().Add(length); time.Now().Before(until); {
				if err := writers[0].Post(); err != nil {
					return 0, err
				}
			}
			time.Sleep(50 * time.Millisecond) // the last are on their way
			n := int(got.Load() - before)
			if n == 0 {
				return 1, fmt.Errorf("nothing was delivered")
			}
			return n, nil
		}
		return work, end, err
	}}
}

// greed prints the latency of one project's appends while another's clients ask for as much as their
// limit, and for ten times that.
func greed(n *node, limit, rounds int, length time.Duration) error {
	const calm, greedy, most = 4, 64, 10
	posters, err := poster.Crowd(calm, n.addr, streams, streamPath("calm"), message, token("calm", "poster"))
	if err != nil {
		return err
	}
	p99, p50 := map[int][]float64{}, map[int][]float64{}
	refused := map[int]int{}
	for round := range rounds + 1 {
		for turn := range 2 {
			times := []int{1, most}[(round+turn)%2]
			stop := make(chan struct{})
			var asking sync.WaitGroup
			var no atomic.Int64
			for i := range greedy {
				asking.Go(func() { ask(n, stop, i, float64(greedy)/float64(limit*most), most/times, &no) })
			}
			var mu sync.Mutex
			var all hist.Hist
			var exact []float64
			err := together(calm, func(i int) error {
				for until := time.Now().Add(length); time.Now().Before(until); {
					began := time.Now()
					if err := posters[i].Post(); err != nil {
						return err
					}
					took := time.Since(began)
					mu.Lock()
					all.Add(took)
					exact = append(exact, float64(took.Microseconds()))
					mu.Unlock()
					time.Sleep(2 * time.Millisecond)
				}
				return nil
			})
			close(stop)
			asking.Wait()
			if err != nil {
				return err
			}
			if round > 0 {
				p50[times] = append(p50[times], quantile(exact, 0.5))
				p99[times] = append(p99[times], quantile(exact, 0.99))
				refused[times] += int(no.Load())
			}
		}
	}
	pairs := ratios(p99[most], p99[1])
	low, high := hist.MedianInterval(pairs)
	fmt.Printf("\nappends of a project while another with %d requests/s of limit asks for\n", limit)
	for _, times := range []int{1, most} {
		fmt.Printf("  %2d times that: p50 %6.0f µs, p99 %6.0f µs; %d of its requests were refused\n", times, hist.Median(p50[times]), hist.Median(p99[times]), refused[times])
	}
	fmt.Printf("  ratio of p99 %.3f, 95 %% certain %.3f to %.3f\n", hist.Median(pairs), low, high)
	return nil
}

// ask sends requests of the greedy project, one each period (s), until stop: of eight clients one appends,
// and waits for its turn up to two seconds for each, and seven read. One of so many is for the node; the
// others are refused elsewhere.
func ask(n *node, stop <-chan struct{}, i int, period float64, oneOf int, refused *atomic.Int64) {
	path, head := streamPath("greedy")(0), fmt.Sprintf(" HTTP/1.1\r\nHost: x\r\n%s\r\n", token("greedy", fmt.Sprint("client-", i)))
	request := fmt.Appendf(nil, "GET %s?offset=now%s\r\n", path, head)
	if i%8 == 0 {
		request = fmt.Appendf(nil, "POST %s%sContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", path, head, len(message), message)
	}
	var servers []*poster.Poster
	for _, addr := range []string{n.addr, refusingAddr} {
		p, err := poster.New(addr, request)
		if err != nil {
			return
		}
		defer p.Close()
		servers = append(servers, p)
	}
	go func() {
		<-stop
		for _, p := range servers {
			p.Close()
		}
	}()
	every := time.Duration(period * float64(time.Second))
	time.Sleep(rand.N(every)) // the clients do not ask together
	tick := time.NewTicker(every)
	defer tick.Stop()
	for count := rand.IntN(oneOf); ; count++ {
		select {
		case <-stop:
			return
		case <-tick.C:
		}
		if count%oneOf != 0 {
			if _, err := servers[1].Ask(); err != nil {
				return
			}
			continue
		}
		status, err := servers[0].Ask()
		if err != nil {
			return
		}
		if status == http.StatusTooManyRequests {
			refused.Add(1)
		}
	}
}

// countEvents counts the messages' events until the stream ends.
func countEvents(in *bufio.Reader, got *atomic.Int64) {
	for {
		line, err := in.ReadSlice('\n')
		if err != nil {
			return
		}
		if string(line) == "event: data\n" || string(line) == "event:data\n" {
			got.Add(1)
		}
	}
}

func quantile(v []float64, q float64) float64 {
	s := slices.Sorted(slices.Values(v))
	return s[min(int(q*float64(len(s))), len(s)-1)]
}

// together calls do for each number below n, at the same time.
func together(n int, do func(i int) error) error {
	errs := make([]error, n)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() { errs[i] = do(i) })
	}
	wg.Wait()
	return errors.Join(errs...)
}
