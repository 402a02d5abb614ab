package edge

import (
	"fmt"
	"maps"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/edge/position"
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
	allowedMethods = "GET, HEAD, PUT, POST, DELETE, OPTIONS"
	allowedHeaders = "Content-Type, Authorization, If-None-Match, Last-Event-ID, Cache-Control, " +
		hSeq + ", " + hTTL + ", " + hExpires + ", " + hClosed + ", " +
		hProducerID + ", " + hProducerEpoch + ", " + hProducerSeq + ", " +
		hForkedFrom + ", " + hForkOffset + ", " + hForkSub
	exposedHeaders = hNextOffset + ", " + hCursor + ", " + hUpToDate + ", " + hClosed + ", " +
		hTTL + ", " + hExpires + ", " + hSeq + ", " +
		hProducerID + ", " + hProducerEpoch + ", " + hProducerSeq + ", " +
		hExpectedSeq + ", " + hReceivedSeq + ", " + hEncoding + ", ETag, Location, Retry-After, " + hRequestID
)

// commonHeaders holds the headers of every response (PROTOCOL 12, CORS), by canonical name. The
// values are shared and must not be appended to. A stream's content is a user's, and its type may
// be that of a page or a script: the policy gives it an origin of its own in a browser, where it
// may load and run nothing. With those of an event stream they are eight at most: a ninth doubles the
// memory of the map, which every reader with a goroutine holds.
var commonHeaders = http.Header{
	"Content-Security-Policy":      {"sandbox; default-src 'none'"},
	"X-Content-Type-Options":       {"nosniff"},
	"Cross-Origin-Resource-Policy": {"cross-origin"},
}

// setCommonHeaders sets the headers of every answer to a request about a project; project is empty
// where the path names none.
func (s *Server) setCommonHeaders(w http.ResponseWriter, r *http.Request, project string) {
	h := w.Header()
	maps.Copy(h, commonHeaders)
	s.setCORSHeaders(h, r, project)
	if s.cfg.Judge != nil && !s.cfg.ObserveOnly {
		h["Cross-Origin-Resource-Policy"] = sameOrigin // authorize opens it for what others may embed
		h["Referrer-Policy"] = noReferrer              // a URL may be signed
	}
	if s.drain.closesConns.Load() || s.cfg.ConnectionsFull() {
		h.Set("Connection", "close") // over HTTP/2 net/http sends GOAWAY for it
	}
}

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

func badHeader(name, why string) error { return fmt.Errorf("%w: %s: %s", errHeader, name, why) }

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
