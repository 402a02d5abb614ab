package sim

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// The settings of nodes, and what clients rely on.
const (
	grace        = 60 * time.Second
	drain        = 15 * time.Second
	heartbeat    = 5 * time.Second
	storeTimeout = 8 * time.Millisecond  // for a call of the log
	farTimeout   = 40 * time.Millisecond // where it is far away
)

// node is a place for processes, one at a time: a pod of a stateful set.
type node struct {
	s    *sim
	name string
	ip   string

	mu   sync.Mutex
	proc *process // nil: none runs
	busy bool     // a fault has chosen it
}

// process is one running node, built in the order of cmd/fantail.
type process struct {
	n              *node
	port           *port
	store          *logtest.Client
	registry       *prometheus.Registry
	manager        *shard.Manager
	clusterNode    *cluster.Node
	edge           *edge.Server
	public         *http.Server
	startedAt      time.Time
	skew           time.Duration
	draining       atomic.Bool
	drainBegan     atomic.Int64 // when the drain of its readers began, ns; 0: not yet
	dead           atomic.Bool
	drainedReaders []time.Time           // when its readers were ended; guarded by s.mu
	storeFault     atomic.Pointer[fault] // the fault of its access to storage
	serving        sync.WaitGroup
}

func (n *node) process() *process {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.proc
}

// storeLatency returns the time of a call of the log.
func (s *sim) storeLatency() time.Duration {
	if s.plan.far {
		return farTimeout
	}
	return storeTimeout
}

// pipelining returns how nodes send batches.
func (s *sim) pipelining() shard.Pipelining {
	if s.plan.far {
		return shard.PipeliningAuto
	}
	return shard.PipeliningOff
}

// mode returns how nodes learn of what others write to the log.
func (s *sim) mode() shard.Mode {
	if s.plan.auto {
		return shard.ModeAuto
	}
	return shard.ModeSession
}

// start runs a process on the node.
func (n *node) start() error {
	s := n.s
	machine := s.net.machine(n.ip)
	skew, off := s.drawSkew(maxSkew), s.drawSkew(maxOff)
	now := func() time.Time { return time.Now().Add(skew) }
	wall := func() time.Time { return time.Now().Add(off) }
	p := &process{
		n: n, port: machine.boot(), registry: prometheus.NewRegistry(), startedAt: time.Now(), skew: skew,
		store: s.mem.NewClient(s.newRand().Uint64(), s.storeLatency()),
	}
	p.store.SetFaults(s.newStoreTrouble)
	s.mu.Lock()
	s.procs = append(s.procs, p)
	s.mu.Unlock()
	log := slog.New(s.log.handler()).With("node", n.name)
	tails := shard.NewTailBuffers(0, 0)
	p.manager = shard.NewManager(p.store, tails, shard.Config{Mode: s.mode(), Now: wall, Logger: log, Metrics: p.registry, Pipelining: s.pipelining()})
	var err error
	p.clusterNode, err = cluster.Join(context.Background(), cluster.Config{
		Name: n.name, FleetName: "sim", Secrets: [][]byte{[]byte("0123456789abcdef")},
		GossipAddr: net.JoinHostPort(n.ip, portGossip), RelayAddr: net.JoinHostPort(n.ip, portRelay),
		Join: []string{"fleet:" + portGossip}, Now: now, Logger: log, Metrics: p.registry,
		Network: p.port,
	}, p.manager, tails)
	if err != nil {
		return errors.Join(err, p.manager.Close())
	}
	p.edge = edge.New(edge.Config{
		Heartbeat: heartbeat, LongPoll: 10 * time.Second, Now: wall, Logger: log, Metrics: p.registry, Creations: p.clusterNode, ReaderCounts: p.clusterNode,
	}, p.clusterNode)
	p.public = p.edge.HTTPServer()
	ln, err := p.port.Listen(context.Background(), net.JoinHostPort(n.ip, portHTTP))
	if err != nil {
		return errors.Join(err, p.clusterNode.Close(), p.manager.Close())
	}
	p.serving.Go(func() { _ = p.public.Serve(ln) })
	n.mu.Lock()
	n.proc = p
	n.mu.Unlock()
	s.logEvent("start", "node", n.name, "member", p.clusterNode.Name(), "skew", skew, "off", off)
	return nil
}

// ready reports what a balancer asks for.
func (p *process) ready() bool { return !p.draining.Load() && !p.dead.Load() && p.clusterNode.Ready() }

// stop ends the process as SIGTERM does (cmd/fantail, node.stop).
func (p *process) stop() {
	s := p.n.s
	began := time.Now()
	s.logEvent("stop", "node", p.n.name)
	p.draining.Store(true)
	ctx, cancel := context.WithTimeout(context.Background(), grace)
	defer cancel()
	if err := p.clusterNode.Leave(ctx); err != nil {
		s.failIfPlanned("I11: %s: leave: %v", p.n.name, err)
	}
	if left := len(p.manager.OwnedStreams()); left > 0 && p.hasOtherOwners() {
		s.failIfPlanned("I11: %s owns %d streams after it left", p.n.name, left)
	}
	p.drainBegan.Store(time.Now().UnixNano())
	if err := p.edge.Drain(ctx, drain); err != nil {
		s.failIfPlanned("I11: %s: drain: %v", p.n.name, err)
	}
	if err := p.public.Shutdown(ctx); err != nil {
		s.failIfPlanned("I11: %s: shutdown: %v", p.n.name, err)
		_ = p.public.Close()
	}
	p.end()
	if took := time.Since(began); took >= grace {
		s.failIfPlanned("I11: %s took %v to stop", p.n.name, took)
	}
	p.port.kill(false)
	p.n.forgetProcess(p)
	s.logEvent("stopped", "node", p.n.name, "took", time.Since(began))
}

// hasOtherOwners reports whether there is another node to leave streams to.
func (p *process) hasOtherOwners() bool {
	return p.clusterNode.View().TableAt(time.Now().Add(10*time.Second)).Len() > 0
}

func (p *process) end() {
	_ = p.clusterNode.Close()
	_ = p.manager.Close()
	p.serving.Wait()
}

func (n *node) forgetProcess(p *process) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.proc == p {
		n.proc = nil
	}
}

// crash ends the process without notice. silent: its machine is lost as well.
func (p *process) crash(silent bool) {
	s := p.n.s
	s.logEvent("crash", "node", p.n.name, "silent", silent)
	p.dead.Store(true)
	p.port.kill(silent)
	p.store.SetFaults(logtest.Faults{Down: true})
	p.n.forgetProcess(p)
	s.ends.Go(func() {
		_ = p.public.Close()
		p.end()
	})
}

// gauge returns the sum of a metric over its labels.
func (p *process) gauge(name string) float64 {
	families, err := p.registry.Gather()
	if err != nil {
		return -1
	}
	sum := 0.0
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				sum += m.GetGauge().GetValue() + m.GetCounter().GetValue()
			}
		}
	}
	return sum
}

// running returns the processes that run.
func (s *sim) running() (all []*process) {
	s.mu.Lock()
	nodes := s.nodes
	s.mu.Unlock()
	for _, n := range nodes {
		if p := n.process(); p != nil {
			all = append(all, p)
		}
	}
	return all
}

// addNode adds a node.
func (s *sim) addNode() *node {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := len(s.nodes)
	n := &node{s: s, name: fmt.Sprintf("n%d", i), ip: fmt.Sprintf("10.0.%d.%d", i/200, 1+i%200)}
	s.nodes = append(s.nodes[:i:i], n)
	return n
}

// podIPs returns the addresses of a headless service: of all pods that exist.
func (s *sim) podIPs() (ips []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		n.mu.Lock()
		if n.proc != nil || s.starting {
			ips = append(ips, n.ip)
		}
		n.mu.Unlock()
	}
	return ips
}
