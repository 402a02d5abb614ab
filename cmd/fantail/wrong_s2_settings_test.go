package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard/s2dev"
)

// settingsFleet is a fleet of processes on an S2 in this process, which knows their tokens.
type settingsFleet struct {
	*processes
	*testing.T
	c       *client
	s2      *s2dev.Server
	streams []string
}

const (
	settledBasin = "my-streams"
	otherBasin   = "other-basin"
)

// newSettingsFleet starts n nodes, each with a token of its own, and creates streams through all of
// them.
func newSettingsFleet(t *testing.T, n, streams int) *settingsFleet {
	t.Helper()
	s2, err := s2dev.Open(s2dev.Config{Listen: "127.0.0.1:0", Basins: []string{settledBasin, otherBasin}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = s2.Close() })
	f := &settingsFleet{processes: &processes{run: rand.Text()}, T: t, c: newClient(t), s2: s2}
	for i := range n {
		f.nodes = append(f.nodes, f.start(i))
	}
	f.awaitOwners(t)
	for i := range streams {
		f.streams = append(f.streams, fmt.Sprintf("s%d", i))
		f.c.must(t, 201, "PUT", f.url(i, f.streams[i]), "0", "Content-Type", "text/plain")
	}
	return f
}

func tokenOfNode(i int) string { return fmt.Sprintf("token-of-%d", i) }

// start starts node i. The last of several equal flags counts.
func (f *settingsFleet) start(i int, more ...string) *process {
	f.Helper()
	args := []string{
		"serve", fmt.Sprintf("--name=node-%d", i), "--http=127.0.0.1:0", "--admin=127.0.0.1:0",
		"--cluster=test", "--gossip=127.0.0.1:0", "--relay=127.0.0.1:0",
		"--grace=10s", "--linger=0s", "--drain=2s",
	}
	if i > 0 {
		args = append(args, "--join="+f.nodes[0].addr("gossip"))
	}
	given := strings.Join(more, " ")
	for _, own := range []string{"--secret=00112233445566778899aabbccddeeff", "--s2-endpoint=" + f.s2.URL(), "--s2-basin=" + settledBasin, "--s2-token=" + tokenOfNode(i)} {
		if name, _, _ := strings.Cut(own, "="); !strings.Contains(given, name) {
			args = append(args, own)
		}
	}
	return spawn(f.T, "serving", append(args, more...)...)
}

// readyz returns a node's answer to /readyz.
func (f *settingsFleet) readyz(p *process) (status int, why string) {
	a, err := f.c.do(f.Context(), "GET", "http://"+p.addr("admin")+"/readyz", "")
	if err != nil {
		return 0, err.Error()
	}
	return a.status, string(a.body)
}

func (f *settingsFleet) metric(p *process, name string) int {
	v, _ := f.c.metric(f.Context(), p.addr("admin"), name)
	return int(v)
}

// useStreams reads every stream and appends to it, each through another node.
func (f *settingsFleet) useStreams(nodes []*process) {
	f.Helper()
	for i, s := range f.streams {
		url := "http://" + nodes[i%len(nodes)].addr("http") + "/v1/stream/" + f.run + "/" + s
		f.c.must(f.T, 200, "GET", url+"?offset=-1", "")
		f.c.must(f.T, 204, "POST", url, "x", "Content-Type", "text/plain")
	}
}

// A node with wrong settings for S2 is never ready, owns nothing and says why. The fleet that it
// joined is not affected.
func TestNodeWithWrongS2SettingsIsNeverReady(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 3, 30)
	f.s2.Faults().Deny("wrong", "permission_denied")
	f.s2.Faults().Deny("unknown", "authn")
	dead := "http://" + freePorts(t, 1)[0]
	for i, c := range []struct {
		name, flag string
		says       []string // in /readyz and its log
		peers      string   // in the others' logs
	}{
		{"misspelt basin", "--s2-basin=my-streems", []string{"S2 refuses this node: basin my-streems not found (--s2-basin)"}, "S2 refuses a member"},
		{"another basin", "--s2-basin=" + otherBasin, []string{"other-basin (--s2-basin)", "not those of node-"}, "other settings for S2"},
		{"wrong token", "--s2-token=wrong", []string{"--s2-token, FANTAIL_S2_TOKEN", "permission_denied"}, "S2 refuses a member"},
		{"unknown token", "--s2-token=unknown", []string{"--s2-token, FANTAIL_S2_TOKEN", "authn"}, "S2 refuses a member"},
		{"dead endpoint", "--s2-endpoint=" + dead, []string{"S2 " + dead + " does not answer: connection refused"}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := f.start(10+i, c.flag)
			f.eventually("it says why", func() bool {
				status, why := f.readyz(p)
				return status == http.StatusServiceUnavailable && containsAll(why, c.says)
			})
			f.eventually("all see it", func() bool {
				return f.metric(p, "fantail_members") == 4 && f.metric(f.nodes[0], "fantail_members") == 4
			})
			// Twice the time after which it would own streams otherwise.
			for seen := time.Now(); time.Since(seen) < 4*time.Second; {
				f.useStreams(append([]*process{p}, f.nodes...))
				if status, why := f.readyz(p); status == 200 {
					t.Fatalf("ready: %s", why)
				}
				for _, n := range append([]*process{p}, f.nodes...) {
					if owners := f.metric(n, "fantail_owners"); owners != 3 {
						t.Fatalf("%d owners", owners)
					}
				}
			}
			if owned := f.metric(p, "fantail_owned_streams"); owned != 0 {
				t.Errorf("it has %d streams", owned)
			}
			if said := p.log.String(); !strings.Contains(said, `"level":"ERROR"`) || !containsAll(said, c.says) {
				t.Error("its log does not say why")
			}
			for _, secret := range []string{`"wrong"`, "=wrong", "unknown:"} {
				if strings.Contains(p.log.String(), secret) {
					t.Errorf("its log has %q", secret)
				}
			}
			if peer := f.nodes[0].log.String(); c.peers != "" && strings.Count(peer, fmt.Sprintf(`"peer":"node-%d-`, 10+i)) == 0 {
				t.Errorf("its peers do not say %q", c.peers)
			}
			_ = p.cmd.Process.Signal(syscall.SIGTERM)
			f.eventually("it has left", func() bool { return f.metric(f.nodes[0], "fantail_members") == 3 })
		})
	}
}

// A lone node probes S2, too, and gives the same reasons.
func TestLoneNodeWithWrongS2SettingsIsNeverReady(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 0, 0)
	dead := "http://" + freePorts(t, 1)[0]
	for name, c := range map[string]struct {
		flags []string
		says  string // empty: it is ready
	}{
		"well":           {[]string{"--s2-endpoint=" + f.s2.URL(), "--s2-basin=" + settledBasin}, ""},
		"misspelt basin": {[]string{"--s2-endpoint=" + f.s2.URL(), "--s2-basin=my-streems"}, "S2 refuses this node: basin my-streems not found (--s2-basin)"},
		"dead endpoint":  {[]string{"--s2-endpoint=" + dead, "--s2-basin=" + settledBasin}, "S2 " + dead + " does not answer: connection refused (--s2-endpoint)"},
	} {
		p := spawn(t, "serving", append([]string{"serve", "--http=127.0.0.1:0", "--admin=127.0.0.1:0", "--linger=0s"}, c.flags...)...)
		f.eventually(name, func() bool {
			status, why := f.readyz(p)
			return c.says == "" && status == 200 || c.says != "" && status == 503 && strings.TrimSpace(why) == c.says
		})
		f.eventually(name+": its log says it", func() bool {
			return c.says == "" || containsAll(p.log.String(), []string{`"level":"ERROR"`, c.says})
		})
	}
}

func containsAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

func (f *settingsFleet) eventually(what string, ok func() bool) {
	f.Helper()
	eventually(f.T, 20*time.Second, what, ok)
}

// A token is revoked while the fleet runs. Revoked for one node: its streams move, and come back.
// Revoked for all: nothing moves.
func TestRevokedTokenMovesTheStreamsOfOneNode(t *testing.T) {
	t.Parallel()
	f := newSettingsFleet(t, 3, 12)
	deny := f.s2.Faults().Deny
	victim, others := f.nodes[1], []*process{f.nodes[0], f.nodes[2]}
	deny(tokenOfNode(1), "permission_denied")
	f.eventually("its streams have moved", func() bool {
		return f.metric(others[0], "fantail_owners") == 2 && f.metric(others[1], "fantail_owners") == 2
	})
	f.eventually("it is not ready, and says why", func() bool {
		status, why := f.readyz(victim)
		return status == http.StatusServiceUnavailable && strings.Contains(why, "S2 refuses this node") && !strings.Contains(why, tokenOfNode(1))
	})
	f.useStreams(others)
	for _, p := range others {
		if status, why := f.readyz(p); status != 200 {
			t.Errorf("another one is not ready: %s", why)
		}
	}
	deny(tokenOfNode(1), "")
	f.eventually("it is back", func() bool {
		status, _ := f.readyz(victim)
		return status == 200 && f.metric(others[0], "fantail_owners") == 3 && f.metric(victim, "fantail_owners") == 3
	})
	f.useStreams(f.nodes)

	for i := range f.nodes {
		deny(tokenOfNode(i), "permission_denied")
	}
	f.eventually("all are refused", func() bool {
		for _, p := range f.nodes {
			if status, why := f.readyz(p); status == 200 || !strings.Contains(why, "S2 refuses this node") {
				return false
			}
		}
		return true
	})
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	for ; ctx.Err() == nil; pause(ctx, 100*time.Millisecond) {
		for _, p := range f.nodes {
			if owners := f.metric(p, "fantail_owners"); owners != 3 {
				t.Fatalf("%d owners while S2 refuses all", owners)
			}
		}
	}
	for i := range f.nodes {
		deny(tokenOfNode(i), "")
	}
	f.eventually("all are ready", func() bool {
		for _, p := range f.nodes {
			if status, _ := f.readyz(p); status != 200 {
				return false
			}
		}
		return true
	})
	f.useStreams(f.nodes)
}
