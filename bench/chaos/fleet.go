package main

import (
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/fantail-dev/fantail/bench/internal/ask"
	"github.com/fantail-dev/fantail/bench/internal/wait"
)

// fleet is S2, the proxy before it, and the nodes.
type fleet struct {
	binary, dir string
	store       *proc
	proxy       *proxy
	ask         *ask.Asker
	balancer    *balancer
	drain       time.Duration
	endpoint    string // of S2, for the nodes

	places int // for nodes: one more than there are

	mu    sync.Mutex
	nodes []*node
}

// node is one place in the fleet; its process comes and goes.
type node struct {
	index int
	name  string
	proc  *proc
}

func (n *node) http() string  { return nodeAt(n.index) + ":4437" }
func (n *node) admin() string { return nodeAt(n.index) + ":4447" }

const (
	storePort = ":4430"
	proxyPort = ":4431"
	linkPort  = ":4432"
	basin     = "fantail-chaos"
)

func startFleet(binary, dir string, nodes int, drain, trip time.Duration) (*fleet, error) {
	f := &fleet{binary: binary, dir: dir, ask: ask.New(), drain: drain, places: nodes + 1, endpoint: "http://" + storeAt + proxyPort}
	var err error
	if err := f.startStore(); err != nil {
		return nil, err
	}
	if f.proxy, err = startProxy(storeAt+proxyPort, "http://"+storeAt+storePort); err != nil {
		return nil, err
	}
	if trip > 0 {
		f.endpoint = "http://" + storeAt + linkPort
		if err := startLink(storeAt+linkPort, storeAt+proxyPort, trip); err != nil {
			return nil, err
		}
	}
	for i := range nodes {
		n := &node{index: i, name: fmt.Sprint("node-", i)}
		f.nodes = append(f.nodes, n)
		if err := f.startNode(n); err != nil {
			return nil, err
		}
	}
	f.balancer = startBalancer(f)
	return f, f.settle(60 * time.Second)
}

// startStore starts S2. If it ran before, it has the data that it kept.
func (f *fleet) startStore() (err error) {
	f.store, err = start("s2", "", filepath.Join(f.dir, "s2.log"), f.binary, "--log-level=warn", "s2",
		"--listen="+storeAt+storePort, "--allow-remote", "--data="+filepath.Join(f.dir, "s2"), "--basin="+basin)
	if err != nil {
		return err
	}
	return wait.For(20*time.Second, "S2 answers", func() bool {
		_, err := f.ask.Get("http://" + storeAt + storePort + "/v1/basins")
		return err == nil
	})
}

func (f *fleet) startNode(n *node) (err error) {
	join := []string{}
	for i := range f.places { // a list that every node has alike
		join = append(join, nodeAt(i))
	}
	command := []string{
		f.binary, "--log-format=text", "serve", "--admin-pprof", "--name=" + n.name,
		"--http=:4437", "--admin=:4447", "--advertise=" + nodeAt(n.index), "--gossip=" + nodeAt(n.index) + ":4457",
		"--relay=" + nodeAt(n.index) + ":4467",
		"--s2-endpoint=" + f.endpoint, "--s2-basin=" + basin,
		"--cluster=chaos", "--secret=00112233445566778899aabbccddeeff",
		"--grace=30s", "--linger=0s", "--drain=" + f.drain.String(), "--join=" + strings.Join(join, ","),
	}
	n.proc, err = start(n.name, fmt.Sprint("n", n.index), filepath.Join(f.dir, n.name+".log"), command...)
	return err
}

// each calls fn with every node.
func (f *fleet) each(fn func(*node)) {
	f.mu.Lock()
	nodes := f.nodes
	f.mu.Unlock()
	for _, n := range nodes {
		fn(n)
	}
}

func (f *fleet) set(nodes []*node) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.nodes = nodes
}

// unsettled says what is still missing: every node is ready, has a link to each
// other, and they agree on how many own streams.
func (f *fleet) unsettled() (why string) {
	f.mu.Lock()
	nodes := f.nodes
	f.mu.Unlock()
	want := float64(len(nodes))
	for _, n := range nodes {
		m, err := f.ask.Metrics(n.admin())
		switch {
		case err != nil:
			return fmt.Sprintf("%s: %v", n.name, err)
		case !f.ask.Ready(n.admin()):
			return n.name + " is not ready"
		case m["fantail_links_up"] != want-1 || m["fantail_owners"] != want || m["fantail_members"] != want:
			return fmt.Sprintf("%s has %v links and sees %v members, %v of them owners", n.name,
				m["fantail_links_up"], m["fantail_members"], m["fantail_owners"])
		}
	}
	return ""
}

func (f *fleet) settle(within time.Duration) error {
	why := ""
	if wait.For(within, "", func() bool { why = f.unsettled(); return why == "" }) != nil {
		return fmt.Errorf("the fleet is not whole within %v: %s", within, why)
	}
	return nil
}

// restart stops a node as an orchestrator does, and starts it again.
func (f *fleet) restart(n *node) error {
	if err := f.terminate(n); err != nil {
		return err
	}
	return f.startNode(n)
}

func (f *fleet) terminate(n *node) error {
	if err := n.proc.signal(syscall.SIGTERM); err != nil {
		return err
	}
	if err := n.proc.wait(40 * time.Second); err != nil {
		return fmt.Errorf("%s after SIGTERM: %w", n.name, err)
	}
	return nil
}

// stop ends everything; the room would as well.
func (f *fleet) stop() error {
	var errs []error
	f.each(func(n *node) {
		if n.proc.alive() {
			errs = append(errs, n.proc.kill())
		}
	})
	return errors.Join(append(errs, f.store.kill())...)
}
