package main

import (
	"context"
	"os"
	"time"

	"github.com/fantail-dev/fantail/cmd/fantail/internal/otlp"
)

// traceFlags holds the flags of traces. OpenTelemetry's own variables count where a flag is not given.
type traceFlags struct {
	Traces       *string  `help:"URL of a collector that takes traces by OTLP over HTTP, such as http://127.0.0.1:4318 (default: OTEL_EXPORTER_OTLP_ENDPOINT; without either nothing is traced)." group:"traces"`
	TraceRatio   *float64 `name:"trace-ratio" help:"Fraction of requests that are traced, 0 to 1 (default: as OTEL_TRACES_SAMPLER says, or 1)." group:"traces"`
	TraceRate    float64  `name:"trace-rate" help:"Most traces that the node begins per second." default:"50" group:"traces"`
	TraceCallers float64  `name:"trace-callers" help:"Most of them that begin because a client says so, by the header traceparent. 0: what clients say does not count." default:"10" group:"traces"`
}

// applyTraces converts the flags and OpenTelemetry's variables into the configuration of a node.
func (f *traceFlags) applyTraces(cfg *nodeConfig) (err error) {
	cfg.traces, err = otlp.Read(otlp.Flags{
		URL: f.Traces, Ratio: f.TraceRatio, PerSecond: f.TraceRate, CallersPerSecond: f.TraceCallers,
	}, os.Getenv)
	return err
}

// openTraces opens the exporter of a node's spans, if there is one, and gives its Tracer to the parts of
// the node.
func (n *node) openTraces(cfg *nodeConfig) {
	if cfg.traces == nil {
		return
	}
	n.traces = cfg.traces.Open(otlp.Node{Name: cfg.name, Version: currentBuild().version}, cfg.log, n.registry)
	cfg.log.Info("traces", "to", cfg.traces.String())
	cfg.edge.Tracer = n.traces.Tracer
	if cfg.fleet != nil {
		fleet := *cfg.fleet
		fleet.Tracer, cfg.fleet = n.traces.Tracer, &fleet
	}
}

// lastSpansTimeout bounds how long the end of a node waits for the collector.
const lastSpansTimeout = time.Second

// closeTraces sends the spans that wait, and ends the exporter.
func (n *node) closeTraces() {
	ctx, cancel := context.WithTimeout(context.Background(), lastSpansTimeout)
	defer cancel()
	n.traces.Close(ctx)
}
