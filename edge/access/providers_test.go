package access

import (
	"fmt"
	"maps"
	"testing"
	"time"
)

// Tokens of seven identity providers, as they come: the claims, header and lifetime that
// each one's documentation shows, and the configuration that README gives for it.
func TestProvidersTokensWorkAsTheyAre(t *testing.T) {
	t.Parallel()
	k := testKeys()
	now := time.Now().Unix()
	type request struct {
		do      Actions
		project string
		name    string
		want    bool
	}
	for name, row := range map[string]struct {
		file    string // %s: the key set's file
		header  map[string]any
		claims  map[string]any
		key     any
		set     map[string]any
		asks    []request
		refused map[string]any // claims that make it another token, which is refused
		why     Reason
	}{
		"Supabase": {
			file: `
issuers:
  - iss: https://ref.supabase.co/auth/v1
    keys: { jwks: "file://%s" }
    audience: [authenticated]
    refuse: { is_anonymous: [true] }
    id_claim: session_id
    projects: [app]
    grants: [ { actions: [read, append], streams: ["users/{sub}/**"] } ]`,
			header: map[string]any{"alg": "ES256", "kid": "s1", "typ": "JWT"}, key: k.ec, set: jwk("s1", k.ec, "alg", "ES256"),
			claims: map[string]any{
				"iss": "https://ref.supabase.co/auth/v1", "aud": "authenticated", "sub": "8a5f", "role": "authenticated", "aal": "aal1",
				"session_id": "s-1", "email": "a@example.com", "is_anonymous": false, "user_metadata": map[string]any{"name": "A"},
				"app_metadata": map[string]any{"provider": "email", "providers": []any{"email"}}, "iat": now, "exp": now + 3600,
			},
			asks: []request{
				{Read, "app", "users/8a5f/notes", true},
				{Append, "app", "users/8a5f", true},
				{Read, "app", "users/8a5g/notes", false},
				{Delete, "app", "users/8a5f/notes", false},
				{Read, "default", "users/8a5f/notes", false},
			},
			refused: map[string]any{"is_anonymous": true}, why: ReasonNotAccepted,
		},
		"Auth0": {
			file: `
issuers:
  - iss: https://tenant.eu.auth0.com/
    keys: { jwks: "file://%s" }
    audience: [https://streams.example]
    projects: [app]
    grants:
      - { when: { permissions: ["write:docs"] }, actions: [write], streams: ["docs/**"] }
      - { when: { "https://app.example/roles": [reader] }, actions: [read], streams: ["docs/**"] }`,
			header: map[string]any{"alg": "RS256", "kid": "a1", "typ": "at+jwt"}, key: k.rsa, set: jwk("a1", k.rsa, "alg", "RS256"),
			claims: map[string]any{
				"iss": "https://tenant.eu.auth0.com/", "aud": []any{"https://streams.example", "https://tenant.eu.auth0.com/userinfo"},
				"sub": "auth0|5f7c", "scope": "openid", "azp": "client", "permissions": []any{"read:docs", "write:docs"},
				"https://app.example/roles": []any{"reader"}, "iat": now, "exp": now + 86400,
			},
			asks:    []request{{Create, "app", "docs/a", true}, {Read, "app", "docs/a", true}, {Delete, "app", "docs/a", false}},
			refused: map[string]any{"aud": "https://tenant.eu.auth0.com/userinfo"}, why: ReasonWrongAudience,
		},
		"Clerk": {
			file: `
issuers:
  - iss: https://clerk.app.example
    keys: { jwks: "file://%s" }
    audience: none
    require: { azp: [https://app.example] }
    refuse: { sts: [pending] }
    id_claim: sid
    stay: 10m
    projects: [chat]
    grants: [ { actions: [read, append], streams: ["orgs/{claim:/o/id}/**"] } ]`,
			header: map[string]any{"alg": "RS256", "kid": "ins_1", "typ": "JWT", "cat": "cl_B7d4"}, key: k.rsa, set: jwk("ins_1", k.rsa),
			claims: map[string]any{
				"iss": "https://clerk.app.example", "azp": "https://app.example", "sub": "user_1", "sid": "sess_1", "v": 2,
				"o": map[string]any{"id": "org_1", "slg": "acme", "rol": "admin"}, "iat": now, "nbf": now - 10, "exp": now + 60,
			},
			asks:    []request{{Read, "chat", "orgs/org_1/room", true}, {Read, "chat", "orgs/org_2/room", false}},
			refused: map[string]any{"sts": "pending"}, why: ReasonNotAccepted,
		},
		"Keycloak": {
			file: `
issuers:
  - iss: https://id.example/realms/shop
    keys: { jwks: "file://%s" }
    audience: [fantail]
    require: { typ: [Bearer] }
    projects: [shop]
    grants:
      - { when: { /realm_access/roles: [editor] }, actions: [write, read, delete], streams: ["docs/**"] }
      - { actions: [read], streams: ["docs/public/**"] }`,
			header: map[string]any{"alg": "RS256", "kid": "k1", "typ": "JWT"}, key: k.rsa, set: jwk("k1", k.rsa, "alg", "RS256"),
			claims: map[string]any{
				"iss": "https://id.example/realms/shop", "aud": []any{"fantail", "account"}, "typ": "Bearer", "azp": "web", "sub": "f3",
				"sid": "x", "jti": "y", "realm_access": map[string]any{"roles": []any{"default-roles-shop", "editor"}},
				"resource_access": map[string]any{"account": map[string]any{"roles": []any{"view-profile"}}}, "iat": now, "exp": now + 300,
			},
			asks:    []request{{Delete, "shop", "docs/a", true}, {Read, "shop", "docs/public/a", true}, {Read, "shop", "a", false}},
			refused: map[string]any{"typ": "ID"}, why: ReasonNotAccepted,
		},
		"Firebase": {
			file: `
issuers:
  - iss: https://securetoken.google.com/pid
    keys: { jwks: "file://%s" }
    audience: [pid]
    refuse: { /firebase/sign_in_provider: [anonymous] }
    projects: [app]
    grants:
      - { actions: [read], streams: ["users/{sub}/**"] }
      - { when: { editor: [true] }, actions: [write], streams: ["users/{sub}/**"] }`,
			header: map[string]any{"alg": "RS256", "kid": "f1", "typ": "JWT"}, key: k.rsa, set: jwk("f1", k.rsa, "alg", "RS256"),
			claims: map[string]any{
				"iss": "https://securetoken.google.com/pid", "aud": "pid", "sub": "uid1", "user_id": "uid1", "auth_time": now - 5, "editor": true,
				"firebase": map[string]any{"sign_in_provider": "google.com", "identities": map[string]any{}}, "iat": now, "exp": now + 3600,
			},
			asks:    []request{{Append, "app", "users/uid1/a", true}, {Append, "app", "users/uid2/a", false}},
			refused: map[string]any{"firebase": map[string]any{"sign_in_provider": "anonymous"}}, why: ReasonNotAccepted,
		},
		"Cognito": {
			file: `
issuers:
  - iss: https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_pool
    keys: { jwks: "file://%s" }
    audience: none
    require: { token_use: [access], client_id: [client1] }
    id_claim: origin_jti
    projects: [app]
    grants: [ { when: { "cognito:groups": [staff] }, actions: ["*"], streams: ["**"] } ]`,
			header: map[string]any{"alg": "RS256", "kid": "c1"}, key: k.rsa, set: jwk("c1", k.rsa, "alg", "RS256"),
			claims: map[string]any{
				"iss": "https://cognito-idp.eu-central-1.amazonaws.com/eu-central-1_pool", "client_id": "client1", "token_use": "access",
				"sub": "aaaa", "cognito:groups": []any{"staff"}, "origin_jti": "o", "jti": "j", "username": "a", "iat": now, "exp": now + 3600,
			},
			asks:    []request{{Delete | List, "app", "x", true}},
			refused: map[string]any{"token_use": "id"}, why: ReasonNotAccepted,
		},
		"Kubernetes": {
			file: `
issuers:
  - iss: https://kubernetes.default.svc
    keys: { jwks: "file://%s" }
    audience: [fantail]
    projects: [shop]
    grants:
      - { when: { sub: ["system:serviceaccount:shop:orders"] }, actions: [write, read], streams: ["orders/**"] }`,
			header: map[string]any{"alg": "RS256", "kid": "kube"}, key: k.rsa, set: jwk("kube", k.rsa, "alg", "RS256"),
			claims: map[string]any{
				"iss": "https://kubernetes.default.svc", "aud": []any{"fantail"}, "sub": "system:serviceaccount:shop:orders", "jti": "j",
				"kubernetes.io": map[string]any{"namespace": "shop", "serviceaccount": map[string]any{"name": "orders", "uid": "u"}},
				"iat":           now, "nbf": now, "exp": now + 3607,
			},
			asks:    []request{{Append, "shop", "orders/1", true}, {Append, "shop", "carts/1", false}},
			refused: map[string]any{"exp": now + 365*86400}, why: ReasonTooLongLived,
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			set := writeFile(t, "jwks.json", keySetOf(row.set))
			v := verifierOf(t, fmt.Sprintf(row.file, set), Config{})
			p, no := v.Verify(t.Context(), signToken(t, row.header, row.claims, row.key))
			if no != nil {
				t.Fatal(no)
			}
			for _, a := range row.asks {
				if got := p.Allows(a.do, a.project, a.name); got != a.want {
					t.Errorf("%v of %s/%s: %v", a.do, a.project, a.name, got)
				}
			}
			other := maps.Clone(row.claims)
			maps.Copy(other, row.refused)
			if _, no := v.Verify(t.Context(), signToken(t, row.header, other, row.key)); no == nil || no.Reason != row.why {
				t.Errorf("with %v: %v", row.refused, no)
			}
		})
	}
}
