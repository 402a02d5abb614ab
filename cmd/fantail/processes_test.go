package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// binary builds the command once, as `make build` does.
var binary = sync.OnceValues(func() (string, error) {
	dir, err := os.MkdirTemp("", "fantail")
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "fantail")
	out, err := exec.Command("go", "build", "-o", path, ".").CombinedOutput()
	if err != nil {
		return "", fmt.Errorf("%w: %s", err, out)
	}
	return path, nil
})

// startS2 returns the command, and an S2 in this process with the basin of dev.
func startS2(t *testing.T) (path string, s *s2dev.Server) {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	if s, err = s2dev.Open(s2dev.Config{Basins: []string{devBasin}}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s.Close() })
	return path, s
}

// process is one running fantail.
type process struct {
	cmd       *exec.Cmd
	addresses map[string]any // the log line with its addresses
	done      chan error
	log       *transcript
}

// transcript is the output of a process so far.
type transcript struct {
	mu  sync.Mutex
	all strings.Builder
}

// Write implements io.Writer.
func (t *transcript) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.Write(b)
}

func (t *transcript) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.all.String()
}

// spawn starts a process and waits for the log line msg.
func spawn(t *testing.T, msg string, args ...string) *process {
	t.Helper()
	path, err := binary()
	if err != nil {
		t.Fatal(err)
	}
	return spawnBinary(t, path, msg, args...)
}

// spawnBinary starts the command of another release, as spawn does.
func spawnBinary(t *testing.T, path, msg string, args ...string) *process {
	t.Helper()
	p := &process{cmd: exec.Command(path, append([]string{"--log-format=json"}, args...)...), done: make(chan error, 1), log: new(transcript)}
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.cmd.Stdout = p.log // the access log
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ready := make(chan map[string]any, 1)
	log := p.log
	go func() {
		sc := bufio.NewScanner(io.TeeReader(stderr, log))
		for sc.Scan() {
			var line map[string]any
			if json.Unmarshal(sc.Bytes(), &line) == nil && line["msg"] == msg {
				ready <- line
			}
		}
		p.done <- p.cmd.Wait()
	}()
	t.Cleanup(func() {
		_ = p.cmd.Process.Kill()
		<-p.done
		if t.Failed() {
			t.Logf("%v:\n%s", args, log.String())
		}
	})
	select {
	case p.addresses = <-ready:
		return p
	case err := <-p.done:
		p.done <- err
		t.Fatalf("%v ended: %v\n%s", args, err, log.String())
	case <-time.After(20 * time.Second):
		t.Fatalf("%v does not say %q", args, msg)
	}
	return nil
}

func (p *process) addr(what string) string {
	s, _ := p.addresses[what].(string)
	return s
}

// waitForEnd waits for the process and returns its error.
func (p *process) waitForEnd(t *testing.T, within time.Duration) error {
	t.Helper()
	select {
	case err := <-p.done:
		p.done <- err
		return err
	case <-time.After(within):
		t.Fatalf("still there after %v", within)
		return nil
	}
}

// processes is a `fantail s2` and n times `fantail serve`.
type processes struct {
	run  string // a project of its own: another S2 keeps what earlier runs wrote
	path string // the release that spawn starts; empty: this one
	// client sends the requests of rollNodes (nil: a new one), and flags returns more flags of the node
	// that one of its steps starts (nil: none).
	client *client
	flags  func(step int) []string
	s2     *process
	nodes  []*process
}

func startProcesses(t *testing.T, n int) *processes {
	t.Helper()
	return startRelease(t, n, "")
}

// startRelease is startProcesses for another release; empty: this one.
func startRelease(t *testing.T, n int, path string) *processes {
	t.Helper()
	ps := &processes{run: rand.Text(), path: path, s2: spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0")}
	if s2 := os.Getenv("TEST_S2_ENDPOINT"); s2 != "" { // another S2, such as s2-lite
		ps.s2.addresses["url"] = s2
	}
	for i := range n {
		var join []string
		if i > 0 {
			join = []string{"--join=" + ps.nodes[0].addr("gossip")}
		}
		ps.nodes = append(ps.nodes, ps.spawn(t, i, join...))
	}
	ps.awaitOwners(t)
	return ps
}

// spawn starts node i.
func (ps *processes) spawn(t *testing.T, i int, more ...string) *process {
	t.Helper()
	path := ps.path
	if path == "" {
		var err error
		if path, err = binary(); err != nil {
			t.Fatal(err)
		}
	}
	return spawnBinary(t, path, "serving", append([]string{
		"serve", fmt.Sprintf("--name=node-%d", i), "--http=127.0.0.1:0", "--admin=127.0.0.1:0",
		"--s2-endpoint=" + ps.s2.addr("url"), "--s2-basin=fantail-process-test", "--s2-create-basins",
		"--cluster=test", "--secret=00112233445566778899aabbccddeeff", "--gossip=127.0.0.1:0",
		"--relay=127.0.0.1:0", "--grace=10s", "--linger=0s", "--drain=2s", // the balancer is in the test
	}, more...)...)
}

// Three nodes that list each other start at the same moment, as in a deployment. None of them is
// first.
func TestNodesThatStartTogetherFormOneFleet(t *testing.T) {
	t.Parallel()
	s2 := spawn(t, "embedded S2", "s2", "--listen=127.0.0.1:0")
	gossip := freePorts(t, 3)
	ps := processes{run: rand.Text()}
	ps.nodes = make([]*process, 3)
	var starting sync.WaitGroup
	for i := range 3 {
		starting.Go(func() {
			ps.nodes[i] = spawn(t, "serving",
				"serve", fmt.Sprintf("--name=node-%d", i), "--http=127.0.0.1:0", "--admin=127.0.0.1:0",
				"--s2-endpoint="+s2.addr("url"), "--s2-basin=fantail-process-test", "--s2-create-basins",
				"--cluster=test", "--secret=00112233445566778899aabbccddeeff", "--gossip="+gossip[i],
				"--relay=127.0.0.1:0", "--join="+strings.Join(gossip, ","))
		})
	}
	starting.Wait()
	ps.awaitOwners(t)
	c := newClient(t)
	for i := range 3 {
		c.must(t, 201, "PUT", ps.url(i, fmt.Sprintf("t%d", i)), "", "Content-Type", "text/plain")
	}
}

// freePorts returns free loopback addresses.
func freePorts(t *testing.T, n int) []string {
	t.Helper()
	var addrs []string
	for range n {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer l.Close()
		addrs = append(addrs, l.Addr().String())
	}
	return addrs
}

// awaitOwners waits until every node is ready, sees all others own streams, and has a
// link to each.
func (ps *processes) awaitOwners(t *testing.T) {
	t.Helper()
	c := newClient(t)
	n := len(ps.nodes)
	eventually(t, 20*time.Second, "the fleet is settled", func() bool {
		for _, p := range ps.nodes {
			a, err := c.do(t.Context(), "GET", "http://"+p.addr("admin")+"/readyz", "")
			up, _ := c.metric(t.Context(), p.addr("admin"), "fantail_links_up")
			owners, _ := c.metric(t.Context(), p.addr("admin"), "fantail_owners")
			if err != nil || a.status != 200 || int(up) != n-1 || int(owners) != n {
				return false
			}
		}
		return true
	})
}

func (ps *processes) url(i int, stream string) string {
	return "http://" + ps.nodes[i%len(ps.nodes)].addr("http") + "/v1/stream/" + ps.run + "/" + stream
}

// sumMetric returns the sum of a metric over the nodes that answer.
func (ps *processes) sumMetric(ctx context.Context, c *client, name string) (sum float64) {
	for _, p := range ps.nodes {
		v, _ := c.metric(ctx, p.addr("admin"), name)
		sum += v
	}
	return sum
}

// The owner of a stream is killed while 50 producers write to it and 300 SSE clients read it. Every
// acknowledged record is there exactly once, and every reader gets every record exactly once, in
// order.
func TestOwnerIsKilled(t *testing.T) {
	ps := startProcesses(t, 3)
	c := newClient(t)
	c.must(t, 201, "PUT", ps.url(0, "hot"), "", "Content-Type", "application/json")
	owner := -1
	for i, p := range ps.nodes {
		if v, _ := c.metric(t.Context(), p.addr("admin"), "fantail_owned_streams"); v == 1 {
			owner = i
		}
	}
	if owner < 0 {
		t.Fatal("nobody owns the stream")
	}
	var dead atomic.Int64
	dead.Store(-1)
	living := func(i int) string { // the node that a balancer would choose
		if int64(i%3) == dead.Load() {
			i++
		}
		return ps.url(i, "hot")
	}

	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	readers, ended := c.follow(ctx, t, 300, 30*time.Second, func(i, try int) string {
		if try == 0 {
			return ps.url(i, "hot")
		}
		return living(i)
	})

	const producers, writes = 50, 40
	var writing sync.WaitGroup
	var acked atomic.Int64
	half := make(chan struct{})
	for w := range producers {
		writing.Go(func() {
			for i := range writes {
				writeSurely(ctx, t, c, living, w, i)
				if acked.Add(1) == producers*writes/2 {
					close(half)
				}
			}
		})
	}
	<-half
	dead.Store(int64(owner))
	if err := ps.nodes[owner].cmd.Process.Kill(); err != nil {
		t.Fatal(err)
	}
	killed := time.Now()
	writing.Wait()
	t.Logf("all appends acknowledged %v after the kill", time.Since(killed).Round(time.Millisecond))

	eventually(t, 20*time.Second, "one read session again", func() bool {
		return ps.sumMetric(ctx, c, "fantail_s2_read_sessions") == 1
	})
	all := c.readAll(t, living(0))
	checkOnceInOrder(t, all, producers, writes)
	c.must(t, 204, "POST", living(1), "", "Stream-Closed", "true")
	time.AfterFunc(30*time.Second, stop)
	ended() // a closed stream ends its readers
	for i, r := range readers {
		who := fmt.Sprintf("reader %d of node %d", i, i%3)
		wantSame(t, who, r.got, all)
		if i%3 != owner && r.tries != 1 {
			t.Errorf("%s lost its connection, though its node lived", who)
		}
	}
}

// writeSurely appends message i of producer w until it is acknowledged. The producer's tuple makes
// repeating safe.
func writeSurely(ctx context.Context, t *testing.T, c *client, living func(int) string, w, i int) {
	for try := 0; ctx.Err() == nil; try++ {
		a, err := c.do(ctx, "POST", living(w+try), fmt.Sprintf("%q", fmt.Sprintf("%d-%d", w, i)),
			"Content-Type", "application/json", "Producer-Id", fmt.Sprintf("p%d", w),
			"Producer-Epoch", "0", "Producer-Seq", fmt.Sprint(i))
		switch {
		case err == nil && (a.status == 200 || a.status == 204):
			return
		case err == nil && a.status < 500:
			t.Errorf("append %d-%d: %d %s", w, i, a.status, a.body)
			return
		}
		pause(ctx, 50*time.Millisecond)
	}
}

// checkOnceInOrder checks that all holds every message of every producer once, each producer's in
// order.
func checkOnceInOrder(t *testing.T, all []string, producers, writes int) {
	t.Helper()
	next := map[string]int{}
	for _, m := range all {
		w, i, _ := strings.Cut(m, "-")
		if i != fmt.Sprint(next[w]) {
			t.Fatalf("producer %s: message %s where %d was due", w, i, next[w])
		}
		next[w]++
	}
	if len(all) != producers*writes {
		t.Fatalf("%d messages, want %d", len(all), producers*writes)
	}
}

// After SIGTERM the node ends its readers after a complete event, hands its streams to others, and
// exits cleanly within its grace. Sessions on S2 end with the readers.
func TestTerminate(t *testing.T) {
	t.Parallel()
	ps := startProcesses(t, 2)
	c := newClient(t)
	for i := range 8 {
		c.must(t, 201, "PUT", ps.url(i, fmt.Sprintf("s%d", i)), `"0"`, "Content-Type", "application/json")
	}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var reading sync.WaitGroup
	var stopped atomic.Bool
	readers := make([]*reader, 16)
	for i := range readers {
		stream := fmt.Sprintf("s%d", i/2)
		r := &reader{client: c, url: func(int) string {
			if stopped.Load() {
				return ps.url(1, stream)
			}
			return ps.url(i, stream)
		}}
		readers[i] = r
		reading.Go(func() {
			if err := r.run(ctx); err != nil {
				t.Error(err)
			}
		})
	}
	eventually(t, 20*time.Second, "everybody reads", func() bool { return ps.sumMetric(ctx, c, "fantail_readers") == 16 })
	eventually(t, 20*time.Second, "one read session for each followed stream", func() bool {
		return ps.sumMetric(ctx, c, "fantail_s2_read_sessions") == 8
	})
	stopped.Store(true)
	began := time.Now()
	if err := ps.nodes[0].cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := ps.nodes[0].waitForEnd(t, 12*time.Second); err != nil {
		t.Errorf("exit: %v", err)
	}
	t.Logf("gone after %v", time.Since(began).Round(time.Millisecond))
	for i := range 8 {
		url := ps.url(1, fmt.Sprintf("s%d", i))
		c.must(t, 204, "POST", url, `"1"`, "Content-Type", "application/json")
		c.must(t, 204, "POST", url, "", "Stream-Closed", "true")
	}
	time.AfterFunc(20*time.Second, stop)
	reading.Wait()
	for i, r := range readers {
		wantSame(t, fmt.Sprintf("reader %d", i), r.got, []string{"0", "1"})
	}
	// A session lives to the end of its billed minute, and no longer.
	eventually(t, 65*time.Second, "read sessions are closed", func() bool {
		return ps.sumMetric(t.Context(), c, "fantail_s2_read_sessions") == 0
	})
}
