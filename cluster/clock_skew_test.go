package cluster

import (
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// Nodes learn from heartbeats how far their clocks differ.
func TestClockSkewIsMeasuredByHeartbeats(t *testing.T) {
	t.Parallel()
	const ahead = 1500 * time.Millisecond
	reg := prometheus.NewRegistry()
	f := newFleet(t, 1)
	f.add(func(c *Config) {
		c.Now, c.Metrics = func() time.Time { return time.Now().Add(ahead) }, reg
	})
	near := func(s *testNode, want time.Duration) bool {
		d, name := s.peers.WorstClockSkew()
		return name != "" && (d-want).Abs() < 300*time.Millisecond
	}
	f.eventually("the node that is ahead knows", func() bool { return near(f.nodes[1], ahead) })
	f.eventually("the other knows", func() bool { return near(f.nodes[0], -ahead) })
	f.eventually("it is a metric", func() bool {
		all, _ := reg.Gather()
		for _, m := range all {
			if m.GetName() == "fantail_clock_skew_seconds" {
				return m.GetMetric()[0].GetGauge().GetValue() > 1
			}
		}
		return false
	})
}
