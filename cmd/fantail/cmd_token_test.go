package main

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/rsa"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"log/slog"
	"maps"
	"math/big"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// console holds what a command reads and writes in a test.
type console struct {
	in       strings.Reader
	out, err bytes.Buffer
}

func (c *console) stdio() stdio { return stdio{&c.in, &c.out, &c.err} }

func typed(text string) *console {
	c := &console{}
	c.in.Reset(text)
	return c
}

var quietLog = slog.New(slog.DiscardHandler)

// writeTestFile writes a file of the test's own and returns its path.
func writeTestFile(t *testing.T, name, text string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), name)
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

var recipeKeys = sync.OnceValue(func() (k struct {
	rsa *rsa.PrivateKey
	ec  *ecdsa.PrivateKey
},
) {
	k.rsa, _ = rsa.GenerateKey(rand.Reader, 2048)
	k.ec, _ = ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	return k
})

// signByHand makes a token by the standard library alone, and the key set that verifies it.
func signByHand(t *testing.T, header, claims map[string]any) (token, set string) {
	t.Helper()
	b64 := base64.RawURLEncoding.EncodeToString
	h, err := json.Marshal(header)
	if err != nil {
		t.Fatal(err)
	}
	c, err := json.Marshal(claims)
	if err != nil {
		t.Fatal(err)
	}
	signed := b64(h) + "." + b64(c)
	sum := sha256.Sum256([]byte(signed))
	k := recipeKeys()
	jwk := map[string]any{"kid": header["kid"], "use": "sig"}
	var sig []byte
	if header["alg"] == "ES256" {
		r, s, err := ecdsa.Sign(rand.Reader, k.ec, sum[:])
		if err != nil {
			t.Fatal(err)
		}
		sig = append(r.FillBytes(make([]byte, 32)), s.FillBytes(make([]byte, 32))...)
		point, err := k.ec.PublicKey.Bytes()
		if err != nil {
			t.Fatal(err)
		}
		maps.Copy(jwk, map[string]any{"kty": "EC", "crv": "P-256", "x": b64(point[1:33]), "y": b64(point[33:])})
	} else {
		if sig, err = rsa.SignPKCS1v15(rand.Reader, k.rsa, crypto.SHA256, sum[:]); err != nil {
			t.Fatal(err)
		}
		maps.Copy(jwk, map[string]any{"kty": "RSA", "n": b64(k.rsa.N.Bytes()), "e": b64(big.NewInt(int64(k.rsa.E)).Bytes())})
	}
	b, err := json.Marshal(map[string]any{"keys": []any{jwk}})
	if err != nil {
		t.Fatal(err)
	}
	return signed + "." + b64(sig), writeTestFile(t, "jwks.json", string(b))
}

// Each recipe of an identity provider explains that provider's token as good, says what it grants,
// and prints nothing of its signature.
func TestTokenExplainKnowsTheRecipes(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("../../edge/access/testdata/recipes/*.yaml")
	if err != nil || len(files) != 8 {
		t.Fatal(files, err)
	}
	for _, file := range files {
		t.Run(filepath.Base(file), func(t *testing.T) {
			t.Parallel()
			rights, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			b, err := os.ReadFile(strings.TrimSuffix(file, "yaml") + "json")
			if err != nil {
				t.Fatal(err)
			}
			var r struct {
				Header, Claims map[string]any
				May            []string
				MayNot         []string `json:"may_not"`
				Refused        map[string]any
				Reason         string
			}
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
			claims := timesFromNow(r.Claims)
			token, set := signByHand(t, r.Header, claims)
			text := regexp.MustCompile(`(?m)^      jwks: .*$`).ReplaceAllString(string(rights), "      jwks: file://"+set)
			auth := writeTestFile(t, "auth.yaml", text)
			for want, all := range map[int][]string{0: r.May, exitNotAllowed: r.MayNot} {
				for _, a := range all {
					do, stream, _ := strings.Cut(a, " ")
					c := typed(token + "\n")
					err := (&explainCmd{Auth: auth, Do: strings.Split(do, ","), Stream: stream}).run(t.Context(), c.stdio(), quietLog)
					expectExit(t, a, err, want)
					if out := c.out.String(); !strings.HasPrefix(out, "token     good\n") || strings.Contains(out, token[len(token)-20:]) {
						t.Errorf("%s: %s", a, out)
					}
				}
			}
			maps.Copy(claims, timesFromNow(r.Refused))
			other, _ := signByHand(t, r.Header, claims)
			c := typed("Authorization: Bearer " + other)
			expectExit(t, "another token", (&explainCmd{Auth: auth}).run(t.Context(), c.stdio(), quietLog), exitTokenRefused)
			if !strings.HasPrefix(c.out.String(), "token     not good: "+r.Reason) {
				t.Error(c.out.String())
			}
			c = typed("")
			if err := (&checkCmd{Auth: auth}).run(t.Context(), c.stdio(), quietLog); err != nil || !strings.Contains(c.out.String(), "the file is good") {
				t.Error(err, c.out.String())
			}
		})
	}
}

func timesFromNow(claims map[string]any) map[string]any {
	c := maps.Clone(claims)
	for _, name := range []string{"iat", "nbf", "exp", "auth_time"} {
		if ahead, ok := c[name].(float64); ok {
			c[name] = time.Now().Unix() + int64(ahead)
		}
	}
	return c
}

func expectExit(t *testing.T, of string, err error, want int) {
	t.Helper()
	got := 0
	if err != nil {
		got = exitCode(err)
	}
	if got != want {
		t.Errorf("%s: exit code %d (%v), want %d", of, got, err, want)
	}
}

const testAuthSecret = "a secret of more than thirty-two bytes"

// secretAuth is a file of rights whose issuer has a secret.
func secretAuth(t *testing.T) (auth, secret string) {
	secret = writeTestFile(t, "secret", testAuthSecret+"\n")
	return writeTestFile(t, "auth.yaml", `
issuers:
  - iss: back
    keys: { secret: "`+secret+`", alg: HS256 }
    audience: [fantail]
    projects: [acme]
    grants: [ { actions: [read], streams: ["users/{sub}/**"] } ]
    ceiling: [ { actions: [read, append], streams: ["rooms/**"] } ]
`), secret
}

// A minted token is good for what it was minted for, up to the ceiling.
func TestTokenMint(t *testing.T) {
	t.Parallel()
	auth, secret := secretAuth(t)
	claims := writeTestFile(t, "claims.json", `{"role":"x","exp":1,"n":12345678901234567890}`)
	mint := &mintCmd{
		Key: "-", Issuer: "back", Subject: "ada", Aud: []string{"fantail"}, TTL: time.Minute, Claims: claims,
		Grant: []string{"read,append,delete:rooms/1/**"}, Names: []string{"read:rooms/*"},
	}
	c := typed(testAuthSecret)
	if err := mint.run(c.stdio(), time.Now()); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(c.out.String())
	if payload, err := base64.RawURLEncoding.DecodeString(strings.Split(token, ".")[1]); err != nil || !bytes.Contains(payload, []byte("12345678901234567890")) {
		t.Errorf("%s %v", payload, err)
	}
	for a, want := range map[string]int{
		"read acme/rooms/1/a": 0, "append acme/rooms/1/a": 0, "read acme/users/ada/x": 0,
		"delete acme/rooms/1/a": exitNotAllowed, "read acme/rooms/2": exitNotAllowed, "read other/x": exitNotAllowed,
	} {
		do, stream, _ := strings.Cut(a, " ")
		expectExit(t, a, (&explainCmd{Auth: auth, Do: []string{do}, Stream: stream}).run(t.Context(), typed(token).stdio(), quietLog), want)
	}
	c = typed(token)
	if err := (&explainCmd{Auth: auth, JSON: true}).run(t.Context(), c.stdio(), quietLog); err != nil {
		t.Fatal(err)
	}
	var told struct {
		Good    bool
		Subject string
		Rights  []access.ProjectRights
	}
	if err := json.Unmarshal(c.out.Bytes(), &told); err != nil || !told.Good || told.Subject != "ada" || len(told.Rights) != 1 || len(told.Rights[0].Grants) != 3 {
		t.Errorf("%v %s", err, c.out.String())
	}
	for name, bad := range map[string]*mintCmd{
		"a short secret":      {Key: writeTestFile(t, "short", "short"), Issuer: "back", TTL: time.Minute},
		"no key":              {Key: "/nonexistent", Issuer: "back", TTL: time.Minute},
		"another algorithm":   {Key: secret, Alg: "ES256", Issuer: "back", TTL: time.Minute},
		"no time":             {Key: secret, Issuer: "back"},
		"an unknown action":   {Key: secret, Issuer: "back", TTL: time.Minute, Grant: []string{"dance:x"}},
		"a grant of no form":  {Key: secret, Issuer: "back", TTL: time.Minute, Grant: []string{"rooms"}},
		"a malformed pattern": {Key: secret, Issuer: "back", TTL: time.Minute, Grant: []string{"read:/x"}},
		"the server's own":    {Key: secret, Issuer: "back", TTL: time.Minute, Names: []string{"read:__ds/x"}},
		"claims of no form":   {Key: secret, Issuer: "back", TTL: time.Minute, Claims: secret},
		"a token too long":    {Key: secret, Issuer: "back", TTL: time.Minute, Subject: strings.Repeat("a", 9000)},
	} {
		c := typed("")
		if err := bad.run(c.stdio(), time.Now()); err == nil || c.out.Len() > 0 || strings.Contains(err.Error(), testAuthSecret) {
			t.Errorf("%s: %v, %s", name, err, c.out.String())
		}
	}
}

// Tokens are minted by each kind of private key, and not by a public one.
func TestTokenMintByPrivateKeys(t *testing.T) {
	t.Parallel()
	k := recipeKeys()
	pkcs8, err := x509.MarshalPKCS8PrivateKey(k.ec)
	if err != nil {
		t.Fatal(err)
	}
	sec1, err := x509.MarshalECPrivateKey(k.ec)
	if err != nil {
		t.Fatal(err)
	}
	ecPublic, err := x509.MarshalPKIXPublicKey(&k.ec.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	rsaPublic, err := x509.MarshalPKIXPublicKey(&k.rsa.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	file := func(kind string, der []byte) string {
		return writeTestFile(t, "key.pem", string(pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})))
	}
	for name, row := range map[string]struct{ key, public string }{
		"PKCS 8": {file("PRIVATE KEY", pkcs8), file("PUBLIC KEY", ecPublic)},
		"SEC 1":  {file("EC PRIVATE KEY", sec1), file("PUBLIC KEY", ecPublic)},
		"PKCS 1": {file("RSA PRIVATE KEY", x509.MarshalPKCS1PrivateKey(k.rsa)), file("PUBLIC KEY", rsaPublic)},
		"public": {file("PUBLIC KEY", ecPublic), ""},
	} {
		c := typed("")
		err := (&mintCmd{Key: row.key, KID: "k", Issuer: "back", Aud: []string{"fantail"}, TTL: time.Minute}).run(c.stdio(), time.Now())
		if (err == nil) != (row.public != "") {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil {
			continue
		}
		auth := writeTestFile(t, "auth.yaml", "issuers:\n  - iss: back\n    keys: [ { pem: \""+row.public+"\", kid: k } ]\n    audience: [fantail]\n    projects: [acme]\n")
		expectExit(t, name, (&explainCmd{Auth: auth}).run(t.Context(), typed(c.out.String()).stdio(), quietLog), 0)
	}
}

// What is no token, or no file, has its own exit code.
func TestTokenExplainTellsErrorsApart(t *testing.T) {
	t.Parallel()
	auth, _ := secretAuth(t)
	for name, row := range map[string]struct {
		cmd  explainCmd
		in   string
		want int
	}{
		"no token":           {explainCmd{Auth: auth}, "hello", exitTokenRefused},
		"a JWE":              {explainCmd{Auth: auth}, "a.b.c.d.e", exitTokenRefused},
		"nothing":            {explainCmd{Auth: auth}, "\n", 1},
		"too much":           {explainCmd{Auth: auth}, strings.Repeat("a", maxInput+1), 1},
		"no file":            {explainCmd{Auth: "/nonexistent"}, "x", 1},
		"a file that is not": {explainCmd{Auth: writeTestFile(t, "auth.yaml", "issuers: [")}, "x", 1},
		"an empty setting":   {explainCmd{}, "x", 1},
		"an action alone":    {explainCmd{Auth: auth, Do: []string{"read"}}, "x", 1},
		"a stream alone":     {explainCmd{Auth: auth, Stream: "acme/x"}, "x", 1},
		"no project":         {explainCmd{Auth: auth, Stream: "acme", Do: []string{"read"}}, "x", 1},
		"an unknown action":  {explainCmd{Auth: auth, Stream: "acme/x", Do: []string{"dance"}}, "x", 1},
	} {
		expectExit(t, name, row.cmd.run(t.Context(), typed(row.in).stdio(), quietLog), row.want)
	}
	// A token's values cannot move the cursor of a terminal.
	token, _ := signByHand(t, map[string]any{"alg": "RS256", "kid": "\x1b[2J"}, map[string]any{"iss": "\x1b]0;x\a", "sub": "a\nb", "exp": 5})
	c := typed(token)
	_ = (&explainCmd{Auth: auth}).run(t.Context(), c.stdio(), quietLog)
	if strings.ContainsAny(c.out.String(), "\x1b\a") || !strings.Contains(c.out.String(), `"a\nb"`) {
		t.Errorf("%q", c.out.String())
	}
}

// An admin token goes to standard output alone, and its sum into the file.
func TestTokenAdmin(t *testing.T) {
	t.Parallel()
	c := typed("")
	if err := (&adminCmd{Name: "ada"}).run(c.stdio()); err != nil {
		t.Fatal(err)
	}
	token := strings.TrimSpace(c.out.String())
	sum := sha256.Sum256([]byte(token))
	if !regexp.MustCompile(`^fta_[A-Za-z0-9_-]{43}$`).MatchString(token) || strings.Contains(c.err.String(), token) || !strings.Contains(c.err.String(), hex.EncodeToString(sum[:])) {
		t.Errorf("%q %q", token, c.err.String())
	}
	_, lines, _ := strings.Cut(c.err.String(), "\n\n")
	out := typed("")
	if err := (&checkCmd{Auth: writeTestFile(t, "auth.yaml", lines), Offline: true}).run(t.Context(), out.stdio(), quietLog); err != nil {
		t.Errorf("the lines for the file are not good: %v\n%s", err, lines)
	}
}

// The vector of the documentation, and what sign refuses.
func TestSign(t *testing.T) {
	t.Parallel()
	const secret = "correct-horse-battery-staple-0123456789"
	c := typed(secret + "\n")
	sign := &signCmd{Stream: "acme/chat/room 1/é", Key: "-", KID: "k1", TTL: time.Hour, URL: "https://streams.example/v1/stream/"}
	if err := sign.run(c.stdio(), time.Unix(1767225600-3600, 0)); err != nil {
		t.Fatal(err)
	}
	want := "https://streams.example/v1/stream/acme/chat/room%201/%C3%A9?x-exp=1767225600&x-kid=k1&x-sig=MngUFq_tam1W5gCAYEpwPsEBRTOtdMelATeLaKxkDV4\n"
	if c.out.String() != want {
		t.Errorf("%s want %s", c.out.String(), want)
	}
	if u, err := url.Parse(strings.TrimSpace(c.out.String())); err != nil || u.Path != "/v1/stream/acme/chat/room 1/é" {
		t.Error(u, err)
	}
	key := writeTestFile(t, "key", secret)
	for name, bad := range map[string]*signCmd{
		"no project":     {Stream: "room", Key: key, KID: "k1", TTL: time.Hour},
		"two days":       {Stream: "acme/room", Key: key, KID: "k1", TTL: 48 * time.Hour},
		"no time":        {Stream: "acme/room", Key: key, KID: "k1"},
		"a short secret": {Stream: "acme/room", Key: writeTestFile(t, "short", "short"), KID: "k1", TTL: time.Hour},
		"no secret":      {Stream: "acme/room", Key: "/nonexistent", KID: "k1", TTL: time.Hour},
		"a bad URL":      {Stream: "acme/room", Key: key, KID: "k1", TTL: time.Hour, URL: "streams.example"},
	} {
		c := typed("")
		if err := bad.run(c.stdio(), time.Now()); err == nil || c.out.Len() > 0 {
			t.Errorf("%s: %v %s", name, err, c.out.String())
		}
	}
}

// A file with errors tells all of them; one without tells what is seldom meant.
func TestCheck(t *testing.T) {
	t.Parallel()
	secret := writeTestFile(t, "secret", testAuthSecret)
	c := typed("")
	err := (&checkCmd{Offline: true, Auth: writeTestFile(t, "auth.yaml", `
issuers:
  - iss: one
    keys: { secret: "`+secret+`" }
    projects: [acme]
  - iss: two
    keys: { secret: "`+secret+`" }
    audience: [x]
    projects: [a/b]
    grants: [ { actions: [dance], streams: ["x"] }, { actions: [read], streams: ["{claim:/user_metadata/room}"] } ]
projects:
  acme: { origins: ["null"], limits: { requests: 0 }, cookie: "a b" }
`)}).run(t.Context(), c.stdio(), quietLog)
	if err == nil {
		t.Fatal("it is good")
	}
	for _, want := range []string{"audience is missing", "a/b", "dance", "user_metadata", "null", "requests: more than 0", "cookie"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("it does not tell of %s: %v", want, err)
		}
	}
	expectExit(t, "errors", err, 1)
	warned := writeTestFile(t, "warned.yaml", `
issuers:
  - iss: shared
    keys: { secret: "`+secret+`" }
    audience: [authenticated]
    max_ttl: 48h
    projects: [acme]
    grants: [ { actions: [write], streams: ["users/{sub}/**"] }, { actions: [read], streams: ["names/{claim:preferred_username}"] } ]
    ceiling: [ { actions: [read], names: [lobby] } ]
projects:
  acme: { cookie: session, origins: ["*"], public: [ { actions: [read, append], names: [lobby] } ] }
`)
	c = typed("")
	expectExit(t, "warnings", (&checkCmd{Auth: warned, Offline: true}).run(t.Context(), c.stdio(), quietLog), 0)
	for _, want := range []string{
		"all its clients", "48h", "no limit of creates", "users can choose", "__Host-", "without any credential", "all origins", "cannot be revoked", "admin has no tokens",
		"are believed, up to read: the name",
	} {
		if !strings.Contains(c.out.String(), want) {
			t.Errorf("it does not tell of %q:\n%s", want, c.out.String())
		}
	}
	expectExit(t, "strict", (&checkCmd{Auth: warned, Offline: true, Strict: true}).run(t.Context(), typed("").stdio(), quietLog), exitWarnings)
	unreachable := writeTestFile(t, "unreachable.yaml", "issuers:\n  - iss: i\n    keys: { jwks: \"file:///nonexistent\" }\n    audience: [x]\n    projects: [acme]\n")
	c = typed("")
	if err := (&checkCmd{Auth: unreachable}).run(t.Context(), c.stdio(), quietLog); err != nil || !strings.Contains(c.out.String(), "cannot be fetched from here") {
		t.Error(err, c.out.String())
	}
}

// The flags of one call of a command are no settings of an environment.
func TestCommandsFlagsAreNoVariables(t *testing.T) {
	t.Parallel()
	auth, secret := secretAuth(t)
	if err := run([]string{"check", "--offline", auth}, nil); err != nil {
		t.Error(err)
	}
	if err := run([]string{"check", "--offline", auth}, []string{"FANTAIL_KEY=" + secret}); err == nil || !strings.Contains(err.Error(), "FANTAIL_KEY: no such setting") {
		t.Error(err)
	}
	expectExit(t, "strict", run([]string{"check", "--offline", "--strict", auth}, nil), exitWarnings)
	if err := run([]string{"sign", "acme/x", "--key", secret, "--kid", "k", "--ttl", "25h"}, nil); err == nil {
		t.Error("25 hours are signed")
	}
}
