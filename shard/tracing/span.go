package tracing

import (
	"context"
	"time"

	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/trace"
)

// Kind is a span's part in a call.
type Kind = trace.SpanKind

// The kinds.
const (
	Internal = trace.SpanKindInternal
	Server   = trace.SpanKindServer
	Client   = trace.SpanKindClient
)

// Span is one step of a trace. A nil Span is that of a request that is not traced. Any goroutine may
// begin steps below it; the one that has begun it ends it.
type Span struct {
	tracer trace.Tracer
	span   trace.Span
	inside context.Context // what steps below it begin in; it has nothing but the span
}

// ContextKey is the key of a context's Span.
type ContextKey struct{}

// In returns a context in which Start begins steps below the span.
func (s *Span) In(ctx context.Context) context.Context {
	if s == nil {
		return ctx
	}
	return context.WithValue(ctx, ContextKey{}, s)
}

// FromContext returns the span of a context; nil: there is none.
func FromContext(ctx context.Context) *Span {
	if !IsOn() {
		return nil
	}
	s, _ := ctx.Value(ContextKey{}).(*Span)
	return s
}

// Start begins a step below the span of a context, if there is one. The context that it returns has
// the new step's span.
func Start(ctx context.Context, name string, kind Kind) (context.Context, *Span) {
	s := FromContext(ctx)
	if s == nil {
		return ctx, nil
	}
	s = s.Child(name, kind)
	return s.In(ctx), s
}

// Child begins a step below the span.
func (s *Span) Child(name string, kind Kind) *Span {
	if s == nil {
		return nil
	}
	return newSpan(s.inside, s.tracer, name, trace.WithSpanKind(kind))
}

// ChildAt does what Child does, for a step that began at a time.
func (s *Span) ChildAt(name string, kind Kind, began time.Time) *Span {
	if s == nil {
		return nil
	}
	return newSpan(s.inside, s.tracer, name, trace.WithSpanKind(kind), trace.WithTimestamp(began))
}

// newSpan begins a span in a context of OpenTelemetry's.
func newSpan(ctx context.Context, t trace.Tracer, name string, options ...trace.SpanStartOption) *Span {
	s := &Span{tracer: t}
	s.inside, s.span = t.Start(ctx, name, options...)
	return s
}

// Rename gives the step another name: what it takes to know it is not worth it for a request that is not
// traced.
func (s *Span) Rename(name string) {
	if s != nil {
		s.span.SetName(name)
	}
}

// Fail marks the step as failed, with the kind of the error: a text of this program's own.
func (s *Span) Fail(kind string) {
	if s != nil {
		s.Text(ErrorType, kind)
		s.span.SetStatus(codes.Error, "")
	}
}

// End ends the step.
func (s *Span) End() {
	if s != nil {
		s.span.End()
	}
}

// EndAt does what End does, for a step that ended at a time.
func (s *Span) EndAt(at time.Time) {
	if s != nil {
		s.span.End(trace.WithTimestamp(at))
	}
}

// TraceID returns the id of the trace in hexadecimal digits, which logs have; empty for a nil Span.
func (s *Span) TraceID() string {
	if s == nil {
		return ""
	}
	return s.span.SpanContext().TraceID().String()
}

// Traceparent returns the value of the header by which a peer continues the trace.
func (s *Span) Traceparent() string {
	c := s.span.SpanContext()
	return "00-" + c.TraceID().String() + "-" + c.SpanID().String() + "-" + c.TraceFlags().String()
}
