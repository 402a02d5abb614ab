package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/cluster"
	"github.com/fantail-dev/fantail/edge"
	"github.com/fantail-dev/fantail/edge/access"
)

// maxAuthClockSkew bounds how far a node's clock may be off before it says nothing of the times of
// credentials.
const maxAuthClockSkew = 10 * time.Second

// openJudge opens the file of rights, if there is one, and begins to follow the revocations.
func (n *node) openJudge(ctx context.Context, cfg *nodeConfig, streams edge.Backend) error {
	if cfg.auth.path == "" && cfg.auth.said {
		return nil
	}
	if cfg.auth.path == "" {
		why := "no --auth: every client may read, write and delete every stream"
		if cfg.auth.off {
			why = "--auth=off: every client may read, write and delete every stream"
		}
		cfg.log.Warn("rights are not checked", "why", why)
		return nil
	}
	n.measureClock()
	m := newAuthMetrics(n.registry, cfg.edge.ObserveOnly)
	c := access.Config{
		Path: cfg.auth.path, Now: n.fleetTime, Logger: cfg.log, Observer: m, Nodes: n.liveNodes,
		ClockDoubt: func() bool { return n.clockSkew().Abs() > maxAuthClockSkew },
	}
	c.RevocationKeys = revocationKeys(cfg.auth.secrets)
	judge, err := access.Open(ctx, c)
	if err != nil {
		return fmt.Errorf("--auth: %w", err)
	}
	n.judge, cfg.edge.Judge, cfg.edge.Now = judge, judge, n.fleetTime
	_, _ = rand.Read(n.adminCookieKey[:]) // never fails
	m.registerJudge(n.registry, judge)
	if project, ok := judge.Revocations().Project(); ok {
		if len(c.RevocationKeys) == 0 {
			return fmt.Errorf("--auth: revocations are authenticated by the fleet's secret: set --secret or --secret-file, or remove revocations from %s", cfg.auth.path)
		}
		n.revocations = newRevocationFeed(streams, judge.Revocations(), project, cfg.log)
		n.revocations.register(n.registry)
	}
	if cfg.edge.ObserveOnly {
		cfg.log.Warn("rights are only observed", "why", "--auth-observe: requests that would be refused are counted and logged, and served")
	}
	return nil
}

func revocationKeys(secrets [][]byte) (keys [][]byte) {
	for _, secret := range secrets {
		keys = append(keys, access.RevocationKey(secret))
	}
	return keys
}

// reloadSecretsEvery is the time between two reads of the secrets that authenticate revocations: the
// same as between those for gossip.
const reloadSecretsEvery = 10 * time.Second

// renewRevocationKeys reads the fleet's secrets again until ctx ends: a revocation by a node that began
// with a new one must not be taken for forged. An error keeps the old ones; the relay logs it.
func (n *node) renewRevocationKeys(ctx context.Context) {
	tick := time.NewTicker(reloadSecretsEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if secrets, err := n.cfg.auth.reloadSecrets(); err == nil && n.judge.Revocations().SetKeys(revocationKeys(secrets)) {
			n.revocations.readAgain()
		}
	}
}

// fleetTime returns S2's time as far as this node knows it: its own clock, without the skew that
// S2's acknowledgements have shown.
func (n *node) fleetTime() time.Time { return time.Now().Add(-n.clockSkew()) }

func (n *node) clockSkew() time.Duration { return time.Duration(n.measuredSkew.Load()) }

// measureClock keeps how far the node's clock is ahead of S2's, for those that ask at each request.
func (n *node) measureClock() { n.measuredSkew.Store(int64(n.manager.ClockSkew())) }

// watchAuth runs what the rights need beside requests, until ctx ends.
func (n *node) watchAuth(ctx context.Context) {
	if n.relay != nil {
		n.relay.AnnounceRights(n.ownRights)
		n.serving.Go(func() error {
			n.compareRights(ctx)
			return nil
		})
	}
	if n.judge == nil {
		return
	}
	if n.revocations != nil {
		n.serving.Go(func() error {
			n.revocations.run(ctx)
			return nil
		})
		if n.cfg.auth.reloadSecrets != nil {
			n.serving.Go(func() error {
				n.renewRevocationKeys(ctx)
				return nil
			})
		}
	}
	n.serving.Go(func() error {
		tick := time.NewTicker(time.Second)
		defer tick.Stop()
		for {
			select {
			case <-tick.C:
				n.measureClock()
			case <-ctx.Done():
				return nil
			}
		}
	})
}

// liveNodes returns how many nodes serve clients.
func (n *node) liveNodes() int {
	if n.relay == nil {
		return 1
	}
	return max(len(n.relay.View().Members()), 1)
}

// ownRights returns what this node tells the others of its rights.
func (n *node) ownRights() (own cluster.Rights) {
	if n.judge != nil {
		own.Hash = n.judge.Hash()
	}
	if n.revocations != nil {
		own.Revocations = n.revocations.position.Load()
	}
	return own
}

// judgingPeers returns the other nodes that judge requests, and which of them have another file
// than this node, in order.
func (n *node) judgingPeers() (judging, differing []string) {
	if n.relay == nil {
		return nil, nil
	}
	own := n.ownRights().Hash
	for name, r := range n.relay.PeerRights() {
		if r.Hash != "" {
			judging = append(judging, name)
		}
		if r.Hash != "" && own != "" && r.Hash != own {
			differing = append(differing, name)
		}
	}
	slices.Sort(judging)
	slices.Sort(differing)
	return judging, differing
}

const (
	// rightsInterval is the time between two comparisons of this node's rights with the others'.
	rightsInterval = time.Second
	// rightsReminder is the time between two log lines about a node that leaves the fleet open.
	rightsReminder = time.Minute
)

// compareRights logs that this node serves everything while other nodes judge, and that nodes judge
// by different files, until ctx ends.
func (n *node) compareRights(ctx context.Context) {
	tick := time.NewTicker(rightsInterval)
	defer tick.Stop()
	reminder := rate.Sometimes{Interval: rightsReminder}
	warned := ""
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		judging, differing := n.judgingPeers()
		if n.judge == nil && !n.cfg.auth.off && len(judging) > 0 {
			reminder.Do(func() {
				n.cfg.log.Error("this node serves every request, while others judge by a file of rights", "others", judging, "do", "give it --auth with the same file; or --auth=off if that is meant")
			})
		}
		if now := fmt.Sprint(differing); now != warned {
			if warned = now; len(differing) > 0 {
				n.cfg.log.Warn("nodes judge by different files of rights", "others", differing, "hash", n.judge.Hash())
			}
		}
	}
}

// authNotReady returns why the rights keep a node from being ready; empty: they do not.
func (n *node) authNotReady() string {
	if n.judge == nil {
		judging, _ := n.judgingPeers()
		if len(judging) == 0 || n.cfg.auth.off || n.wasReady.Load() { // a node that serves stays: a fleet is being switched on
			return ""
		}
		return "rights: " + strings.Join(judging, ", ") + " judge requests by a file (--auth), and this node has none: give it the file, or --auth=off"
	}
	if ready, missing := n.judge.Ready(); !ready {
		return "rights: no keys yet of " + strings.Join(missing, ", ")
	}
	if n.revocations != nil && !n.revocations.isCaughtUp() {
		return "rights: the revocations are not read yet"
	}
	return ""
}

// authMetrics counts what the Judge does.
type authMetrics struct {
	denied, verified, fetched, limited *prometheus.CounterVec
}

func newAuthMetrics(reg prometheus.Registerer, observing bool) *authMetrics {
	m := &authMetrics{
		denied: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_auth_denied_total", Help: "Requests refused for their credential, by reason; observed: it was served, by --auth-observe.",
			ConstLabels: prometheus.Labels{"observed": fmt.Sprint(observing)},
		}, []string{"reason"}),
		verified: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_auth_verifications_total", Help: "Tokens verified, by issuer and result. A token that is known is not verified again.",
		}, []string{"issuer", "result"}),
		fetched: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_jwks_fetches_total", Help: "Fetches of an issuer's keys, by result.",
		}, []string{"issuer", "result"}),
		limited: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_limited_total", Help: "Requests refused because the project or the caller is over a limit of the file of rights; observed: it was served, by --auth-observe.",
			ConstLabels: prometheus.Labels{"observed": fmt.Sprint(observing)},
		}, []string{"project", "limit"}),
	}
	reg.MustRegister(m.denied, m.verified, m.fetched, m.limited)
	return m
}

// Denied implements access.Observer.
func (m *authMetrics) Denied(reason access.Reason) { m.denied.WithLabelValues(string(reason)).Inc() }

// Verified implements access.Observer.
func (m *authMetrics) Verified(issuer string, reason access.Reason) {
	if reason == "" {
		reason = "good"
	}
	m.verified.WithLabelValues(issuer, string(reason)).Inc()
}

// Fetched implements access.Observer.
func (m *authMetrics) Fetched(issuer string, good bool) {
	result := "failed"
	if good {
		result = "good"
	}
	m.fetched.WithLabelValues(issuer, result).Inc()
}

// Limited implements access.Observer.
func (m *authMetrics) Limited(project string, limit access.Reason) {
	m.limited.WithLabelValues(project, string(limit)).Inc()
}

// registerJudge registers what is asked of the Judge when metrics are read.
func (m *authMetrics) registerJudge(reg prometheus.Registerer, j *access.Judge) {
	reg.MustRegister(judgeCollector{
		judge:  j,
		cache:  prometheus.NewDesc("fantail_auth_cache_bytes", "Memory of the verified tokens that are kept.", nil, nil),
		age:    prometheus.NewDesc("fantail_jwks_age_seconds", "Time since an issuer's keys were fetched.", []string{"issuer"}, nil),
		config: prometheus.NewDesc("fantail_auth_config_info", "Always 1; the label is the hash of the file of rights that is in force.", []string{"hash"}, nil),
	})
}

// judgeCollector reads gauges from a Judge.
type judgeCollector struct {
	judge              *access.Judge
	cache, age, config *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c judgeCollector) Describe(ch chan<- *prometheus.Desc) {
	ch <- c.cache
	ch <- c.age
	ch <- c.config
}

// Collect implements prometheus.Collector.
func (c judgeCollector) Collect(ch chan<- prometheus.Metric) {
	ch <- prometheus.MustNewConstMetric(c.cache, prometheus.GaugeValue, float64(c.judge.CacheBytes()))
	ch <- prometheus.MustNewConstMetric(c.config, prometheus.GaugeValue, 1, c.judge.Hash())
	for issuer, age := range c.judge.KeyAges() {
		ch <- prometheus.MustNewConstMetric(c.age, prometheus.GaugeValue, age.Seconds(), issuer)
	}
}
