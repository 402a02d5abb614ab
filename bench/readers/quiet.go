package main

import (
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/hist"
	"github.com/fantail-dev/fantail/bench/internal/usage"
)

// runQuiet measures what readers cost that get heartbeats and nothing else: on the reactor, and
// on the loop in C that sends as many.
func runQuiet(loop string, readers, rounds int, addr string, heartbeat time.Duration) error {
	kinds := []*kind{{name: "C loop", serve: loop}, {name: "reactor", serve: "reactor"}}
	beats := make([][]float64, len(kinds)) // heartbeats a second
	for round := range rounds {
		for i, k := range kinds {
			rate, err := k.quiet(readers, addr, heartbeat)
			if err != nil {
				return fmt.Errorf("%s: %w", k.name, err)
			}
			beats[i] = append(beats[i], rate)
		}
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
	}
	fmt.Printf("%d quiet readers, a heartbeat after %v to %v of silence; medians of %d rounds\n\n", readers, heartbeat, heartbeat*5/4, rounds)
	fmt.Printf("%-16s %14s %16s %8s\n", "", "heartbeats/s", "CPU of each", "÷ C")
	c := hist.Median(kinds[0].cpu)
	for i, k := range kinds {
		fmt.Printf("%-16s %14.0f %13.2f µs %8.2f\n", k.name, hist.Median(beats[i]), hist.Median(k.cpu), hist.Median(k.cpu)/c)
	}
	return nil
}

// quiet connects readers, over one period so that heartbeats are as evenly spread as in the loop
// in C. It waits until each has had a heartbeat, and counts the heartbeats of the next three
// periods.
func (k *kind) quiet(readers int, addr string, heartbeat time.Duration) (rate float64, err error) {
	server, err := k.start(addr, heartbeat)
	if err != nil {
		return 0, err
	}
	defer server.Stop()
	if !filepath.IsAbs(k.serve) {
		if err := send("PUT", "http://"+addr+"/v1/stream/x", nil); err != nil {
			return 0, err
		}
	}
	crowd, err := newCrowd(readers, heartbeat*9/8, dialer(k.serve, addr))
	if err != nil {
		return 0, err
	}
	defer crowd.close()
	pass := func(d time.Duration) { <-time.After(d) }
	pass(heartbeat * 3 / 2)
	bytes, used := crowd.bytes(), usage.CPU(server.PID())
	pass(3 * heartbeat)
	count := float64(crowd.bytes()-bytes) / float64(len(":\n\n"))
	spent := usage.CPU(server.PID()) - used
	due := float64(readers) * 3 * 8 / 9
	if n := crowd.ended.Load(); n > 0 || count < 0.95*due || count > 1.05*due {
		return 0, fmt.Errorf("%d readers were cut, and there were %.0f heartbeats instead of %.0f", n, count, due)
	}
	k.cpu = append(k.cpu, spent.Seconds()*1e6/count)
	return count / (3 * heartbeat).Seconds(), nil
}

// bytes returns how many bytes all readers received.
func (c *crowd) bytes() (sum int64) {
	for i := range c.got {
		sum += c.got[i].Load()
	}
	return sum
}
