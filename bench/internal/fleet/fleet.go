// Package fleet is Fantail on this machine: the embedded S2 and nodes, each a process, and
// each at a loopback address of its own.
package fleet

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/child"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// Fleet is a running fleet.
type Fleet struct {
	ask   *ask.Asker
	drain time.Duration
	dir   string
	bin   string
	store *child.Child
	nodes []*child.Child // nil: not started yet
	flags []string       // of the nodes, beside those that all have
}

// Store is S2's address.
const Store = "127.0.0.9:4430"

func ip(node int) string { return fmt.Sprint("127.0.1.", node+1) }

// HTTP returns the URL of a node.
func HTTP(node int) string { return "http://" + ip(node) + ":4437" }

// Admin returns the admin address of a node.
func Admin(node int) string { return ip(node) + ":4447" }

// Start builds the binary and starts nodes, each of which ends its readers over drain when
// it stops. It returns once they are one fleet. SIGINT and SIGTERM end them, and the
// program.
func Start(nodes int, drain time.Duration, flags ...string) (f *Fleet, err error) {
	dir, err := os.MkdirTemp("", "fantail-fleet-")
	if err != nil {
		return nil, err
	}
	f = &Fleet{ask: ask.New(), drain: drain, dir: dir, bin: filepath.Join(dir, "fantail"), nodes: make([]*child.Child, nodes), flags: flags}
	defer func() {
		if err != nil {
			f.Stop()
		}
	}()
	over := make(chan os.Signal, 1)
	signal.Notify(over, os.Interrupt, syscall.SIGTERM)
	go func() {
		<-over
		f.Stop()
		os.Exit(1)
	}()
	if out, err := exec.Command("go", "build", "-o", f.bin, "./cmd/fantail").CombinedOutput(); err != nil {
		return nil, fmt.Errorf("build: %w: %s", err, out)
	}
	if f.store, err = child.Start(f.bin, "", "s2", "--listen="+Store, "--basin=fantail-bench"); err != nil {
		return nil, err
	}
	for i := range f.nodes {
		if err := f.start(i); err != nil {
			return nil, err
		}
	}
	return f, f.Whole(30 * time.Second)
}

func (f *Fleet) start(i int) (err error) {
	var join []string
	for j := range f.nodes {
		join = append(join, ip(j)+":4457")
	}
	f.nodes[i], err = child.Start(f.bin, "", append([]string{
		"serve", fmt.Sprint("--name=node-", i), "--http=" + ip(i) + ":4437", "--admin=" + Admin(i),
		"--gossip=" + ip(i) + ":4457", "--relay=" + ip(i) + ":4467", "--join=" + strings.Join(join, ","),
		"--cluster=bench", "--secret=00112233445566778899aabbccddeeff", "--linger=0s", "--drain=" + f.drain.String(),
		"--s2-endpoint=http://" + Store, "--s2-basin=fantail-bench",
	}, f.flags...)...)
	return err
}

// Whole waits until every node is ready and sees as many owners as there are nodes.
func (f *Fleet) Whole(within time.Duration) error {
	var why error
	_ = wait.For(within, "", func() bool {
		why = f.missing()
		return why == nil || errors.Is(why, errEnded)
	})
	return why
}

var errEnded = errors.New("has ended: another fleet may be there")

// missing returns what the fleet lacks to be whole.
func (f *Fleet) missing() error {
	if f.store.Ended() {
		return fmt.Errorf("S2 %w", errEnded)
	}
	for i, n := range f.nodes {
		if n.Ended() {
			return fmt.Errorf("node %d %w", i, errEnded)
		}
		m, err := f.ask.Metrics(Admin(i))
		if err != nil {
			return err
		}
		if int(m["fantail_owners"]) != len(f.nodes) || int(m["fantail_links_up"]) != len(f.nodes)-1 || !f.ask.Ready(Admin(i)) {
			return fmt.Errorf("node %d is not ready, or sees %v owners over %v links", i, m["fantail_owners"], m["fantail_links_up"])
		}
	}
	return nil
}

// Restart stops a node as an orchestrator does, and starts it again.
func (f *Fleet) Restart(i int) error {
	f.nodes[i].Stop()
	if err := f.start(i); err != nil {
		return err
	}
	return f.Whole(time.Minute)
}

// Metrics returns the metrics of a node, or of S2 at Store.
func (f *Fleet) Metrics(at string) (map[string]float64, error) { return f.ask.Metrics(at) }

// Sum adds up a metric of all nodes that answer.
func (f *Fleet) Sum(name string) (v float64) {
	for i := range f.nodes {
		if m, err := f.ask.Metrics(Admin(i)); err == nil {
			v += m[name]
		}
	}
	return v
}

// PIDs returns the processes of the nodes. S2 is not what is measured.
func (f *Fleet) PIDs() (pids []int) {
	for _, n := range f.nodes {
		pids = append(pids, n.PID())
	}
	return pids
}

// Stop ends all of it.
func (f *Fleet) Stop() {
	for _, n := range f.nodes {
		if n != nil {
			n.Stop()
		}
	}
	if f.store != nil {
		f.store.Stop()
	}
	_ = os.RemoveAll(f.dir)
}
