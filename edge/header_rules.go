package edge

import (
	"fmt"
	"net/http"
	"net/textproto"
	"strings"

	"github.com/fantail-dev/fantail/edge/byteclass"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// headerRule limits what a request may send in a header that is kept, travels to other nodes, or
// comes back in an answer. Other headers are read where they arrive and forgotten.
type headerRule struct {
	name       string
	methods    methodSet       // the methods that use the header
	maxBytes   int             // of its value
	allowed    byteclass.Class // the class of its value's bytes
	repeatable bool            // the header may come several times, or as a list
	lenient    bool            // a value that breaks the rule counts as absent, because the client may not have set it
	goesTo     string          // where the value is kept or sent
	advice     string          // what the client should do about a value that breaks the rule
}

// methodSet is a set of request methods.
type methodSet uint8

const (
	onPut methodSet = 1 << iota
	onPost
	onGet
	onOptions
)

// headerTable holds the rule of every such header. A header that has a bound here has it in all
// layers behind: a stream's State holds the headers it was created with, and producers' ids.
//
//nolint:lll // a table
var headerTable = []headerRule{
	{name: "Content-Type", methods: onPut | onPost, maxBytes: shard.MaxContentType, allowed: byteclass.Text, goesTo: "State, log, relay; answers", advice: "a media type is ASCII; quote or percent-encode a parameter that is not"},
	{name: hProducerID, methods: onPost, maxBytes: shard.MaxProducerID, allowed: byteclass.Text, goesTo: "State, log, relay", advice: "use an id of ASCII, such as a UUID"},
	{name: hProducerEpoch, methods: onPost, maxBytes: maxDigits, allowed: byteclass.Digits, goesTo: "State, log, relay; answers", advice: "send digits"},
	{name: hProducerSeq, methods: onPost, maxBytes: maxDigits, allowed: byteclass.Digits, goesTo: "State, log, relay; answers", advice: "send digits"},
	{name: hSeq, methods: onPost, maxBytes: shard.MaxStreamSeq, allowed: byteclass.Text, goesTo: "State, log, relay", advice: "use a sequence of ASCII that sorts by its bytes"},
	{name: hTTL, methods: onPut, maxBytes: maxDigits, allowed: byteclass.Digits, goesTo: "State, log, relay; answers", advice: "send seconds in digits"},
	{name: hExpires, methods: onPut, maxBytes: 64, allowed: byteclass.Text, goesTo: "State, log, relay; answers", advice: "send an RFC 3339 time, such as 2030-01-31T12:00:00Z"},
	{name: hClosed, methods: onPut | onPost, maxBytes: 16, allowed: byteclass.Text, lenient: true, goesTo: "read as true or not", advice: "send true, or leave it out"},
	{name: hForkedFrom, methods: onPut, maxBytes: maxRootBytes + 3*shard.MaxStreamID, allowed: byteclass.Target, goesTo: "State and log, as the stream that it names", advice: "percent-encode the path of the source"},
	{name: hForkOffset, methods: onPut, maxBytes: 64, allowed: byteclass.Text, goesTo: "State and log, as the place that it names", advice: "send -1, now, or a Stream-Next-Offset"},
	{name: hForkSub, methods: onPut, maxBytes: maxDigits, allowed: byteclass.Digits, goesTo: "State and log", advice: "send digits"},
	{name: hIfMatch, methods: onPost, maxBytes: 1024, allowed: byteclass.Tag, repeatable: true, goesTo: "relay, as the places that it names", advice: "send the ETag of a HEAD or a POST"},
	{name: "If-None-Match", methods: onGet, maxBytes: 4096, allowed: byteclass.Tag, repeatable: true, goesTo: "answers, where it names what they are", advice: "send the ETag of an answer"},
	{name: "Last-Event-Id", methods: onGet, maxBytes: position.OffsetLen, allowed: byteclass.Target, lenient: true, goesTo: "read as an offset", advice: "send the id of one event"},
	{name: hTraceparent, methods: onPut | onPost | onGet, maxBytes: 256, allowed: byteclass.Text, repeatable: true, lenient: true, goesTo: "relay and traces, as the ids in it, where the request is traced"},
	{name: "X-Forwarded-Proto", methods: onPut, maxBytes: 64, allowed: byteclass.Text, repeatable: true, lenient: true, goesTo: "Location"},
	{name: "X-Forwarded-Host", methods: onPut, maxBytes: 512, allowed: byteclass.Text, repeatable: true, lenient: true, goesTo: "Location"},
	{name: "X-Forwarded-Port", methods: onPut, maxBytes: 64, allowed: byteclass.Text, repeatable: true, lenient: true, goesTo: "Location"},
	{name: "X-Forwarded-Prefix", methods: onPut, maxBytes: 1024, allowed: byteclass.Text, repeatable: true, lenient: true, goesTo: "Location"},
	{name: "Access-Control-Request-Headers", methods: onOptions, maxBytes: 4096, allowed: byteclass.Text, repeatable: true, lenient: true, goesTo: "answers to preflights, as the names that it has"},
}

// maxHostBytes is the longest Host. Host is not part of a request's Header; it goes to Location,
// and net/http has checked its bytes.
const maxHostBytes = 512

// maxDigits bounds the digits of a number, leading zeros included.
const maxDigits = 20

// headerRules is headerTable by canonical name.
var headerRules = func() map[string]*headerRule {
	m := make(map[string]*headerRule, len(headerTable))
	for i := range headerTable {
		r := &headerTable[i]
		m[textproto.CanonicalMIMEHeaderKey(r.name)] = r
	}
	return m
}()

// checkHeaders returns an error for the first header that breaks its rule, or nil.
func checkHeaders(r *http.Request) error {
	method := methodSetOf(r.Method)
	for name, values := range r.Header {
		rule := headerRules[name]
		if rule == nil || rule.methods&method == 0 {
			continue
		}
		if err := rule.check(values); err != nil {
			return err
		}
	}
	if len(r.Host) > maxHostBytes {
		return badHeader("Host", fmt.Sprintf("has %d bytes, want %d at most", len(r.Host), maxHostBytes))
	}
	return nil
}

func methodSetOf(method string) methodSet {
	switch method {
	case http.MethodPut:
		return onPut
	case http.MethodPost:
		return onPost
	case http.MethodGet, http.MethodHead:
		return onGet
	case http.MethodOptions:
		return onOptions
	}
	return 0
}

// check returns how values break the rule, or nil. Two values of a header that has one value are
// two requests in one, so they are an error even for a lenient rule.
func (h *headerRule) check(values []string) error {
	if len(values) > 1 && !h.repeatable {
		return badHeader(h.name, fmt.Sprintf("comes %d times; send it once", len(values)))
	}
	if h.lenient {
		return nil
	}
	for _, v := range values {
		if i := h.firstBadByte(v); i < len(v) {
			return badHeader(h.name, fmt.Sprintf("byte %d is 0x%02X, want %s, %d bytes at most: %s", i+1, v[i], h.allowed, h.maxBytes, h.advice))
		}
		if len(v) > h.maxBytes {
			return badHeader(h.name, fmt.Sprintf("has %d bytes, want %d at most: %s", len(v), h.maxBytes, h.advice))
		}
	}
	return nil
}

// firstBadByte returns the index of the first byte that the rule does not allow, or the value's length.
func (h *headerRule) firstBadByte(v string) int {
	for i := range len(v) {
		if !h.allowed.Has(v[i]) {
			return i
		}
	}
	return len(v)
}

// lenientValue returns the first value of a header with a lenient rule, empty if the value breaks the rule.
func lenientValue(h http.Header, name string) string {
	rule := headerRules[textproto.CanonicalMIMEHeaderKey(name)]
	v, _, _ := strings.Cut(h.Get(name), ",")
	if v = strings.TrimSpace(v); len(v) > rule.maxBytes || rule.firstBadByte(v) < len(v) {
		return ""
	}
	return v
}

// safeHeaderValue returns a value from a log as a header can carry it. The log may be older than the
// checks, or written by another program.
func safeHeaderValue(v string) string {
	ok := true
	for i := range len(v) {
		ok = ok && v[i] >= ' ' && v[i] != 0x7f
	}
	if ok {
		return v
	}
	b := []byte(v)
	for i, c := range b {
		if c < ' ' || c == 0x7f {
			b[i] = ' '
		}
	}
	return strings.TrimSpace(string(b))
}
