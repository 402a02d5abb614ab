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
		hExpectedSeq + ", " + hReceivedSeq + ", " + hEncoding + ", ETag, Location, Retry-After"
)

// always is what every response carries (PROTOCOL 12, CORS), by canonical name. The
// values are shared: nobody may add to them.
var always = http.Header{
	"X-Content-Type-Options":        {"nosniff"},
	"Cross-Origin-Resource-Policy":  {"cross-origin"},
	"Access-Control-Allow-Origin":   {"*"},
	"Access-Control-Expose-Headers": {exposed},
}

func common(h http.Header) { maps.Copy(h, always) }

// preflight answers OPTIONS.
func preflight(w http.ResponseWriter) {
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", methods)
	h.Set("Access-Control-Allow-Headers", allowed)
	h.Set("Access-Control-Max-Age", "86400")
	w.WriteHeader(http.StatusNoContent)
}

// describe sets the headers that describe a stream.
func describe(h http.Header, info shard.Info) {
	h.Set("Content-Type", info.Type)
	h.Set(hNextOffset, formatOffset(info.Life, info.Tail))
	if info.HasTTL {
		h.Set(hTTL, strconv.FormatUint(info.TTL, 10))
	}
	if info.Expires != 0 {
		h.Set(hExpires, info.ExpiresRaw)
	}
	if info.Closed {
		h.Set(hClosed, "true")
	}
}

// closes reports whether a request asks to close: the header's value counts only
// if it is "true", in any case.
func closes(h http.Header) bool { return strings.EqualFold(h.Get(hClosed), "true") }

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
	if p.ID == "" || len(p.ID) > shard.MaxProducerID {
		return nil, badHeader(hProducerID, "want 1 to 256 bytes")
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
