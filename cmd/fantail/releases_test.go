package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// olderRelease returns the command of an earlier release (bench/with-release).
func olderRelease(t *testing.T) string {
	t.Helper()
	path := os.Getenv("TEST_OLDER_FANTAIL")
	if path == "" {
		t.Skip("bench/with-release brings another release")
	}
	return path
}

// A fleet is rolled from an older release to this one, one node of it back, and forward again.
// Nothing is lost, doubled or reordered, and each stream has one session.
func TestRollsFromAnOlderRelease(t *testing.T) {
	older := olderRelease(t)
	rollNodes(t, startRelease(t, 3, older), "", "", "", older, "")
}

// alternatingReleases runs one node after another over one S2, each of another release.
type alternatingReleases struct {
	*client
	t    *testing.T
	s2   string
	node *process
}

// startRelease stops the node and starts one of another release; empty: this one.
func (x *alternatingReleases) startRelease(release string) {
	x.t.Helper()
	if x.node != nil {
		if err := x.node.cmd.Process.Signal(syscall.SIGTERM); err != nil {
			x.t.Fatal(err)
		}
		if err := x.node.waitForEnd(x.t, 12*time.Second); err != nil {
			x.t.Error(err)
		}
	}
	if release == "" {
		var err error
		if release, err = binary(); err != nil {
			x.t.Fatal(err)
		}
	}
	x.node = spawnBinary(x.t, release, "serving", "serve", "--http=127.0.0.1:0", "--admin=127.0.0.1:0",
		"--s2-endpoint="+x.s2, "--s2-basin=fantail-release-test", "--s2-create-basins", "--linger=0s", "--drain=1s")
}

func (x *alternatingReleases) url(stream string) string {
	return "http://" + x.node.addr("http") + "/v1/stream/" + stream
}

// post appends as producer p with a sequence number, and wants a status.
func (x *alternatingReleases) post(stream string, status, seq int, body string) answer {
	x.t.Helper()
	return x.must(x.t, status, "POST", x.url(stream), body, "Content-Type", "application/json",
		"Producer-Id", "p", "Producer-Epoch", "1", "Producer-Seq", fmt.Sprint(seq))
}

// One log is written and read by this release, an older one, and this one again, across
// checkpoints. Generations, producers, lifetimes, forks and offsets stay the same.
func TestReleasesShareOneLog(t *testing.T) {
	older := olderRelease(t)
	x := &alternatingReleases{client: newClient(t), t: t, s2: spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0").addr("url")}
	var wrote []string
	seq := 0
	offsets := map[string]string{} // and how many messages are below
	write := func(n int) {
		t.Helper()
		for range n {
			msgs := make([]string, 40)
			for i := range msgs {
				wrote = append(wrote, fmt.Sprint(len(wrote)))
				msgs[i] = strconv.Quote(wrote[len(wrote)-1])
			}
			a := x.post("log", 200, seq, "["+strings.Join(msgs, ",")+"]")
			offsets[a.header.Get("Stream-Next-Offset")] = fmt.Sprint(len(wrote))
			seq++
		}
	}
	check := func(when string) {
		t.Helper()
		wantSame(t, when, x.readAll(t, x.url("log")), wrote)
		x.post("log", 204, seq-1, `["again"]`)     // written before
		x.post("log", 409, seq+1, `["too early"]`) // a gap
		for at, n := range offsets {
			a := x.must(t, 200, "GET", x.url("log")+"?offset="+at, "")
			if want := fmt.Sprintf("[%q", n); n != fmt.Sprint(len(wrote)) && !strings.HasPrefix(string(a.body), want) {
				t.Errorf("%s: at %s: %.20s, want %s", when, at, a.body, want)
			}
		}
		wantSame(t, when+", the fork", x.readAll(t, x.url("fork")), append(wrote[:400:400], "own"))
		x.must(t, 409, "POST", x.url("closed"), "x", "Content-Type", "text/plain")
		if a := x.must(t, 200, "HEAD", x.url("ttl"), ""); a.header.Get("Stream-TTL") != "86400" || a.header.Get("Content-Type") != "text/csv" {
			t.Errorf("%s: %v", when, a.header)
		}
		x.must(t, 200, "PUT", x.url("ttl"), "", "Content-Type", "text/csv", "Stream-TTL", "86400")
		x.must(t, 404, "GET", x.url("deleted"), "")
		if got := string(x.must(t, 200, "GET", x.url("again"), "").body); got != "second life" {
			t.Errorf("%s: %q", when, got)
		}
	}
	x.startRelease(older)
	x.must(t, 201, "PUT", x.url("log"), "", ofJSON...)
	write(10)
	x.must(t, 201, "PUT", x.url("fork"), `["own"]`, "Stream-Forked-From", "/v1/stream/log")
	x.must(t, 201, "PUT", x.url("closed"), "end", "Content-Type", "text/plain", "Stream-Closed", "true")
	x.must(t, 201, "PUT", x.url("ttl"), "a,b", "Content-Type", "text/csv", "Stream-TTL", "86400")
	for _, name := range []string{"deleted", "again"} {
		x.must(t, 201, "PUT", x.url(name), "first life", "Content-Type", "text/plain")
		x.must(t, 204, "DELETE", x.url(name), "")
	}
	x.must(t, 201, "PUT", x.url("again"), "second life", "Content-Type", "text/plain")
	write(20)
	check("the older one")
	for round := range 2 {
		x.startRelease("")
		check(fmt.Sprint("this one, round ", round))
		write(30)
		check(fmt.Sprint("this one wrote, round ", round))
		x.startRelease(older)
		check(fmt.Sprint("rolled back, round ", round))
		write(30)
		check(fmt.Sprint("it wrote, round ", round))
	}
	x.startRelease("")
	check("in the end")
}
