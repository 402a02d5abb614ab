package main

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

const issuerSecret = "the secret of an issuer, longer than 32 bytes"

// rightsOf writes a file of rights for a project, and returns its path and the token of an
// operator.
func rightsOf(t *testing.T, project string) (path, admin string) {
	t.Helper()
	dir := t.TempDir()
	secret := filepath.Join(dir, "secret")
	admin, sum := access.NewAdminToken()
	file := fmt.Sprintf(`
issuers:
  - iss: app
    keys: { secret: %[1]s }
    audience: [fantail]
    projects: [%[3]s]
    grants: [ { actions: ["*"], streams: ["rooms/**"] } ]
projects:
  %[3]s: { public: [ { actions: [read], streams: ["lobby/**"] } ] }
revocations: { project: %[3]s }
admin: { tokens: [ { name: ops, sha256: %[2]s } ] }
`, secret, sum, project)
	path = filepath.Join(dir, "rights.yaml")
	for name, content := range map[string]string{secret: issuerSecret, path: file} {
		if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return path, admin
}

// bearerOf returns the Authorization field of a token for a subject.
func bearerOf(t *testing.T, subject string) []string {
	t.Helper()
	return tokenOfIssuer(t, map[string]any{"sub": subject})
}

// tokenOfIssuer returns the fields of a request with a token of the issuer of rightsOf.
func tokenOfIssuer(t *testing.T, more map[string]any) []string {
	t.Helper()
	all := map[string]any{"iss": "app", "aud": "fantail", "iat": time.Now().Unix() - 1, "exp": time.Now().Add(time.Hour).Unix()}
	maps.Copy(all, more)
	claims, err := json.Marshal(all)
	if err != nil {
		t.Fatal(err)
	}
	signed := base64.RawURLEncoding.EncodeToString([]byte(`{"alg":"HS256"}`)) + "." + base64.RawURLEncoding.EncodeToString(claims)
	m := hmac.New(sha256.New, []byte(issuerSecret))
	m.Write([]byte(signed))
	return []string{"Authorization", "Bearer " + signed + "." + base64.RawURLEncoding.EncodeToString(m.Sum(nil)), "Content-Type", "text/plain"}
}

func (f *settingsFleet) awaitReady() {
	f.Helper()
	eventually(f.T, 30*time.Second, "every node is ready", func() bool {
		for _, p := range f.nodes {
			if status, _ := f.readyz(p); status != 200 {
				return false
			}
		}
		return true
	})
}

// A fleet with a file of rights: no node serves a request without the right, a revocation that S2 has
// acknowledged reaches every node within two seconds, and outlives all of them.
func TestRevocationReachesEveryNodeAndOutlivesThem(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	path, admin := rightsOf(t, f.run)
	start := func() {
		f.nodes = nil
		for i := range 3 {
			f.nodes = append(f.nodes, f.start(i, "--auth="+path))
		}
		f.awaitReady()
	}
	start()
	ada, bob := bearerOf(t, "ada"), bearerOf(t, "bob")
	f.c.must(t, 401, "PUT", f.url(0, "rooms/a"), "", "Content-Type", "text/plain")
	f.c.must(t, 403, "PUT", f.url(1, "secret"), "", ada...)
	f.c.must(t, 201, "PUT", f.url(1, "rooms/a"), "one", ada...)
	for i := range f.nodes {
		f.c.must(t, 401, "GET", f.url(i, "rooms/a"), "")
		f.c.must(t, 200, "GET", f.url(i, "rooms/a"), "", ada...)
		f.c.must(t, 200, "GET", f.url(i, "rooms/a"), "", bob...)
	}
	revoke := "http://" + f.nodes[1].addr("admin") + "/admin/revoke"
	f.c.must(t, 401, "POST", revoke, `{"issuer":"app","sub":"ada"}`)
	f.c.must(t, 400, "POST", revoke, `{"issuer":"app","subject":"ada"}`, "Authorization", "Bearer "+admin)
	if a := f.c.must(t, 200, "POST", revoke, `{"issuer":"app","sub":"ada"}`, "Authorization", "Bearer "+admin); !strings.Contains(string(a.body), `"position":`) {
		t.Errorf("%s", a.body)
	}
	acknowledged := time.Now()
	for i := range f.nodes {
		eventually(t, 2*time.Second-time.Since(acknowledged), fmt.Sprint("node ", i, " knows it"), func() bool {
			a, err := f.c.do(t.Context(), "GET", f.url(i, "rooms/a"), "", ada...)
			return err == nil && a.status == 401 && strings.Contains(string(a.body), `"revoked"`)
		})
		f.c.must(t, 200, "GET", f.url(i, "rooms/a"), "", bob...)
		f.c.must(t, 401, "POST", f.url(i, "rooms/a"), "x", ada...)
	}
	for _, p := range f.nodes {
		if err := p.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
	start()
	for i := range f.nodes {
		f.c.must(t, 401, "GET", f.url(i, "rooms/a"), "", ada...)
		f.c.must(t, 200, "GET", f.url(i, "rooms/a"), "", bob...)
	}
	list := f.c.must(t, 200, "GET", "http://"+f.nodes[0].addr("admin")+"/admin/revocations", "", "Authorization", "Bearer "+admin)
	if !strings.Contains(string(list.body), `"sub":"ada"`) {
		t.Errorf("%s", list.body)
	}
}

// While rights are only observed, everything is served, and what would be refused is counted.
func TestObservedRightsRefuseNothing(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	path, admin := rightsOf(t, f.run)
	f.nodes = append(f.nodes, f.start(0, "--auth="+path, "--auth-observe"))
	f.awaitReady()
	f.c.must(t, 201, "PUT", f.url(0, "secret"), "", "Content-Type", "text/plain")
	metrics := f.c.must(t, 200, "GET", "http://"+f.nodes[0].addr("admin")+"/metrics", "", "Authorization", "Bearer "+admin)
	if want := `fantail_auth_denied_total{observed="true",reason="no_credential"} 1`; !strings.Contains(string(metrics.body), want) {
		t.Errorf("%s is not in the metrics", want)
	}
}

// A fleet is switched on node by node: nodes without the file stay ready while others judge, but one
// that starts without it does not become ready, unless that is said to be meant.
func TestNodeWithoutRightsDoesNotJoinAJudgingFleet(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 1, 0)
	path, _ := rightsOf(t, f.run)
	f.awaitReady()
	f.nodes = append(f.nodes, f.start(1, "--auth="+path))
	f.awaitReady()
	open := f.start(2)
	eventually(t, 20*time.Second, "the node without rights says why it is not ready", func() bool {
		status, why := f.readyz(open)
		return status == 503 && strings.Contains(why, "judge requests by a file")
	})
	if status, why := f.readyz(f.nodes[0]); status != 200 {
		t.Errorf("a node that served before: %d %s", status, why)
	}
	f.nodes = append(f.nodes, f.start(3, "--auth=off"))
	f.awaitReady()
	if status, _ := f.readyz(open); status != 503 {
		t.Errorf("%d: it became ready", status)
	}
}

// Where other machines reach the admin address and it needs no token, any of them could take back the
// rights of clients for good: a revocation is refused there.
func TestRevocationNeedsATokenOnAnOpenAdminAddress(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	path, _ := rightsOf(t, f.run)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	open, _, _ := strings.Cut(string(b), "admin:")
	if err := os.WriteFile(path, []byte(open), 0o600); err != nil {
		t.Fatal(err)
	}
	for addr, status := range map[string]int{"0.0.0.0:0": 403, "127.0.0.1:0": 200} {
		f.nodes = []*process{f.start(0, "--auth="+path, "--admin="+addr)}
		f.awaitReady()
		_, port, _ := net.SplitHostPort(f.nodes[0].addr("admin"))
		f.c.must(t, status, "POST", "http://127.0.0.1:"+port+"/admin/revoke", `{"issuer":"app","sub":"ada"}`)
		if err := f.nodes[0].cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
	}
}
