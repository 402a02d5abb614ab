package main

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"syscall"
	"testing"
	"time"
)

// A rolling deployment under readers and writers: each node in turn is stopped and started again.
// Every reader gets everything once, in order. S2 is hardly read, and has one read session for each
// stream.
func TestRollingRestart(t *testing.T) {
	t.Parallel()
	rollNodes(t, startProcesses(t, 3), "", "", "")
}

// rollNodes stops each of three nodes in turn, and starts it again as the releases say (empty: this
// one), under readers and writers.
func rollNodes(t *testing.T, ps *processes, releases ...string) {
	t.Helper()
	c := ps.client
	if c == nil {
		c = newClient(t)
	}
	const streams, perStream = 12, 9
	var mu sync.Mutex // guards ps.nodes and up
	up := []bool{true, true, true}
	// url returns a stream's URL at a node that a balancer would choose.
	url := func(i int, stream string) string {
		mu.Lock()
		defer mu.Unlock()
		for !up[i%3] {
			i++
		}
		return ps.url(i, stream)
	}
	name := func(s int) string { return fmt.Sprint("rolling-", s) }
	for s := range streams {
		c.must(t, 201, "PUT", ps.url(s, name(s)), "", ofJSON...)
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	readers, ended := c.follow(ctx, t, streams*perStream, 20*time.Second, func(i, try int) string {
		return url(i/streams+try, name(i%streams))
	})
	var writing sync.WaitGroup
	over := make(chan struct{})
	wrote, took := make([]int, streams), make([][]time.Duration, streams)
	for s := range streams {
		writing.Go(func() {
			for ; ; wrote[s]++ {
				select {
				case <-over:
					return
				default:
				}
				began := time.Now()
				writeSurely(ctx, t, c, func(i int) string { return url(i, name(s)) }, s, wrote[s])
				took[s] = append(took[s], time.Since(began))
			}
		})
	}
	for step, release := range releases {
		i := step % 3
		mu.Lock()
		up[i] = false
		old := ps.nodes[i]
		ps.path = release
		mu.Unlock()
		if err := old.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		if err := old.waitForEnd(t, 12*time.Second); err != nil {
			t.Errorf("node %d: %v", i, err)
		}
		more := []string{"--join=" + ps.nodes[(i+1)%3].addr("gossip")}
		if ps.flags != nil {
			more = append(more, ps.flags(step)...)
		}
		fresh := ps.spawn(t, i, more...)
		mu.Lock()
		ps.nodes[i] = fresh
		mu.Unlock()
		ps.awaitOwners(t)
		mu.Lock()
		up[i] = true
		mu.Unlock()
	}
	close(over)
	writing.Wait()
	eventually(t, 20*time.Second, "one read session for each stream", func() bool {
		return ps.sumMetric(ctx, c, "fantail_s2_read_sessions") == streams
	})
	taken, lost := ps.sumMetric(ctx, c, `fantail_handovers_total{result="taken"}`), ps.sumMetric(ctx, c, `fantail_handovers_total{result="lost"}`)
	all := slices.Sorted(slices.Values(slices.Concat(took...)))
	t.Logf("%d messages, an append p50 %v, p99 %v, longest %v; by the nodes that are up: streams taken %v, lost on the way %v",
		len(all), all[len(all)/2], all[len(all)*99/100], all[len(all)-1], taken, lost)
	if lost > 0 {
		t.Errorf("%v streams were not handed over", lost)
	}
	for s := range streams {
		all := c.readAll(t, url(s, name(s)))
		want := make([]string, wrote[s])
		for i := range want {
			want[i] = fmt.Sprintf("%d-%d", s, i)
		}
		wantSame(t, name(s), all, want)
		c.must(t, 204, "POST", url(s, name(s)), "", "Stream-Closed", "true")
	}
	time.AfterFunc(30*time.Second, stop)
	ended()
	for i, r := range readers {
		if len(r.got) != wrote[i%streams] || !slices.IsSortedFunc(r.got, inOrder) {
			t.Errorf("reader %d: %d messages of %d, in order: %v", i, len(r.got), wrote[i%streams], slices.IsSortedFunc(r.got, inOrder))
		}
	}
}

// inOrder compares two messages of one writer: "3-17" and "3-18".
func inOrder(a, b string) int {
	var w, i, j int
	_, _ = fmt.Sscanf(a, "%d-%d", &w, &i)
	_, _ = fmt.Sscanf(b, "%d-%d", &w, &j)
	return i - j
}
