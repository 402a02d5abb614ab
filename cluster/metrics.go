package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
)

// linkEnd names the end of a link that something is counted at.
type linkEnd = string

const (
	endEdge  linkEnd = "edge"  // subscribes and receives
	endOwner linkEnd = "owner" // feeds
)

type metrics struct {
	subscriptions map[linkEnd]prometheus.Gauge
	bytes         map[linkEnd]prometheus.Counter // of record batches
	notOwner      prometheus.Counter             // answered by this node
	forced        prometheus.Counter             // sent by this node
	links         prometheus.Gauge
	gaps          prometheus.Counter
	clockSkew     prometheus.Gauge
	handovers     handoverCounters
}

// handoverCounters count the streams that moved together with what the owner knew of them.
type handoverCounters struct{ given, received, lost prometheus.Counter }

func newMetrics(reg prometheus.Registerer) *metrics {
	subscriptions := prometheus.NewGaugeVec(prometheus.GaugeOpts{
		Name: "fantail_relay_subscriptions", Help: "Streams relayed, by end of the link.",
	}, []string{"side"})
	bytes := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_relay_bytes_total", Help: "Bytes of records relayed, by end of the link.",
	}, []string{"side"})
	m := &metrics{
		subscriptions: map[linkEnd]prometheus.Gauge{},
		bytes:         map[linkEnd]prometheus.Counter{},
		notOwner: counter("fantail_not_owner_total",
			"Requests answered with the name of another owner."),
		forced: counter("fantail_owner_overrides_total", "Requests that this node forced a node to serve."),
		links:  gauge("fantail_links_up", "Links to other nodes that are up."),
		clockSkew: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_clock_skew_seconds", Help: "How far this node's clock is ahead of others', the worst of them.",
			ConstLabels: prometheus.Labels{"against": "peers"},
		}),
		gaps: counter("fantail_relay_gaps_total",
			"Relayed record batches that left a gap, so the stream was subscribed to again."),
	}
	handovers := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_handovers_total",
		Help: "Streams handed over between owners: given, taken, or lost on the way (then S2 is read).",
	}, []string{"result"})
	m.handovers = handoverCounters{
		given: handovers.WithLabelValues("given"), received: handovers.WithLabelValues("taken"),
		lost: handovers.WithLabelValues("lost"),
	}
	for _, s := range []linkEnd{endEdge, endOwner} {
		m.subscriptions[s] = subscriptions.WithLabelValues(s)
		m.bytes[s] = bytes.WithLabelValues(s)
	}
	if reg != nil {
		reg.MustRegister(subscriptions, bytes, m.notOwner, m.forced, m.links, m.gaps, m.clockSkew, handovers)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}

func gauge(name, help string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{Name: name, Help: help})
}
