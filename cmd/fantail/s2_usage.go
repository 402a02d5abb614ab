package main

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard/s2"
)

// usageWatch asks S2 for its own metrics, for operators to compare them with what Fantail counts. One node
// of a fleet does, and tells the others.
type usageWatch struct {
	ask        func(ctx context.Context, now time.Time) (s2.Usage, error)
	isMine     func() bool // this node is the one that asks
	log        *slog.Logger
	operations *prometheus.GaugeVec
	newest     atomic.Pointer[s2.Usage] // nil: S2 has told nothing yet
}

// S2 meters each question. The first one waits, so that a node that is started again and again does not ask
// each time.
const (
	firstUsageAfter = time.Minute
	usageEvery      = 10 * time.Minute
	maxUsageAge     = time.Hour // older usage is not shown
)

func newUsageWatch(ask func(context.Context, time.Time) (s2.Usage, error), isMine func() bool, log *slog.Logger, metrics prometheus.Registerer) *usageWatch {
	w := &usageWatch{ask: ask, isMine: isMine, log: log, operations: prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fantail_s2_usage_operations",
		Help: "Operations of the last hour by S2's own metrics, as S2 bills them, in the basins of the settings. One node of a fleet has them.",
	}, []string{"op"})}
	metrics.MustRegister(w.operations)
	return w
}

// run asks until ctx ends, or S2 says that it has no such metrics for us.
func (w *usageWatch) run(ctx context.Context) {
	next := time.NewTimer(firstUsageAfter)
	defer next.Stop()
	for {
		select {
		case <-next.C:
		case <-ctx.Done():
			return
		}
		next.Reset(usageEvery)
		if !w.isMine() {
			w.operations.Reset()
			continue
		}
		u, err := w.ask(ctx, time.Now())
		switch {
		case ctx.Err() != nil:
			return
		case errors.Is(err, s2.ErrNoUsage):
			w.log.Warn("S2's own metrics are left out (--s2-usage)", "err", err)
			return
		case err != nil:
			w.log.Debug("S2's own metrics", "err", err)
			continue
		}
		w.newest.Store(&u)
		w.operations.WithLabelValues("session-minute").Set(u.SessionMinutes)
		w.operations.WithLabelValues("read").Set(u.Reads)
		w.operations.WithLabelValues("append").Set(u.Appends)
	}
}

// usageReport holds what S2's own metrics say, with what it costs by S2's prices.
type usageReport struct {
	From           time.Time `json:"from"`
	Until          time.Time `json:"until"`
	SessionMinutes float64   `json:"session_minutes"`
	Reads          float64   `json:"reads"`
	Appends        float64   `json:"appends"`
	Dollars        float64   `json:"dollars_a_month"`
}

// The managed S2's prices (docs/cost.md), in dollars.
const (
	dollarsRead   = 0.000001
	dollarsAppend = 0.0000001
)

// report returns the newest usage; nil: there is none, or it is old.
func (w *usageWatch) report() *usageReport {
	if w == nil {
		return nil
	}
	u := w.newest.Load()
	if u == nil || time.Since(u.Until) > maxUsageAge {
		return nil
	}
	cost := u.SessionMinutes*dollarsSessionMinute + u.Reads*dollarsRead + u.Appends*dollarsAppend
	return &usageReport{
		From: u.From.UTC().Truncate(time.Second), Until: u.Until.UTC().Truncate(time.Second),
		SessionMinutes: u.SessionMinutes, Reads: u.Reads, Appends: u.Appends,
		Dollars: cost * (minutesAMonth / u.Until.Sub(u.From).Minutes()),
	}
}

// usageLog is the stream whose owner asks for the fleet: that of the fleet's record.
const usageLog = "__ds/fleet"

// openUsageWatch opens the watch on S2's own metrics, if the settings ask for it.
func (n *node) openUsageWatch(cfg *nodeConfig) {
	asker, ok := n.store.(interface {
		AskUsage(ctx context.Context, now time.Time) (s2.Usage, error)
	})
	if !cfg.s2Usage || !ok {
		return
	}
	n.usage = newUsageWatch(asker.AskUsage, func() bool {
		if n.relay == nil {
			return true
		}
		m := n.relay.View().TableAt(time.Now()).Owner(usageLog)
		return m != nil && m.Name == n.relay.Name()
	}, cfg.log, n.registry)
}
