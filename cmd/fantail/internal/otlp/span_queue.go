package otlp

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"golang.org/x/time/rate"
)

// spanQueue holds the spans that have ended until the collector has them. It is full at Settings.queue
// spans: further ones are dropped.
type spanQueue struct {
	exporter      sdktrace.SpanExporter
	batch         int
	delay         time.Duration
	exportTimeout time.Duration
	log           *slog.Logger
	warning       rate.Sometimes // one line a minute about a collector that does not take spans

	spans  chan sdktrace.ReadOnlySpan
	full   chan struct{} // capacity 1: a batch is full
	counts map[fate]prometheus.Counter

	closing   chan struct{} // closed by close
	closeOnce sync.Once
	ctx       context.Context // of what is being sent
	stop      context.CancelFunc
	done      chan struct{} // closed when run has returned
}

// fate labels fantail_trace_spans_total. Closed set.
type fate string

const (
	sent    fate = "sent"
	failed  fate = "failed"  // the collector did not take them
	dropped fate = "dropped" // the queue was full
)

func newSpanQueue(s *Settings, log *slog.Logger, metrics prometheus.Registerer) *spanQueue {
	q := &spanQueue{
		batch: s.batch, delay: s.delay, exportTimeout: s.exportTimeout, log: log, warning: rate.Sometimes{Interval: time.Minute},
		spans: make(chan sdktrace.ReadOnlySpan, s.queue), counts: map[fate]prometheus.Counter{},
		full: make(chan struct{}, 1), closing: make(chan struct{}), done: make(chan struct{}),
	}
	q.ctx, q.stop = context.WithCancel(context.Background())
	spans := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_trace_spans_total",
		Help: "Spans that ended, by what became of them: sent to the collector, failed (it did not take them), or dropped because too many waited.",
	}, []string{"result"})
	for _, f := range []fate{sent, failed, dropped} {
		q.counts[f] = spans.WithLabelValues(string(f))
	}
	if metrics != nil {
		metrics.MustRegister(spans, prometheus.NewGaugeFunc(prometheus.GaugeOpts{
			Name: "fantail_trace_spans_waiting", Help: "Spans that wait to be sent to the collector.",
		}, func() float64 { return float64(len(q.spans)) }))
	}
	return q
}

// OnStart implements sdktrace.SpanProcessor.
func (q *spanQueue) OnStart(context.Context, sdktrace.ReadWriteSpan) {}

// OnEnd implements sdktrace.SpanProcessor. It never waits.
func (q *spanQueue) OnEnd(s sdktrace.ReadOnlySpan) {
	select {
	case q.spans <- s:
	default:
		q.counts[dropped].Inc()
	}
	if len(q.spans) >= q.batch {
		select {
		case q.full <- struct{}{}:
		default:
		}
	}
}

// ForceFlush implements sdktrace.SpanProcessor. Nothing calls it: close sends what is left.
func (q *spanQueue) ForceFlush(context.Context) error { return nil }

// Shutdown implements sdktrace.SpanProcessor.
func (q *spanQueue) Shutdown(ctx context.Context) error {
	q.close(ctx)
	return nil
}

// run sends spans until close.
func (q *spanQueue) run() {
	defer close(q.done)
	defer q.stop()
	for q.awaitSpan() {
		q.send(q.collect())
	}
	for len(q.spans) > 0 && q.ctx.Err() == nil {
		q.send(q.collect())
	}
}

// awaitSpan waits until a batch is due: it is full, or its spans have waited for long enough. false: the queue
// is closed.
func (q *spanQueue) awaitSpan() bool {
	due := time.NewTicker(q.delay)
	defer due.Stop()
	for {
		select {
		case <-q.closing:
			return false
		case <-q.full:
		case <-due.C:
		}
		if len(q.spans) > 0 {
			return true
		}
	}
}

// collect takes the spans of a batch.
func (q *spanQueue) collect() []sdktrace.ReadOnlySpan {
	batch := make([]sdktrace.ReadOnlySpan, 0, min(len(q.spans), q.batch))
	for len(batch) < cap(batch) {
		batch = append(batch, <-q.spans)
	}
	return batch
}

// send sends a batch.
func (q *spanQueue) send(batch []sdktrace.ReadOnlySpan) {
	ctx, cancel := context.WithTimeout(q.ctx, q.exportTimeout)
	defer cancel()
	err := q.exporter.ExportSpans(ctx, batch)
	if err == nil {
		q.counts[sent].Add(float64(len(batch)))
		return
	}
	q.counts[failed].Add(float64(len(batch)))
	q.warning.Do(func() { q.log.Warn("the collector did not take spans", "spans", len(batch), "err", err) })
}

// close sends what waits, within ctx, and ends run.
func (q *spanQueue) close(ctx context.Context) {
	q.closeOnce.Do(func() { close(q.closing) })
	select {
	case <-q.done:
	case <-ctx.Done():
		q.stop()
		<-q.done
	}
}
