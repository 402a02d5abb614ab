package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

const hex32 = "00112233445566778899aabbccddeeff"

// A setting that would make a node a fleet of its own is refused, with its flag.
func TestFleetSettingsAreChecked(t *testing.T) {
	dir := t.TempDir()
	file := func(text string) string {
		path := filepath.Join(dir, "secrets")
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	for name, c := range map[string]struct {
		f    fleetFlags
		want string // in the error; empty: none
	}{
		"a secret":           {fleetFlags{Cluster: "c", Secret: []string{" " + hex32 + "\n"}}, ""},
		"two":                {fleetFlags{Cluster: "c", Secret: []string{hex32, strings.Repeat("ab", 32)}}, ""},
		"of a file":          {fleetFlags{Cluster: "c", SecretFile: file(hex32 + "\n\n  " + strings.Repeat("cd", 24) + "\n")}, ""},
		"none":               {fleetFlags{Cluster: "c"}, "--secret: want 32, 48 or 64"},
		"no hexadecimal":     {fleetFlags{Cluster: "c", Secret: []string{hex32, "swordfish"}}, "--secret: number 2"},
		"too short":          {fleetFlags{Cluster: "c", Secret: []string{"0011"}}, "--secret: number 1"},
		"both":               {fleetFlags{Cluster: "c", Secret: []string{hex32}, SecretFile: file(hex32)}, "--secret and --secret-file"},
		"no file":            {fleetFlags{Cluster: "c", SecretFile: dir + "/none"}, "--secret-file"},
		"lone with a secret": {fleetFlags{Secret: []string{hex32}}, "--join and --secret need --cluster"},
		"lone with a file":   {fleetFlags{SecretFile: "x"}, "--join and --secret need --cluster"},
		"lone":               {fleetFlags{Secret: []string{""}, Join: []string{""}}, ""},
		"a key without":      {fleetFlags{Cluster: "c", Secret: []string{hex32}, RelayKey: "x"}, "--relay-cert and --relay-key"},
		"peers without":      {fleetFlags{Cluster: "c", Secret: []string{hex32}, RelayPeers: []string{"spiffe://x"}}, "need --relay-ca"},
		"join":               {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{" a", "b:1 ", "[::1]:7", "::1", "10.0.0.7"}}, ""},
		"join, a scheme":     {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{"http://a"}}, `--join (FANTAIL_JOIN): "http://a"`},
		"join, empty":        {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{"a", "", "b"}}, "--join (FANTAIL_JOIN): \"\""},
		"join, blanks":       {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{"a b"}}, "--join"},
		"join, a path":       {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{"a:1/x"}}, "--join"},
		"join, a port":       {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{"a:http"}}, "--join"},
		"join, no port":      {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{"a:"}}, "--join"},
		"join, no host":      {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{":1"}}, "--join"},
		"join, quotes":       {fleetFlags{Cluster: "c", Secret: []string{hex32}, Join: []string{`"a"`}}, "--join"},
	} {
		cfg, errs := c.f.fleetConfig("n", "", false)
		text := ""
		for _, err := range errs {
			text += err.Error() + "\n"
		}
		switch {
		case (c.want == "") != (text == "") || !strings.Contains(text, c.want):
			t.Errorf("%s: %q, want %q", name, text, c.want)
		case strings.Contains(text, "swordfish") || strings.Contains(text, "0011"):
			t.Errorf("%s: the error repeats a secret: %q", name, text)
		case c.want == "" && c.f.Cluster != "" && (cfg == nil || len(cfg.Secrets) == 0):
			t.Errorf("%s: %+v", name, cfg)
		case cfg != nil && (cfg.ReloadCredentials != nil) != (c.f.SecretFile != ""):
			t.Errorf("%s: read again: %v", name, cfg.ReloadCredentials != nil)
		}
		for _, a := range strings.Fields("a b:1") {
			if name == "join" && !strings.Contains(strings.Join(cfg.Join, "|"), a) {
				t.Errorf("%q is not in %q", a, cfg.Join)
			}
		}
	}
}

// After the file of secrets has changed, the node uses the new ones.
func TestSecretFileIsReadAgain(t *testing.T) {
	path := filepath.Join(t.TempDir(), "secrets")
	write := func(text string) {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(hex32)
	f := fleetFlags{Cluster: "c", SecretFile: path}
	cfg, errs := f.fleetConfig("n", "", false)
	if len(errs) != 0 {
		t.Fatal(errs)
	}
	write(strings.Repeat("ab", 16) + "\n" + hex32 + "\n")
	secrets, _, err := cfg.ReloadCredentials()
	if err != nil || len(secrets) != 2 || !bytes.Equal(secrets[1], cfg.Secrets[0]) {
		t.Errorf("%v: %x", err, secrets)
	}
	write("half")
	if _, _, err := cfg.ReloadCredentials(); err == nil {
		t.Error("half a secret is taken")
	}
}

// Nodes prove their identity with certificates in files. Their authority counts, and not their
// names.
func TestNodesProveThemselvesWithCertificates(t *testing.T) {
	t.Parallel()
	cert, key := certificatePaths(t)
	writeCertificate(t, 1, cert, key)
	flags := []string{"--relay-cert=" + cert, "--relay-key=" + key, "--relay-ca=" + cert, "--relay-plaintext=never"}
	ps := startProcesses(t, 0)
	ps.nodes = append(ps.nodes, ps.spawn(t, 0, flags...))
	ps.nodes = append(ps.nodes, ps.spawn(t, 1, append(flags, "--join="+ps.nodes[0].addr("gossip"))...))
	ps.awaitOwners(t)
	c := newClient(t)
	for i := range 4 { // of both owners
		stream := fmt.Sprint("certified", i)
		c.must(t, 201, "PUT", ps.url(0, stream), "", "Content-Type", "text/plain")
		c.must(t, 204, "POST", ps.url(1, stream), "x", "Content-Type", "text/plain")
	}
	f := fleetFlags{Cluster: "c", Secret: []string{hex32}, RelayCert: cert, RelayKey: key, RelayCA: key}
	if _, errs := f.fleetConfig("n", "", false); len(errs) == 0 {
		t.Error("a key is taken for an authority")
	}
}

// A node of another fleet, started with this fleet's addresses, is not ready, owns nothing and says
// why.
func TestNodeOfAnotherClusterIsNotReady(t *testing.T) {
	t.Parallel()
	ps := startProcesses(t, 1)
	lost := ps.spawn(t, 1, "--cluster=other", "--join="+ps.nodes[0].addr("gossip"))
	c := newClient(t)
	eventually(t, 20*time.Second, "it says why it is not ready", func() bool {
		a, err := c.do(t.Context(), "GET", "http://"+lost.addr("admin")+"/readyz", "")
		return err == nil && a.status == 503 && strings.Contains(string(a.body), ps.nodes[0].addr("gossip")+": it answers, but its --secret or --cluster differs")
	})
	if owners, _ := c.metric(t.Context(), lost.addr("admin"), "fantail_owners"); owners != 0 {
		t.Errorf("%v owners", owners)
	}
}
