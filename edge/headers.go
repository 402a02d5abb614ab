package edge

import (
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/edge/sse"
	"github.com/fantail-dev/fantail/shard"
)

// setStreamHeaders sets the headers that describe a stream.
func setStreamHeaders(h http.Header, info shard.Info) {
	h.Set("Content-Type", safeHeaderValue(info.Type))
	h.Set(hNextOffset, position.FormatOffset(info.Generation, info.Tail))
	if info.HasTTL {
		h.Set(hTTL, strconv.FormatUint(info.TTL, 10))
	}
	if info.Expires != 0 {
		h.Set(hExpires, safeHeaderValue(info.ExpiresRaw))
	}
	if info.Closed {
		h.Set(hClosed, "true")
	}
}

// asksToClose reports whether a request asks to close the stream: only the value "true" does, in any case.
func asksToClose(h http.Header) bool { return strings.EqualFold(lenientValue(h, hClosed), "true") }

// maxInteger is the largest integer that every client can hold: 2^53 − 1.
const maxInteger = 1<<53 - 1

// parseInteger reads a header of digits only.
func parseInteger(h http.Header, name string) (uint64, error) {
	n, err := strconv.ParseUint(h.Get(name), 10, 64)
	if err != nil || n > maxInteger {
		return 0, badHeader(name, "want digits, at most 2^53 − 1")
	}
	return n, nil
}

// parseProducer reads the three producer headers: all, or none (PROTOCOL 5.2.1).
func parseProducer(h http.Header) (*shard.Producer, error) {
	id, epoch, seq := hasHeader(h, hProducerID), hasHeader(h, hProducerEpoch), hasHeader(h, hProducerSeq)
	if !id && !epoch && !seq {
		return nil, nil //nolint:nilnil // no producer is not an error
	}
	if !id || !epoch || !seq {
		return nil, badHeader("Producer-*", "want all three, or none")
	}
	p := &shard.Producer{ID: strings.Clone(h.Get(hProducerID))} // the id is kept; an append connection's would keep the whole header alive
	if p.ID == "" {
		return nil, badHeader(hProducerID, "is empty; send 1 to 256 bytes of printable ASCII")
	}
	var err error
	if p.Epoch, err = parseInteger(h, hProducerEpoch); err != nil {
		return nil, err
	}
	p.Seq, err = parseInteger(h, hProducerSeq)
	return p, err
}

// parseLifetime reads Stream-TTL and Stream-Expires-At into the request.
func parseLifetime(h http.Header, req *shard.Request) error {
	ttl, expires := h.Get(hTTL), h.Get(hExpires)
	hasTTL, hasExpires := hasHeader(h, hTTL), hasHeader(h, hExpires)
	if hasTTL && hasExpires {
		return badHeader(hTTL, "and Stream-Expires-At exclude each other")
	}
	if hasTTL {
		n, err := parseInteger(h, hTTL)
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
		req.Expires, req.ExpiresRaw = shard.MillisOf(t), expires
	}
	return nil
}

func hasHeader(h http.Header, name string) bool { return len(h.Values(name)) > 0 }

// setSSEHeaders sets the headers of an SSE response.
func setSSEHeaders(h http.Header, form sse.Framing) {
	h.Set("Content-Type", "text/event-stream")
	h.Set("Cache-Control", "private, no-cache, no-store, no-transform") // the protocol demands no-cache
	h.Set("X-Accel-Buffering", "no")
	if form == sse.FramingBase64 {
		h.Set(hEncoding, "base64")
	}
}
