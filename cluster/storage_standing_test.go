package cluster

import (
	"context"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/testlog"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/logtest"
)

// probingNode is a node with a stream manager that probes S2, with its own access to the fleet's
// Log.
type probingNode struct {
	*Node
	host  *shard.Manager
	store *logtest.Client
	log   *testlog.Lines
}

// probingFleet is a fleet of such nodes.
type probingFleet struct {
	*testing.T
	mem   *logtest.Memory
	nodes []*probingNode
}

func (f *probingFleet) add(basin string, trouble logtest.Faults, change ...func(*Config)) *probingNode {
	f.Helper()
	n := &probingNode{store: f.mem.NewClient(uint64(len(f.nodes)), 0), log: &testlog.Lines{}}
	n.store.Basin = basin
	n.store.SetFaults(trouble)
	cfg := Config{
		Name: "n" + string(rune('0'+len(f.nodes))), FleetName: "test", Secrets: [][]byte{[]byte("0123456789abcdef")},
		GossipAddr: "127.0.0.1:0", RelayAddr: "127.0.0.1:0", ChangeNotice: -1,
		Logger: n.log.Logger(),
	}
	if len(f.nodes) > 0 {
		gossip, _ := f.nodes[0].ListenAddrs()
		cfg.Join = []string{gossip}
	}
	for _, fn := range change {
		fn(&cfg)
	}
	tails := shard.NewTailBuffers(0, 0)
	n.host = shard.NewManager(n.store, tails, shard.Config{Logger: cfg.Logger})
	var err error
	if n.Node, err = Join(f.Context(), cfg, n.host, tails); err != nil {
		f.Fatal(err)
	}
	f.nodes = append(f.nodes, n)
	f.Cleanup(func() {
		if f.Failed() {
			f.Logf("%s: %q", n.self, n.log.Containing(""))
		}
		_ = n.Close()
		_ = n.host.Close()
	})
	return n
}

func (f *probingFleet) eventually(what string, ok func() bool) {
	f.Helper()
	(&fleet{T: f.T}).eventually(what, ok)
}

func newProbingFleet(t *testing.T, n int) *probingFleet {
	t.Helper()
	f := &probingFleet{T: t, mem: logtest.NewMemory(1)}
	f.mem.Basin = "home"
	for range n {
		f.add("home", logtest.Faults{})
	}
	f.eventually("all own streams, and are ready", func() bool {
		for _, s := range f.nodes {
			if s.currentTable().Len() != n || !s.Ready() {
				return false
			}
		}
		return true
	})
	return f
}

// A newcomer with other settings owns nothing and says why, and its peers go on. It joins once the
// cause is gone.
func TestNewcomerWithOtherSettingsOwnsNothing(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		basin   string
		trouble logtest.Faults
		says    string
		peers   string
	}{
		"another basin": {"other", logtest.Faults{}, "not those of n", "other settings for S2"},
		"denied":        {"home", logtest.Faults{Deny: true}, "storage refuses", "S2 refuses a member"},
		"down":          {"home", logtest.Faults{Down: true}, "connection lost", ""},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newProbingFleet(t, 2)
			late := f.add(c.basin, c.trouble)
			f.eventually("it is there, and says why it is not ready", func() bool {
				return len(f.nodes[0].View().Members()) == 3 && len(late.View().Members()) == 3 && strings.Contains(late.NotReadyReason(), c.says)
			})
			f.eventually("its peers say it", func() bool {
				return c.peers == "" || len(f.nodes[0].log.Containing(c.peers)) == 1 && len(f.nodes[1].log.Containing(c.peers)) == 1
			})
			for _, s := range f.nodes {
				if s.currentTable().Len() != 2 || s.currentTable().HasOwner(late.self) || s.Ready() == (s == late) {
					t.Errorf("%s: %d owners, ready %v", s.self, s.currentTable().Len(), s.Ready())
				}
			}
			if len(late.log.Containing("level=ERROR")) == 0 {
				t.Error("its own log has no error")
			}
			if c.basin != "home" {
				if n := len(f.mem.Records("__ds/fleet/other")); n != 0 {
					t.Errorf("it wrote %d records", n)
				}
				return
			}
			late.store.SetFaults(logtest.Faults{})
			f.eventually("it joins", func() bool { return late.Ready() && f.nodes[0].currentTable().Len() == 3 })
		})
	}
}

// Two fleets that began separately, each with a basin of its own, meet: one of them yields and says
// so, and the other only logs a line.
func TestOfTwoFleetsThatMeetOneYields(t *testing.T) {
	t.Parallel()
	f := newProbingFleet(t, 2)
	gossip, _ := f.nodes[0].ListenAddrs()
	_, port, err := net.SplitHostPort(gossip)
	if err != nil {
		t.Fatal(err)
	}
	apart := &lateLookup{}
	late := f.add("other", logtest.Faults{}, func(c *Config) {
		c.Network, c.AloneAfter, c.Join = apart, 10*time.Millisecond, []string{"fleet:" + port}
	})
	f.eventually("it is a fleet of its own", late.Ready)
	apart.found.Store(true)
	f.eventually("they meet", func() bool { return len(late.View().Members()) == 3 })
	f.eventually("one yields", func() bool {
		return !late.Ready() && late.currentTable().Len() == 2 && f.nodes[0].currentTable().Len() == 2 && f.nodes[1].currentTable().Len() == 2
	})
	if !f.nodes[0].Ready() || !f.nodes[1].Ready() {
		t.Error("those who are right are not ready")
	}
}

// lateLookup finds a name once the test allows it.
type lateLookup struct {
	hostNetwork
	found atomic.Bool
}

func (n *lateLookup) Lookup(_ context.Context, host string) ([]string, error) {
	if !n.found.Load() {
		return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
	}
	return []string{"127.0.0.1"}, nil
}

// An owner that S2 refuses loses its streams, and gets them back. Where all are refused nothing
// moves.
func TestOwnerRefusedByS2LosesItsStreams(t *testing.T) {
	t.Parallel()
	f := newProbingFleet(t, 3)
	victim := f.nodes[1]
	victim.store.SetFaults(logtest.Faults{Deny: true})
	f.eventually("its streams have moved", func() bool {
		return f.nodes[0].currentTable().Len() == 2 && victim.currentTable().Len() == 2 && !victim.Ready()
	})
	if !f.nodes[0].Ready() || !f.nodes[2].Ready() {
		t.Error("others are not ready")
	}
	victim.store.SetFaults(logtest.Faults{})
	f.eventually("it is back", func() bool {
		return f.nodes[0].currentTable().Len() == 3 && f.nodes[2].currentTable().Len() == 3 && victim.Ready()
	})
	for _, s := range f.nodes {
		s.store.SetFaults(logtest.Faults{Deny: true})
	}
	began := time.Now()
	f.eventually("all are refused, for longer than one alone would keep its streams", func() bool {
		refused := 0
		for _, s := range f.nodes {
			if s.currentTable().Len() != 3 {
				t.Fatalf("%d owners", s.currentTable().Len())
			}
			if s.NotReadyReason() != "" {
				refused++
			}
		}
		return refused == 3 && time.Since(began) > 12*time.Second
	})
}

// Beside an owner of a release without records a newcomer writes the record and joins. From then on
// it counts.
func TestNewcomerWritesTheRecordBesideAnOlderRelease(t *testing.T) {
	t.Parallel()
	f := &probingFleet{T: t, mem: logtest.NewMemory(1)}
	f.mem.Basin = "home"
	old := f.add("", logtest.Faults{})
	if old.cfg.storeGated {
		t.Fatal("it asks")
	}
	next := f.add("home", logtest.Faults{})
	f.eventually("it joins", func() bool { return next.Ready() && old.currentTable().Len() == 2 })
	if n := len(f.mem.Records("__ds/fleet")); n != 1 {
		t.Errorf("%d records", n)
	}
	wrong := f.add("other", logtest.Faults{})
	f.eventually("another basin is refused", func() bool {
		return strings.Contains(wrong.NotReadyReason(), "not those of") && old.currentTable().Len() == 2
	})
}
