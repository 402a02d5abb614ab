package edge

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzhttp"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// How long caches may keep an answer (PROTOCOL 10.1).
const (
	// cacheForever: a full chunk, requested by an offset of the stream's current generation. No later
	// generation uses that offset, so the URL always has these bytes.
	cacheForever = "max-age=31536000, immutable"
	// cacheBriefly: a full chunk, requested another way (the start, a bare number, an inherited
	// offset), which would mean other bytes if the stream is created again. A minute in all.
	cacheBriefly = "max-age=20, stale-while-revalidate=40"
	// cacheTail: a chunk that ends at the tail grows. A browser asks each time whether it has grown
	// (a 304 if not), so a page sees its own writes; a CDN may merge the requests of a second.
	cacheTail = "max-age=0, s-maxage=1, must-revalidate"
	// cacheLongPoll: the answer of a long-poll is always a part of what follows its offset. It is
	// cached for one cursor interval, so that a CDN can give one answer to all waiting clients.
	cacheLongPoll = "max-age=20"
	// longPollSeconds is the age in cacheLongPoll.
	longPollSeconds = 20
	cacheNoStore    = "no-store"
)

// publicTail is cacheTail for what a file of rights makes public.
const publicTail = "public, max-age=0, s-maxage=1, " + access.NeverStale

// setCacheControl sets how long an answer may be cached, and where. If the request may identify its
// client, only the client may cache it, and only briefly, because the client may lose its rights.
func (s *Server) setCacheControl(w http.ResponseWriter, r *http.Request, dec decision, long string) {
	h := w.Header()
	switch {
	case long == cacheNoStore:
	case dec.judged:
		long = dec.cacheControl(long)
	case !s.cfg.PrivateCache && !mayIdentifyClient(r):
		long = "public, " + long
		h.Add("Vary", "Authorization, Cookie")
	case long == cacheForever:
		long = "private, " + cacheBriefly
	case long == cacheTail:
		long = "private, max-age=0, must-revalidate"
	default:
		long = "private, " + long
	}
	h.Set("Cache-Control", long)
}

// cacheControl returns the Cache-Control of an answer that a file of rights allows: no answer may
// outlive the right to it, so none is kept without asking for longer than a minute.
func (dec decision) cacheControl(long string) string {
	switch {
	case long == cacheLongPoll:
		return dec.CacheControlWithin(longPollSeconds)
	case long != cacheTail:
		return dec.CacheControl()
	case dec.IsKept():
		return publicTail
	case dec.Public:
		return dec.CacheControlWithin(0)
	default:
		return "private, no-cache"
	}
}

// mayIdentifyClient reports whether something in a request may identify its client. A proxy in front
// of this node may authorize by it, so other clients must not get the answer from a cache: all that
// looks like a credential counts, and so does every unknown parameter.
func mayIdentifyClient(r *http.Request) bool {
	for name := range r.Header {
		if headerMayIdentifyClient(name) {
			return true
		}
	}
	if r.URL.User != nil || r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return true
	}
	for name := range r.URL.Query() {
		if !isKnownParam(name) {
			return true
		}
	}
	return false
}

// credentials are parts of the names of headers that identify a client.
var credentials = []string{
	"auth", "cookie", "token", "key", "secret", "session", "signature", "credential", "password",
	"jwt", "assertion", "dpop", "cert", "user", "identity", "principal", "tenant", "account", "email",
}

// headerMayIdentifyClient reports whether a header, by its canonical name, may identify a client.
func headerMayIdentifyClient(name string) bool {
	if name == "User-Agent" || strings.HasPrefix(name, "Sec-") {
		return false
	}
	name = strings.ToLower(name)
	for _, part := range credentials {
		if strings.Contains(name, part) {
			return true
		}
	}
	return false
}

// cachePolicy returns the cache policy for a chunk that was requested with offset o.
func (c *catchUpChunk) cachePolicy(o position.Offset, info shard.Info) string {
	switch {
	case o.IsRelative():
		return cacheNoStore
	case !c.full:
		return cacheTail
	case o.Kind == position.OffsetMinted && o.Generation == info.Generation:
		return cacheForever
	default:
		return cacheBriefly
	}
}

// etag names a chunk: the stream's generation, where the chunk begins and ends, and whether
// the stream ends there.
func etag(info shard.Info, from, to position.Position) string {
	end := ""
	if info.Closed && to.AtEnd(info) {
		end = ":c"
	}
	generation := strconv.FormatUint(uint64(info.Generation), 10)
	return `"` + generation + ":" + from.OffsetString(info) + ":" + to.OffsetString(info) + end + `"`
}

// compressedTagSuffixes end the entity tags of compressed chunks.
var compressedTagSuffixes = [...]string{"-gzip", "-zstd"}

// matchETag reports whether a header If-None-Match names tag, and returns the compressed form that it names.
func matchETag(header, tag string) (has string, ok bool) {
	for t := range strings.SplitSeq(header, ",") {
		switch t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t {
		case tag, "*":
			return tag, true
		}
		for _, f := range compressedTagSuffixes {
			if t == strings.TrimSuffix(tag, `"`)+f+`"` {
				return t, true
			}
		}
	}
	return "", false
}

// maxCompressors bounds the answers that are compressed at a time, with at most 1 MB of memory
// each; others are sent as they are.
const maxCompressors = 64

// newCompressor returns a wrapper for handlers of reads, except those that stream. It compresses where
// the client accepts that and it is worth it. It uses gzip unless the client prefers zstd by q: a
// browser lists both, and a proxy between may know only gzip. Many back ends forward their client's
// Accept-Encoding with a fetch that decompresses, as on Node.
func newCompressor() (func(http.Handler) http.HandlerFunc, error) {
	return gzhttp.NewWrapper(gzhttp.SuffixETag(compressedTagSuffixes[0]), gzhttp.CompressionLevel(1), gzhttp.PreferZstd(false))
}

// serveCompressed serves a read, compressed if the client accepts that.
func (s *Server) serveCompressed(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	if acceptsCompression(r) {
		select {
		case s.compressSlots <- struct{}{}:
			defer func() { <-s.compressSlots }()
			s.compressHandler(serve)(w, r)
			return
		default:
		}
	}
	w.Header().Add("Vary", "Accept-Encoding")
	serve(w, r)
}

// acceptsCompression reports whether the client accepts gzip or zstd and does not prefer the
// uncompressed form.
func acceptsCompression(r *http.Request) bool {
	h := strings.ToLower(r.Header.Get("Accept-Encoding"))
	q := max(codingQuality(h, "gzip"), codingQuality(h, "zstd"))
	return q > 0 && q >= codingQuality(h, "identity")
}

// codingQuality returns the weight of a coding in a list of codings in lower case: from 0, also for a
// coding that the list does not name, to 1.
func codingQuality(list, coding string) float64 {
	for item := range strings.SplitSeq(list, ",") {
		name, params, _ := strings.Cut(item, ";")
		if strings.TrimSpace(name) != coding {
			continue
		}
		v, weighed := strings.CutPrefix(strings.TrimSpace(params), "q=")
		if !weighed {
			return 1
		}
		q, err := strconv.ParseFloat(v, 64)
		if err != nil {
			return 0
		}
		return min(max(q, 0), 1)
	}
	return 0
}
