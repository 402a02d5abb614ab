// Package otlp sends the spans of package tracing to a collector, by OTLP over HTTP. It is the only
// importer of OpenTelemetry's SDK.
//
// Read makes Settings of the flags and of OpenTelemetry's own variables. Open starts an Exporter, whose
// Tracer a node gives to its parts.
//
// A collector must not cost a request anything. A span that has ended goes into a bounded queue; where
// that is full it is dropped, and counted. One goroutine sends what is in the queue, a batch at a time,
// and each batch within a bounded time: while it waits for a collector that hangs, spans are dropped.
// Close sends what is left, within the time that its caller has.
package otlp
