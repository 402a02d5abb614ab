package tracing

import (
	"strings"

	"go.opentelemetry.io/otel/attribute"
)

// Key names an attribute of a span. Closed set.
type Key string

// The attributes. The first ones are OpenTelemetry's own.
const (
	HTTPMethod Key = "http.request.method"
	HTTPRoute  Key = "http.route" // the pattern, and not the path
	HTTPStatus Key = "http.response.status_code"
	ErrorType  Key = "error.type"
	RPCSystem  Key = "rpc.system"
	RPCMethod  Key = "rpc.method"

	Project  Key = "fantail.project"
	Mode     Key = "fantail.mode"     // of a request, as the metrics have it
	Problem  Key = "fantail.problem"  // the type of a refusal
	Means    Key = "fantail.means"    // the status that an event stream's refusal means
	Peer     Key = "fantail.peer"     // the node that is asked, or asks
	Outcome  Key = "fantail.outcome"  // of a write, as the metrics have it
	Losses   Key = "fantail.losses"   // lost compare-and-swaps of a write
	Position Key = "fantail.position" // of the first record, in the log
	Records  Key = "fantail.records"
	Calls    Key = "fantail.calls"  // writes in a batch
	Shared   Key = "fantail.shared" // the step was under way for another request already
	Found    Key = "fantail.found"  // the peer had what was asked for
)

// maxText bounds the text of an attribute, in bytes.
const maxText = 128

// Text sets an attribute. Text that is not UTF-8 would make its whole batch of spans unreadable, so what is
// not becomes U+FFFD.
func (s *Span) Text(key Key, value string) {
	if s != nil {
		s.span.SetAttributes(attribute.String(string(key), strings.ToValidUTF8(value[:min(len(value), maxText)], "\uFFFD")))
	}
}

// Int sets an attribute.
func (s *Span) Int(key Key, value int) {
	if s != nil {
		s.span.SetAttributes(attribute.Int(string(key), value))
	}
}

// Bool sets an attribute.
func (s *Span) Bool(key Key, value bool) {
	if s != nil {
		s.span.SetAttributes(attribute.Bool(string(key), value))
	}
}
