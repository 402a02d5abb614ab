package otlp

import (
	"context"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// Node holds what the spans of a node say of it.
type Node struct{ Name, Version string }

// Exporter sends the spans of a node to a collector.
type Exporter struct {
	// Tracer is for the parts of the node.
	Tracer *tracing.Tracer

	queue     *spanQueue
	transport *http.Transport
}

// A request to the collector that it asks to repeat is repeated after these pauses, for as long as its
// batch has time.
const (
	firstRepeat = time.Second
	maxRepeat   = 5 * time.Second
)

// Open starts an Exporter. It does not wait for the collector.
func (s *Settings) Open(about Node, log *slog.Logger, metrics prometheus.Registerer) *Exporter {
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Debug("traces", "err", err) }))
	transport, _ := http.DefaultTransport.(*http.Transport)
	transport = transport.Clone()
	transport.TLSClientConfig, transport.MaxIdleConns = s.tls, 1
	compression := otlptracehttp.NoCompression
	if s.gzip {
		compression = otlptracehttp.GzipCompression
	}
	x := &Exporter{transport: transport, queue: newSpanQueue(s, log, metrics)}
	x.queue.exporter = otlptrace.NewUnstarted(otlptracehttp.NewClient(
		otlptracehttp.WithEndpointURL(s.url.String()), otlptracehttp.WithHeaders(s.headers), otlptracehttp.WithCompression(compression),
		otlptracehttp.WithEncoding(otlptracehttp.EncodingProtobuf),
		otlptracehttp.WithHTTPClient(&http.Client{Transport: transport, Timeout: s.timeout}),
		otlptracehttp.WithRetry(otlptracehttp.RetryConfig{
			Enabled: true, InitialInterval: firstRepeat, MaxInterval: maxRepeat, MaxElapsedTime: s.exportTimeout,
		}),
	))
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSampler(sdktrace.AlwaysSample()), // the Tracer decides
		sdktrace.WithSpanProcessor(x.queue), sdktrace.WithResource(s.resourceOf(about)),
	)
	x.Tracer = tracing.New(provider, s.policy, metrics)
	go x.queue.run()
	return x
}

// resourceOf returns what all spans of a node have in common.
func (s *Settings) resourceOf(about Node) *resource.Resource {
	all := map[string]string{
		"service.name": "fantail", "service.version": about.Version, "service.instance.id": about.Name,
		"telemetry.sdk.language": "go", "telemetry.sdk.name": "opentelemetry",
	}
	maps.Copy(all, s.resource)
	var attributes []attribute.KeyValue
	for _, k := range slices.Sorted(maps.Keys(all)) {
		attributes = append(attributes, attribute.String(k, all[k]))
	}
	return resource.NewSchemaless(attributes...)
}

// Close sends the spans that wait, within ctx, and ends the Exporter. Spans that end later are dropped.
func (x *Exporter) Close(ctx context.Context) {
	if x == nil {
		return
	}
	x.Tracer.Close()
	x.queue.close(ctx)
	x.transport.CloseIdleConnections()
}
