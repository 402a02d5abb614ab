//go:build linux

package main

import (
	"fmt"
	"net/http"
	"os"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

// stormClients is the number of clients that catch up together, each over its own connection.
const stormClients = 2000

// storm has many clients read the stream half from its start to its end together, and meanwhile
// asks the server something small from another process: whatever else it serves waits as long.
func storm(s *server, r running) (f figures, err error) {
	stream, other := r.url+fmt.Sprintf(s.path, 0), r.url+fmt.Sprintf(s.path, 1)
	if err := half.fill(stream); err != nil {
		return f, err
	}
	if err := ask.Send(http.DefaultClient, http.MethodPut, other, half.kind, nil); err != nil {
		return f, err
	}
	crowd, err := child.Self("-crowd")
	if err != nil {
		return f, err
	}
	defer crowd.Stop()
	over := make(chan error, 1)
	began, refused := time.Now(), 0
	go func() {
		said, err := crowd.Ask(stream)
		if err == nil {
			_, err = fmt.Sscan(said, &refused)
		}
		over <- err
	}()
	var asked hist.Hist
	tick := time.NewTicker(50 * time.Millisecond)
	defer tick.Stop()
	for {
		select {
		case err := <-over:
			f.Refused += refused
			f.Seconds = time.Since(began).Seconds()
			f.Asked50, f.AskedWorst = ms(asked.Quantile(0.5)), ms(asked.Quantile(1))
			return f, err
		case <-tick.C:
		}
		at := time.Now()
		if ask.Send(plain, http.MethodHead, other, "", nil) != nil {
			f.Refused++
		}
		asked.Add(time.Since(at))
		f.PeakMB = max(f.PeakMB, float64(memoryOf(r.pid))/1e6)
	}
}

func ms(d time.Duration) float64 { return float64(d) / float64(time.Millisecond) }

func memoryOf(pid int) (sum int64) {
	for _, p := range usage.Family(pid) {
		sum += usage.Memory(p)
	}
	return sum
}

// serveCrowd runs the clients of storm: given the stream, it answers how many did not get all of
// it.
func serveCrowd() {
	child.Serve(func(stream string) (string, error) {
		errs := make([]error, stormClients)
		var wg sync.WaitGroup
		for i := range errs {
			wg.Go(func() {
				own := &http.Transport{DisableCompression: true}
				defer own.CloseIdleConnections()
				_, errs[i] = half.read(&http.Client{Transport: own}, stream, make([]byte, 16<<10))
			})
		}
		wg.Wait()
		refused := 0
		for _, err := range errs {
			if err == nil {
				continue
			}
			if refused++; refused == 1 {
				fmt.Fprintln(os.Stderr, "one of those refused:", err)
			}
		}
		return fmt.Sprint(refused), nil
	})
}
