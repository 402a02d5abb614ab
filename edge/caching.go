package edge

import (
	"net/http"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzhttp"

	"github.com/fantail-dev/fantail/shard"
)

// How long others may keep an answer (PROTOCOL 10.1).
const (
	// keepForever: a whole chunk under an offset of the stream's present life. No later
	// life mints that offset, so the URL has these bytes for ever.
	keepForever = "max-age=31536000, immutable"
	// keepWhile: a whole chunk under another name (the start, a bare number, an offset
	// that was inherited): a stream that is made anew has it too. A minute in all.
	keepWhile = "max-age=20, stale-while-revalidate=40"
	// keepTail: what ends at the tail grows. A browser asks each time whether it has (a
	// 304 if not), so a page sees what it wrote; a CDN may collapse a second's requests.
	keepTail = "max-age=0, s-maxage=1, must-revalidate"
	// keepPoll: what a long-poll was answered is a part of what follows its offset,
	// whenever it is read; for one interval of the cursor, so that a CDN can give one
	// answer to all who wait.
	keepPoll = "max-age=20"
	keepNot  = "no-store"
)

// keep says for how long an answer may be kept, and by whom: only by the client, and not for
// long, where it showed who it is, for it may lose its rights.
func keep(w http.ResponseWriter, r *http.Request, long string) {
	h := w.Header()
	switch {
	case long == keepNot:
	case !showsWho(r):
		long = "public, " + long
		h.Add("Vary", "Authorization, Cookie")
	case long == keepForever:
		long = "private, " + keepWhile
	case long == keepTail:
		long = "private, max-age=0, must-revalidate"
	default:
		long = "private, " + long
	}
	h.Set("Cache-Control", long)
}

// showsWho reports whether something in a request may say who asks. In front of this node
// somebody may judge by it, and others must not be given the answer: what looks like a
// credential is one, and so is every parameter that is not ours.
func showsWho(r *http.Request) bool {
	for name := range r.Header {
		if mayShowWho(name) {
			return true
		}
	}
	if r.URL.User != nil || r.TLS != nil && len(r.TLS.PeerCertificates) > 0 {
		return true
	}
	for name := range r.URL.Query() {
		if !ours(name) {
			return true
		}
	}
	return false
}

// credentials are parts of the names of headers that say who asks.
var credentials = []string{
	"auth", "cookie", "token", "key", "secret", "session", "signature", "credential", "password",
	"jwt", "assertion", "dpop", "cert", "user", "identity", "principal", "tenant", "account", "email",
}

// mayShowWho reports whether a header, by its canonical name, may say who asks.
func mayShowWho(name string) bool {
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

// lasting is how long a chunk of catch-up may be kept that a query named.
func (c *chunk) lasting(o offset, info shard.Info) string {
	switch {
	case !c.full:
		return keepTail
	case o.kind == offsetMinted && o.life == info.Generation:
		return keepForever
	default:
		return keepWhile
	}
}

// etag names a chunk: the stream's life, where the chunk begins and ends, and whether
// the stream ends there.
func etag(info shard.Info, from, to place) string {
	end := ""
	if info.Closed && to.atEnd(info) {
		end = ":c"
	}
	life := strconv.FormatUint(info.Generation, 10)
	return `"` + life + ":" + from.offset(info) + ":" + to.offset(info) + end + `"`
}

// forms are what follows in an entity tag that names a chunk in a compressed form.
var forms = [...]string{"-gzip", "-zstd"}

// matches reports whether a header If-None-Match names tag, and in which form.
func matches(header, tag string) (has string, ok bool) {
	for t := range strings.SplitSeq(header, ",") {
		switch t = strings.TrimPrefix(strings.TrimSpace(t), "W/"); t {
		case tag, "*":
			return tag, true
		}
		for _, f := range forms {
			if t == strings.TrimSuffix(tag, `"`)+f+`"` {
				return t, true
			}
		}
	}
	return "", false
}

// compressors is how many answers are compressed at once, at most 1 MB of memory
// each; others are sent as they are.
const compressors = 64

// compressor wraps a handler of reads, except those that stream: it compresses what
// the client accepts and is worth it. It takes gzip unless the client prefers zstd by q: a
// browser lists both, and what stands between may know gzip only. Back ends that send their
// client's Accept-Encoding on with a fetch that decompresses, as those on Node do, are many.
func compressor() (func(http.Handler) http.HandlerFunc, error) {
	return gzhttp.NewWrapper(gzhttp.SuffixETag(forms[0]), gzhttp.CompressionLevel(1), gzhttp.PreferZstd(false))
}

// compressed serves a read, compressed if the client accepts that.
func (s *Server) compressed(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
	if accepts(r) {
		select {
		case s.compressing <- struct{}{}:
			defer func() { <-s.compressing }()
			s.compress(serve)(w, r)
			return
		default:
		}
	}
	w.Header().Add("Vary", "Accept-Encoding")
	serve(w, r)
}

// accepts reports whether the client may accept a form that there is, which the compressor
// knows, and likes none better.
func accepts(r *http.Request) bool {
	h := strings.ToLower(r.Header.Get("Accept-Encoding"))
	q := max(quality(h, "gzip"), quality(h, "zstd"))
	return q > 0 && q >= quality(h, "identity")
}

// quality is how much a list of codings, in lower case, likes one that it names: from 0,
// which is also for one that it does not name, to 1.
func quality(list, coding string) float64 {
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
