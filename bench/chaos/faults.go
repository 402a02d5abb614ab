package main

import (
	"bufio"
	"errors"
	"fmt"
	"net"
	"net/http"
	"slices"
	"syscall"
	"time"
)

// fault is a thing that goes wrong, with the claim about it.
type fault struct {
	name, what string
	// do makes it happen, and ends it; it returns a proof that it did happen.
	do func(*run) (fired string, err error)

	stall    time.Duration // p99 of the worst that readers with a lasting connection see
	trips    int           // round trips to S2 that come on top
	sessions float64       // mean of read sessions ÷ followed streams
	planned  bool          // streams move with what is known of them
	lingers  bool          // two nodes may each have opened a session, and paid for its minute
	steady   bool          // no reader loses its connection, and readiness stays up
}

// The claims, as readers see them.
const (
	stallPlanned = 250 * time.Millisecond
	stallKilled  = 2 * time.Second
	stallSilent  = 6 * time.Second
)

func faults() []fault {
	return []fault{
		{name: "none", what: "no fault", do: nothing, sessions: 1.001, steady: true},
		{
			name: "roll", what: "every node is stopped with SIGTERM and started again, one by one", do: roll,
			stall: stallPlanned, trips: 1, sessions: 1.02, planned: true,
		},
		{
			name: "surge", what: "a new node is there before the old one goes", do: surge,
			stall: stallPlanned, trips: 1, sessions: 1.02, planned: true,
		},
		{name: "kill", what: "kill -9 of a node", do: kill, stall: stallKilled, trips: 2},
		{name: "stop", what: "a node is stopped (SIGSTOP) for 10 s", do: freeze(10*time.Second, 10*time.Second), stall: stallSilent, trips: 2, lingers: true},
		{name: "zombie", what: "a node is stopped for a minute, with appends in flight", do: freeze(60*time.Second, 60*time.Second), stall: stallSilent, trips: 2, lingers: true},
		{name: "split", what: "the network is cut in two, the nodes on either side", do: split, lingers: true},
		{name: "dark", what: "a node's network loses everything for 15 s", do: dark, stall: stallSilent, trips: 2, lingers: true},
		{name: "oneway", what: "a node does not hear the others, but they hear it", do: oneway, lingers: true},
		{name: "noudp", what: "no UDP between the nodes", do: noudp},
		{name: "loss5", what: "5 % of all packets between nodes are lost", do: loss},
		{name: "cut-s2", what: "a node is cut from S2, and from nothing else", do: cutStore, lingers: true},
		{name: "s2-stop", what: "S2 is stopped (SIGSTOP)", do: storeStops, steady: true},
		{name: "s2-kill", what: "kill -9 of S2, back after 10 s", do: storeDies, steady: true},
		{name: "s2-slow", what: "S2 takes 300 ms more for everything", do: storeIs(300*time.Millisecond, 0), steady: true},
		{name: "s2-busy", what: "S2 answers 429", do: storeIs(0, 429), steady: true},
		{name: "s2-fail", what: "S2 answers 503", do: storeIs(0, 503), steady: true},
		{name: "slow-readers", what: "readers too slow for what is written, and one that takes nothing", do: slowReaders, steady: true},
		{name: "frozen-edge", what: "a node that others relay much to is stopped (SIGSTOP)", do: frozenEdge, lingers: true},
		{name: "storm", what: "all readers of a node are cut together", do: storm(false), steady: true},
		{name: "storm-longpoll", what: "all long-polls at a node are cut together", do: storm(true), steady: true},
	}
}

func nothing(r *run) (string, error) {
	pause(r.span(5*time.Second, 20*time.Second))
	return "-", nil
}

// victim chooses the node for a fault: another node each time, and never the first node, by which
// a restarted node finds the fleet.
func (r *run) victim() *node {
	r.turn++
	return r.nodes[1+r.turn%(len(r.nodes)-1)]
}

func roll(r *run) (string, error) {
	restarted := 0
	for _, n := range r.nodes {
		if r.quick && restarted == 2 {
			break
		}
		pid := n.proc.pid()
		took := r.handover(n)
		if err := r.restart(n); err != nil {
			return "", err
		}
		streams, moved := took()
		r.note("%s gave %d streams away in %v", n.name, streams, moved.Round(10*time.Millisecond))
		if err := r.settle(30 * time.Second); err != nil {
			return "", err
		}
		if n.proc.pid() == pid {
			return "", fmt.Errorf("%s is still process %d", n.name, pid)
		}
		restarted++
	}
	return fmt.Sprintf("%d processes replaced", restarted), nil
}

// handover watches a node that stops, until took is called: how many streams it had
// that were followed, and how long it took from the first to the last that it gave
// away.
func (r *run) handover(n *node) (took func() (streams int, span time.Duration)) {
	count := func() (float64, bool) {
		m, err := r.ask.Metrics(n.admin())
		return m["fantail_s2_read_sessions"], err == nil
	}
	before, _ := count()
	stop, done := make(chan struct{}), make(chan struct{})
	var first, last time.Time
	go func() {
		defer close(done)
		tick := time.NewTicker(20 * time.Millisecond)
		defer tick.Stop()
		for left := before; left > 0; {
			select {
			case <-tick.C:
			case <-stop:
				return
			}
			now, ok := count()
			if !ok {
				continue
			}
			if now < left && first.IsZero() {
				first = time.Now()
			}
			if now < left {
				last = time.Now()
			}
			left = min(left, now)
		}
	}()
	return func() (int, time.Duration) {
		close(stop)
		<-done
		return int(before), last.Sub(first)
	}
}

// surge replaces a node by a node at another address, which is up before the old one stops.
func surge(r *run) (string, error) {
	old := r.victim()
	used := map[int]bool{}
	for _, n := range r.nodes {
		used[n.index] = true
	}
	fresh := &node{}
	for used[fresh.index] {
		fresh.index++
	}
	fresh.name = fmt.Sprint("node-", fresh.index)
	if err := r.startNode(fresh); err != nil {
		return "", err
	}
	r.set(append(slices.Clone(r.nodes), fresh))
	if err := r.settle(30 * time.Second); err != nil {
		return "", err
	}
	if err := r.terminate(old); err != nil {
		return "", err
	}
	r.set(slices.DeleteFunc(slices.Clone(r.nodes), func(n *node) bool { return n == old }))
	return fmt.Sprintf("%s in place of %s", fresh.name, old.name), nil
}

func kill(r *run) (string, error) {
	n := r.victim()
	if err := n.proc.kill(); err != nil {
		return "", err
	}
	fired := fmt.Sprintf("%s (process %d) is %s", n.name, n.proc.pid(), n.proc.state())
	pause(r.span(3*time.Second, 10*time.Second))
	return fired, r.startNode(n)
}

func freeze(quick, full time.Duration) func(*run) (string, error) {
	return func(r *run) (string, error) {
		n := r.victim()
		if err := n.proc.stop(); err != nil {
			return "", err
		}
		pause(r.span(quick, full))
		fired := fmt.Sprintf("%s was in state %s", n.name, n.proc.state())
		return fired, n.proc.signal(syscall.SIGCONT)
	}
}

func storeStops(r *run) (string, error) {
	if err := r.store.stop(); err != nil {
		return "", err
	}
	pause(r.span(4*time.Second, 10*time.Second))
	err := r.memory()
	pause(r.span(3*time.Second, 50*time.Second))
	fired := "S2 was in state " + r.store.state()
	return fired, errors.Join(err, r.store.signal(syscall.SIGCONT))
}

func storeDies(r *run) (string, error) {
	if err := r.store.kill(); err != nil {
		return "", err
	}
	fired := fmt.Sprintf("S2 (process %d) is %s", r.store.pid(), r.store.state())
	pause(5 * time.Second)
	err := r.memory()
	pause(5 * time.Second)
	return fired, errors.Join(err, r.startStore())
}

func storeIs(slow time.Duration, status int64) func(*run) (string, error) {
	return func(r *run) (string, error) {
		before := r.proxy.faulty.Load()
		r.proxy.delay.Store(int64(slow))
		r.proxy.status.Store(status)
		pause(r.span(5*time.Second, 20*time.Second))
		err := r.memory()
		r.proxy.delay.Store(0)
		r.proxy.status.Store(0)
		n := r.proxy.faulty.Load() - before
		if n == 0 {
			return "", err
		}
		return fmt.Sprintf("%d requests met it", n), err
	}
}

// memory asks each node for what is in its memory, and needs no S2: a new reader of a
// stream that is followed there. Catching up is noted: where it reaches the tail it is
// answered only while a read session says what that is.
func (r *run) memory() error {
	live, caught := 0, 0
	for s, n := range r.nodes {
		name := streamName(r.load.prefix, s)
		from := r.load.offsets[s]
		if r.sse(n, name, from) {
			live++
		}
		if status, err := r.ask.Get("http://" + n.http() + "/v1/stream/" + name + "?offset=" + from); err == nil && status == http.StatusOK {
			caught++
		}
	}
	r.note("without S2, %d of %d nodes took a new reader, and %d answered a read up to the tail", live, len(r.nodes), caught)
	if live < len(r.nodes) {
		return fmt.Errorf("%d nodes refused a reader of what is in memory", len(r.nodes)-live)
	}
	return nil
}

// sse reports whether a node gives a new reader its first event within a second.
func (r *run) sse(n *node, name, from string) bool {
	conn, err := net.DialTimeout("tcp", n.http(), time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(time.Second))
	fmt.Fprintf(conn, "GET /v1/stream/%s?live=sse&offset=%s HTTP/1.0\r\n\r\n", name, from)
	for in := bufio.NewScanner(conn); in.Scan(); {
		if in.Text() == "event: control" {
			return true
		}
	}
	return false
}
