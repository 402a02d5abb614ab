package access

import (
	"encoding/json"
	"maps"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// recipe is the token of an identity provider as it comes, for the file of rights beside it: its
// claims, header and lifetime are those that the provider's documentation shows.
type recipe struct {
	Header map[string]any `json:"header"`
	// Claims have times as seconds from now.
	Claims map[string]any `json:"claims"`
	// May and MayNot are "ACTIONS PROJECT/NAME".
	May    []string `json:"may"`
	MayNot []string `json:"may_not"`
	// Refused are claims that make it another token, which is refused for Reason.
	Refused map[string]any `json:"refused"`
	Reason  Reason         `json:"reason"`
}

// jwksOf finds the address of the keys in a file of rights.
var jwksOf = regexp.MustCompile(`(?m)^      jwks: .*$`)

// atTimes returns claims with their times.
func atTimes(claims map[string]any, now int64) map[string]any {
	c := maps.Clone(claims)
	for _, name := range []string{"iat", "nbf", "exp", "auth_time"} {
		if ahead, ok := c[name].(float64); ok {
			c[name] = now + int64(ahead)
		}
	}
	return c
}

// Tokens of the identity providers work as they are, with the files of rights that are shown for
// them; those that look alike and must not do are refused.
func TestProvidersTokensWorkAsTheyAre(t *testing.T) {
	t.Parallel()
	files, err := filepath.Glob("testdata/recipes/*.yaml")
	if err != nil || len(files) != 8 {
		t.Fatal(files, err)
	}
	k := testKeys()
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
			var r recipe
			if err := json.Unmarshal(b, &r); err != nil {
				t.Fatal(err)
			}
			var private any = k.rsa
			if r.Header["alg"] == "ES256" {
				private = k.ec
			}
			kid, _ := r.Header["kid"].(string)
			set := writeFile(t, "jwks.json", keySetOf(jwk(kid, private)))
			if n := len(jwksOf.FindAll(rights, -1)); n != 1 {
				t.Fatalf("%d addresses of keys", n)
			}
			j := judgeOf(t, jwksOf.ReplaceAllString(string(rights), "      jwks: file://"+set), Config{})
			r.check(t, j, private)
		})
	}
}

func (r *recipe) check(t *testing.T, j *Judge, private any) {
	claims := atTimes(r.Claims, time.Now().Unix())
	token := signToken(t, r.Header, claims, private)
	for want, all := range map[bool][]string{true: r.May, false: r.MayNot} {
		for _, a := range all {
			actions, stream, _ := strings.Cut(a, " ")
			project, name, _ := strings.Cut(stream, "/")
			do, err := ParseActions(strings.Split(actions, ","))
			if err != nil {
				t.Fatal(err)
			}
			_, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+token), project, name, do)
			if (d == nil) != want || d != nil && d.Status != 403 {
				t.Errorf("%s: %v, want %v", a, d, want)
			}
		}
	}
	maps.Copy(claims, atTimes(r.Refused, time.Now().Unix()))
	_, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+signToken(t, r.Header, claims, private)), "app", "x", Read)
	if reasonOf(d) != r.Reason {
		t.Errorf("with %v: %v, want %s", r.Refused, d, r.Reason)
	}
}
