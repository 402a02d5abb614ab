package gossip

import "github.com/prometheus/client_golang/prometheus"

type metricSet struct {
	viewChanges     prometheus.Counter
	members, owners prometheus.Gauge
}

func newMetricSet(reg prometheus.Registerer) *metricSet {
	m := &metricSet{
		viewChanges: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_view_changes_total", Help: "Changes of this node's view of the fleet.",
		}),
		members: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_members", Help: "Members in this node's view, itself included.",
		}),
		owners: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_owners", Help: "Members that own streams, as this node sees it.",
		}),
	}
	if reg != nil {
		reg.MustRegister(m.viewChanges, m.members, m.owners)
	}
	return m
}
