package main

import (
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// The page works in a real browser: the playground of a fleet, and the page of a node that asks for a
// token. With -update it takes the pictures of docs/page.md. It needs Node with the packages of
// bench/clients.
func TestBrowserPage(t *testing.T) {
	chromium := os.Getenv("TEST_CHROMIUM")
	if chromium == "" {
		t.Skip("TEST_CHROMIUM names no browser")
	}
	chromium, err := exec.LookPath(chromium)
	if err != nil {
		t.Fatal(err)
	}
	const token = "0123456789abcdef-admin"
	dir := t.TempDir()
	tokenPath := filepath.Join(dir, "token")
	if err := os.WriteFile(tokenPath, []byte(token), 0o600); err != nil {
		t.Fatal(err)
	}
	f, g := startFleet(t, 3), startFleet(t, 3)
	guarded := g.nodes[0]
	if guarded.cfg.adminToken, err = openTokenFile(tokenPath, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	guarded.adminServer.Handler = refuseForeignOrigins(guarded.adminHandler(), true)

	c := newClient(t)
	for i, name := range []string{"rooms/lobby", "rooms/kitchen", "chats/42", "prices", "docs/readme"} {
		c.must(t, 201, "PUT", g.url(i, name), "", "Content-Type", "text/plain")
		c.must(t, 204, "POST", g.url(i, name), strings.Repeat("a message ", 300*(5-i)), "Content-Type", "text/plain")
	}
	g.page.crowd.set("/v1/stream/rooms/lobby", 240)

	script, err := os.ReadFile("testdata/page.mjs")
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "page.mjs")
	if err := os.WriteFile(path, script, 0o600); err != nil {
		t.Fatal(err)
	}
	packages, err := filepath.Abs(filepath.Join(repository, "bench/clients/node_modules"))
	if err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(packages, filepath.Join(dir, "node_modules")); err != nil {
		t.Fatal(err)
	}
	cmd := exec.CommandContext(t.Context(), "node", path)
	cmd.Env = append(os.Environ(), "TEST_CHROMIUM="+chromium, "PAGE="+f.page.url(), "TOKEN="+token,
		"ADMIN=http://"+guarded.adminListener.Addr().String()+"/")
	if *update {
		pictures, err := filepath.Abs(filepath.Join(repository, "cmd/docs"))
		if err != nil {
			t.Fatal(err)
		}
		cmd.Env = append(cmd.Env, "SCREENSHOTS="+pictures)
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
