package shard

import (
	"errors"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics holds the metrics of a Manager; the zero value counts nothing.
type metrics struct {
	appends       map[result]prometheus.Counter
	chainsRefused prometheus.Counter
}

// result labels fantail_appends_total. The set is closed.
type result string

const (
	resultDone      result = "done"
	resultDuplicate result = "duplicate"
	resultRefused   result = "refused"
	resultUnknown   result = "unknown"
	resultError     result = "error"
)

func newMetrics(reg prometheus.Registerer, h *Manager) *metrics {
	m := &metrics{chainsRefused: prometheus.NewCounter(prometheus.CounterOpts{
		Name: "fantail_fork_chains_refused_total",
		Help: "Forks that their sources do not hold: what they claim to have inherited is not served.",
	})}
	if reg == nil {
		return m
	}
	appends := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_appends_total",
		Help: "Writes decided by this node as owner, by outcome.",
	}, []string{"outcome"})
	m.appends = map[result]prometheus.Counter{}
	for _, r := range []result{resultDone, resultDuplicate, resultRefused, resultUnknown, resultError} {
		m.appends[r] = appends.WithLabelValues(string(r))
	}
	gauge := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, fn)
	}
	count := func(name, help string, fn func() float64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help}, fn)
	}
	batches := func(path string, n *atomic.Int64) prometheus.Collector {
		return prometheus.NewCounterFunc(prometheus.CounterOpts{
			Name: "fantail_append_batches_total", Help: "Batches acknowledged by S2: as calls, one of a stream at a time, or over append sessions.",
			ConstLabels: prometheus.Labels{"path": path},
		}, func() float64 { return float64(n.Load()) })
	}
	reg.MustRegister(
		appends,
		m.chainsRefused,
		gauge("fantail_owned_streams", "Streams that this node holds as owner.", func() float64 {
			h.mu.Lock()
			defer h.mu.Unlock()
			return float64(len(h.streams.byID))
		}),
		gauge("fantail_state_bytes", "Memory of the streams that this node holds as owner, without their TailBuffers.", func() float64 {
			return float64(h.streams.bytes.Load())
		}),
		gauge("fantail_absent_names", "Names without a stream, or not known to have one yet, that this node keeps in memory.", func() float64 {
			return float64(h.streams.absentCount.Load())
		}),
		gauge("fantail_awaited_names", "Names of streams that do not exist and are waited for, at their owner.", func() float64 {
			return float64(h.creationWaits.names.Load())
		}),
		count("fantail_lost_logs_total", "Streams of which S2 has lost records that it had acknowledged.", func() float64 {
			return float64(h.lossReports.lost.Load())
		}),
		count("fantail_cut_logs_total", "Streams found without the beginning of their log in S2, which Fantail did not trim.", func() float64 {
			return float64(h.lossReports.truncated.Load())
		}),
		count("fantail_expired_streams_total", "Streams ended by this node as owner because their time was over.", func() float64 {
			return float64(h.expiryReports.total.Load())
		}),
		prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_clock_skew_seconds", Help: "How far this node's clock is ahead of others', the worst of them.",
			ConstLabels: prometheus.Labels{"against": "s2"},
		}, func() float64 { return h.clocks.worstSkew().Seconds() }),
		batches("session", &h.pipelines.onSession),
		batches("call", &h.pipelines.onCall),
		gauge("fantail_append_batches_in_flight", "Batches that are on their way to S2 over append sessions.", func() float64 {
			return float64(h.pipelines.inFlight.Load())
		}),
		gauge("fantail_append_order", "Whether S2's append sessions keep their order, so that appends may be pipelined: 1 yes, 0 not known, or not asked, -1 no.", func() float64 {
			return float64(h.pipelines.order.Load())
		}),
		gauge("fantail_append_sessions", "S2 append sessions that this node has open.", func() float64 {
			return float64(h.pipelines.count())
		}),
		count("fantail_append_session_losses_total", "S2 append sessions that ended with batches in flight.", func() float64 {
			return float64(h.pipelines.lost.Load())
		}),
		count("fantail_log_broken_total", "Batches found on another batch than they were decided on; after the first this node pipelines no more.", func() float64 {
			return float64(h.pipelines.brokenLogs.Load())
		}),
		gauge("fantail_cold_opens_waiting", "Streams that wait for their turn to be read from S2.", func() float64 {
			n, _ := h.coldOpens.counts()
			return float64(n)
		}),
		count("fantail_cold_opens_refused_total", "Requests refused because too many streams were to be read from S2.", func() float64 {
			_, n := h.coldOpens.counts()
			return float64(n)
		}),
		count("fantail_states_evicted_total", "Idle streams that made room for others in memory.", func() float64 {
			return float64(h.streams.evicted.Load())
		}),
		count("fantail_absent_names_evicted_total", "Names without a stream that made room for others in memory.", func() float64 {
			return float64(h.streams.evictedNames.Load())
		}),
		gauge("fantail_followed_streams", "Streams with followers, at their owner.", func() float64 {
			return float64(h.tails.CountFollowed())
		}),
		gauge("fantail_s2_read_sessions", "S2 read sessions that this node has open.", func() float64 {
			return float64(h.log.OpenSessions())
		}),
		gauge("fantail_tail_bytes", "Bytes of records that this node's TailBuffers hold.", func() float64 {
			return float64(h.tails.Bytes())
		}),
	)
	return m
}

func (m *metrics) countOutcome(out Outcome, err error) {
	if m.appends == nil {
		return
	}
	m.appends[resultOf(out, err)].Inc()
}

// resultOf returns what came of a write.
func resultOf(out Outcome, err error) result {
	switch {
	case errors.Is(err, ErrOutcomeUnknown):
		return resultUnknown
	case err != nil:
		return resultError
	case out.Code == CodeDuplicate:
		return resultDuplicate
	case out.Code.Accepted():
		return resultDone
	}
	return resultRefused
}
