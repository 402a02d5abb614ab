package tracing

import (
	"encoding/hex"

	"go.opentelemetry.io/otel/trace"
)

// HeaderName is the name of the header of a Traceparent, in HTTP and in gRPC's metadata.
const HeaderName = "traceparent"

// Traceparent holds what the header traceparent says of the caller's span; zero: there is none.
type Traceparent struct{ context trace.SpanContext }

// The layout of the header: version-trace-parent-flags, in lower-case hexadecimal digits.
const (
	traceparentSize = 55
	traceAt         = 3
	parentAt        = 36
	flagsAt         = 53
)

// ParseTraceparent reads the values of the header traceparent. A value that is malformed, or one of
// several, is none: tracing refuses no request.
func ParseTraceparent(values []string) Traceparent {
	if len(values) != 1 {
		return Traceparent{}
	}
	v := values[0]
	if len(v) < traceparentSize || v[2] != '-' || v[parentAt-1] != '-' || v[flagsAt-1] != '-' {
		return Traceparent{}
	}
	var version, flags [1]byte
	var cfg trace.SpanContextConfig
	if !decodeHex(version[:], v[:2]) || !decodeHex(cfg.TraceID[:], v[traceAt:parentAt-1]) ||
		!decodeHex(cfg.SpanID[:], v[parentAt:flagsAt-1]) || !decodeHex(flags[:], v[flagsAt:traceparentSize]) {
		return Traceparent{}
	}
	// A later version may have more fields behind a dash; version 255 is never valid.
	if version[0] == 0xff || len(v) > traceparentSize && (version[0] == 0 || v[traceparentSize] != '-') {
		return Traceparent{}
	}
	cfg.TraceFlags, cfg.Remote = trace.TraceFlags(flags[0])&trace.FlagsSampled, true
	c := trace.NewSpanContext(cfg)
	if !c.IsValid() {
		return Traceparent{}
	}
	return Traceparent{c}
}

// decodeHex decodes lower-case hexadecimal digits.
func decodeHex(to []byte, digits string) bool {
	for i := range len(digits) {
		if c := digits[i]; c >= 'A' && c <= 'F' {
			return false
		}
	}
	_, err := hex.Decode(to, []byte(digits))
	return err == nil
}

// IsZero reports whether there is no caller's span.
func (p Traceparent) IsZero() bool { return !p.context.IsValid() }

// IsSampled reports whether the caller says that it records its span.
func (p Traceparent) IsSampled() bool { return p.context.IsSampled() }
