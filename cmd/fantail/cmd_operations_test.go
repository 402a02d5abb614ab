package main

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
)

// The commands of operators, against the admin addresses of a real fleet, with and without a token.
func TestOperatorCommands(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	rights, admin := rightsOf(t, f.run)
	for i := range 2 {
		f.nodes = append(f.nodes, f.start(i, "--auth="+rights, "--linger=0s", "--drain=100ms"))
	}
	f.awaitReady()
	at, token := "--admin=http://"+f.nodes[0].addr("admin")+"/", "--admin-token-file="+writeTestFile(t, "token", admin)
	room := f.run + "/rooms/a"
	f.c.must(t, 201, "PUT", f.url(0, "rooms/a"), "x", bearerOf(t, "ada")...)
	if err := mustExit(t, exitTokenRefused, "top", at); !strings.Contains(err.Error(), "--admin-token-file") {
		t.Errorf("%v", err)
	}
	top := mustPrint(t, "", "top", at, token)
	for _, part := range []string{"2 nodes · 0 readers", "ready", "NODE", room} {
		if !strings.Contains(top, part) {
			t.Errorf("%q is not in\n%s", part, top)
		}
	}
	var raw struct {
		Fleet   fleetAnswer
		Streams streamsAnswer
	}
	if err := json.Unmarshal([]byte(mustPrint(t, "", "top", "--once", "--json", at, token)), &raw); err != nil || len(raw.Fleet.Members) != 2 || len(raw.Streams.Streams) == 0 {
		t.Errorf("%+v, %v", raw, err)
	}
	owner := mustPrint(t, "", "owner", room, at, token)
	if !strings.Contains(owner, "stream     "+room) || !strings.Contains(owner, "successor  ") {
		t.Errorf("%s", owner)
	}
	if got := mustPrint(t, "", "drain", "--wait", "--within=20s", at, token); !strings.HasPrefix(got, "drained: 0 readers") {
		t.Errorf("%q", got)
	}
	if got := mustPrint(t, "", "undrain", "--wait", "--within=20s", "--json", at, token); !strings.Contains(got, `"state":"serving"`) {
		t.Errorf("%q", got)
	}
	if status, why := f.readyz(f.nodes[0]); status != 200 {
		t.Errorf("after undrain --wait it is not ready: %s", why)
	}
	began := time.Now()
	mustExit(t, exitUnavailable, "drain", "--admin="+freePorts(t, 1)[0])
	mustExit(t, exitUsage, "drain", "--admin=here")
	mustExit(t, exitUsage, "top", "--limit=0")
	if took := time.Since(began); took > 5*time.Second {
		t.Errorf("an address where no node is takes %v", took)
	}
}
