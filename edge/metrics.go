package edge

import (
	"errors"
	"os"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// endReason labels readers and bodies that this node ended, from closed sets.
type endReason string

const (
	reasonStalled endReason = "stalled" // it accepted, or sent, nothing for Config.Stall
	reasonMemory  endReason = "memory"  // it was blocked while readers held too much memory

	reasonSlowBody endReason = "slow" // a body: others had no room, and it was the slowest
	reasonLateBody endReason = "late" // a body: it took too long as a whole

)

// metrics holds a Server's metrics. Without a Registerer they are counted but not exposed.
type metrics struct {
	readers         *prometheus.GaugeVec
	requests        *prometheus.CounterVec
	appended        prometheus.Counter
	delivered       prometheus.Counter
	deliveries      prometheus.Counter
	gaps            prometheus.Counter
	disconnected    *prometheus.CounterVec
	moved           *prometheus.CounterVec
	ended           *prometheus.CounterVec
	bodies          prometheus.Gauge
	abandonedBodies *prometheus.CounterVec
	refused         *prometheus.CounterVec
	createWaits     *prometheus.CounterVec
	countingReaders prometheus.Gauge
	waitingForRoom  prometheus.Gauge
	waitingForSlot  prometheus.Gauge
	ack             prometheus.Histogram
	delivery        prometheus.Histogram
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
			Name: "fantail_appended_bytes_total", Help: "Bytes of messages acknowledged to writers here.",
		}),
		delivered: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_delivered_bytes_total", Help: "Bytes written to readers, with the framing of event streams.",
		}),
		deliveries: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_messages_delivered_total", Help: "Messages written to readers.",
		}),
		gaps: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "fantail_gaps_detected_total",
			Help: "Batches that did not join a reader's position. Anything but 0 is a bug.",
		}),
		disconnected: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_cut_total", Help: "Readers disconnected because they accepted nothing, or too little after their right was over, by reason.",
		}, []string{"reason"}),
		ended: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_ended_total", Help: "Readers ended because their right was over: their credential expired, was revoked, or the rights changed.",
		}, []string{"why"}),
		moved: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_moved_total", Help: "Readers disconnected so that they reconnect to another node, by reason.",
		}, []string{"reason"}),
		bodies: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_bodies_coming", Help: "Bodies of writes that are being read.",
		}),
		abandonedBodies: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_bodies_cut_total", Help: "Bodies of writes that were given up before they had arrived, by reason.",
		}, []string{"reason"}),
		refused: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_readers_refused_total", Help: "Event streams and long-polls that were refused, by the problem in the answer.",
		}, []string{"reason"}),
		createWaits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "fantail_create_waits_total", Help: "Waits of readers for streams that did not exist (create=wait), by how they ended.",
		}, []string{"end"}),
		countingReaders: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "fantail_counting_readers", Help: "Event streams that show the number of their stream's readers (readers=1).",
		}),
		waitingForRoom: newWaitingGauge("room"),
		waitingForSlot: newWaitingGauge("turn"),
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
	for _, mode := range []requestMode{modeSSE, modeLongPoll, modeCatchUp} {
		m.readers.WithLabelValues(string(mode))
	}
	for _, r := range []sse.EndReason{sse.EndStalled, sse.EndMemory, sse.EndPermit} {
		m.disconnected.WithLabelValues(r.String())
	}
	for _, r := range []endReason{reasonSlowBody, reasonLateBody, reasonStalled} {
		m.abandonedBodies.WithLabelValues(string(r))
	}
	for _, r := range []sse.EndReason{sse.EndDrain, sse.EndRebalance} {
		m.moved.WithLabelValues(r.String())
	}
	for _, err := range []error{errDraining, errFull, errGoroutinesFull, errConnFull, errConnectionsFull, errCatchUpFull, errCreateWaitsFull, errProjectCreateWaits} {
		m.refused.WithLabelValues(problemOf(err).slug)
	}
	for _, end := range waitEnds {
		m.createWaits.WithLabelValues(string(end))
	}
	if reg != nil {
		reg.MustRegister(m.bodies, m.abandonedBodies, m.requests, m.appended, m.delivered, m.readers, m.deliveries, m.gaps, m.disconnected, m.moved, m.ended, m.refused, m.createWaits, m.countingReaders, m.waitingForRoom, m.waitingForSlot, m.ack, m.delivery)
	}
	return m
}

// newWaitingGauge returns a gauge of clients that catch up and wait: for room to load pages (see
// maxChunkLoads), or for a write slot (see netconn.WriteSlots).
func newWaitingGauge(what string) prometheus.Gauge {
	return prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "fantail_catch_up_waiting", Help: "Clients that catch up and wait: for memory to load pages (room), or for a write slot (turn).",
		ConstLabels: prometheus.Labels{"for": what},
	})
}

// registerSendBudget registers a gauge of what a budget holds.
func (m *metrics) registerSendBudget(reg prometheus.Registerer, by requestMode, p *sendbudget.Budget) {
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_held_bytes", Help: "Memory held for readers that have not received it yet.",
			ConstLabels: prometheus.Labels{"mode": string(by)},
		}, func() float64 { return float64(p.Held()) }))
	}
}

// registerWritesBudget registers a gauge of what writes are charged.
func (m *metrics) registerWritesBudget(reg prometheus.Registerer, held *atomic.Int64) {
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_writes_held_bytes", Help: "Memory charged for writes until they are answered.",
		}, func() float64 { return float64(held.Load()) }))
	}
}

// registerLimits registers gauges of how many readers there may be, in all and with a goroutine,
// and of how many have a goroutine.
func (m *metrics) registerLimits(reg prometheus.Registerer, cfg *Config, counts *readerCounts) {
	if reg == nil {
		return
	}
	limit := func(of string, n int) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_readers_limit", Help: "Most event streams and long-polls together, and most of them that have a goroutine (HTTP/2, long-polls).",
			ConstLabels: prometheus.Labels{"of": of},
		}, func() float64 { return float64(n) })
	}
	reg.MustRegister(limit("all", cfg.MaxReaders), limit("goroutine", cfg.MaxGoroutineReaders), prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "fantail_goroutine_readers", Help: "Readers that have a goroutine: over HTTP/2, and long-polls.",
	}, func() float64 { return float64(counts.haveGoroutine()) }))
}

// registerCreateWaits registers a gauge of the readers that wait for streams that do not exist.
func (m *metrics) registerCreateWaits(reg prometheus.Registerer, waits *createWaits) {
	if reg != nil {
		reg.MustRegister(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_create_waiters", Help: "Readers that wait for streams that do not exist (create=wait).",
		}, func() float64 { return float64(waits.count()) }))
	}
}

// countRefused counts a refused reader, and returns err.
func (m *metrics) countRefused(err error) error {
	m.refused.WithLabelValues(problemOf(err).slug).Inc()
	return err
}

// CountSession takes over what a session has counted.
func (m *metrics) CountSession(c *sse.Session) {
	if messages, gaps := c.TakeCounts(); messages > 0 || gaps > 0 {
		m.deliveries.Add(float64(messages))
		m.gaps.Add(float64(gaps))
	}
}

// trackReader counts a reader; the returned function uncounts it.
func (m *metrics) trackReader(mode requestMode) func() {
	g := m.readers.WithLabelValues(string(mode))
	g.Inc()
	return g.Dec
}

func (m *metrics) observeAck(start time.Time) { m.ack.Observe(time.Since(start).Seconds()) }

// CountDelivered counts what was written to readers of event streams.
func (m *metrics) CountDelivered(messages, bytes int) {
	m.delivered.Add(float64(bytes))
	m.deliveries.Add(float64(messages))
}

// CountMoved counts a reader that is told to reconnect to another node.
func (m *metrics) CountMoved(why sse.EndReason) { m.moved.WithLabelValues(why.String()).Inc() }

// CountDisconnected counts a reader that was disconnected because it accepted nothing, or too little.
func (m *metrics) CountDisconnected(why sse.EndReason) {
	m.disconnected.WithLabelValues(why.String()).Inc()
}

// countDisconnect counts a reader that was disconnected, if err says so.
func (m *metrics) countDisconnect(out *netconn.StallWriter, err error) {
	switch {
	case out.Disconnected():
		m.disconnected.WithLabelValues(string(reasonMemory)).Inc()
	case errors.Is(err, os.ErrDeadlineExceeded):
		m.disconnected.WithLabelValues(string(reasonStalled)).Inc()
	}
}

// ObserveDelivery records the delay from S2's time of a message (ms) to its being written.
func (m *metrics) ObserveDelivery(at shard.Millis) {
	m.delivery.Observe(max(time.Since(time.UnixMilli(int64(at))).Seconds(), 0))
}
