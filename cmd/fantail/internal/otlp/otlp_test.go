package otlp

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.uber.org/goleak"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/otlp/otlptest"
	"github.com/fantail-dev/fantail/shard/tracing"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// read returns the settings of flags and variables.
func read(t *testing.T, flags Flags, env map[string]string) (*Settings, error) {
	t.Helper()
	if flags.PerSecond == 0 {
		flags.PerSecond, flags.CallersPerSecond = 50, 10
	}
	return Read(flags, func(name string) string { return env[name] })
}

// open returns an exporter to a collector, and its metrics.
func open(t *testing.T, url string, env map[string]string) (*Exporter, *prometheus.Registry) {
	t.Helper()
	s, err := read(t, Flags{URL: &url, PerSecond: 1e6}, env)
	if err != nil {
		t.Fatal(err)
	}
	reg := prometheus.NewRegistry()
	return s.Open(Node{"node-1", "v1"}, slog.New(slog.DiscardHandler), reg), reg
}

// countsOf returns a metric by its label.
func countsOf(t *testing.T, reg *prometheus.Registry, name string) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	counts := map[string]float64{}
	for _, f := range families {
		if f.GetName() == name {
			for _, m := range f.GetMetric() {
				counts[m.GetLabel()[0].GetValue()] = m.GetCounter().GetValue()
			}
		}
	}
	return counts
}

// Traces are off unless a setting asks for them.
func TestOffByDefault(t *testing.T) {
	endpoint := "OTEL_EXPORTER_OTLP_ENDPOINT"
	for name, env := range map[string]map[string]string{
		"nothing is set":    {"OTEL_TRACES_SAMPLER": "nonsense", "OTEL_SERVICE_NAME": "x"},
		"the SDK is off":    {endpoint: "http://c:4318", "OTEL_SDK_DISABLED": "true"},
		"no exporter":       {endpoint: "http://c:4318", "OTEL_TRACES_EXPORTER": "none"},
		"an empty endpoint": {endpoint: ""},
	} {
		if s, err := read(t, Flags{}, env); s != nil || err != nil {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// What the settings mean.
func TestSettings(t *testing.T) {
	url, half := "https://collector.example/base/", 0.5
	for name, c := range map[string]struct {
		flags Flags
		env   map[string]string
		want  string
	}{
		"a flag":          {Flags{URL: &url}, nil, "https://collector.example/base/v1/traces, 1 of requests, at most 50 a second, 10 by their callers"},
		"a variable":      {Flags{}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318"}, "http://c:4318/v1/traces, 1 of requests, at most 50 a second, 10 by their callers"},
		"of traces alone": {Flags{}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://c:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://d/x"}, "http://d/x, 1 of requests, at most 50 a second, 10 by their callers"},
		"the flag first":  {Flags{URL: &url}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_TRACES_EXPORTER": "none"}, "https://collector.example/base/v1/traces, 1 of requests, at most 50 a second, 10 by their callers"},
		"a sampler":       {Flags{URL: &url}, map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "https://collector.example/base/v1/traces, 0.25 of requests, at most 50 a second, 10 by their callers"},
		"without callers": {Flags{URL: &url}, map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25"}, "https://collector.example/base/v1/traces, 0.25 of requests, at most 50 a second, 0 by their callers"},
		"callers alone":   {Flags{URL: &url}, map[string]string{"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, "https://collector.example/base/v1/traces, 0 of requests, at most 50 a second, 10 by their callers"},
		"a ratio":         {Flags{URL: &url, Ratio: &half}, map[string]string{"OTEL_TRACES_SAMPLER": "always_on"}, "https://collector.example/base/v1/traces, 0.5 of requests, at most 50 a second, 0 by their callers"},
		"no propagation":  {Flags{URL: &url}, map[string]string{"OTEL_PROPAGATORS": "none"}, "https://collector.example/base/v1/traces, 1 of requests, at most 50 a second, 0 by their callers"},
		"more of them":    {Flags{URL: &url}, map[string]string{"OTEL_PROPAGATORS": "b3, tracecontext"}, "https://collector.example/base/v1/traces, 1 of requests, at most 50 a second, 10 by their callers"},
	} {
		s, err := read(t, c.flags, c.env)
		if err != nil || s.String() != c.want {
			t.Errorf("%s: %v, %v", name, s, err)
		}
	}
}

// A setting that is broken is an error with its name, and all are told together.
func TestBrokenSettings(t *testing.T) {
	good, empty, other, user, ratio := "http://c:4318", "", "ftp://c", "http://u:s3cret@c", 1.5
	for want, c := range map[string]struct {
		flags Flags
		env   map[string]string
	}{
		"--traces is set and empty":           {Flags{URL: &empty}, nil},
		"--traces: want the URL":              {Flags{URL: &other}, nil},
		"--traces: want a URL without user":   {Flags{URL: &user}, nil},
		"--trace-ratio":                       {Flags{URL: &good, Ratio: &ratio}, nil},
		"--trace-rate":                        {Flags{URL: &good, PerSecond: -1}, nil},
		"--trace-callers":                     {Flags{URL: &good, PerSecond: 1, CallersPerSecond: -1}, nil},
		"OTEL_EXPORTER_OTLP_ENDPOINT":         {Flags{}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}},
		"OTEL_EXPORTER_OTLP_PROTOCOL":         {Flags{}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": good, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}},
		"OTEL_TRACES_EXPORTER":                {Flags{}, map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": good, "OTEL_TRACES_EXPORTER": "zipkin"}},
		"OTEL_TRACES_SAMPLER:":                {Flags{URL: &good}, map[string]string{"OTEL_TRACES_SAMPLER": "jaeger_remote"}},
		"OTEL_TRACES_SAMPLER_ARG":             {Flags{URL: &good}, map[string]string{"OTEL_TRACES_SAMPLER": "traceidratio", "OTEL_TRACES_SAMPLER_ARG": "NaN"}},
		"OTEL_RESOURCE_ATTRIBUTES":            {Flags{URL: &good}, map[string]string{"OTEL_RESOURCE_ATTRIBUTES": "a=b,c"}},
		"OTEL_EXPORTER_OTLP_HEADERS":          {Flags{URL: &good}, map[string]string{"OTEL_EXPORTER_OTLP_HEADERS": "s3cret"}},
		"OTEL_EXPORTER_OTLP_TIMEOUT":          {Flags{URL: &good}, map[string]string{"OTEL_EXPORTER_OTLP_TIMEOUT": "10s"}},
		"OTEL_EXPORTER_OTLP_COMPRESSION":      {Flags{URL: &good}, map[string]string{"OTEL_EXPORTER_OTLP_COMPRESSION": "zstd"}},
		"OTEL_EXPORTER_OTLP_CERTIFICATE":      {Flags{URL: &good}, map[string]string{"OTEL_EXPORTER_OTLP_CERTIFICATE": "/none"}},
		"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICA": {Flags{URL: &good}, map[string]string{"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE": "/none"}},
		"OTEL_PROPAGATORS":                    {Flags{URL: &good}, map[string]string{"OTEL_PROPAGATORS": "b3"}},
		"OTEL_BSP_MAX_QUEUE_SIZE":             {Flags{URL: &good}, map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "0"}},
	} {
		_, err := read(t, c.flags, c.env)
		if err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "s3cret") {
			t.Errorf("%s: %v", want, err)
		}
	}
	_, err := read(t, Flags{URL: &empty}, map[string]string{"OTEL_TRACES_SAMPLER": "x", "OTEL_BSP_MAX_QUEUE_SIZE": "x"})
	if err == nil || strings.Count(err.Error(), "\n") != 2 {
		t.Errorf("not all together: %v", err)
	}
}

// Spans reach the collector with what the settings say of the node, and the last ones as it stops.
func TestSpansReachTheCollector(t *testing.T) {
	c := otlptest.New(t)
	x, reg := open(t, c.URL, map[string]string{
		"OTEL_EXPORTER_OTLP_HEADERS": "authorization=Bearer%20t", "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
		"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment=test,service.name=other", "OTEL_SERVICE_NAME": "streams",
		"OTEL_BSP_SCHEDULE_DELAY": "600000", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "4",
	})
	for i := range 10 { // two full batches, and what Close sends
		s := x.Tracer.Begin(fmt.Sprintf("work %d", i))
		s.Int(tracing.Records, i)
		s.End()
	}
	x.Close(t.Context())
	spans := c.Spans()
	if len(spans) != 10 {
		t.Fatalf("%d spans", len(spans))
	}
	if s := spans[9]; s.Name != "work 9" || s.Node != "node-1" || s.Attributes["fantail.records"] != "9" {
		t.Errorf("%+v", s)
	}
	want := map[string]string{
		"service.name": "streams", "service.version": "v1", "service.instance.id": "node-1", "deployment.environment": "test",
		"telemetry.sdk.language": "go", "telemetry.sdk.name": "opentelemetry",
	}
	if !maps.Equal(c.Resource(), want) || c.Header().Get("Authorization") != "Bearer t" {
		t.Errorf("%v, %v", c.Resource(), c.Header())
	}
	if got := countsOf(t, reg, "fantail_trace_spans_total"); got["sent"] != 10 || got["failed"]+got["dropped"] != 0 {
		t.Errorf("%v", got)
	}
	x.Tracer.Begin("late").End() // is dropped, and nothing waits
}

// A collector that hangs costs the spans beyond the queue, and nothing else: no span waits for it, and
// neither does the end of the node, for longer than it may.
func TestHangingCollector(t *testing.T) {
	c := otlptest.New(t)
	c.Hang()
	x, reg := open(t, c.URL, map[string]string{"OTEL_BSP_MAX_QUEUE_SIZE": "16", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "8", "OTEL_BSP_SCHEDULE_DELAY": "1"})
	const many = 20_000
	began := time.Now()
	for range many {
		x.Tracer.Begin("work").End()
	}
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("%d spans took %v", many, took)
	}
	if got := countsOf(t, reg, "fantail_trace_spans_total"); got["dropped"] < many-100 {
		t.Errorf("%v", got)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	began = time.Now()
	x.Close(ctx)
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("closing took %v", took)
	}
}

// A collector that is away, or refuses, is told of once, and its spans are counted.
func TestCollectorThatIsAway(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") //nolint:noctx // it only lends its port
	if err != nil {
		t.Fatal(err)
	}
	away := "http://" + l.Addr().String()
	_ = l.Close()
	refuses := otlptest.New(t)
	refuses.Refuse(400)
	for name, url := range map[string]string{"away": away, "refuses": refuses.URL} {
		var log strings.Builder
		s, err := read(t, Flags{URL: &url}, map[string]string{"OTEL_BSP_EXPORT_TIMEOUT": "100", "OTEL_BSP_MAX_EXPORT_BATCH_SIZE": "1"})
		if err != nil {
			t.Fatal(err)
		}
		reg := prometheus.NewRegistry()
		x := s.Open(Node{"n", "v"}, slog.New(slog.NewTextHandler(io.Writer(&log), nil)), reg)
		for range 3 {
			x.Tracer.Begin("work").End()
		}
		x.Close(t.Context())
		if got := countsOf(t, reg, "fantail_trace_spans_total"); got["failed"] != 3 {
			t.Errorf("%s: %v", name, got)
		}
		if n := strings.Count(log.String(), "the collector did not take spans"); n != 1 {
			t.Errorf("%s: %d lines:\n%s", name, n, log.String())
		}
	}
}

// The traces are counted by what decided them.
func TestTracesAreCounted(t *testing.T) {
	c := otlptest.New(t)
	x, reg := open(t, c.URL, nil)
	x.Tracer.Begin("work").End()
	x.Close(t.Context())
	got := countsOf(t, reg, "fantail_traces_total")
	if names := slices.Sorted(maps.Keys(got)); !slices.Equal(names, []string{"caller", "here", "limit", "peer"}) || got["here"] != 1 {
		t.Errorf("%v", got)
	}
}
