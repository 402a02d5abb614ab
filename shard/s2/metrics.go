package s2

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// op labels fantail_s2_seconds. Closed set.
type op string

const (
	opAppend op = "append"
	opRead   op = "read"
	opTail   op = "check-tail"
)

type metrics struct {
	opened, lost prometheus.Counter
	seconds      map[op]prometheus.Observer
}

func newMetrics(reg prometheus.Registerer) metrics {
	m := metrics{
		opened: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_s2_session_opens_total", Help: "S2 read sessions opened; each bills a minute at least.",
		}),
		lost: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_s2_session_losses_total", Help: "S2 read sessions that ended while they were wanted.",
		}),
		seconds: map[op]prometheus.Observer{},
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "fantail_s2_seconds", Help: "Time that S2 took to answer.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
	}, []string{"op"})
	for _, o := range []op{opAppend, opRead, opTail} {
		m.seconds[o] = seconds.WithLabelValues(string(o))
	}
	if reg != nil {
		reg.MustRegister(m.opened, m.lost, seconds)
	}
	return m
}

func (m *metrics) observe(o op, start time.Time) {
	m.seconds[o].Observe(time.Since(start).Seconds())
}
