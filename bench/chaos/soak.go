package main

import (
	"fmt"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// held records what one process holds at a moment.
type held struct {
	at                                  float64 // seconds since the start
	memory, goroutines, files, sessions float64
	readers                             float64
}

// soak restarts all nodes but the first again and again, and measures what the first node comes
// to hold, which takes part in every change.
func (r *run) soak(span time.Duration) (w row) {
	w.fault, r.notes = "soak", nil
	r.log("soak: all nodes but the first are restarted every %v", r.between)
	if err := r.load.begin(); err != nil {
		w.fail("%v", err)
		return w
	}
	began, looked, watch := time.Now(), r.proxy.look(), startWatch(r.fleet)
	var all []held
	restarted := 0
	for time.Since(began) < span {
		next := time.Now().Add(r.between)
		for _, n := range r.nodes[1:] {
			err := r.restart(n)
			if err == nil {
				err = r.settle(30 * time.Second)
			}
			if err != nil {
				w.fail("%v", err)
				return w
			}
			restarted++
		}
		pause(max(time.Until(next)-5*time.Second, 5*time.Second))
		h, err := r.held(r.nodes[0])
		if err != nil {
			w.fail("%v", err)
			return w
		}
		h.at = time.Since(began).Seconds()
		all = append(all, h)
		r.log("  %4.0f s: %.0f MiB, %.0f goroutines, %.0f files beside %.0f readers, %.0f sessions of its own, %d in the fleet", h.at,
			h.memory/(1<<20), h.goroutines, h.files, h.readers, h.sessions, r.proxy.look().open)
	}
	w.fired = fmt.Sprintf("%d processes replaced", restarted)
	w.sessions = r.proxy.look().mean(looked) / float64(r.load.streams)
	grown := watch.stop()
	var err error
	if w.tally, err = r.load.tally(); err != nil {
		w.fail("%v", err)
	}
	if w.damage, err = r.load.verify(); err != nil {
		w.fail("%v", err)
	}
	w.counts = r.load.writing.begin()
	f := fault{sessions: 1.02, planned: true}
	r.sessions(&w, f)
	r.flat(&w, all)
	w.notes = r.notes
	r.judge(&w, f, grown, 0)
	r.log("  %s", w.line())
	return w
}

func (r *run) held(n *node) (h held, err error) {
	// A collection first: what is held, and not what is about to go.
	err = wait.For(30*time.Second, "a collection", func() bool {
		_, err := r.ask.Get("http://" + n.admin() + "/debug/pprof/heap?gc=1")
		return err == nil
	})
	if err != nil {
		return h, err
	}
	m, err := r.ask.Metrics(n.admin())
	return held{
		memory:     m["go_memstats_heap_alloc_bytes"] + m["go_memstats_stack_inuse_bytes"],
		goroutines: m["go_goroutines"], sessions: m["fantail_s2_read_sessions"],
		readers: m["fantail_readers"],
		// Not those of readers: the node that stays gathers them while the others restart.
		files: m["process_open_fds"] - m["fantail_readers"],
	}, err
}

// flat holds slopes against what they may be: over ten rounds of restarts, a tenth.
// The first rounds fill what is kept.
func (r *run) flat(w *row, all []held) {
	if len(all) > 2 {
		all = all[min(3, len(all)-2):]
	}
	for _, q := range []struct {
		name string
		of   func(held) float64
		slop float64 // that may come and go
	}{
		{"memory", func(h held) float64 { return h.memory }, 8 << 20},
		{"goroutines", func(h held) float64 { return h.goroutines }, 200},
		{"descriptors", func(h held) float64 { return h.files }, 50},
		{"read sessions", func(h held) float64 { return h.sessions }, 5},
	} {
		perSecond := slope(all, q.of)
		first := q.of(all[0])
		added := perSecond * 10 * r.between.Seconds()
		r.note("%s of the node that stays: %.0f, slope %+.2f %% of that per round", q.name, first, 100*perSecond*r.between.Seconds()/max(first, 1))
		if len(all) > 2 && added > first/10+q.slop {
			w.fail("%s grow: %.0f at first, %.0f more in ten rounds", q.name, first, added)
		}
	}
}

// slope returns the slope of the line through all points, by least squares.
func slope(all []held, of func(held) float64) float64 {
	var x, y, xx, xy float64
	for _, h := range all {
		x, y, xx, xy = x+h.at, y+of(h), xx+h.at*h.at, xy+h.at*of(h)
	}
	n := float64(len(all))
	if d := n*xx - x*x; d > 0 {
		return (n*xy - x*y) / d
	}
	return 0
}
