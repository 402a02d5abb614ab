package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/sync/errgroup"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// The one interface between rooms, satisfied by both of its kinds.
var (
	_ edge.Backend = (*shard.Manager)(nil)
	_ edge.Backend = (*cluster.Node)(nil)
)

type nodeConfig struct {
	name, http, admin    string
	httpFlag, adminFlag  string     // their settings
	tls                  *keyPair   // of http; nil: none
	token                *tokenFile // of admin; nil: none
	pprof                bool       // admin has profiles
	grace, linger, drain time.Duration
	s2                   s2.Config
	embedded             *s2dev.Server // this process's own S2; nil: the one at s2.Endpoint
	shard                shard.Config
	tailBytes            int64 // of all TailBuffers; 0: shard's default
	memory               memory
	edge                 edge.Config
	balance              edge.RebalancePolicy
	fleet                *cluster.Config // nil: a lone node
	log                  *slog.Logger
}

// store is a Log that is closed in the end.
type store interface {
	shard.Log
	io.Closer
}

// openStore is over the wire, unless S2 is in this process.
func openStore(cfg *nodeConfig) (store, error) {
	if cfg.embedded != nil {
		basin := func(name string) s2.Basin { return cfg.embedded.Direct(name) }
		log, err := s2.OpenInProcess(basin, cfg.s2)
		if err != nil {
			return nil, err
		}
		return log, nil
	}
	log, err := s2.Open(cfg.s2)
	if err != nil {
		return nil, err
	}
	return log, nil
}

// node is one running node, built in the order in which a record meets its parts.
type node struct {
	cfg      nodeConfig
	registry *prometheus.Registry
	store    store
	tails    *shard.TailBuffers
	host     *shard.Manager
	relay    *cluster.Node // nil: a lone node
	files    *openFiles
	edge     *edge.Server
	public   *http.Server
	admin    *http.Server
	http     net.Listener
	adminAt  net.Listener
	serving  errgroup.Group
	failed   chan error // of servers that ended by themselves; has room for all, never closed
	leaving  departure
	steady   context.CancelFunc // ends the balancing of readers, and the watches on S2 and readiness
	now      atomic.Value       // string: what stopping is at
}

// startNode builds a node and lets it serve. What it opened before an error is
// closed again.
func startNode(ctx context.Context, cfg nodeConfig) (*node, error) {
	n := &node{cfg: cfg, registry: prometheus.NewRegistry(), failed: make(chan error, 2)}
	balance, steady := context.WithCancel(context.WithoutCancel(ctx))
	n.steady = steady
	n.registerNode()
	if err := n.build(ctx); err != nil {
		n.cfg.linger = 0 // nobody has been sent here
		return nil, errors.Join(err, n.halt(nil))
	}
	n.run("public", n.serve)
	n.run("admin", func() error { return n.admin.Serve(n.adminAt) })
	if w, ok := n.store.(interface{ Watch(ctx context.Context) }); ok {
		n.serving.Go(func() error {
			w.Watch(balance)
			return nil
		})
	}
	n.serving.Go(func() error {
		n.tellReady(balance)
		return nil
	})
	if n.relay != nil {
		n.serving.Go(func() error {
			n.edge.Rebalance(balance, cfg.balance, n.relay.ExchangeReaders)
			return nil
		})
	}
	return n, nil
}

func (n *node) build(ctx context.Context) (err error) {
	cfg := n.cfg
	// S2, where every record lands and comes from.
	cfg.s2.Logger, cfg.s2.Metrics = cfg.log, n.registry
	if n.store, err = openStore(&cfg); err != nil {
		return err
	}
	// The streams that this node owns, and the one Tail of each that it reads.
	n.tails = shard.NewTailBuffers(0, cfg.tailBytes)
	cfg.shard.Logger, cfg.shard.Metrics = cfg.log, n.registry
	n.host = shard.NewManager(n.store, n.tails, cfg.shard)
	var streams edge.Backend = n.host
	// The other nodes. A lone node has no cluster code in its path.
	if cfg.fleet != nil {
		cfg.fleet.Logger, cfg.fleet.Metrics = cfg.log, n.registry
		if n.relay, err = cluster.Join(ctx, *cfg.fleet, n.host, n.tails); err != nil {
			return err
		}
		streams = n.relay
	} else {
		n.host.WatchStanding(shard.LoneRole, func(st shard.Standing) {
			if st.RecordProblem != "" {
				cfg.log.Error("the fleet's record", "why", st.RecordProblem)
			}
		})
	}
	// The readers and writers.
	cfg.edge.Logger, cfg.edge.Metrics = cfg.log, n.registry
	if cfg.s2.Basin == "" { // the fixed one has room for all
		cfg.edge.CheckStream = cfg.s2.CheckStream
	}
	n.files = newOpenFiles(cfg.log, n.registry)
	cfg.edge.ConnectionsFull = n.files.crowded
	n.edge = edge.New(cfg.edge, streams)
	n.public = n.edge.HTTPServer()
	n.files.server = n.public
	if cfg.tls != nil {
		if n.public.TLSConfig, err = cfg.tls.config(); err != nil {
			return err
		}
	}
	var lc net.ListenConfig
	if n.http, err = lc.Listen(ctx, "tcp", cfg.http); err != nil {
		return fmt.Errorf("public address: %w", inUse(cfg.httpFlag, err))
	}
	n.http = n.files.listener(n.http)
	if n.adminAt, err = lc.Listen(ctx, "tcp", cfg.admin); err != nil {
		return fmt.Errorf("admin address: %w", inUse(cfg.adminFlag, err))
	}
	n.admin = newAdminServer(n.adminRoutes(), isLoopback(n.adminAt.Addr()), cfg.log)
	return nil
}

// run runs one of the servers. Without it the node is of no use, though it may seem ready.
func (n *node) run(which string, serve func() error) {
	n.serving.Go(func() error {
		err := serve()
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		err = fmt.Errorf("%s server: %w", which, err)
		n.failed <- err
		return err
	})
}

// serve serves the public address.
func (n *node) serve() error {
	l := edge.Listen(n.http)
	if n.cfg.tls == nil {
		return n.public.Serve(l)
	}
	return n.public.ServeTLS(l, "", "")
}

// stop ends the node, in the order that loses nothing: it departs, closes the servers, both
// within ctx, then the fleet, the streams, and S2 last: what is in flight is written before
// its Log goes away.
func (n *node) stop(ctx context.Context) error {
	n.leaving.end()
	n.steady()
	errs := []error{n.depart(ctx)}
	if n.public != nil {
		n.now.Store("answering the last requests")
		if err := errors.Join(n.public.Shutdown(ctx), n.edge.Shutdown(ctx)); err != nil {
			errs = append(errs, err, n.public.Close())
		}
	}
	if n.edge != nil {
		n.now.Store("closing event streams")
		n.edge.Close()
	}
	if n.relay != nil {
		n.now.Store("leaving the fleet")
		errs = append(errs, n.relay.Close())
	}
	if n.host != nil {
		n.now.Store("closing streams")
		errs = append(errs, n.host.Close())
	}
	if n.store != nil {
		n.now.Store("closing S2")
		errs = append(errs, n.store.Close())
	}
	n.now.Store("closing the admin address")
	if n.admin != nil {
		errs = append(errs, n.admin.Close())
	}
	for _, l := range []net.Listener{n.http, n.adminAt} {
		if l != nil {
			_ = l.Close() // again, if its server never served
		}
	}
	return errors.Join(append(errs, n.serving.Wait())...)
}

// wait serves until ctx or one of the servers ends, then stops; something from again cuts that
// short.
func (n *node) wait(ctx context.Context, again <-chan os.Signal) error {
	select {
	case <-ctx.Done():
		n.cfg.log.Info("stopping", "readers", n.edge.Readers(), "streams", n.gauge("fantail_owned_streams"), "within", n.cfg.grace)
	case err := <-n.failed:
		n.cfg.log.Error("stopping", "err", err)
		return n.halt(again)
	}
	return n.halt(again)
}

// halt stops the node. It returns before that is done if the grace runs out, or something
// comes from again: what is still under way, such as a wait for a peer or S2 that says
// nothing, is for the process's end to end.
func (n *node) halt(again <-chan os.Signal) error {
	grace := time.NewTimer(n.cfg.grace)
	defer grace.Stop()
	// An eighth is left for what follows the departure: others should hear a goodbye.
	ctx, cancel := context.WithTimeout(context.Background(), n.cfg.grace-n.cfg.grace/8)
	defer cancel()
	began := time.Now()
	stopped := make(chan error, 1)
	go func() { stopped <- n.stop(ctx) }()
	why := "the grace ran out"
	select {
	case err := <-stopped:
		if err == nil {
			n.cfg.log.Info("stopped", "in", time.Since(began).Round(time.Millisecond))
		}
		return err
	case <-grace.C:
	case <-again:
		why = "a second signal"
	}
	n.cfg.log.Error("stopping was cut short", "why", why, "while", n.now.Load())
	return fmt.Errorf("stopping was cut short: %s", why)
}

// gauge is the sum of a metric of this node over all its labels.
func (n *node) gauge(name string) float64 {
	if n.registry == nil { // it was not built
		return 0
	}
	families, err := n.registry.Gather()
	if err != nil {
		return 0
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
