package access

import "fmt"

// SSECacheControl is the Cache-Control of event streams where a file decides.
const SSECacheControl = "private, no-cache, no-store, no-transform"

// The values of Cache-Control, by the seconds that an answer may be kept.
var publicAges, privateAges = func() (public, private [maxPublicAge + 1]string) {
	for age := range public {
		public[age] = fmt.Sprintf("public, max-age=%d", age)
		private[age] = fmt.Sprintf("private, max-age=%d", age)
	}
	return public, private
}()

// CacheControl returns the Cache-Control of an answer with a body, or of a 304: an answer must not
// outlive the right to it. What a public grant allows to a request without a credential may be kept
// by shared caches for the project's public_age; what a signed URL allows by the browser, until the
// URL expires and for a minute at most; everything else is asked for again each time.
func (v Verdict) CacheControl() string {
	switch {
	case v.Public:
		return publicAges[min(v.maxAge, maxPublicAge)]
	case v.Signed && v.maxAge > 0:
		return privateAges[min(v.maxAge, maxPublicAge)]
	}
	return "private, no-cache"
}

// ResourcePolicy returns the Cross-Origin-Resource-Policy of an answer.
func (v Verdict) ResourcePolicy() string {
	if v.Public || v.Signed {
		return "cross-origin"
	}
	return "same-origin"
}
