package edge

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

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

const (
	methods = "GET, HEAD, PUT, POST, DELETE, OPTIONS"
	allowed = "Content-Type, Authorization, If-None-Match, Last-Event-ID, Cache-Control, " +
		hSeq + ", " + hTTL + ", " + hExpires + ", " + hClosed + ", " +
		hProducerID + ", " + hProducerEpoch + ", " + hProducerSeq + ", " +
		hForkedFrom + ", " + hForkOffset + ", " + hForkSub
	exposed = hNextOffset + ", " + hCursor + ", " + hUpToDate + ", " + hClosed + ", " +
		hTTL + ", " + hExpires + ", " + hSeq + ", " +
		hProducerID + ", " + hProducerEpoch + ", " + hProducerSeq + ", " +
		hExpectedSeq + ", " + hReceivedSeq + ", " + hEncoding + ", ETag, Location, Retry-After, " + hRequestID
)

// always is what every response carries (PROTOCOL 12, CORS), by canonical name. The
// values are shared: nobody may add to them. What a stream holds is somebody's, and its type may
// be that of a page or a script: opened in a browser it has an origin of its own and may load
// and run nothing.
var always = http.Header{
	"Content-Security-Policy":       {"sandbox; default-src 'none'"},
	"X-Content-Type-Options":        {"nosniff"},
	"Cross-Origin-Resource-Policy":  {"cross-origin"},
	"Access-Control-Allow-Origin":   {"*"},
	"Access-Control-Expose-Headers": {exposed},
}

func common(h http.Header) { maps.Copy(h, always) }

// preflight answers OPTIONS. A page may send any header: what it sends without being asked for
// it is all that there is, because no answer allows credentials.
func preflight(w http.ResponseWriter, r *http.Request) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", allowed+asked(r.Header))
	h.Set("Access-Control-Max-Age", "86400")
	h.Set("Vary", "Access-Control-Request-Headers, Access-Control-Request-Method")
	w.WriteHeader(http.StatusNoContent)
}

// asked is what a preflight asks for and the fixed list lacks, each after a comma: names that can
// be a header's, of as many bytes together as the table says.
func asked(h http.Header) string {
	list := strings.Join(h.Values(requestHeaders), ",")
	if len(list) > headerRules[requestHeaders].most {
		return ""
	}
	var b strings.Builder
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" && all(name, inToken) && !allowedNames[strings.ToLower(name)] {
			b.WriteString(", ")
			b.WriteString(name)
		}
	}
	return b.String()
}

const requestHeaders = "Access-Control-Request-Headers"

// allowedNames is the fixed list, in lower case.
var allowedNames = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.SplitSeq(allowed, ", ") {
		m[strings.ToLower(name)] = true
	}
	return m
}()

// describe sets the headers that describe a stream.
func describe(h http.Header, info shard.Info) {
	h.Set("Content-Type", stored(info.Type))
	h.Set(hNextOffset, formatOffset(info.Generation, info.Tail))
	if info.HasTTL {
		h.Set(hTTL, strconv.FormatUint(info.TTL, 10))
	}
	if info.Expires != 0 {
		h.Set(hExpires, stored(info.ExpiresRaw))
	}
	if info.Closed {
		h.Set(hClosed, "true")
	}
}

// closes reports whether a request asks to close: the header's value counts only
// if it is "true", in any case.
func closes(h http.Header) bool { return strings.EqualFold(soft(h, hClosed), "true") }

func badHeader(name, why string) error { return fmt.Errorf("%w: %s: %s", errHeader, name, why) }

// maxInteger is the largest integer that every client can hold: 2^53 − 1.
const maxInteger = 1<<53 - 1

// integer reads a header of digits only.
func integer(h http.Header, name string) (uint64, error) {
	n, ok := digits(h.Get(name))
	if !ok || h.Get(name) == "" || n > maxInteger {
		return 0, badHeader(name, "want digits, at most 2^53 − 1")
	}
	return n, nil
}

// producer reads the three producer headers: all, or none (PROTOCOL 5.2.1).
func producer(h http.Header) (*shard.Producer, error) {
	id, epoch, seq := has(h, hProducerID), has(h, hProducerEpoch), has(h, hProducerSeq)
	if !id && !epoch && !seq {
		return nil, nil //nolint:nilnil // no producer is not an error
	}
	if !id || !epoch || !seq {
		return nil, badHeader("Producer-*", "want all three, or none")
	}
	p := &shard.Producer{ID: strings.Clone(h.Get(hProducerID))} // a writer's is part of a whole head, and is kept
	if p.ID == "" {
		return nil, badHeader(hProducerID, "is empty; send 1 to 256 bytes of printable ASCII")
	}
	var err error
	if p.Epoch, err = integer(h, hProducerEpoch); err != nil {
		return nil, err
	}
	p.Seq, err = integer(h, hProducerSeq)
	return p, err
}

// lifetime reads Stream-TTL and Stream-Expires-At into the request.
func lifetime(h http.Header, req *shard.Request) error {
	ttl, expires := h.Get(hTTL), h.Get(hExpires)
	hasTTL, hasExpires := has(h, hTTL), has(h, hExpires)
	if hasTTL && hasExpires {
		return badHeader(hTTL, "and Stream-Expires-At exclude each other")
	}
	if hasTTL {
		n, err := integer(h, hTTL)
		if err != nil || len(ttl) > 1 && ttl[0] == '0' {
			return badHeader(hTTL, "want seconds, without sign, fraction or leading zero")
		}
		req.HasTTL, req.TTL = true, n
	}
	if hasExpires {
		t, err := time.Parse(time.RFC3339, expires)
		if err != nil || t.UnixMilli() <= 0 {
			return badHeader(hExpires, "want an RFC 3339 time")
		}
		req.Expires, req.ExpiresRaw = uint64(t.UnixMilli()), expires
	}
	return nil
}

func has(h http.Header, name string) bool { return len(h.Values(name)) > 0 }
