package main

import (
	"errors"
	"fmt"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// stormReaders are at one node when they are cut.
const stormReaders = 15_000

// storm cuts all readers of a node together, as an ingress does that reloads, and
// measures until they are back, at the same node.
func storm(longPoll bool) func(*run) (string, error) {
	name, mode := "storm", `fantail_readers{mode="sse"}`
	if longPoll {
		name, mode = "storm-longpoll", `fantail_readers{mode="long-poll"}`
	}
	return func(r *run) (string, error) {
		n := r.victim()
		l, err := startLoad(r.fleet, loadSize{
			prefix: name, streams: 100, readers: stormReaders, every: 5 * time.Second, longPoll: longPoll, pin: n.http(),
		})
		if err != nil {
			return "", err
		}
		defer l.stop()
		cpu := func() float64 {
			m, _ := r.ask.Metrics(n.admin())
			return m["process_cpu_seconds_total"]
		}
		pause(3 * time.Second) // those that came just now
		before, began := cpu(), time.Now()
		pause(5 * time.Second)
		steady := (cpu() - before) / time.Since(began).Seconds()
		if err := l.begin(); err != nil {
			return "", err
		}
		looked, before, began := r.proxy.look(), cpu(), time.Now()
		for _, h := range l.herds {
			h.cut(n.http())
		}
		down := stormReaders - l.up()
		// A long-poll that has an answer is away for a moment, and so is an event stream that the crowded
		// node sends to another: the load balancer brings it back.
		err = wait.For(90*time.Second, "all readers are back", func() bool {
			m, _ := r.ask.Metrics(n.admin())
			return l.up() >= stormReaders*99/100 && m[mode] >= stormReaders*99/100
		})
		if err != nil {
			return "", err
		}
		took := time.Since(began)
		busy := (cpu() - before) / took.Seconds()
		look := r.proxy.look()
		t, err := l.tally()
		if err != nil {
			return "", err
		}
		r.note("%d readers cut; all back after %s, of which they wait %s; %d connects in the busiest second; "+
			"S2: %d reads, %d sessions; the node's CPU %.2f of a core, before %.2f", stormReaders, short(took), short(comeBack),
			t.Peak, look.reads-looked.reads, look.opened-looked.opened, busy, steady)
		if opened := look.opened - looked.opened; opened > 0 {
			return "", fmt.Errorf("%d read sessions were opened for readers that came back", opened)
		}
		pause(5 * time.Second)
		d, err := l.verify()
		if err == nil && d.total() > 0 {
			err = errors.New(d.First)
		}
		if down < stormReaders/2 {
			return "", err
		}
		return fmt.Sprintf("%d of %d were away at the same time", down, stormReaders), err
	}
}
