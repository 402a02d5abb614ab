package cluster

import (
	"github.com/prometheus/client_golang/prometheus"
)

type metrics struct {
	notOwner  prometheus.Counter // answered by this node
	forced    prometheus.Counter // sent by this node
	gaps      prometheus.Counter
	clockSkew prometheus.Gauge
	handovers handoverCounters
}

// handoverCounters count the streams that moved together with what the owner knew of them.
type handoverCounters struct{ given, received, lost prometheus.Counter }

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		notOwner: counter("fantail_not_owner_total",
			"Requests answered with the name of another owner."),
		forced: counter("fantail_owner_overrides_total", "Requests that this node forced a node to serve."),
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
	if reg != nil {
		reg.MustRegister(m.notOwner, m.forced, m.gaps, m.clockSkew, handovers)
	}
	return m
}

func counter(name, help string) prometheus.Counter {
	return prometheus.NewCounter(prometheus.CounterOpts{Name: name, Help: help})
}
