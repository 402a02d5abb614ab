package edge

import "fmt"

// The protocol's headers (PROTOCOL 5).
const (
	hNextOffset    = "Stream-Next-Offset"
	hUpToDate      = "Stream-Up-To-Date"
	hClosed        = "Stream-Closed"
	hCursor        = "Stream-Cursor"
	hTTL           = "Stream-TTL"
	hExpires       = "Stream-Expires-At"
	hSeq           = "Stream-Seq"
	hProducerID    = "Producer-Id"
	hProducerEpoch = "Producer-Epoch"
	hProducerSeq   = "Producer-Seq"
	hExpectedSeq   = "Producer-Expected-Seq"
	hReceivedSeq   = "Producer-Received-Seq"
	hEncoding      = "Stream-SSE-Data-Encoding"
	hForkedFrom    = "Stream-Forked-From"
	hForkOffset    = "Stream-Fork-Offset"
	hForkSub       = "Stream-Fork-Sub-Offset"
)

// hReaders is the number of a stream's readers.
const hReaders = "Stream-Readers"

// hIfMatch and hETag are HTTP's own, for an append that depends on where the stream ends.
const (
	hIfMatch = "If-Match"
	hETag    = "Etag" // as http.Header spells it
)

// hTraceparent is the W3C's, for the trace of which the request is a part.
const hTraceparent = "Traceparent" // as http.Header spells it

const (
	allowedMethods = "GET, HEAD, PUT, POST, DELETE, OPTIONS"
	allowedHeaders = "Content-Type, Authorization, If-Match, If-None-Match, Last-Event-ID, Cache-Control, " +
		hSeq + ", " + hTTL + ", " + hExpires + ", " + hClosed + ", " +
		hProducerID + ", " + hProducerEpoch + ", " + hProducerSeq + ", " +
		hForkedFrom + ", " + hForkOffset + ", " + hForkSub
	exposedHeaders = hNextOffset + ", " + hCursor + ", " + hUpToDate + ", " + hClosed + ", " +
		hTTL + ", " + hExpires + ", " + hSeq + ", " +
		hProducerID + ", " + hProducerEpoch + ", " + hProducerSeq + ", " +
		hExpectedSeq + ", " + hReceivedSeq + ", " + hEncoding + ", " + hReaders + ", ETag, Location, Retry-After, " + hRequestID
)

func badHeader(name, why string) error { return fmt.Errorf("%w: %s: %s", errHeader, name, why) }
