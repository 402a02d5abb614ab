package access

import (
	"fmt"
	"net/http"
	"time"
)

// Reason says in one word why a credential was refused. It is told to the caller, and labels
// the metric.
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

	ReasonURLMalformed Reason = "url_malformed"

	ReasonKeysStale Reason = "keys_stale"
	ReasonBusy      Reason = "verification_busy"
)

// Refusal holds the reason for which a request is not allowed. It is an error.
type Refusal struct {
	Reason Reason
	// Detail is a sentence for people. It repeats nothing secret: no part of a signature.
	Detail string
	// RetryAfter is the pause after which the same request may be allowed; 0: it will not be.
	RetryAfter time.Duration
}

func (r *Refusal) Error() string { return fmt.Sprintf("%s: %s", r.Reason, r.Detail) }

// Status returns the HTTP status of the refusal (RFC 6750, section 3.1), unless the request
// is an append with a producer, which must not hear 403.
func (r *Refusal) Status() int {
	switch r.Reason {
	case ReasonNotGranted, ReasonWrongProject:
		return http.StatusForbidden
	case ReasonKeysStale, ReasonBusy:
		return http.StatusServiceUnavailable
	default:
		return http.StatusUnauthorized
	}
}

func refuse(reason Reason, format string, args ...any) *Refusal {
	return &Refusal{Reason: reason, Detail: fmt.Sprintf(format, args...)}
}
