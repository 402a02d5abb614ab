package main

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/otlp/otlptest"
	"github.com/fantail-dev/fantail/shard"
)

// startTracedFleet starts nodes whose traces go to a collector.
func startTracedFleet(t *testing.T, nodes int, flags traceFlags) *devFleet {
	t.Helper()
	t.Setenv("OTEL_BSP_SCHEDULE_DELAY", "10")
	c := devCmd{Nodes: nodes, LongPoll: 20 * time.Second, traceFlags: flags}
	f, err := c.start(t.Context(), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.stop(); err != nil {
			t.Error(err)
		}
	})
	return f
}

// streamOwnedBy returns the name of a stream that a node owns.
func (f *devFleet) streamOwnedBy(t *testing.T, i int, prefix string) string {
	t.Helper()
	n := f.nodes[i].relay
	for k := range 1000 {
		name := fmt.Sprintf("%s-%d", prefix, k)
		if m := n.View().TableAt(time.Now()).Owner(shard.StreamID("p/" + name)); m != nil && m.Name == n.Name() {
			return "p/" + name
		}
	}
	t.Fatal("it owns no stream")
	return ""
}

func traceHeader(trace string) []string {
	return []string{"Content-Type", "text/plain", "Traceparent", "00-" + trace + "-00f067aa0ba902b7-01"}
}

// One trace goes through the node that a client asks, the owner, and S2; a handover is a trace of its own;
// and nothing that a client keeps secret is in any span.
func TestATraceGoesThroughTheFleet(t *testing.T) {
	collector := otlptest.New(t)
	f := startTracedFleet(t, 2, traceFlags{Traces: &collector.URL, TraceRate: 10_000, TraceCallers: 1000})
	c := newClient(t)
	const mark = "m4rked"
	url := f.url(0, f.streamOwnedBy(t, 1, mark))
	traces := map[string]string{}
	for i, name := range []string{"create", "append", "read", "follow"} {
		traces[name] = fmt.Sprintf("%032x", i+1)
	}
	c.must(t, 201, "PUT", url+"?token="+mark, "", append(traceHeader(traces["create"]), "Authorization", "Bearer "+mark)...)
	c.must(t, 204, "POST", url+"?sig="+mark, mark, append(traceHeader(traces["append"]), "Cookie", mark)...)
	c.must(t, 200, "GET", url+"?offset=-1", "", traceHeader(traces["read"])...)
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	req, err := http.NewRequestWithContext(ctx, "GET", url+"?offset=-1&live=sse", nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Traceparent", traceHeader(traces["follow"])[3])
	resp, err := c.http.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	const route = "/v1/stream/{project}/{stream}"
	// The owner of a short time asks the one before it for a stream.
	const fetchedInVain = ", node-2 internal handover.fetch [node-2 client relay.Hand [node-1 server relay.Hand [node-1 internal handover.seal]]]"
	want := map[string]string{
		"create": "node-1 server PUT " + route + " [node-1 client relay.Do [node-2 server relay.Do [" +
			"node-2 internal create [node-2 client s2.append, node-2 internal queue], node-2 internal open [node-2 client s2.last, node-2 client s2.last]]]]",
		"append": "node-1 server POST " + route + " [node-1 client relay.Do [node-2 server relay.Do [node-2 internal append [node-2 client s2.append, node-2 internal queue]]]]",
		"read":   "node-1 server GET " + route + " [node-1 client relay.State [node-2 server relay.State], node-1 internal page [node-1 client relay.ReadPage [node-2 server relay.ReadPage]]]",
	}
	// Where appends make streams, which the node may know by then.
	const createdByOpening = "node-1 server PUT " + route + " [node-1 client relay.Do [node-2 server relay.Do [" +
		"node-2 internal open [node-2 client s2.append, node-2 client s2.last, node-2 client s2.last]]]]"
	for name, tree := range want {
		for until := time.Now().Add(10 * time.Second); ; <-time.After(10 * time.Millisecond) {
			got := strings.Replace(collector.Tree(traces[name]), fetchedInVain, "", 1)
			if got == tree || name == "create" && got == createdByOpening {
				break
			}
			if time.Now().After(until) {
				t.Errorf("%s:\n%s\nwant\n%s", name, got, tree)
				break
			}
		}
	}
	eventually(t, 10*time.Second, "the reader's span has come while it reads", func() bool {
		return strings.HasPrefix(collector.Tree(traces["follow"]), "node-1 server GET "+route)
	})
	if err := f.places[1].stop(); err != nil {
		t.Fatal(err)
	}
	// The stream moves when its reader's node, or the offer of the owner before, asks for it.
	fetch := "node-1 internal handover.fetch [node-1 client relay.Hand [node-2 server relay.Hand [node-2 internal handover.bridge, node-2 internal handover.seal]], node-1 internal handover.install]"
	isHandover := func(tree string) bool {
		return tree == "node-1 internal handover ["+fetch+"]" ||
			strings.HasPrefix(tree, "node-2 internal handover [node-2 client relay.TakeOver [node-1 server relay.TakeOver") && strings.Contains(tree, "["+fetch+"]")
	}
	var trees []string
	for until := time.Now().Add(10 * time.Second); !slices.ContainsFunc(trees, isHandover); <-time.After(10 * time.Millisecond) {
		trees = nil
		for _, s := range collector.Spans() {
			if s.Name == "handover" {
				trees = append(trees, collector.Tree(s.Trace))
			}
		}
		if time.Now().After(until) {
			t.Errorf("handovers:\n%s\nwant one with\n%s", strings.Join(trees, "\n"), fetch)
			break
		}
	}
	for _, s := range collector.Spans() {
		if strings.Contains(s.Text, mark) {
			t.Errorf("a span has what only a client should know: %s", s.Text)
		}
		if s.Name == "handover" && s.Parent != "" {
			t.Errorf("the handover is a step of %s", s.Parent)
		}
	}
}

// A collector that hangs slows no request, and does not keep a node from stopping.
func TestHangingCollectorSlowsNothing(t *testing.T) {
	collector := otlptest.New(t)
	collector.Hang()
	f := startTracedFleet(t, 1, traceFlags{Traces: &collector.URL, TraceRate: 1e6})
	n := f.nodes[0]
	c := newClient(t)
	c.must(t, 201, "PUT", f.url(0, "s"), "", "Content-Type", "text/plain")
	began := time.Now()
	for range 2000 { // 4 spans each: more than the queue holds
		c.must(t, 204, "POST", f.url(0, "s"), "x", "Content-Type", "text/plain")
	}
	if took := time.Since(began); took > 20*time.Second {
		t.Errorf("2,000 appends took %v", took)
	}
	if dropped := gatherMetrics(n.registry).countsBy("fantail_trace_spans_total", "result")["dropped"]; dropped == 0 {
		t.Error("no span was dropped")
	}
	began = time.Now()
	if err := f.places[0].stop(); err != nil {
		t.Error(err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("stopping took %v", took)
	}
}

// Without a setting nothing is traced, and there are no metrics of it.
func TestTracesAreOffByDefault(t *testing.T) {
	f := startFleet(t, 1)
	newClient(t).must(t, 201, "PUT", f.url(0, "s"), "", traceHeader(strings.Repeat("1", 32))...)
	if n := f.nodes[0]; n.traces != nil || gatherMetrics(n.registry)["fantail_traces_total"] != nil {
		t.Error("it traces")
	}
}

// A broken setting is an error at the start, with its name.
func TestBrokenTraceSettingsAreErrorsAtTheStart(t *testing.T) {
	for want, env := range map[string][]string{
		"--traces is set and empty": {"FANTAIL_TRACES", ""},
		"OTEL_TRACES_SAMPLER":       {"OTEL_TRACES_SAMPLER", "nonsense"},
		"--trace-ratio":             {"FANTAIL_TRACE_RATIO", "2"},
	} {
		t.Run(want, func(t *testing.T) {
			t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", "http://127.0.0.1:4318")
			t.Setenv(env[0], env[1])
			var c cli
			parser, err := newParser(&c)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := parser.Parse([]string{"serve", "--s2-endpoint=http://127.0.0.1:1", "--s2-basin=fantail-test"}); err != nil {
				t.Fatal(err)
			}
			if _, err := c.Serve.nodeConfig(slog.New(slog.DiscardHandler)); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%v", err)
			}
		})
	}
}
