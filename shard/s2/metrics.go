package s2

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/shard/s2/s2s"
)

// operation is a label of fantail_s2_request_duration_seconds and fantail_s2_requests_total. Closed set.
type operation string

const (
	opAppend  operation = "append"
	opRead    operation = "read"
	opTail    operation = "check-tail"
	opCreate  operation = "create"
	opSession operation = "read-session"
	opWatch   operation = "watch"
	opList    operation = "list-streams"
)

type metrics struct {
	sessionOpens, sessionLosses prometheus.Counter
	durations                   map[operation]prometheus.Observer
	requests                    map[operation]map[result]prometheus.Counter
	health                      *health
}

func newMetrics(reg prometheus.Registerer, h *health) metrics {
	m := metrics{
		health: h,
		sessionOpens: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_s2_session_opens_total", Help: "S2 read sessions opened; each bills a minute at least.",
		}),
		sessionLosses: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_s2_session_losses_total", Help: "S2 read sessions that ended while they were wanted.",
		}),
		durations: map[operation]prometheus.Observer{}, requests: map[operation]map[result]prometheus.Counter{},
	}
	seconds := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "fantail_s2_request_duration_seconds", Help: "Time that S2 took to answer.",
		Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
	}, []string{"op"})
	requests := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_s2_requests_total", Help: "Calls of S2 by what came of them; a read session counts when it ends.",
	}, []string{"op", "result"})
	for _, o := range []operation{opAppend, opRead, opTail, opCreate, opSession, opWatch, opList} {
		if o != opSession {
			m.durations[o] = seconds.WithLabelValues(string(o))
		}
		m.requests[o] = map[result]prometheus.Counter{}
		for _, r := range results {
			m.requests[o][r] = requests.WithLabelValues(string(o), string(r))
		}
	}
	up := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fantail_s2_up", Help: "1 while S2 answers this node, 0 before its first answer and while nothing but failures come.",
	}, func() float64 {
		if h.up.Load() {
			return 1
		}
		return 0
	})
	if reg != nil {
		reg.MustRegister(m.sessionOpens, m.sessionLosses, seconds, requests, up)
	}
	return m
}

// registerWindows registers what the windows of read sessions have together.
func registerWindows(reg prometheus.Registerer, sessions *s2s.Client) {
	if reg == nil {
		return
	}
	reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fantail_s2_session_window_bytes", Help: "Bytes that S2 may send on all read sessions together before this node has taken any.",
	}, func() float64 { return float64(sessions.WindowBytes()) }))
}

// recordCall records a call that began at start, with its classified error.
func (m *metrics) recordCall(o operation, start time.Time, err error) {
	now := time.Now()
	m.durations[o].Observe(now.Sub(start).Seconds())
	m.recordResult(o, now, err)
}

// recordResult records the result of a call or session, without its duration.
func (m *metrics) recordResult(o operation, now time.Time, err error) {
	r := classifyResult(err)
	m.requests[o][r].Inc()
	switch {
	case r.isOutage():
		m.health.recordFailure(now, err)
	case r != resultCancelled:
		m.health.recordAnswer(now)
	}
}
