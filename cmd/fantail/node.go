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
	"github.com/fantail-dev/fantail/cmd/fantail/internal/otlp"
	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// The packages meet in one interface, which both implement.
var (
	_ edge.Backend = (*shard.Manager)(nil)
	_ edge.Backend = (*cluster.Node)(nil)
)

type nodeConfig struct {
	name, http, admin    string
	httpFlag, adminFlag  string            // the names of their settings, for errors
	certificate          *certificateFiles // of http; nil: no TLS
	adminToken           *tokenFile        // of admin; nil: no token
	pprof                bool              // admin serves profiles
	grace, linger, drain time.Duration
	s2                   s2.Config
	s2Usage              bool          // S2 is asked for its own metrics
	inProcessS2          *s2dev.Server // the S2 in this process; nil: the one at s2.Endpoint
	shard                shard.Config
	tailBytes            int64 // of all tail buffers; 0: shard's default
	memory               memoryLimit
	edge                 edge.Config
	balance              edge.RebalancePolicy
	auth                 authConfig
	traces               *otlp.Settings  // nil: nothing is traced
	fleet                *cluster.Config // nil: a lone node
	log                  *slog.Logger
}

// store is a Log that can be closed.
type store interface {
	shard.Log
	io.Closer
}

// openStore opens the Log: in this process if S2 is, or else over the network.
func openStore(cfg *nodeConfig) (store, error) {
	if cfg.inProcessS2 != nil {
		basin := func(name string) s2.Basin { return cfg.inProcessS2.Direct(name) }
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

// node is one running node. Its fields are in the order in which a record meets its parts.
type node struct {
	cfg            nodeConfig
	registry       *prometheus.Registry
	store          store
	tailBuffers    *shard.TailBuffers
	manager        *shard.Manager
	relay          *cluster.Node   // nil: a lone node
	judge          *access.Judge   // nil: everything is open
	revocations    *revocationFeed // nil: nothing can be revoked
	measuredSkew   atomic.Int64    // see measureClock
	wasReady       atomic.Bool     // the node has been ready
	adminCookieKey [32]byte        // authenticates the logins of operators' browsers at this node
	openFiles      *openFiles
	edge           *edge.Server
	publicServer   *http.Server
	adminServer    *http.Server
	publicListener net.Listener
	adminListener  net.Listener
	serving        errgroup.Group
	serverErrors   chan error // of servers that ended by themselves; has room for all, never closed
	departure      departure
	started        time.Time
	traces         *otlp.Exporter // nil: nothing is traced
	usage          *usageWatch    // nil: S2 is not asked for its own metrics
	fleetAsker     fleetAsker
	stopBackground context.CancelFunc // ends the rebalancing of readers, and the watches on S2, readiness and rights
	stopStep       atomic.Value       // string: the current step of stopping
}

// startNode builds a node and starts to serve. After an error it closes what it has opened.
func startNode(ctx context.Context, cfg nodeConfig) (*node, error) {
	n := &node{cfg: cfg, registry: prometheus.NewRegistry(), serverErrors: make(chan error, 2), started: time.Now()}
	balance, steady := context.WithCancel(context.WithoutCancel(ctx))
	n.stopBackground = steady
	n.registerMetrics()
	if err := n.build(ctx); err != nil {
		n.cfg.linger = 0 // no balancer has sent clients here
		return nil, errors.Join(err, n.stopWithinGrace(nil))
	}
	n.runServer("public", n.servePublic)
	n.runServer("admin", func() error { return n.adminServer.Serve(n.adminListener) })
	if w, ok := n.store.(interface{ Watch(ctx context.Context) }); ok {
		n.serving.Go(func() error {
			w.Watch(balance)
			return nil
		})
	}
	n.serving.Go(func() error {
		n.logReadiness(balance)
		return nil
	})
	n.watchAuth(balance)
	if n.usage != nil {
		n.serving.Go(func() error {
			n.usage.run(balance)
			return nil
		})
	}
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
	n.openTraces(&cfg)
	// S2, where every record is written and read.
	cfg.s2.Logger, cfg.s2.Metrics = cfg.log, n.registry
	if n.store, err = openStore(&cfg); err != nil {
		return err
	}
	// The streams that this node owns, and one tail buffer for each stream that it reads.
	n.tailBuffers = shard.NewTailBuffers(0, cfg.tailBytes)
	cfg.shard.Logger, cfg.shard.Metrics = cfg.log, n.registry
	n.manager = shard.NewManager(n.store, n.tailBuffers, cfg.shard)
	var streams edge.Backend = n.manager
	cfg.edge.Creations, cfg.edge.ReaderCounts = n.manager, n.manager
	// The other nodes. A lone node runs no cluster code.
	if cfg.fleet != nil {
		cfg.fleet.Logger, cfg.fleet.Metrics = cfg.log, n.registry
		if n.relay, err = cluster.Join(ctx, *cfg.fleet, n.manager, n.tailBuffers); err != nil {
			return err
		}
		streams, cfg.edge.Creations, cfg.edge.ReaderCounts = n.relay, n.relay, n.relay
	} else {
		n.manager.WatchStanding(shard.LoneRole, func(st shard.Standing) {
			if st.RecordProblem != "" {
				cfg.log.Error("the fleet's record", "why", st.RecordProblem)
			}
		})
	}
	// The readers and writers.
	cfg.edge.Logger, cfg.edge.Metrics, cfg.edge.Lister = cfg.log, n.registry, n.manager
	if cfg.s2.Basin == "" { // a fixed basin holds all streams
		cfg.edge.CheckStream = cfg.s2.CheckStream
	}
	if err = n.openJudge(ctx, &cfg, streams); err != nil {
		return err
	}
	n.openFiles = newOpenFiles(cfg.log, n.registry)
	cfg.edge.ConnectionsFull = n.openFiles.isNearLimit
	n.edge = edge.New(cfg.edge, streams)
	n.publicServer = n.edge.HTTPServer()
	n.openFiles.server = n.publicServer
	if cfg.certificate != nil {
		if n.publicServer.TLSConfig, err = cfg.certificate.tlsConfig(); err != nil {
			return err
		}
	}
	var lc net.ListenConfig
	if n.publicListener, err = lc.Listen(ctx, "tcp", cfg.http); err != nil {
		return fmt.Errorf("public address: %w", addressInUse(cfg.httpFlag, err))
	}
	n.publicListener = n.openFiles.wrapListener(n.publicListener)
	if n.adminListener, err = lc.Listen(ctx, "tcp", cfg.admin); err != nil {
		return fmt.Errorf("admin address: %w", addressInUse(cfg.adminFlag, err))
	}
	n.openUsageWatch(&cfg)
	if n.relay != nil {
		n.relay.AnswerReports(n.answerQuestion)
	}
	n.adminServer = newAdminServer(n.adminHandler(), isLoopback(n.adminListener.Addr()), cfg.log)
	return nil
}

// runServer runs one of the servers. If it ends by itself, the node stops: without it the node is
// useless, although it may look ready.
func (n *node) runServer(which string, serve func() error) {
	n.serving.Go(func() error {
		err := serve()
		if errors.Is(err, http.ErrServerClosed) {
			return nil
		}
		err = fmt.Errorf("%s server: %w", which, err)
		n.serverErrors <- err
		return err
	})
}

// servePublic serves the public address.
func (n *node) servePublic() error {
	l := edge.Listen(n.publicListener)
	if n.cfg.certificate == nil {
		return n.publicServer.Serve(l)
	}
	return n.publicServer.ServeTLS(l, "", "")
}

// stop stops the node in the order that loses nothing. Within ctx it departs and closes the
// servers. Then it closes the fleet, the streams, and S2 last: appends in flight are written before
// their Log closes.
func (n *node) stop(ctx context.Context) error {
	n.departure.makeFinal(n.workLeft())
	n.stopBackground()
	errs := []error{n.depart(ctx)}
	if n.publicServer != nil {
		n.stopStep.Store("answering the last requests")
		if err := errors.Join(n.publicServer.Shutdown(ctx), n.edge.Shutdown(ctx)); err != nil {
			errs = append(errs, err, n.publicServer.Close())
		}
	}
	if n.edge != nil {
		n.stopStep.Store("closing event streams")
		n.edge.Close()
	}
	if n.judge != nil {
		n.judge.Close()
	}
	if n.relay != nil {
		n.stopStep.Store("leaving the fleet")
		errs = append(errs, n.relay.Close())
	}
	if n.manager != nil {
		n.stopStep.Store("closing streams")
		errs = append(errs, n.manager.Close())
	}
	if n.store != nil {
		n.stopStep.Store("closing S2")
		errs = append(errs, n.store.Close())
	}
	n.stopStep.Store("sending the last spans")
	n.closeTraces()
	n.stopStep.Store("closing the admin address")
	if n.adminServer != nil {
		errs = append(errs, n.adminServer.Close())
	}
	for _, l := range []net.Listener{n.publicListener, n.adminListener} {
		if l != nil {
			_ = l.Close() // a second time, if its server has served
		}
	}
	return errors.Join(append(errs, n.serving.Wait())...)
}

// serveUntil serves until ctx or one of the servers ends, and then stops. A signal from again cuts
// the stop short.
func (n *node) serveUntil(ctx context.Context, again <-chan os.Signal) error {
	select {
	case <-ctx.Done():
		n.cfg.log.Info("stopping", "readers", n.edge.Readers(), "streams", n.metricSum("fantail_owned_streams"), "within", n.cfg.grace)
	case err := <-n.serverErrors:
		n.cfg.log.Error("stopping", "err", err)
		return n.stopWithinGrace(again)
	}
	return n.stopWithinGrace(again)
}

// stopWithinGrace stops the node. It returns early if the grace runs out, or on a signal from
// again. What is still waiting then, such as for a silent peer or S2, ends with the process.
func (n *node) stopWithinGrace(again <-chan os.Signal) error {
	grace := time.NewTimer(n.cfg.grace)
	defer grace.Stop()
	// An eighth of the grace is left for what follows the departure: the other nodes should hear a
	// goodbye.
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
	n.cfg.log.Error("stopping was cut short", "why", why, "while", n.stopStep.Load())
	return fmt.Errorf("stopping was cut short: %s", why)
}

// metricSum returns the sum of a metric of this node over all its labels.
func (n *node) metricSum(name string) float64 {
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
