package access

import "fmt"

// SSECacheControl is the Cache-Control of event streams where a file decides.
const SSECacheControl = "private, no-cache, no-store, no-transform"

// NeverStale forbids caches to serve a public answer for longer than its age. Some caches add a
// time by themselves, as Varnish does unless an answer names one.
const NeverStale = "must-revalidate, stale-while-revalidate=0"

// publicAges and privateAges hold the values of Cache-Control, by the seconds that an answer may
// be kept.
var publicAges, privateAges = func() (public, private [maxPublicAge + 1]string) {
	for age := range public {
		public[age] = fmt.Sprintf("public, max-age=%d, %s", age, NeverStale)
		private[age] = fmt.Sprintf("private, max-age=%d", age)
	}
	return public, private
}()

// CacheControl returns the Cache-Control of an answer with a body, or of a 304: an answer must not
// outlive the right to it. Shared caches may keep, for the project's public_age, what a public
// grant allows to a request without a credential. A browser may keep what a signed URL allows,
// until the URL expires and for a minute at most. Everything else is asked for again each time.
func (v Verdict) CacheControl() string { return v.CacheControlWithin(maxPublicAge) }

// CacheControlWithin does what CacheControl does, for an answer that must not be kept for longer than
// some seconds anyway.
func (v Verdict) CacheControlWithin(seconds uint8) string {
	switch age := min(v.maxAge, seconds, maxPublicAge); {
	case v.Public:
		return publicAges[age]
	case v.Signed && age > 0:
		return privateAges[age]
	}
	return "private, no-cache"
}

// IsKept reports whether shared caches may keep an answer at all.
func (v Verdict) IsKept() bool { return v.Public && v.maxAge > 0 }

// ResourcePolicy returns the Cross-Origin-Resource-Policy of an answer.
func (v Verdict) ResourcePolicy() string {
	if v.Public || v.Signed {
		return "cross-origin"
	}
	return "same-origin"
}
