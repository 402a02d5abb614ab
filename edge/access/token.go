package access

import (
	"context"
	"encoding/base64"
	"fmt"
	"math"
	"slices"
	"strings"
	"time"
)

const (
	// Leeway bounds how far clocks may be apart: a credential is good while
	// now < exp + Leeway, wherever it is looked at.
	Leeway = 30 * time.Second
	// MaxTokenBytes is the longest token that is looked at.
	MaxTokenBytes = 8 << 10
	// DefaultMaxTTL bounds a token's life if its issuer's settings do not.
	DefaultMaxTTL = 24 * time.Hour

	// detailType is the type of our entries in authorization_details (RFC 9396).
	detailType = "https://fantail.dev/grant"
)

// issuer is one issuer of the file, compiled. Immutable, but for its keys.
type issuer struct {
	name     string
	hash     uint64 // of the name
	row      *row
	config   IssuerConfig
	keys     *keySet
	algs     []string
	header   string
	audience []string // empty: none is demanded
	require  Condition
	refuse   Condition

	projects      []string
	projectClaim  string
	projectPrefix string

	rules       []grantRule
	ceiling     grants
	believes    bool // the token's own entries count, up to the ceiling
	grantsClaim string
	idClaim     string
	maxTTL      time.Duration
	stay        time.Duration
}

// grantRule is a grant of the file, for tokens that a condition holds of.
type grantRule struct {
	when     Condition
	actions  Actions
	patterns []Pattern // may be templates
	names    []string
}

// parts are the three parts of a token, decoded but not verified.
type parts struct {
	header    map[string]any
	claims    Claims
	signed    string // what the signature is of
	signature []byte
}

// parseToken decodes a token's three parts.
func parseToken(token string) (p parts, no *Refusal) {
	if len(token) > MaxTokenBytes {
		return p, refuse(ReasonMalformed, "the token is longer than %d bytes", MaxTokenBytes)
	}
	pieces := strings.Split(token, ".")
	switch len(pieces) {
	case 3:
	case 5:
		return p, refuse(ReasonMalformed, "the token is encrypted (JWE): a signed one (JWT) is needed; with some providers that takes an audience")
	default:
		return p, refuse(ReasonMalformed, "the token is no JWT: it has %d parts and not 3", len(pieces))
	}
	if strings.ContainsAny(token, "\r\n") { // which the decoder would skip
		return p, refuse(ReasonMalformed, "the token has a line's end in it")
	}
	decoded := make([][]byte, 3)
	for i, piece := range pieces {
		b, err := base64.RawURLEncoding.Strict().DecodeString(piece)
		if err != nil {
			return p, refuse(ReasonMalformed, "part %d of the token is not base64url without padding", i+1)
		}
		decoded[i] = b
	}
	header, err := decodeObject(decoded[0])
	if err != nil {
		return p, refuse(ReasonMalformed, "the token's header: %s", err)
	}
	claims, err := decodeObject(decoded[1])
	if err != nil {
		return p, refuse(ReasonMalformed, "the token's payload: %s", err)
	}
	p = parts{header: header, claims: claims, signed: token[:len(pieces[0])+1+len(pieces[1])], signature: decoded[2]}
	return p, p.checkHeader()
}

// checkHeader refuses what a header must not have: parameters that name a key or change what
// is signed (RFC 7515), because the key is never the token's to choose.
func (p *parts) checkHeader() *Refusal {
	for _, name := range []string{"crit", "jwk", "jku", "x5u", "x5c", "b64"} {
		if _, ok := p.header[name]; ok {
			return refuse(ReasonMalformed, "the token's header has %q, which is not accepted", name)
		}
	}
	if _, ok := p.header["alg"].(string); !ok {
		return refuse(ReasonMalformed, "the token's header has no alg")
	}
	if kid, ok := p.header["kid"]; ok {
		if s, isString := kid.(string); !isString || len(s) > maxKeyIDBytes {
			return refuse(ReasonMalformed, "the token's kid is no string of at most %d bytes", maxKeyIDBytes)
		}
	}
	return nil
}

// checkType accepts the header's typ of a JWT, or none.
func (p *parts) checkType() *Refusal {
	typ, ok := p.header["typ"]
	if !ok {
		return nil
	}
	s, _ := typ.(string)
	switch strings.ToLower(s) {
	case "jwt", "at+jwt", "application/at+jwt":
		return nil
	}
	return refuse(ReasonWrongType, "the token's typ is %.64q: JWT or at+jwt is needed", fmt.Sprint(typ))
}

// checkAudience demands one of the issuer's audiences.
func (i *issuer) checkAudience(claims Claims) *Refusal {
	if len(i.audience) == 0 {
		return nil
	}
	wanted := make([]any, len(i.audience))
	for n, a := range i.audience {
		wanted[n] = a
	}
	if aud, ok := claims["aud"]; !ok || !hasValue(aud, wanted) {
		return refuse(ReasonWrongAudience, "the token's aud is %s: %s is needed", describe(aud, ok), strings.Join(i.audience, " or "))
	}
	return nil
}

func describe(claim any, ok bool) string {
	if !ok {
		return "absent"
	}
	return fmt.Sprintf("%.128q", fmt.Sprint(claim))
}

// checkConditions applies the issuer's require and refuse.
func (i *issuer) checkConditions(claims Claims) *Refusal {
	if name := i.require.missing(claims); name != "" {
		return refuse(ReasonNotAccepted, "the token's %s has none of the values that are required", name)
	}
	if name := i.refuse.present(claims); name != "" {
		return refuse(ReasonNotAccepted, "the token's %s has a value that is refused", name)
	}
	return nil
}

// times are a token's, in seconds since 1970; issued and notBefore are 0 where absent.
type times struct{ issued, notBefore, expires int64 }

func readTimes(claims Claims) (t times, no *Refusal) {
	exp, ok, err := claims.seconds("exp")
	if err == nil && !ok {
		return t, refuse(ReasonMalformed, "the token has no exp: one that never ends is not accepted")
	}
	if err == nil {
		t.issued, _, err = claims.seconds("iat")
	}
	if err == nil {
		t.notBefore, _, err = claims.seconds("nbf")
	}
	if err != nil {
		return t, refuse(ReasonMalformed, "the token's %s", err)
	}
	t.expires = exp
	return t, nil
}

// checkTimes compares a token's times with now, and its life with the issuer's bound.
func (i *issuer) checkTimes(t times, now time.Time) *Refusal {
	at, leeway, most := now.Unix(), int64(Leeway/time.Second), int64(math.Ceil(i.maxTTL.Seconds()))
	switch {
	case t.expires > at+most+leeway && t.issued == 0:
		return refuse(ReasonTooLongLived, "the token ends later than its issuer's tokens may here (%v), and has no iat that says since when it is good: have its issuer sign shorter ones, with iat", i.maxTTL)
	case t.issued != 0 && t.expires-t.issued > most:
		return refuse(ReasonTooLongLived, "the token lives longer than its issuer's tokens may here (%v)", i.maxTTL)
	case t.notBefore > at+leeway || t.issued > at+leeway:
		return refuse(ReasonNotYet, "the token is not good yet")
	case at >= t.expires+leeway:
		return refuse(ReasonExpired, "the token has expired")
	}
	return nil
}

// findKey returns the key that the token says it is signed by. It waits for the issuer's keys
// until ctx ends where they may have changed since the token was issued.
func (i *issuer) findKey(ctx context.Context, p *parts, t times, now time.Time) (*key, *Refusal) {
	alg, _ := p.header["alg"].(string)
	kid, _ := p.header["kid"].(string)
	if !slices.Contains(i.algs, alg) {
		return nil, refuse(ReasonBadSignature, "the token's alg %.32q is not one of the issuer's", alg)
	}
	if k := i.keys.candidate(kid, alg); k != nil {
		return k, nil
	}
	issued := now.Add(-issuedAhead)
	if t.issued != 0 {
		issued = time.Unix(t.issued, 0)
	}
	final, retry := i.keys.await(ctx, issued)
	if k := i.keys.candidate(kid, alg); k != nil {
		return k, nil
	}
	if final {
		return nil, refuse(ReasonUnknownKey, "the issuer has no key %.64q for %s", kid, alg)
	}
	return nil, &Refusal{Reason: ReasonKeysStale, Detail: "the issuer's keys cannot be fetched now", RetryAfter: retry}
}

// verify runs the checks of a token of this issuer, the cheapest first, and returns its principal.
func (i *issuer) verify(ctx context.Context, p *parts, env *environment) (*Principal, *Refusal) {
	now := env.now()
	for _, check := range []func() *Refusal{
		p.checkType,
		func() *Refusal { return i.checkAudience(p.claims) },
		func() *Refusal { return i.checkConditions(p.claims) },
	} {
		if no := check(); no != nil {
			return nil, no
		}
	}
	t, no := readTimes(p.claims)
	if no == nil {
		no = i.checkTimes(t, now)
	}
	if no != nil {
		return nil, no
	}
	k, no := i.findKey(ctx, p, t, now)
	if no != nil {
		return nil, no
	}
	alg, _ := p.header["alg"].(string)
	good, no := env.verify(ctx, k, alg, p)
	if no != nil {
		return nil, no
	}
	if !good {
		return nil, refuse(ReasonBadSignature, "the token's signature is not the key's")
	}
	return i.principal(p.claims, t, k)
}
