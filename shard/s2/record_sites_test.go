package s2

import (
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/s2dev"
)

// probe returns the standing of a node with these settings after its first probe.
func (r *testEnv) probe(cfg Config) shard.Standing {
	r.Helper()
	log, err := Open(cfg)
	if err != nil {
		r.Fatal(err)
	}
	r.Cleanup(func() { _ = log.Close() })
	return r.probeLog(log)
}

func (r *testEnv) probeLog(log shard.Log) shard.Standing {
	r.Helper()
	h := shard.NewManager(log, shard.NewTailBuffers(0, 0), shard.Config{})
	defer h.Close()
	told := make(chan shard.Standing, 16)
	h.WatchStanding(shard.LoneRole, func(st shard.Standing) { told <- st })
	select {
	case st := <-told:
		return st
	case <-time.After(20 * time.Second):
		r.Fatal("nothing is known of S2")
		return shard.Standing{}
	}
}

// Each wrong setting gets an explanation that the operator can act on.
func TestProbeExplainsEachWrongSetting(t *testing.T) {
	r := newTestEnv(t)
	for _, d := range []struct{ token, code string }{{"no-rights", "permission_denied"}, {"unknown", "authn"}} {
		r.server.Faults().Deny(d.token, d.code)
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	dead := "http://" + ln.Addr().String()
	_ = ln.Close()
	for name, c := range map[string]struct {
		cfg             Config
		refused, silent string
	}{
		"well":              {cfg: Config{Basin: testBasin}},
		"basin":             {cfg: Config{Basin: "fantail-tets"}, refused: "S2 refuses this node: basin fantail-tets not found (--s2-basin)"},
		"one basin of many": {cfg: Config{BasinMap: map[string]string{"a": testBasin, "b": "fantail-tets"}}, refused: "S2 refuses this node: basin fantail-tets not found (--s2-basin-map)"},
		"home basin":        {cfg: Config{BasinTemplate: "ds-{project}", HomeBasin: "fantail-tets"}, refused: "S2 refuses this node: basin fantail-tets not found (--s2-home-basin)"},
		"a template alone":  {cfg: Config{BasinTemplate: "fantail-{project}"}},
		"its token":         {cfg: Config{BasinTemplate: "fantail-{project}", Token: "unknown"}, refused: "S2 refuses this node: it does not take the token (--s2-token, FANTAIL_S2_TOKEN): authn"},
		"rights":            {cfg: Config{Basin: testBasin, Token: "no-rights"}, refused: "the token (--s2-token, FANTAIL_S2_TOKEN) needs to read, append, trim and make streams in it, __ds/fleet included: permission_denied"},
		"token":             {cfg: Config{Basin: testBasin, Token: "unknown"}, refused: "S2 refuses this node: it does not take the token (--s2-token, FANTAIL_S2_TOKEN): authn"},
		"endpoint":          {cfg: Config{Basin: testBasin, Endpoint: dead}, silent: "S2 " + dead + " does not answer: connection refused (--s2-endpoint)"},
	} {
		t.Run(name, func(t *testing.T) {
			if c.cfg.Endpoint == "" {
				c.cfg.Endpoint = r.server.URL()
			}
			st := r.probe(c.cfg)
			if !strings.Contains(st.Refused, c.refused) || (c.refused == "") != (st.Refused == "") {
				t.Errorf("%s: refused %q, want %q", name, st.Refused, c.refused)
			}
			if !strings.HasPrefix(st.Silent, c.silent) || (c.silent == "") != (st.Silent == "") {
				t.Errorf("%s: silent %q, want %q", name, st.Silent, c.silent)
			}
			if st.Passed != (c.refused == "" && c.silent == "") || st.Passed != (st.Fleet != 0) {
				t.Errorf("%s: %+v", name, st)
			}
			if token := c.cfg.Token; token != "" && strings.Contains(st.Refused, token) {
				t.Errorf("%s: %q names the token", name, st.Refused)
			}
		})
	}
}

// Each missing right is found, and the search for it changes nothing.
func TestProbeFindsMissingRights(t *testing.T) {
	r := newTestEnv(t)
	if st := r.probeLog(r.log); !st.Passed || st.Fleet == 0 {
		t.Fatalf("%+v", st)
	}
	before := r.server.Usage().Streams[testBasin+"/"+fleetStream]
	for _, op := range []s2dev.Op{s2dev.OpRead, s2dev.OpCheckTail, s2dev.OpAppend, s2dev.OpEnsureStream} {
		f := r.server.Faults().Add(s2dev.Fault{Stream: fleetStream, Op: op, Kind: s2dev.Refuse, Code: "permission_denied"})
		if st := r.probeLog(r.log); st.Refused == "" || st.Passed {
			t.Errorf("without %s: %+v", op, st)
		}
		f.Remove()
	}
	tail, err := r.log.Tail(t.Context(), "__ds/fleet/"+testBasin)
	if err != nil || tail != 1 {
		t.Errorf("the log ends at %d, %v", tail, err)
	}
	if after := r.server.Usage().Streams[testBasin+"/"+fleetStream]; after.RecordsAppended != before.RecordsAppended {
		t.Errorf("%d records appended by probes", after.RecordsAppended-before.RecordsAppended)
	}
}

// The embedded S2 in the process answers a probe as over a socket, and both are the same fleet.
func TestProbeInProcessIsTheSameFleet(t *testing.T) {
	r := newTestEnv(t)
	log, err := OpenInProcess(r.basin, Config{Basin: testBasin})
	if err != nil {
		t.Fatal(err)
	}
	here, wire := r.probeLog(log), r.probeLog(r.log)
	if !here.Passed || here.Fleet == 0 || here.Fleet != wire.Fleet {
		t.Errorf("%+v, over the wire %+v", here, wire)
	}
	missing, err := OpenInProcess(r.basin, Config{Basin: "fantail-tets"})
	if err != nil {
		t.Fatal(err)
	}
	if st := r.probeLog(missing); !strings.Contains(st.Refused, "not found") {
		t.Errorf("%+v", st)
	}
}

// A node that may create basins creates the basin of the fleet's record.
func TestProbeCreatesTheBasin(t *testing.T) {
	r := newTestEnv(t)
	st := r.probe(Config{Endpoint: r.server.URL(), Basin: "fantail-made", CreateBasins: true})
	if !st.Passed || st.Fleet == 0 {
		t.Errorf("%+v", st)
	}
}

// The mapping of projects is part of a fleet's identity: another mapping to the same basins is
// another fleet. The URL of S2 is no part of it.
func TestMappingIsPartOfTheFleet(t *testing.T) {
	r := newTestEnv(t)
	one := r.probe(Config{Endpoint: r.server.URL(), Basin: testBasin})
	if same := r.probe(Config{Endpoint: strings.Replace(r.server.URL(), "127.0.0.1", "localhost", 1), Basin: testBasin}); same.Fleet != one.Fleet {
		t.Error("another name of S2 is another fleet")
	}
	if other := r.probe(Config{Endpoint: r.server.URL(), BasinMap: map[string]string{"default": testBasin}}); other.Fleet == one.Fleet || other.Fleet == 0 {
		t.Errorf("another mapping is the same fleet: %+v", other)
	}
}

// A real s2-lite answers a node's probe as the embedded S2 does (.ci/run).
func TestLiteProbe(t *testing.T) {
	endpoint := os.Getenv("TEST_S2_ENDPOINT")
	if endpoint == "" {
		t.Skip("TEST_S2_ENDPOINT names no S2")
	}
	r := newTestEnv(t)
	cfg := Config{Endpoint: endpoint, Basin: "fantail-probe", CreateBasins: true}
	first := r.probe(cfg)
	if !first.Passed || first.Fleet == 0 || first.RecordProblem != "" {
		t.Fatalf("%+v", first)
	}
	cfg.CreateBasins = false
	if again := r.probe(cfg); !again.Passed || again.Fleet != first.Fleet {
		t.Errorf("%+v, and was of %x", again, first.Fleet)
	}
	cfg.Basin = "fantail-tets"
	if st := r.probe(cfg); st.Refused != "S2 refuses this node: basin fantail-tets not found (--s2-basin)" {
		t.Errorf("%+v", st)
	}
}
