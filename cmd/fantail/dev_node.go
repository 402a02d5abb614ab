package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/cluster/peertls"
)

// devState says what a node of `fantail dev` does. Closed set.
type devState string

const (
	devStarting devState = "starting"
	devRunning  devState = "running"
	devStopping devState = "stopping"
	devStopped  devState = "stopped"
	devKilled   devState = "killed"
)

// devNode is a place for a node of devFleet: the node that runs there, and how to start another one
// at the same addresses.
type devNode struct {
	cfg nodeConfig

	mu    sync.Mutex
	state devState
	node  *node // nil: none runs
}

// newDevNode returns the place of a node that runs. Another one will have its addresses.
func newDevNode(cfg nodeConfig, n *node) *devNode {
	cfg.http, cfg.admin = n.publicListener.Addr().String(), n.adminListener.Addr().String()
	if cfg.fleet != nil {
		fleet := *cfg.fleet
		fleet.HTTPAddr = cfg.http
		cfg.fleet = &fleet
	}
	return &devNode{cfg: cfg, state: devRunning, node: n}
}

// origin returns the address at which clients reach the node.
func (d *devNode) origin() string { return "http://" + d.cfg.http }

// errBusy refuses what does not fit the node's state.
var errBusy = errors.New("the node does not do that now")

// begin takes the place from one state to another, for a change that only one caller makes.
func (d *devNode) begin(from, to devState) (*node, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != from {
		return nil, fmt.Errorf("%w: it is %s", errBusy, d.state)
	}
	d.state = to
	return d.node, nil
}

// end sets the state that a change has led to.
func (d *devNode) end(state devState, n *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.state, d.node = state, n
}

// running returns the node that runs here; nil: none does.
func (d *devNode) running() *node {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.state != devRunning {
		return nil
	}
	return d.node
}

// current returns the state and the node, which may be on its way.
func (d *devNode) current() (devState, *node) {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.state, d.node
}

// stop stops the node in the order that loses nothing.
func (d *devNode) stop() error {
	n, err := d.begin(devRunning, devStopping)
	if err != nil {
		return err
	}
	err = n.stopWithinGrace(nil)
	d.end(devStopped, nil)
	return err
}

// kill ends the node as if its process had died.
func (d *devNode) kill() error {
	n, err := d.begin(devRunning, devStopping)
	if err != nil {
		return err
	}
	n.kill()
	d.end(devKilled, nil)
	return nil
}

// start starts a node in place of the node that was stopped or killed. join has the gossip
// addresses of those that run.
func (d *devNode) start(ctx context.Context, join []string) error {
	was, _ := d.current()
	if was != devStopped && was != devKilled {
		return fmt.Errorf("%w: it is %s", errBusy, was)
	}
	if _, err := d.begin(was, devStarting); err != nil {
		return err
	}
	cfg := d.cfg
	if cfg.fleet != nil {
		fleet := *cfg.fleet
		fleet.Join = join
		cfg.fleet = &fleet
	}
	n, err := startNode(ctx, cfg)
	if err != nil {
		d.end(was, nil)
		return err
	}
	d.end(devRunning, n)
	return nil
}

// kill ends the node as a process that dies would: it cuts every connection, says goodbye to no
// other node, and hands nothing over.
func (n *node) kill() {
	n.cfg.log.Warn("killed")
	n.stopBackground()
	_ = n.publicServer.Close()
	n.edge.Close()
	_ = n.adminServer.Close()
	if n.relay != nil {
		_ = n.relay.Abort()
	}
	if n.judge != nil {
		n.judge.Close()
	}
	_ = n.manager.Close()
	_ = n.store.Close()
	n.closeTraces()
	_ = n.serving.Wait()
}

// devFleetConfig returns the configuration of a node of a fleet in this process.
func devFleetConfig(name, http string, secret []byte, join []string) *cluster.Config {
	return &cluster.Config{
		Name: name, FleetName: "fantail-dev", Secrets: [][]byte{secret}, PlaintextMode: peertls.PlaintextAlways,
		GossipAddr: loopbackAddr(0), RelayAddr: loopbackAddr(0), HTTPAddr: http, ChangeNotice: devChangeNotice, Join: join,
	}
}

// devStartTimeout bounds how long a node may take until it owns its share of the streams.
const devStartTimeout = 20 * time.Second
