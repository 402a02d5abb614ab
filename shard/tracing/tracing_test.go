package tracing_test

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/prometheus/client_golang/prometheus"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// newTracer returns a Tracer, and the spans that have ended.
func newTracer(t *testing.T, policy tracing.Policy) (*tracing.Tracer, *tracetest.SpanRecorder) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSampler(sdktrace.AlwaysSample()), sdktrace.WithSpanProcessor(spans)), policy, prometheus.NewRegistry())
	t.Cleanup(tracer.Close)
	return tracer, spans
}

const (
	callerTrace = "4bf92f3577b34da6a3ce929d0e0e4736"
	callerSpan  = "00f067aa0ba902b7"
	sampled     = "00-" + callerTrace + "-" + callerSpan + "-01"
)

func TestParseTraceparent(t *testing.T) {
	for value, want := range map[string]string{
		sampled: "sampled",
		"00-" + callerTrace + "-" + callerSpan + "-00":                  "known",
		"00-" + callerTrace + "-" + callerSpan + "-ff":                  "sampled", // unknown flags do not matter
		"cc-" + callerTrace + "-" + callerSpan + "-01-more":             "sampled",
		"cc-" + callerTrace + "-" + callerSpan + "-01":                  "sampled",
		"00-" + callerTrace + "-" + callerSpan + "-01-more":             "none",
		"cc-" + callerTrace + "-" + callerSpan + "-01more":              "none",
		"ff-" + callerTrace + "-" + callerSpan + "-01":                  "none",
		"00-" + strings.ToUpper(callerTrace) + "-" + callerSpan + "-01": "none",
		"00-" + strings.Repeat("0", 32) + "-" + callerSpan + "-01":      "none",
		"00-" + callerTrace + "-" + strings.Repeat("0", 16) + "-01":     "none",
		"00-" + callerTrace + "_" + callerSpan + "-01":                  "none",
		"00-" + callerTrace + "-" + callerSpan + "-0g":                  "none",
		"00-" + callerTrace + "-" + callerSpan:                          "none",
		"":                                                              "none",
	} {
		p := tracing.ParseTraceparent([]string{value})
		got := "none"
		switch {
		case p.IsSampled():
			got = "sampled"
		case !p.IsZero():
			got = "known"
		}
		if got != want {
			t.Errorf("%q: %s, want %s", value, got, want)
		}
	}
	if !tracing.ParseTraceparent([]string{sampled, sampled}).IsZero() || !tracing.ParseTraceparent(nil).IsZero() {
		t.Error("two, or none, are one")
	}
}

// A stranger that says "sampled" on each request decides a bounded number of traces a second, and chooses
// the ids of no more than that.
func TestCallersCannotChooseTheCost(t *testing.T) {
	for name, c := range map[string]struct {
		policy           tracing.Policy
		callers, started int
	}{
		"nothing else is traced":    {tracing.Policy{PerSecond: 50, CallersPerSecond: 5}, 5, 5},
		"everything is traced":      {tracing.Policy{Ratio: 1, PerSecond: 50, CallersPerSecond: 5}, 5, 50},
		"callers do not count":      {tracing.Policy{PerSecond: 50}, 0, 0},
		"more callers than traces":  {tracing.Policy{PerSecond: 3, CallersPerSecond: 5}, 3, 3},
		"less than one in a second": {tracing.Policy{PerSecond: 0.5, CallersPerSecond: 0.5}, 1, 1},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				tracer, spans := newTracer(t, c.policy)
				caller := tracing.ParseTraceparent([]string{sampled})
				for range 1000 {
					tracer.BeginRequest("GET", caller).End()
				}
				followed := 0
				for _, s := range spans.Ended() {
					if s.SpanContext().TraceID().String() == callerTrace {
						followed++
						if s.Parent().SpanID().String() != callerSpan || !s.Parent().IsRemote() {
							t.Errorf("parent %v", s.Parent())
						}
					} else if len(s.Links()) != 1 || s.Links()[0].SpanContext.TraceID().String() != callerTrace {
						t.Errorf("links %v", s.Links())
					}
				}
				if followed != c.callers || len(spans.Ended()) != c.started {
					t.Errorf("%d traces, %d by their caller; want %d and %d", len(spans.Ended()), followed, c.started, c.callers)
				}
				time.Sleep(time.Hour) //nolint:forbidigo // in a bubble: the limits recover, up to one burst
				for range 1000 {
					tracer.BeginRequest("GET", caller).End()
				}
				if got := len(spans.Ended()) - c.started; got != c.started {
					t.Errorf("%d traces an hour later, want %d", got, c.started)
				}
			})
		})
	}
}

// A caller that does not record its span is followed, where callers count.
func TestUnsampledCallers(t *testing.T) {
	unsampled := tracing.ParseTraceparent([]string{sampled[:len(sampled)-1] + "0"})
	follows, _ := newTracer(t, tracing.Policy{Ratio: 1, PerSecond: 100, CallersPerSecond: 10})
	if s := follows.BeginRequest("GET", unsampled); s != nil {
		t.Error("it is traced")
	}
	tracer, spans := newTracer(t, tracing.Policy{Ratio: 1, PerSecond: 100})
	tracer.BeginRequest("GET", unsampled).End()
	if n := len(spans.Ended()); n != 1 {
		t.Errorf("%d spans, where callers do not count", n)
	}
}

// The spans of steps stand below each other, here and at a peer.
func TestStepsStandBelowEachOther(t *testing.T) {
	tracer, spans := newTracer(t, tracing.Policy{Ratio: 1, PerSecond: 100})
	request := tracer.BeginRequest("POST", tracing.Traceparent{})
	ctx, call := tracing.Start(request.In(t.Context()), "call", tracing.Client)
	if tracing.FromContext(ctx) != call {
		t.Error("the context has another span")
	}
	peer := tracer.Continue("serve", tracing.ParseTraceparent([]string{call.Traceparent()}))
	began := time.Now().Add(-time.Minute)
	peer.ChildAt("step", tracing.Internal, began).EndAt(began.Add(time.Second))
	peer.Fail("busy")
	peer.End()
	call.End()
	request.End()
	got := map[string]string{}
	ids := map[string]string{}
	for _, s := range spans.Ended() {
		ids[s.SpanContext().SpanID().String()] = s.Name()
	}
	for _, s := range spans.Ended() {
		if s.SpanContext().TraceID().String() != request.TraceID() {
			t.Errorf("%s is in another trace", s.Name())
		}
		got[s.Name()] = ids[s.Parent().SpanID().String()]
		if s.Name() == "step" && s.EndTime().Sub(s.StartTime()) != time.Second {
			t.Errorf("it took %v", s.EndTime().Sub(s.StartTime()))
		}
	}
	if want := "map[POST: call:POST serve:call step:serve]"; fmt.Sprint(got) != want {
		t.Errorf("%v, want %s", got, want)
	}
	if s := tracer.Continue("serve", tracing.Traceparent{}); s != nil {
		t.Error("a call without a trace is traced")
	}
}

// Without a Tracer nothing allocates, whatever a context costs to look into.
func TestOffCostsNothing(t *testing.T) {
	var tracer *tracing.Tracer
	var ctx context.Context = expensiveContext{t.Context(), t}
	if n := testing.AllocsPerRun(100, func() {
		_, span := tracing.Start(ctx, "step", tracing.Internal)
		span.Text(tracing.Problem, "x")
		span.Int(tracing.Position, 1)
		span.Child("more", tracing.Internal).End()
		span.End()
		if tracer != nil || tracing.FromContext(span.In(ctx)) != nil || tracing.IsOn() {
			t.Error("there is a span")
		}
	}); n > 0 {
		t.Errorf("%v allocations", n)
	}
	if tracer.BeginRequest("GET", tracing.Traceparent{}) != nil || tracer.Begin("x") != nil || tracer.Continue("x", tracing.Traceparent{}) != nil {
		t.Error("a Tracer that is none begins a trace")
	}
	tracer.Close()
}

// expensiveContext must not be looked into.
type expensiveContext struct {
	context.Context
	t *testing.T
}

func (c expensiveContext) Value(any) any {
	c.t.Error("the context is looked into")
	return nil
}

// Text is cut, so a name that a client chose cannot fill the queue, and is always UTF-8.
func TestTextIsCut(t *testing.T) {
	tracer, spans := newTracer(t, tracing.Policy{Ratio: 1, PerSecond: 100})
	s := tracer.Begin("work")
	s.Text(tracing.Project, "p"+strings.Repeat("é", 10_000))
	s.Text(tracing.Peer, "node-\xff")
	s.End()
	for _, a := range spans.Ended()[0].Attributes() {
		if v := a.Value.AsString(); len(v) > 130 || !utf8.ValidString(v) {
			t.Errorf("%d bytes: %q", len(v), v)
		}
	}
}
