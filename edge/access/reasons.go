package access

import (
	"fmt"
	"net/http"
	"strings"
	"time"
)

// Reason says in one word why a request was refused. It is told to the caller, and labels the
// metric.
type Reason string

// The reasons, in the order in which they are looked for: of what the token itself tells,
// what a new token cannot mend comes first.
const (
	ReasonNoCredential   Reason = "no_credential"
	ReasonMalformed      Reason = "malformed"
	ReasonTwoCredentials Reason = "two_credentials"
	ReasonUnknownIssuer  Reason = "unknown_issuer"
	ReasonWrongType      Reason = "wrong_type"
	ReasonWrongAudience  Reason = "wrong_audience"
	ReasonNotAccepted    Reason = "not_accepted"
	ReasonTooLongLived   Reason = "too_long_lived"
	ReasonNotYet         Reason = "not_yet"
	ReasonExpired        Reason = "expired"
	ReasonUnknownKey     Reason = "unknown_key"
	ReasonBadSignature   Reason = "bad_signature"
	ReasonBadGrants      Reason = "bad_grants"
	ReasonRevoked        Reason = "revoked"
	ReasonWrongProject   Reason = "wrong_project"
	ReasonNotGranted     Reason = "not_granted"

	ReasonURLMalformed     Reason = "url_malformed"
	ReasonCrossSite        Reason = "cross_site"         // a cookie, sent by a page that it is not for
	ReasonCrossProjectFork Reason = "cross_project_fork" // the source is in another project
	ReasonOriginNotListed  Reason = "origin_not_listed"  // of a page that asks for a session
	ReasonTooLongForCookie Reason = "token_too_long_for_cookie"
	ReasonNoSession        Reason = "no_session_here" // the application sets the project's cookie

	ReasonKeysStale Reason = "keys_stale"
	ReasonBusy      Reason = "verification_busy"
	ReasonClock     Reason = "clock"

	ReasonLimitRequests          Reason = "limit_requests"
	ReasonLimitBytes             Reason = "limit_bytes"
	ReasonLimitCreates           Reason = "limit_creates"
	ReasonLimitReaders           Reason = "limit_readers"
	ReasonLimitBody              Reason = "limit_body"
	ReasonLimitPrincipalRequests Reason = "limit_principal_requests"
	ReasonLimitPrincipalReaders  Reason = "limit_principal_readers"
	ReasonLimitWaiting           Reason = "limit_waiting" // too many appends wait for their turn
)

// answer holds what a reason becomes over HTTP.
type answer struct {
	status int
	slug   string // of the problem's type
	oauth  string // the error of WWW-Authenticate (RFC 6750, section 3.1)
}

var (
	failed      = answer{http.StatusUnauthorized, "unauthorized", "invalid_token"}
	forbidden   = answer{http.StatusForbidden, "forbidden", "insufficient_scope"}
	limited     = answer{http.StatusTooManyRequests, "limited", ""}
	unavailable = answer{http.StatusServiceUnavailable, "credentials-busy", ""}
)

// answers holds the reasons that are told otherwise than by failed.
var answers = map[Reason]answer{
	ReasonNoCredential: {http.StatusUnauthorized, "unauthorized", ""},

	ReasonTooLongForCookie: {http.StatusBadRequest, "unauthorized", "invalid_request"},
	ReasonNoSession:        {http.StatusBadRequest, "unauthorized", "invalid_request"},

	ReasonWrongProject: forbidden, ReasonNotGranted: forbidden, ReasonCrossSite: forbidden,
	ReasonCrossProjectFork: forbidden, ReasonOriginNotListed: forbidden,

	ReasonKeysStale: unavailable, ReasonBusy: unavailable, ReasonClock: unavailable,

	ReasonLimitRequests: limited, ReasonLimitBytes: limited, ReasonLimitCreates: limited, ReasonLimitReaders: limited,
	ReasonLimitPrincipalRequests: limited, ReasonLimitPrincipalReaders: limited, ReasonLimitWaiting: limited,
	ReasonLimitBody: {http.StatusRequestEntityTooLarge, "limited", ""},
}

func answerTo(reason Reason) answer {
	if a, ok := answers[reason]; ok {
		return a
	}
	return failed
}

// Refusal holds the reason for which a credential is not good. It is an error.
type Refusal struct {
	Reason Reason
	// Detail is a sentence for people. It repeats nothing secret: no part of a signature.
	Detail string
	// RetryAfter is the pause after which the same request may be allowed; 0: it will not be.
	RetryAfter time.Duration

	status int // instead of the reason's; 0: the reason's
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %s", r.Reason, r.Detail) }

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}

// Denial is the answer to a request that is not allowed: what the edge puts into it.
type Denial struct {
	Status int
	// Slug names the problem's type: unauthorized, forbidden, limited or credentials-busy.
	Slug   string
	Reason Reason
	// Detail is a sentence for the client that says what is wrong and what to do.
	Detail string
	// Challenge is the WWW-Authenticate field; empty: none.
	Challenge string
	// SetCookie is the Set-Cookie field that deletes a cookie that failed; empty: none.
	SetCookie string
	// RetryAfter is the pause before the same request may be allowed; 0: no such field.
	RetryAfter time.Duration
}

func (d *Denial) Error() string { return fmt.Sprintf("%d %s: %s", d.Status, d.Reason, d.Detail) }

// denialOf returns the answer to a request that is refused. An append with a producer never hears
// 403, which means to its client that its epoch is stale: it would raise the epoch and send again
// without an end.
func denialOf(r *http.Request, no *Refusal) *Denial {
	a := answerTo(no.Reason)
	d := &Denial{Status: a.status, Slug: a.slug, Reason: no.Reason, Detail: no.Detail, RetryAfter: no.RetryAfter}
	if no.status != 0 {
		d.Status, a.oauth = no.status, "invalid_request"
	}
	if d.Status == http.StatusForbidden && r.Method == http.MethodPost && hasProducer(r.Header) {
		d.Status, d.Slug = http.StatusUnauthorized, "unauthorized"
	}
	switch {
	case no.Reason == ReasonNoCredential:
		d.Challenge = "Bearer"
	case a.oauth != "":
		d.Challenge = fmt.Sprintf("Bearer error=%q, error_description=%q", a.oauth, no.Reason)
	}
	return d
}

// hasProducer reports whether a request has any Producer header, well-formed or not.
func hasProducer(h http.Header) bool {
	for name := range h {
		if strings.HasPrefix(name, "Producer-") {
			return true
		}
	}
	return false
}
