package main

import (
	"sync"
	"time"
)

// watch adds up counters of nodes whose processes come and go: of each, what it grew
// by from one sample to the next.
type watch struct {
	fleet *fleet
	done  chan struct{}
	ended chan struct{}

	mu    sync.Mutex
	last  map[*node]map[string]float64
	grown map[string]float64
}

// watched lists the counters that rows need.
var watched = []string{ //nolint:gochecknoglobals // a table
	"fantail_not_owner_total", "fantail_owner_overrides_total", "fantail_append_duration_seconds_count", "fantail_gaps_detected_total",
	"fantail_relay_gaps_total", `fantail_handovers_total{result="taken"}`, `fantail_handovers_total{result="lost"}`,
	`fantail_readers_cut_total{reason="stalled"}`, `fantail_readers_cut_total{reason="memory"}`,
	"process_cpu_seconds_total",
}

func startWatch(f *fleet) *watch {
	w := &watch{
		fleet: f, done: make(chan struct{}), ended: make(chan struct{}),
		last: map[*node]map[string]float64{}, grown: map[string]float64{},
	}
	w.sample()
	go func() {
		defer close(w.ended)
		tick := time.NewTicker(500 * time.Millisecond)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				w.sample()
			case <-w.done:
				return
			}
		}
	}()
	return w
}

func (w *watch) sample() {
	w.fleet.each(func(n *node) {
		m, err := w.fleet.ask.Metrics(n.admin())
		if err != nil {
			return
		}
		w.mu.Lock()
		defer w.mu.Unlock()
		before := w.last[n]
		for _, name := range watched {
			switch v := m[name]; {
			case before == nil: // what was before the fault
			case v >= before[name]:
				w.grown[name] += v - before[name]
			default: // another process
				w.grown[name] += v
			}
		}
		w.last[n] = m
	})
}

// now returns the growth of the counters so far.
func (w *watch) now() map[string]float64 {
	w.sample()
	w.mu.Lock()
	defer w.mu.Unlock()
	m := make(map[string]float64, len(w.grown))
	for k, v := range w.grown {
		m[k] = v
	}
	return m
}

func (w *watch) stop() map[string]float64 {
	close(w.done)
	<-w.ended
	return w.now()
}
