// Package tracing records what requests do, as spans of OpenTelemetry. It decides which requests are
// traced; where the spans go is up to the provider that New is given.
//
//	Tracer       begins traces: of requests (BeginRequest), of a node's own work (Begin), and of what
//	             a peer asks for (Continue)
//	Span         one step of a trace, which other packages begin with Start, and end
//	Traceparent  the W3C header traceparent, as it arrives and as it goes to a peer
//
// # What it costs
//
// A nil Tracer traces nothing, and a nil Span, which is what an untraced request has, ignores
// everything. Start looks at one number while no Tracer of the process is open, and returns. So the
// paths of an append and of a delivery allocate nothing and make no system call for this package.
// A reader has no span once its event stream has begun.
//
// # Which requests are traced
//
// A client chooses its traceparent, so it must not be able to choose what tracing costs. A caller that
// says "sampled" is followed Policy.CallersPerSecond times a second. Beyond that, its request is decided
// like one without a traceparent, in a trace with an id of this node's own, which links to the caller's.
// All traces together begin Policy.PerSecond times a second at most. A caller that says "not sampled"
// costs nothing, and is followed always. What a peer traces is traced here, too: it has decided by the
// same rules, and proved that it is of the fleet.
//
// # What a span never holds
//
// A span has attributes of the closed set in attributes.go. Text is of this program's own making, but for
// the name of a project, which is cut to maxText bytes. There is no URL, no header, no body and no name of
// a stream in it: names are often hard to guess on purpose. Errors are told by their kind.
//
// # Bounds
//
// A span has at most as many attributes as attributes.go names. How many spans wait to be sent is the
// provider's affair.
package tracing
