package main

import (
	"context"
	"fmt"
	"net/http"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"
)

// killableFleet is three nodes. The owner of a stream will be killed.
type killableFleet struct {
	*processes
	*client
	t     *testing.T
	owner int
	dead  atomic.Bool
}

// startKillableFleet starts the processes and creates the stream.
func startKillableFleet(t *testing.T, stream, body string, header ...string) *killableFleet {
	t.Helper()
	d := &killableFleet{processes: startProcesses(t, 3), client: newClient(t), t: t, owner: -1}
	d.must(t, 201, "PUT", d.url(0, stream), body, header...)
	for i, p := range d.nodes {
		if v, _ := d.metric(t.Context(), p.addr("admin"), "fantail_owned_streams"); v == 1 {
			d.owner = i
		}
	}
	if d.owner < 0 {
		t.Fatal("nobody owns the stream")
	}
	return d
}

// urlOfLiving returns a stream's URL at a node that a balancer would choose.
func (d *killableFleet) urlOfLiving(i int, stream string) string {
	if i%3 == d.owner && d.dead.Load() {
		i++
	}
	return d.url(i, stream)
}

func (d *killableFleet) kill() {
	d.t.Helper()
	d.dead.Store(true)
	if err := d.nodes[d.owner].cmd.Process.Kill(); err != nil {
		d.t.Fatal(err)
	}
}

// mustEventually repeats a request that is safe to repeat until a node answers it, and wants one of
// statuses.
func (d *killableFleet) mustEventually(method string, i int, stream, body string, statuses []int, header ...string) answer {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(d.t.Context(), 60*time.Second)
	defer cancel()
	for ; ctx.Err() == nil; i++ {
		a, err := d.do(ctx, method, d.urlOfLiving(i, stream), body, header...)
		if err == nil && a.status < 500 && a.status != http.StatusTooManyRequests {
			for _, s := range statuses {
				if a.status == s {
					return a
				}
			}
			d.t.Errorf("%s %s: %d %s, want %v", method, stream, a.status, a.body, statuses)
			return a
		}
		pause(ctx, 50*time.Millisecond)
	}
	d.t.Errorf("%s %s: no answer", method, stream)
	return answer{}
}

// The owner of a source is killed while forks of it are created. Each acknowledged fork is whole.
// The source stays for its forks, and goes with the last.
func TestForksWhileOwnerIsKilled(t *testing.T) {
	t.Parallel()
	d := startKillableFleet(t, "source", `["a","b","c"]`, ofJSON...)
	const forks = 48
	name := func(i int) string { return fmt.Sprint("fork-", i) }
	source := "/v1/stream/" + d.run + "/source"
	var making sync.WaitGroup
	var made atomic.Int64
	half := make(chan struct{})
	for w := range 6 {
		making.Go(func() {
			for i := w; i < forks; i += 6 {
				d.mustEventually("PUT", i, name(i), fmt.Sprintf(`["own-%d"]`, i), []int{200, 201}, "Stream-Forked-From", source)
				if made.Add(1) == forks/2 {
					close(half)
				}
			}
		})
	}
	<-half
	d.kill()
	making.Wait()
	check := func(when string) {
		for i := range forks {
			for n := range 2 {
				wantSame(t, fmt.Sprint(when, ", ", name(i)), d.readAll(t, d.urlOfLiving(d.owner+n, name(i))), []string{"a", "b", "c", fmt.Sprint("own-", i)})
			}
		}
	}
	check("after the kill")
	d.mustEventually("DELETE", 1, "source", "", []int{204})
	check("without the source")
	d.mustEventually("GET", 2, "source", "", []int{410})
	for i := range forks {
		d.mustEventually("DELETE", i, name(i), "", []int{204, 404})
	}
	// Immediately, unless the kill left a reference that belongs to no fork: such references are
	// checked after half a minute.
	began := time.Now()
	eventually(t, 60*time.Second, "the source is gone for good", func() bool {
		a, err := d.do(t.Context(), "HEAD", d.urlOfLiving(1, "source"), "")
		return err == nil && a.status == http.StatusNotFound
	})
	t.Logf("the source went after %v", time.Since(began).Round(time.Millisecond))
	d.mustEventually("PUT", 0, "source", `["anew"]`, []int{201}, ofJSON...)
}

// After the owner's death a duplicate is still recognized, and a new epoch fences the old one.
func TestProducersWhenOwnerIsKilled(t *testing.T) {
	t.Parallel()
	d := startKillableFleet(t, "produced", "", ofJSON...)
	const producers, writes = 20, 6
	tuple := func(p, epoch, seq int) []string {
		return append([]string{"Producer-Id", fmt.Sprint("p", p), "Producer-Epoch", fmt.Sprint(epoch), "Producer-Seq", fmt.Sprint(seq)}, ofJSON...)
	}
	for p := range producers {
		for seq := range writes {
			d.must(t, 200, "POST", d.url(p+seq, "produced"), fmt.Sprintf(`"%d-%d"`, p, seq), tuple(p, 0, seq)...)
		}
	}
	d.kill()
	for p := range producers {
		for seq := range writes {
			a := d.mustEventually("POST", p+seq, "produced", `"twice"`, []int{204}, tuple(p, 0, seq)...)
			if got := a.header.Get("Producer-Seq"); got != fmt.Sprint(writes-1) {
				t.Errorf("p%d-%d: highest seq %q", p, seq, got)
			}
		}
		d.mustEventually("POST", p, "produced", `"gap"`, []int{409}, tuple(p, 0, writes+1)...)
	}
	checkOnceInOrder(t, d.readAll(t, d.urlOfLiving(0, "produced")), producers, writes)
	d.mustEventually("POST", 0, "produced", `"new"`, []int{200}, tuple(0, 1, 0)...)
	a := d.mustEventually("POST", 1, "produced", `"old"`, []int{403}, tuple(0, 0, writes)...)
	if a.header.Get("Producer-Epoch") != "1" {
		t.Errorf("fenced by epoch %q", a.header.Get("Producer-Epoch"))
	}
}

// The owner is killed during large appends. Readers on other nodes see each append whole or not at
// all, and later appends work.
func TestLargeAppendsWhileOwnerIsKilled(t *testing.T) {
	t.Parallel()
	d := startKillableFleet(t, "large", "", ofJSON...)
	const elements = 20_000
	array := func(n int) string {
		return "[" + strings.Repeat(fmt.Sprintf(`"%d-%s",`, n, strings.Repeat("x", 100)), elements-1) + fmt.Sprintf(`"%d-last"]`, n)
	}
	var writing sync.WaitGroup
	var outcomes [12]int
	first := make(chan struct{})
	for n := range outcomes {
		writing.Go(func() {
			a, err := d.do(t.Context(), "POST", d.urlOfLiving(d.owner+1+n%2, "large"), array(n), ofJSON...)
			if err == nil {
				outcomes[n] = a.status
			}
			if n == 0 {
				close(first)
			}
		})
	}
	<-first // the others are on their way
	d.kill()
	writing.Wait()
	d.mustEventually("POST", 0, "large", `"next"`, []int{204}, ofJSON...)
	all := d.readAll(t, d.urlOfLiving(0, "large"))
	counts, at := map[string]int{}, ""
	for i, m := range all {
		n, _, _ := strings.Cut(m, "-")
		if n != at && at != "" && at != "next" && counts[at] != elements {
			t.Fatalf("message %d is of append %s, after %d of append %s", i, n, counts[at], at)
		}
		at = n
		counts[n]++
	}
	if counts["next"] != 1 {
		t.Errorf("the later append is there %d times", counts["next"])
	}
	for n, status := range outcomes {
		got := counts[fmt.Sprint(n)]
		if status == 204 && got != elements || status != 204 && got != 0 && got != elements {
			t.Errorf("append %d was answered %d and has %d messages", n, status, got)
		}
	}
	t.Logf("answers %v", outcomes)
}

// Bodies at and around every limit are accepted by any node. A larger one is refused.
func TestBodiesAroundEveryLimit(t *testing.T) {
	t.Parallel()
	f := startFleet(t, 3)
	c := newClient(t)
	for i, size := range []int{1<<20 - 1, 1 << 20, 1<<20 + 1, 10_000_000, 16 << 20} {
		stream := fmt.Sprint("bytes-", i)
		c.must(t, 201, "PUT", f.url(i, stream), "", "Content-Type", "application/octet-stream")
		body := strings.Repeat("\x00", size)
		next := c.must(t, 204, "POST", f.url(i+1, stream), body, "Content-Type", "application/octet-stream").header.Get("Stream-Next-Offset")
		for n := range f.nodes {
			a := c.must(t, 200, "GET", f.url(n, stream), "")
			if string(a.body) != body || a.header.Get("Stream-Next-Offset") != next {
				t.Errorf("%d bytes: %d on node %d, to %s", size, len(a.body), n, a.header.Get("Stream-Next-Offset"))
			}
		}
		c.must(t, 413, "POST", f.url(i, stream), strings.Repeat("\x00", 16<<20+1), "Content-Type", "application/octet-stream")
	}
	for i, elements := range []int{1001, 20_000, 32_768} {
		stream := fmt.Sprint("array-", i)
		body := "[" + strings.Repeat(`"e",`, elements-1) + `"e"]`
		c.must(t, 201, "PUT", f.url(i, stream), "", ofJSON...)
		c.must(t, 204, "POST", f.url(i+1, stream), body, ofJSON...)
		for n := range f.nodes {
			if got := c.readAll(t, f.url(n, stream)); len(got) != elements {
				t.Errorf("%d elements: %d on node %d", elements, len(got), n)
			}
		}
	}
	c.must(t, 413, "POST", f.url(0, "array-0"), "["+strings.Repeat("1,", 32_768)+"1]", ofJSON...)
}
