package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/child"
)

// fleet is Fantail on this machine, each node at a loopback address of its own.
type fleet struct {
	o     *options
	ask   *ask.Asker
	dir   string
	bin   string
	store *child.Child
	nodes []*child.Child
}

const storeAt = "127.0.0.9:4430"

func nodeIP(i int) string { return fmt.Sprint("127.0.1.", i+1) }

func admin(i int) string { return nodeIP(i) + ":4447" }

func startFleet(o *options) (f *fleet, err error) {
	dir, err := os.MkdirTemp("", "fantail-load-")
	if err != nil {
		return nil, err
	}
	f = &fleet{o: o, ask: ask.New(), dir: dir, bin: filepath.Join(dir, "fantail")}
	defer func() {
		if err != nil {
			f.stop()
		}
	}()
	if out, err := exec.Command("go", "build", "-o", f.bin, "./cmd/fantail").CombinedOutput(); err != nil {
		return f, fmt.Errorf("build: %w: %s", err, out)
	}
	if f.store, err = child.Start(f.bin, "", "s2", "--listen="+storeAt, "--basin=fantail-load"); err != nil {
		return f, err
	}
	o.urls = nil
	for i := range o.fleet {
		n, err := f.start(i)
		if err != nil {
			return f, err
		}
		f.nodes = append(f.nodes, n)
		o.urls = append(o.urls, "http://"+nodeIP(i)+":4437")
	}
	return f, f.whole(30 * time.Second)
}

func (f *fleet) start(i int) (*child.Child, error) {
	var join []string
	for j := range f.o.fleet {
		join = append(join, nodeIP(j)+":4457")
	}
	at := nodeIP(i)
	return child.Start(f.bin, "", "serve", "--name=node-"+strconv.Itoa(i), "--http="+at+":4437", "--admin="+at+":4447",
		"--gossip="+at+":4457", "--relay="+at+":4467", "--join="+strings.Join(join, ","),
		"--cluster=load", "--secret=00112233445566778899aabbccddeeff", "--drain="+f.o.drain.String(),
		"--s2-endpoint=http://"+storeAt, "--s2-basin=fantail-load")
}

// whole waits until every node is ready and sees as many owners as there are nodes.
func (f *fleet) whole(within time.Duration) error {
	why := ""
	for end := time.Now().Add(within); time.Now().Before(end); time.Sleep(100 * time.Millisecond) {
		why = ""
		for i := range f.o.fleet {
			m, err := f.ask.Metrics(admin(i))
			switch {
			case err != nil:
				why = err.Error()
			case int(m["fantail_owners"]) != f.o.fleet || !f.ask.Ready(admin(i)):
				why = fmt.Sprintf("node %d is not ready, or sees %v owners", i, m["fantail_owners"])
			}
		}
		if why == "" {
			return nil
		}
	}
	return fmt.Errorf("the fleet is not whole: %s", why)
}

// restart stops a node as an orchestrator does, and starts it again.
func (f *fleet) restart(i int) (err error) {
	f.nodes[i].Stop()
	if f.nodes[i], err = f.start(i); err != nil {
		return err
	}
	return f.whole(time.Minute)
}

// sum adds up a metric of all nodes.
func (f *fleet) sum(name string) (v float64) {
	for i := range f.o.fleet {
		if m, err := f.ask.Metrics(admin(i)); err == nil {
			v += m[name]
		}
	}
	return v
}

// pids are those of the nodes: the store is not what is measured.
func (f *fleet) pids() (pids []int) {
	for _, n := range f.nodes {
		pids = append(pids, n.PID())
	}
	return pids
}

func (f *fleet) stop() {
	for _, n := range f.nodes {
		n.Stop()
	}
	if f.store != nil {
		f.store.Stop()
	}
	_ = os.RemoveAll(f.dir)
}
