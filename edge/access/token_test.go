package access

import (
	"crypto"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"maps"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

// oneIssuer is a file with an issuer of each kind of key.
func oneIssuer(t testing.TB) string {
	k := testKeys()
	set := writeFile(t, "jwks.json", keySetOf(jwk("r", k.rsa), jwk("e", k.ec), jwk("d", k.ed)))
	secret := writeFile(t, "secret", []byte(testSecret+"\n"))
	return fmt.Sprintf(`
issuers:
  - iss: https://app.example
    keys: { jwks: "file://%s" }
    audience: [https://streams.example, other]
    require: { kind: [user, 7, true] }
    refuse: { banned: [true] }
    projects: [acme]
    grants: [ { actions: [read], streams: ["rooms/**"] } ]
  - iss: secret
    keys: { secret: %s, alg: HS256 }
    audience: [fantail]
    projects: [acme, beta]
    ceiling: [ { actions: [read, append], streams: ["rooms/**"] } ]
    grants_claim: may
projects:
  acme: { public: [ { actions: [read], names: [lobby] } ] }
`, set, secret)
}

func good(more map[string]any) map[string]any {
	c := about("https://app.example", "ada", map[string]any{"aud": "other", "kind": "user"})
	maps.Copy(c, more)
	for name, v := range c {
		if v == nil {
			delete(c, name)
		}
	}
	return c
}

// Each thing that can be wrong with a token is told by its own reason, and of several the one
// that a new token cannot mend.
func TestTokenIsRefusedForWhatIsWrong(t *testing.T) {
	t.Parallel()
	k := testKeys()
	v := verifierOf(t, oneIssuer(t), Config{})
	now := time.Now().Unix()
	rs := map[string]any{"alg": "RS256", "kid": "r"}
	with := func(more map[string]any) map[string]any {
		h := maps.Clone(rs)
		maps.Copy(h, more)
		return h
	}
	for name, row := range map[string]struct {
		header map[string]any
		claims map[string]any
		key    any
		want   Reason // empty: it is good
	}{
		"good":                       {rs, good(nil), k.rsa, ""},
		"another algorithm, too":     {map[string]any{"alg": "ES256", "kid": "e"}, good(nil), k.ec, ""},
		"EdDSA":                      {map[string]any{"alg": "EdDSA", "kid": "d"}, good(nil), k.ed, ""},
		"EdDSA by its newer name":    {map[string]any{"alg": "Ed25519", "kid": "d"}, good(nil), k.ed, ""},
		"no kid, one key that fits":  {map[string]any{"alg": "ES256"}, good(nil), k.ec, ""},
		"a condition by number":      {rs, good(map[string]any{"kind": 7}), k.rsa, ""},
		"a condition by boolean":     {rs, good(map[string]any{"kind": true}), k.rsa, ""},
		"a number as a string":       {rs, good(map[string]any{"kind": "7"}), k.rsa, ReasonNotAccepted},
		"one of an array":            {rs, good(map[string]any{"kind": []any{"x", "user"}}), k.rsa, ""},
		"no condition met":           {rs, good(map[string]any{"kind": nil}), k.rsa, ReasonNotAccepted},
		"a condition refused":        {rs, good(map[string]any{"banned": true}), k.rsa, ReasonNotAccepted},
		"no audience":                {rs, good(map[string]any{"aud": nil}), k.rsa, ReasonWrongAudience},
		"another audience":           {rs, good(map[string]any{"aud": []any{"x"}}), k.rsa, ReasonWrongAudience},
		"an audience in an object":   {rs, good(map[string]any{"aud": map[string]any{"other": 1}}), k.rsa, ReasonWrongAudience},
		"another issuer":             {rs, good(map[string]any{"iss": "https://evil.example"}), k.rsa, ReasonUnknownIssuer},
		"the issuer with a slash":    {rs, good(map[string]any{"iss": "https://app.example/"}), k.rsa, ReasonUnknownIssuer},
		"no issuer":                  {rs, good(map[string]any{"iss": nil}), k.rsa, ReasonUnknownIssuer},
		"an issuer that is a list":   {rs, good(map[string]any{"iss": []any{"https://app.example"}}), k.rsa, ReasonUnknownIssuer},
		"of another type":            {with(map[string]any{"typ": "dpop+jwt"}), good(nil), k.rsa, ReasonWrongType},
		"a type in capitals":         {with(map[string]any{"typ": "AT+JWT"}), good(nil), k.rsa, ""},
		"no exp":                     {rs, good(map[string]any{"exp": nil}), k.rsa, ReasonMalformed},
		"exp as a string":            {rs, good(map[string]any{"exp": fmt.Sprint(now + 60)}), k.rsa, ReasonMalformed},
		"exp beyond all":             {rs, good(map[string]any{"exp": json.Number("1e18")}), k.rsa, ReasonMalformed},
		"exp below zero":             {rs, good(map[string]any{"exp": -5}), k.rsa, ReasonMalformed},
		"long-lived":                 {rs, good(map[string]any{"exp": now + 86400 + 60}), k.rsa, ReasonTooLongLived},
		"long-lived without iat":     {rs, good(map[string]any{"exp": now + 86400 + 60, "iat": nil}), k.rsa, ReasonTooLongLived},
		"expired":                    {rs, good(map[string]any{"iat": now - 100, "exp": now - 31}), k.rsa, ReasonExpired},
		"expired within the leeway":  {rs, good(map[string]any{"iat": now - 100, "exp": now - 20}), k.rsa, ""},
		"not yet":                    {rs, good(map[string]any{"nbf": now + 40}), k.rsa, ReasonNotYet},
		"issued in the future":       {rs, good(map[string]any{"iat": now + 40}), k.rsa, ReasonNotYet},
		"not accepted and expired":   {rs, good(map[string]any{"kind": "bot", "iat": now - 100, "exp": now - 50}), k.rsa, ReasonNotAccepted},
		"signed by another key":      {rs, good(nil), k.rsa2, ReasonBadSignature},
		"another kind of signature":  {map[string]any{"alg": "ES256", "kid": "r"}, good(nil), k.ec, ReasonKeysStale},
		"alg none":                   {map[string]any{"alg": "none", "kid": "r"}, good(nil), "", ReasonBadSignature},
		"the public key as a secret": {map[string]any{"alg": "HS256", "kid": "r"}, good(nil), "x", ReasonBadSignature},
		"an algorithm of another":    {map[string]any{"alg": "PS256", "kid": "r"}, good(nil), k.rsa, ReasonBadSignature},
		"a key of its own":           {with(map[string]any{"jwk": jwk("r", k.rsa2)}), good(nil), k.rsa2, ReasonMalformed},
		"a key's address":            {with(map[string]any{"jku": "https://evil.example"}), good(nil), k.rsa, ReasonMalformed},
		"crit":                       {with(map[string]any{"crit": []any{"exp"}}), good(nil), k.rsa, ReasonMalformed},
		"a kid that is a number":     {map[string]any{"alg": "RS256", "kid": 1}, good(nil), k.rsa, ReasonMalformed},
		"no alg":                     {map[string]any{"kid": "r"}, good(nil), k.rsa, ReasonMalformed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			_, no := v.Verify(t.Context(), signToken(t, row.header, row.claims, row.key))
			got := Reason("")
			if no != nil {
				got = no.Reason
			}
			if got != row.want {
				t.Errorf("%v, want %q", no, row.want)
			}
		})
	}
}

// What is no token at all is malformed, and nothing of it is believed.
func TestMalformedTokens(t *testing.T) {
	t.Parallel()
	v := verifierOf(t, oneIssuer(t), Config{})
	token := signToken(t, map[string]any{"alg": "RS256", "kid": "r"}, good(nil), testKeys().rsa)
	pieces := strings.Split(token, ".")
	for name, bad := range map[string]string{
		"nothing":         "",
		"a word":          "secret",
		"encrypted":       "a.b.c.d.e",
		"padded":          token + "=",
		"spaces":          " " + token,
		"another base64":  strings.ReplaceAll(pieces[0], "-", "+") + "+." + pieces[1] + "." + pieces[2],
		"bits left over":  pieces[0] + "." + pieces[1] + "." + pieces[2][:len(pieces[2])-1] + "B",
		"an empty header": "." + pieces[1] + "." + pieces[2],
		"too long":        token + strings.Repeat("A", MaxTokenBytes),
		"doubled members": signRaw(t, []byte(`{"alg":"RS256","kid":"r"}`), []byte(`{"iss":"https://app.example","iss":"x"}`), testKeys().rsa),
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if _, no := v.Verify(t.Context(), bad); no == nil || no.Reason != ReasonMalformed && no.Reason != ReasonBadSignature {
				t.Errorf("%v", no)
			}
		})
	}
}

// A token's own grants count up to the ceiling of its issuer, and not at all without one.
func TestTokensOwnGrantsCountUpToTheCeiling(t *testing.T) {
	t.Parallel()
	v := verifierOf(t, oneIssuer(t), Config{})
	entry := func(more map[string]any) map[string]any {
		e := map[string]any{"type": detailType, "project": "acme", "actions": []any{"read", "write", "delete", "dance"}, "streams": []any{"rooms/1/**", "x/**"}}
		maps.Copy(e, more)
		for name, v := range e {
			if v == nil {
				delete(e, name)
			}
		}
		return e
	}
	token := func(claims map[string]any) string {
		return signToken(t, map[string]any{"alg": "HS256"}, about("secret", "svc", mergeMaps(map[string]any{"aud": "fantail"}, claims)), testSecret)
	}
	p, no := v.Verify(t.Context(), token(map[string]any{"authorization_details": []any{entry(nil), map[string]any{"type": "https://other.example"}}}))
	if no != nil {
		t.Fatal(no)
	}
	for _, a := range []struct {
		do   Actions
		name string
		want bool
	}{
		{Read, "rooms/1/a", true},
		{Append, "rooms/1/a", true},
		{Delete, "rooms/1/a", false},
		{Read, "rooms/2", false},
		{Read, "x/1", false},
		{Append | Close, "rooms/1/a", false},
	} {
		if got := p.Allows(a.do, "acme", a.name); got != a.want {
			t.Errorf("%v of %s: %v", a.do, a.name, got)
		}
	}
	if p.Allows(Read, "beta", "rooms/1/a") {
		t.Error("a grant of one project holds in another")
	}
	for name, bad := range map[string]any{
		"a member of tomorrow":        []any{entry(map[string]any{"until": "noon"})},
		"no project of several":       []any{entry(map[string]any{"project": nil})},
		"a project of somebody else":  []any{entry(map[string]any{"project": "gamma"})},
		"a pattern that is malformed": []any{entry(map[string]any{"streams": []any{"a//b"}})},
		"streams that are no list":    []any{entry(map[string]any{"streams": "rooms/**"})},
		"an entry that is a string":   []any{"rooms/**"},
		"no array":                    entry(nil),
		"too many":                    repeat(map[string]any{"project": "acme"}, 65),
		"too many patterns":           []any{entry(map[string]any{"streams": repeat("a", 129)})},
		"the server's own":            []any{entry(map[string]any{"names": []any{"__ds/x"}})},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			for _, claim := range []string{"authorization_details", "may"} {
				if name == "too many" && claim != "may" {
					continue // without a type they are another service's
				}
				if _, no := v.Verify(t.Context(), token(map[string]any{claim: bad})); no == nil || no.Reason != ReasonBadGrants {
					t.Errorf("%s: %v", claim, no)
				}
			}
		})
	}
	// Located elsewhere, an entry is another service's.
	p, no = v.Verify(t.Context(), token(map[string]any{"may": []any{entry(map[string]any{"locations": []any{"elsewhere"}})}}))
	if no != nil || p.Allows(Read, "acme", "rooms/1/a") {
		t.Errorf("%v %+v", no, p)
	}
	// An issuer without a ceiling: the token's word counts for nothing.
	p, no = v.Verify(t.Context(), signToken(t, map[string]any{"alg": "RS256", "kid": "r"}, good(map[string]any{"authorization_details": []any{entry(nil)}}), testKeys().rsa))
	if no != nil || p.Allows(Append, "acme", "rooms/1/a") || !p.Allows(Read, "acme", "rooms/1/a") {
		t.Errorf("%v %+v", no, p)
	}
}

func mergeMaps(a, b map[string]any) map[string]any {
	a = maps.Clone(a)
	maps.Copy(a, b)
	return a
}

func repeat(v any, n int) (all []any) {
	for range n {
		all = append(all, v)
	}
	return all
}

// countingObserver counts verifications.
type countingObserver struct {
	noObserver
	verified *atomic.Int64
}

func (o countingObserver) Verified(string, Reason) { o.verified.Add(1) }

// A storm of requests with one token costs one verification; its time is looked at each time.
func TestTokenIsVerifiedOnce(t *testing.T) {
	t.Parallel()
	file := oneIssuer(t)
	var verified atomic.Int64
	var clock atomic.Int64
	clock.Store(time.Now().Unix())
	v := verifierOf(t, file, Config{
		Now:      func() time.Time { return time.Unix(clock.Load(), 0) },
		Observer: countingObserver{verified: &verified},
	})
	now := clock.Load() // and not the present second, which may be the next one
	token := signToken(t, map[string]any{"alg": "RS256", "kid": "r"}, good(map[string]any{"iat": now, "exp": now + 3600}), testKeys().rsa)
	var wg sync.WaitGroup
	for range 64 {
		wg.Go(func() {
			for range 300 {
				if _, no := v.Verify(t.Context(), token); no != nil {
					t.Error(no)
					return
				}
			}
		})
	}
	wg.Wait()
	if n := verified.Load(); n != 1 {
		t.Errorf("%d verifications", n)
	}
	clock.Add(3600 + 29)
	if _, no := v.Verify(t.Context(), token); no != nil {
		t.Errorf("within the leeway: %v", no)
	}
	clock.Add(1)
	if _, no := v.Verify(t.Context(), token); no == nil || no.Reason != ReasonExpired {
		t.Errorf("after it: %v", no)
	}
}

// Junk with a configured issuer is refused by its claims, before any key is asked for.
func TestJunkAsksForNoKeys(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		s := &lyingServer{set: keySetOf(jwk("r", testKeys().rsa))}
		keys := newFetchedKeys("i", s.get, fetchEvery, newEnvironment(Config{}))
		i := &issuer{name: "i", keys: keys, algs: rsaAlgs, audience: []string{"a"}, maxTTL: DefaultMaxTTL}
		p := &parts{header: map[string]any{"alg": "RS256", "kid": "junk"}, claims: Claims{"aud": "b", "exp": json.Number("1")}}
		if _, no := i.verify(t.Context(), p, newEnvironment(Config{})); no == nil || no.Reason != ReasonWrongAudience {
			t.Error(no)
		}
		if s.fetches() != 0 {
			t.Errorf("%d fetches", s.fetches())
		}
	})
}

// A key verifies by its own algorithms alone, whatever it could.
func TestKeyVerifiesByItsAlgorithm(t *testing.T) {
	t.Parallel()
	k := testKeys()
	rs, err := newKey("r", "RS256", &k.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256([]byte("text"))
	pss, err := rsa.SignPSS(rand.Reader, k.rsa, crypto.SHA256, sum[:], &rsa.PSSOptions{SaltLength: rsa.PSSSaltLengthEqualsHash})
	if err != nil {
		t.Fatal(err)
	}
	free, err := newKey("r", "", &k.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	if !free.verify("PS256", "text", pss) || rs.verify("PS256", "text", pss) {
		t.Error("a key verifies by an algorithm that is not its own, or not by its own")
	}
}
