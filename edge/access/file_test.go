package access

import (
	"strings"
	"testing"
)

// A file that would grant more than was meant is an error that says what to do.
func TestFileIsRefused(t *testing.T) {
	t.Parallel()
	secret := writeFile(t, "secret", []byte(testSecret))
	short := writeFile(t, "short", []byte("too short"))
	issuer := func(more ...string) string {
		lines := []string{"iss: https://a.example", "keys: { secret: " + secret + " }", "audience: [x]", "projects: [acme]"}
		for _, m := range more {
			name, _, _ := strings.Cut(m, ":")
			kept := lines[:0:0]
			for _, l := range lines {
				if !strings.HasPrefix(l, name+":") {
					kept = append(kept, l)
				}
			}
			lines = kept
			if !strings.HasSuffix(m, ":") {
				lines = append(lines, m)
			}
		}
		return "  - " + strings.Join(lines, "\n    ") + "\n"
	}
	for name, row := range map[string]struct{ file, says string }{
		"good":                        {"issuers:\n" + issuer(), ""},
		"empty":                       {"", "empty"},
		"two documents":               {"issuers:\n" + issuer() + "---\nissuers: []\n", "more than one document"},
		"an unknown key":              {"issuer: []\n", "not found"},
		"an unknown key of an issuer": {"issuers:\n" + issuer("aud: [x]"), "not found"},
		"an unknown key of keys":      {"issuers:\n" + issuer("keys: { jwk: x }"), "not found"},
		"an unknown key of a grant":   {"issuers:\n" + issuer("grants: [ { action: [read] } ]"), "not found"},
		"a key twice":                 {"issuers:\n" + issuer() + "    audience: [y]\n", "already defined"},
		"an issuer twice":             {"issuers:\n" + issuer() + issuer(), "twice"},
		"no audience":                 {"issuers:\n" + issuer("audience:"), "audience is missing"},
		"an empty audience":           {"issuers:\n" + issuer("audience: []"), "audience is empty"},
		"no audience, no condition":   {"issuers:\n" + issuer("audience: none"), "needs require"},
		"an audience that is a word":  {"issuers:\n" + issuer("audience: any"), "a list, or the word none"},
		"no projects":                 {"issuers:\n" + issuer("projects:"), "projects is missing"},
		"a project with a slash":      {"issuers:\n" + issuer("projects: [a/b]"), "a project is named by"},
		"the server's own project":    {"issuers:\n" + issuer("projects: [__ds]"), "does not begin with __"},
		"a short prefix":              {"issuers:\n" + issuer("project_prefix: o-", "project_claim: org"), "three characters"},
		"a prefix of default":         {"issuers:\n" + issuer("project_prefix: def", "project_claim: org"), "must not reach default"},
		"a prefix without a claim":    {"issuers:\n" + issuer("project_prefix: org-"), "needs project_claim"},
		"a prefix of a project":       {"issuers:\n" + issuer("projects: [org-a]", "project_prefix: org-", "project_claim: org"), "reaches the project"},
		"an unknown action":           {"issuers:\n" + issuer(`grants: [ { actions: [dance], names: [a] } ]`), "dance"},
		"a grant of nothing":          {"issuers:\n" + issuer(`grants: [ { actions: [read] } ]`), "are needed"},
		"a bad pattern":               {"issuers:\n" + issuer(`grants: [ { actions: [read], streams: ["/a"] } ]`), "empty segment"},
		"a template in the ceiling":   {"issuers:\n" + issuer(`ceiling: [ { when: { a: [b] }, actions: [read], streams: ["a"] } ]`), "when has no meaning"},
		"a condition without values":  {"issuers:\n" + issuer(`require: { a: [] }`), "has no values"},
		"a condition on an object":    {"issuers:\n" + issuer(`require: { a: [ {b: c} ] }`), "no string, number or boolean"},
		"the user's own claim":        {"issuers:\n" + issuer(`require: { /user_metadata/role: [admin] }`), "the user's own to set"},
		"an email that is not proven": {"issuers:\n" + issuer(`grants: [ { when: { email: [a@b] }, actions: [read], names: [a] } ]`), "email_verified"},
		"a short secret":              {"issuers:\n" + issuer("keys: { secret: "+short+" }"), "32 are the least"},
		"two kinds of keys":           {"issuers:\n" + issuer("keys: { secret: "+secret+", jwks: https://a.example }"), "one of jwks, secret"},
		"an algorithm that is not":    {"issuers:\n" + issuer("algs: [RS256]"), "does not fit"},
		"alg none":                    {"issuers:\n" + issuer("algs: [none]"), "does not fit"},
		"keys over plain HTTP":        {"issuers:\n" + issuer("keys: { jwks: http://keys.example }"), "https"},
		"one subject, two people": {
			"issuers:\n" + issuer(`grants: [ { actions: [read], streams: ["users/{sub}/**"] } ]`) +
				issuer("iss: https://b.example", `grants: [ { actions: [read], streams: ["users/{sub}"] } ]`), "begin with different segments",
		},
		"different roots": {
			"issuers:\n" + issuer(`grants: [ { actions: [read], streams: ["a/{sub}/**"] } ]`) +
				issuer("iss: https://b.example", `grants: [ { actions: [read], streams: ["b/{sub}"] } ]`), "",
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			j := newJudge(Config{})
			defer j.Close()
			err := j.adoptFile([]byte(row.file))
			switch {
			case row.says == "" && err != nil:
				t.Error(err)
			case row.says != "" && (err == nil || !strings.Contains(err.Error(), row.says)):
				t.Errorf("%v, want %q", err, row.says)
			}
		})
	}
}

// What is public holds for every name that the file says, and for no other.
func TestPublic(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, oneIssuer(t), Config{})
	for _, row := range []struct {
		project, name string
		want          Actions
	}{{"acme", "lobby", Read}, {"acme", "lobby/a", 0}, {"beta", "lobby", 0}, {"default", "lobby", 0}} {
		c := caller{project: j.verifier.rules.Load().lookup(row.project)}
		if got := c.allow(Read|Append, row.project, row.name); got != row.want {
			t.Errorf("%s/%s: %v", row.project, row.name, got)
		}
	}
}
