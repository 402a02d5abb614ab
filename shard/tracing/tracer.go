package tracing

import (
	"context"
	"math/rand/v2"
	"sync"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel/trace"
	"golang.org/x/time/rate"
)

// openTracers counts the Tracers of the process that are not closed. It keeps the paths of requests free
// of any cost where there is none.
var openTracers atomic.Int64

// IsOn reports whether any Tracer of the process is open.
func IsOn() bool { return openTracers.Load() > 0 }

// Policy says which traces a node begins.
type Policy struct {
	// Ratio is the fraction of requests that are traced, where no caller has decided: 0 to 1.
	Ratio float64
	// PerSecond bounds the traces that begin here in a second, those that callers decide among them, after
	// as many in a burst.
	PerSecond float64
	// CallersPerSecond bounds those of them that begin because a caller says so. 0: what callers say
	// does not count.
	CallersPerSecond float64
}

// Tracer begins the traces of a node. A nil Tracer begins none.
type Tracer struct {
	tracer  trace.Tracer
	policy  Policy
	all     *rate.Limiter // traces that begin here
	callers *rate.Limiter // of them, those that a caller decided
	begun   map[decision]prometheus.Counter
	close   sync.Once
}

// decision labels fantail_traces_total. Closed set.
type decision string

const (
	decidedHere   decision = "here"   // by Policy.Ratio
	decidedCaller decision = "caller" // by the caller's traceparent
	decidedPeer   decision = "peer"   // another node has begun it
	overLimit     decision = "limit"  // it was not begun: too many have, in this second
)

// New returns a Tracer whose spans go to a provider, which has to record each span: which ones begin is
// decided here. Metrics may be nil.
func New(provider trace.TracerProvider, policy Policy, metrics prometheus.Registerer) *Tracer {
	t := &Tracer{
		tracer: provider.Tracer("github.com/fantail-dev/fantail"), policy: policy,
		all: newLimiter(policy.PerSecond), callers: newLimiter(policy.CallersPerSecond), begun: map[decision]prometheus.Counter{},
	}
	traces := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "fantail_traces_total",
		Help: "Traces by what decided that they are recorded: this node (here), the client's traceparent (caller), another node (peer); limit: not recorded, because too many were.",
	}, []string{"decided"})
	for _, d := range []decision{decidedHere, decidedCaller, decidedPeer, overLimit} {
		t.begun[d] = traces.WithLabelValues(string(d))
	}
	if metrics != nil {
		metrics.MustRegister(traces)
	}
	openTracers.Add(1)
	return t
}

// newLimiter returns a limiter of so many a second, with as many in a burst.
func newLimiter(perSecond float64) *rate.Limiter {
	burst := int(perSecond)
	if perSecond > 0 {
		burst = max(burst, 1)
	}
	return rate.NewLimiter(rate.Limit(perSecond), burst)
}

// Close ends the Tracer. What has begun goes on.
func (t *Tracer) Close() {
	if t != nil {
		t.close.Do(func() { openTracers.Add(-1) })
	}
}

// BeginRequest begins the span of a client's request; nil: it is not traced.
func (t *Tracer) BeginRequest(name string, caller Traceparent) *Span {
	if t == nil {
		return nil
	}
	if t.policy.CallersPerSecond > 0 && !caller.IsZero() {
		switch {
		case !caller.IsSampled():
			return nil
		case t.callers.Allow():
			return t.begin(trace.ContextWithRemoteSpanContext(context.Background(), caller.context), decidedCaller, name, trace.WithSpanKind(Server))
		}
	}
	options := []trace.SpanStartOption{trace.WithSpanKind(Server)}
	if !caller.IsZero() {
		options = append(options, trace.WithLinks(trace.Link{SpanContext: caller.context}))
	}
	if !t.chooses() {
		return nil
	}
	return t.begin(context.Background(), decidedHere, name, options...)
}

// Begin begins a trace of the node's own work; nil: it is not traced.
func (t *Tracer) Begin(name string) *Span {
	if t == nil || !t.chooses() {
		return nil
	}
	return t.begin(context.Background(), decidedHere, name, trace.WithSpanKind(Internal))
}

// Continue begins the span of what a peer asks for; nil: the peer does not trace it.
func (t *Tracer) Continue(name string, peer Traceparent) *Span {
	if t == nil || !peer.IsSampled() {
		return nil
	}
	t.begun[decidedPeer].Inc()
	return newSpan(trace.ContextWithRemoteSpanContext(context.Background(), peer.context), t.tracer, name, trace.WithSpanKind(Server))
}

// chooses draws whether a trace begins.
func (t *Tracer) chooses() bool {
	return t.policy.Ratio > 0 && (t.policy.Ratio >= 1 || rand.Float64() < t.policy.Ratio)
}

// begin begins a trace, unless too many have begun.
func (t *Tracer) begin(ctx context.Context, by decision, name string, options ...trace.SpanStartOption) *Span {
	if !t.all.Allow() {
		t.begun[overLimit].Inc()
		return nil
	}
	t.begun[by].Inc()
	return newSpan(ctx, t.tracer, name, options...)
}
