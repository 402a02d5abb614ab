package transport

import (
	"github.com/prometheus/client_golang/prometheus"
)

// linkEnd names the end of a link that something is counted at.
type linkEnd = string

const (
	endEdge  linkEnd = "edge"  // subscribes and receives
	endOwner linkEnd = "owner" // feeds
)

// endMetrics count what one end of a node's links carries.
type endMetrics struct {
	subscriptions prometheus.Gauge
	bytes         prometheus.Counter // of record batches
}

func newEndMetrics(reg prometheus.Registerer, end linkEnd) *endMetrics {
	side := prometheus.Labels{"side": end}
	m := &endMetrics{
		subscriptions: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_relay_subscriptions", Help: "Streams relayed, by end of the link.", ConstLabels: side,
		}),
		bytes: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_relay_bytes_total", Help: "Bytes of records relayed, by end of the link.", ConstLabels: side,
		}),
	}
	if reg != nil {
		reg.MustRegister(m.subscriptions, m.bytes)
	}
	return m
}
