package edge

import (
	"errors"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

// mode labels readers. Closed set.
type mode string

const (
	modeSSE      mode = "sse"
	modeLongPoll mode = "long-poll"
	modeCatchUp  mode = "catch-up"
)

// reason labels readers that this node ended. Closed sets: those that were cut, and those
// that were sent elsewhere.
type reason string

const (
	cutStalled reason = "stalled" // it took nothing for Config.Stall
	cutMemory  reason = "memory"  // it was stuck while readers held too much

	cutSlow reason = "slow" // a body: others had no room, and it came slowest
	cutLate reason = "late" // a body: it took too long as a whole

	movedDrain     reason = "drain"     // the node stops
	movedRebalance reason = "rebalance" // others have fewer
)

// metrics of a Server; without a Registerer they count for nobody.
type metrics struct {
	readers    *prometheus.GaugeVec
	requests   *prometheus.CounterVec
	appended   prometheus.Counter
	delivered  prometheus.Counter
	deliveries prometheus.Counter
	gaps       prometheus.Counter
	cut        *prometheus.CounterVec
	moved      *prometheus.CounterVec
	bodies     prometheus.Gauge
	cutBodies  *prometheus.CounterVec
	refused    *prometheus.CounterVec
	waitRoom   prometheus.Gauge
	waitTurn   prometheus.Gauge
	ack        prometheus.Histogram
	delivery   prometheus.Histogram
}

func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{
		readers: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "fantail_readers", Help: "Readers connected to this node.",
		}, []string{"mode"}),
		requests: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_http_requests_total",
			Help: "Requests by the status that their answer means: a reader that is told to come back counts as 503. Event streams count when they begin.",
		}, []string{"method", "mode", "code"}),
		appended: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_appended_bytes_total", Help: "Bytes of messages that writers were acknowledged here.",
		}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_delivered_bytes_total", Help: "Bytes written to readers, with the framing of event streams.",
		}),
		deliveries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_messages_delivered_total", Help: "Messages written to readers.",
		}),
		gaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_gaps_detected_total",
			Help: "Ranges that did not join where a reader stood. Anything but 0 is a bug.",
		}),
		cut: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_cut_total", Help: "Readers cut because they took nothing, by reason.",
		}, []string{"reason"}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_moved_total", Help: "Readers ended for them to go on elsewhere, by reason.",
		}, []string{"reason"}),
		bodies: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_bodies_coming", Help: "Bodies of writes that are being read.",
		}),
		cutBodies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_bodies_cut_total", Help: "Bodies of writes that were given up before they had come, by reason.",
		}, []string{"reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_refused_total", Help: "Event streams and long-polls that were refused, by the problem that they were told.",
		}, []string{"reason"}),
		waitRoom: waiting("room"),
		waitTurn: waiting("turn"),
		ack: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "fantail_append_duration_seconds", Help: "From a write's body read to its answer.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		delivery: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name:    "fantail_delivery_latency_seconds",
			Help:    "From S2's time of a message to its being written to event streams that were up to date; one observation for the last of each batch of readers. Clocks that differ show in it.",
			Buckets: prometheus.ExponentialBuckets(0.001, 2, 15),
		}),
	}
	for _, mode := range []mode{modeSSE, modeLongPoll, modeCatchUp} {
		m.readers.WithLabelValues(string(mode))
	}
	for _, r := range []reason{cutStalled, cutMemory} {
		m.cut.WithLabelValues(string(r))
	}
	for _, r := range []reason{cutSlow, cutLate, cutStalled} {
		m.cutBodies.WithLabelValues(string(r))
	}
	for _, r := range []reason{movedDrain, movedRebalance} {
		m.moved.WithLabelValues(string(r))
	}
	for _, err := range []error{errDraining, errFull, errFullOwn, errConnFull, errFiles, errCrowd} {
		m.refused.WithLabelValues(mappingOf(err).slug)
	}
	if reg != nil {
		reg.MustRegister(m.bodies, m.cutBodies, m.requests, m.appended, m.delivered, m.readers, m.deliveries, m.gaps, m.cut, m.moved, m.refused, m.waitRoom, m.waitTurn, m.ack, m.delivery)
	}
	return m
}

// waiting counts clients that catch up and wait: to collect pages (see collectors), or
// for a turn to be written to (see stint).
func waiting(what string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fantail_catch_up_waiting", Help: "Clients that catch up and wait: for room to hold pages or others to have got theirs, or for a turn to be written to.",
		ConstLabels: prometheus.Labels{"for": what},
	})
}

// registerHeld has a gauge tell what pins hold.
func (m *metrics) registerHeld(reg prometheus.Registerer, by mode, p *pins) {
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_held_bytes", Help: "Memory held for readers that have not taken it yet.",
			ConstLabels: prometheus.Labels{"mode": string(by)},
		}, func() float64 { return float64(p.bytes.Load()) }))
	}
}

// registerIntake has a gauge tell what writes hold.
func (m *metrics) registerIntake(reg prometheus.Registerer, in *intake) {
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_writes_held_bytes", Help: "Memory that is counted for writes until they are answered.",
		}, func() float64 { return float64(in.held.Load()) }))
	}
}

// registerLimits has gauges tell how many readers there may be, of all and of those that have a
// goroutine, and how many of those there are.
func (m *metrics) registerLimits(reg prometheus.Registerer, s *Server) {
	if reg == nil {
		return
	}
	limit := func(of string, n int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_readers_limit", Help: "Most event streams and long-polls together, and most of them that have a goroutine (HTTP/2, long-polls).",
			ConstLabels: prometheus.Labels{"of": of},
		}, func() float64 { return float64(n) })
	}
	reg.MustRegister(limit("all", s.cfg.MaxReaders), limit("goroutine", s.cfg.MaxGoroutineReaders), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fantail_goroutine_readers", Help: "Readers that have a goroutine: over HTTP/2, and long-polls.",
	}, func() float64 {
		s.drain.mu.Lock()
		defer s.drain.mu.Unlock()
		return float64(s.drain.owned)
	}))
}

// refuse counts a reader that is refused, and returns why.
func (m *metrics) refuse(err error) error {
	m.refused.WithLabelValues(mappingOf(err).slug).Inc()
	return err
}

// count takes over what a cursor has counted.
func (m *metrics) count(c *cursor) {
	if c.messages > 0 || c.gaps > 0 {
		m.deliveries.Add(float64(c.messages))
		m.gaps.Add(float64(c.gaps))
		c.messages, c.gaps = 0, 0
	}
}

// reader counts a reader in; the result counts it out.
func (m *metrics) reader(mode mode) func() {
	g := m.readers.WithLabelValues(string(mode))
	g.Inc()
	return g.Dec
}

func (m *metrics) observeAck(start time.Time) { m.ack.Observe(time.Since(start).Seconds()) }

// countCut counts a reader that was cut, if err says so.
func (m *metrics) countCut(out *pacer, err error) {
	switch {
	case out.isCut.Load():
		m.cut.WithLabelValues(string(cutMemory)).Inc()
	case errors.Is(err, os.ErrDeadlineExceeded):
		m.cut.WithLabelValues(string(cutStalled)).Inc()
	}
}

// observeDelivery counts how long after S2's time of it (ms) a message is written.
func (m *metrics) observeDelivery(at uint64) {
	m.delivery.Observe(max(time.Since(time.UnixMilli(int64(at))).Seconds(), 0))
}
