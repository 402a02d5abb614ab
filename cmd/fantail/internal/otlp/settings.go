package otlp

import (
	"crypto/tls"
	"errors"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// Flags are the settings of Fantail's own. They count before OpenTelemetry's variables.
type Flags struct {
	URL              *string  // nil: as the variables say
	Ratio            *float64 // nil: as the variables say
	PerSecond        float64
	CallersPerSecond float64
}

// Settings say which spans are made, and where they go.
type Settings struct {
	policy        tracing.Policy
	url           *url.URL
	headers       map[string]string
	gzip          bool
	timeout       time.Duration // of one request to the collector
	tls           *tls.Config   // nil: the system's authorities
	resource      map[string]string
	queue         int           // most spans that wait
	batch         int           // most spans of one request
	delay         time.Duration // the longest wait of a span for a fuller batch
	exportTimeout time.Duration // of one batch, with all repeats
}

// tracesPath names the place below its base URL where a collector takes spans.
const tracesPath = "v1/traces"

// Read returns the settings of traces, all errors together, each with the name of its setting; nil:
// traces are off. An empty OTEL_ variable counts as one that is not set, as OpenTelemetry asks.
func Read(flags Flags, getenv func(string) string) (*Settings, error) {
	if flags.URL == nil && isOff(getenv) {
		return nil, nil //nolint:nilnil // off is no error
	}
	e := &environment{getenv: getenv}
	s := &Settings{
		headers: e.pairs("OTEL_EXPORTER_OTLP_HEADERS", "OTEL_EXPORTER_OTLP_TRACES_HEADERS"),
		gzip:    e.oneOf("none", []string{"none", "gzip"}, "OTEL_EXPORTER_OTLP_COMPRESSION", "OTEL_EXPORTER_OTLP_TRACES_COMPRESSION") == "gzip",
		timeout: e.milliseconds(10*time.Second, "OTEL_EXPORTER_OTLP_TIMEOUT", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT"),
		tls:     e.tls(), resource: e.pairs("OTEL_RESOURCE_ATTRIBUTES"),
		queue: e.count(2048, "OTEL_BSP_MAX_QUEUE_SIZE"), batch: e.count(512, "OTEL_BSP_MAX_EXPORT_BATCH_SIZE"),
		delay: e.milliseconds(5*time.Second, "OTEL_BSP_SCHEDULE_DELAY"), exportTimeout: e.milliseconds(30*time.Second, "OTEL_BSP_EXPORT_TIMEOUT"),
	}
	s.batch = min(s.batch, s.queue)
	if name := getenv("OTEL_SERVICE_NAME"); name != "" {
		s.resource["service.name"] = name
	}
	s.readEndpoint(flags, e)
	s.readPolicy(flags, e)
	return s, errors.Join(e.errs...)
}

// isOff reports whether the variables ask for no traces.
func isOff(getenv func(string) string) bool {
	return getenv("OTEL_EXPORTER_OTLP_ENDPOINT") == "" && getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT") == "" ||
		strings.EqualFold(getenv("OTEL_SDK_DISABLED"), "true") || getenv("OTEL_TRACES_EXPORTER") == "none"
}

// readEndpoint reads where the spans go.
func (s *Settings) readEndpoint(flags Flags, e *environment) {
	if flags.URL != nil {
		s.url = e.url("--traces", *flags.URL, tracesPath)
		return
	}
	e.oneOf("otlp", []string{"otlp"}, "OTEL_TRACES_EXPORTER")
	e.oneOf("http/protobuf", []string{"http/protobuf"}, "OTEL_EXPORTER_OTLP_PROTOCOL", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL")
	if v := e.getenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"); v != "" {
		s.url = e.url("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", v, "")
		return
	}
	s.url = e.url("OTEL_EXPORTER_OTLP_ENDPOINT", e.getenv("OTEL_EXPORTER_OTLP_ENDPOINT"), tracesPath)
}

// readPolicy reads which requests are traced.
func (s *Settings) readPolicy(flags Flags, e *environment) {
	s.policy = tracing.Policy{PerSecond: flags.PerSecond, CallersPerSecond: flags.CallersPerSecond}
	sampler := e.oneOf("parentbased_always_on", []string{
		"always_on", "always_off", "traceidratio", "parentbased_always_on", "parentbased_always_off", "parentbased_traceidratio",
	}, "OTEL_TRACES_SAMPLER")
	rule, followsCallers := strings.CutPrefix(sampler, "parentbased_")
	switch rule {
	case "always_on":
		s.policy.Ratio = 1
	case "traceidratio":
		s.policy.Ratio = e.fraction(1, "OTEL_TRACES_SAMPLER_ARG")
	}
	if names := e.getenv("OTEL_PROPAGATORS"); names != "" && !hasName(names, "tracecontext") {
		if followsCallers = false; !hasName(names, "none") {
			e.wrong("OTEL_PROPAGATORS", names, "want a list with tracecontext, or none")
		}
	}
	if !followsCallers {
		s.policy.CallersPerSecond = 0
	}
	if flags.Ratio != nil {
		s.policy.Ratio = *flags.Ratio
	}
	for name, wrong := range map[string]bool{
		"--trace-ratio: want 0 to 1":     s.policy.Ratio < 0 || s.policy.Ratio > 1,
		"--trace-rate: want more than 0": flags.PerSecond <= 0, "--trace-callers: want 0 or more": flags.CallersPerSecond < 0,
	} {
		if wrong {
			e.errs = append(e.errs, errors.New(name))
		}
	}
}

// hasName reports whether a list with commas has a name.
func hasName(list, name string) bool {
	for n := range strings.SplitSeq(list, ",") {
		if strings.TrimSpace(n) == name {
			return true
		}
	}
	return false
}

// String describes the settings in a line of a log, without headers: they may be secret.
func (s *Settings) String() string {
	return fmt.Sprintf("%s, %g of requests, at most %g a second, %g by their callers", s.url, s.policy.Ratio, s.policy.PerSecond, s.policy.CallersPerSecond)
}
