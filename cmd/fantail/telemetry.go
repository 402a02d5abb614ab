package main

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// registerMetrics registers metrics of the node's build, readiness, certificate and memory.
func (n *node) registerMetrics() {
	n.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	b := currentBuild()
	build := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fantail_build_info", Help: "Always 1; the labels are the versions of this build.",
		ConstLabels: prometheus.Labels{"version": b.version, "revision": b.revision, "goversion": b.goVersion},
	})
	build.Set(1)
	n.registry.MustRegister(build, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fantail_ready", Help: "1 while /readyz is ok.",
	}, func() float64 {
		if n.notReadyReason(time.Now()) == "" {
			return 1
		}
		return 0
	}))
	if n.cfg.certificate != nil {
		n.registry.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_tls_not_after_seconds", Help: "When the public address's certificate expires, in seconds since 1970.",
		}, n.cfg.certificate.notAfter))
	}
	limits := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fantail_memory_budget_bytes", Help: "Most bytes of each kind that the node keeps in memory (docs/configuration.md).",
	}, []string{"budget"})
	for i, size := range splitBudgets(n.cfg.memory.bytes) {
		limits.WithLabelValues(budgets[i].name).Set(float64(size))
	}
	whole := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fantail_memory_limit_bytes", Help: "Memory that the process may use, as --memory, the cgroup or GOMEMLIMIT says; 0: no limit is set.",
	})
	whole.Set(float64(n.cfg.memory.bytes))
	n.registry.MustRegister(limits, whole)
}

// logSettings logs the version and the main settings.
func (n *nodeConfig) logSettings() {
	b := currentBuild()
	cluster := "none"
	if n.fleet != nil {
		cluster = n.fleet.FleetName
	}
	n.log.Info("starting", "version", b.version, "revision", b.revision, "go", b.goVersion,
		"s2", cmp.Or(n.s2.Endpoint, "managed"), "basin", cmp.Or(n.s2.Basin, n.s2.BasinTemplate, "a map"),
		"cluster", cluster, "max_readers", n.edge.MaxReaders, "nofile", raiseFilesLimit(),
		"memory", n.memory.bytes, "memory_from", cmp.Or(n.memory.source, "none"))
}

// readinessInterval is the time between two checks of whether the node is ready.
const readinessInterval = 100 * time.Millisecond

// logReadiness logs when the node becomes ready, and when it is no longer ready, until ctx ends.
func (n *node) logReadiness(ctx context.Context) {
	tick := time.NewTicker(readinessInterval)
	defer tick.Stop()
	began, was := time.Now(), false
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		switch why := n.notReadyReason(time.Now()); {
		case why == "" && !was:
			n.cfg.log.Info("ready", "after", time.Since(began).Round(time.Millisecond), "owners", max(n.metricSum("fantail_owners"), 1))
			was = true
			n.wasReady.Store(true)
		case why != "" && was:
			n.cfg.log.Warn("not ready", "why", strings.ReplaceAll(why, "\n", "; "))
			began, was = time.Now(), false
		}
	}
}

// newAccessLog returns the log of requests, on standard output. It has no limit of lines, but drops
// lines that are not read.
func newAccessLog(format, name string) *slog.Logger {
	out := &lossyWriter{w: os.Stdout, lossLogger: slog.New(newHandler(os.Stdout, slog.LevelInfo, format))}
	return slog.New(newHandler(out, slog.LevelInfo, format)).With("node", name)
}
