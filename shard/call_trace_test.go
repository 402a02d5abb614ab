package shard_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	"go.opentelemetry.io/otel/attribute"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// tracedRequest returns a context in which everything is traced, and what becomes of the spans: each
// with its parent, in the order of their ends.
func tracedRequest(t *testing.T) (ctx context.Context, steps func() []string) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	tracer := tracing.New(sdktrace.NewTracerProvider(sdktrace.WithSpanProcessor(spans)), tracing.Policy{Ratio: 1, PerSecond: 1000}, nil)
	t.Cleanup(tracer.Close)
	request := tracer.Begin("request")
	return request.In(t.Context()), func() (steps []string) {
		names := map[string]string{}
		for _, s := range spans.Started() {
			names[s.SpanContext().SpanID().String()] = s.Name()
		}
		for _, s := range spans.Ended() {
			steps = append(steps, fmt.Sprintf("%s<%s%s", s.Name(), names[s.Parent().SpanID().String()], attributesOf(s)))
		}
		return steps
	}
}

// attributesOf returns the attributes of a span as text.
func attributesOf(s sdktrace.ReadOnlySpan) string {
	var all []string
	for _, a := range s.Attributes() {
		all = append(all, strings.TrimPrefix(string(a.Key), "fantail.")+"="+valueText(a.Value))
	}
	if len(all) == 0 {
		return ""
	}
	slices.Sort(all)
	return " " + strings.Join(all, " ")
}

func valueText(v attribute.Value) string { return fmt.Sprint(v.AsInterface()) }

// A traced write tells how long it waited, where its batch stands, and what was read before.
func TestWritesAreTraced(t *testing.T) {
	h := node(t, struct{ shard.Log }{logtest.NewMemory(1)}) // a Log that makes no log beside the reads
	ctx, steps := tracedRequest(t)
	for _, r := range []*shard.Request{create("text/plain"), appendReq("text/plain", "a", "b"), appendReq("application/json", "c")} {
		if _, err := h.Do(ctx, r); err != nil {
			t.Fatal(err)
		}
	}
	want := []string{
		"s2.last<open error.type=no-log records=0", "s2.last<open error.type=no-log records=0", "open<request shared=false",
		"queue<create", "s2.append<create calls=1 position=0 records=1", "create<request outcome=done",
		"queue<append", "s2.append<append calls=1 position=1 records=2", "append<request outcome=done",
		"queue<append", "append<request outcome=refused",
	}
	if got := steps(); !slices.Equal(got, want) {
		t.Errorf("got  %s\nwant %s", strings.Join(got, "; "), strings.Join(want, "; "))
	}
}

// A page that is read from storage is a step, and one from memory is none.
func TestPagesAreTraced(t *testing.T) {
	log := logtest.NewMemory(1)
	do(t, node(t, log), create("text/plain"), shard.CodeCreated)
	writer := node(t, log)
	for range 3 {
		do(t, writer, appendReq("text/plain", "a"), shard.CodeAppended)
	}
	info, err := writer.Info(t.Context(), appendReq("text/plain", "a").Stream, 0)
	if err != nil {
		t.Fatal(err)
	}
	h := node(t, log)
	ctx, steps := tracedRequest(t)
	for range 2 {
		if _, err := h.ReadPage(ctx, appendReq("text/plain", "a").Stream, info, info.Start); err != nil {
			t.Fatal(err)
		}
	}
	got := steps()
	if len(got) != 2 || !strings.HasPrefix(got[0], "s2.read<page position=") || !strings.HasPrefix(got[1], "page<request position=") {
		t.Errorf("%s", strings.Join(got, "; "))
	}
}
