package cluster

import (
	"context"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/testlog"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// slowLookup answers when the test allows it.
type slowLookup struct {
	hostNetwork
	may chan struct{}
}

func (n slowLookup) Lookup(ctx context.Context, host string) ([]string, error) {
	if net.ParseIP(host) != nil {
		return []string{host}, nil
	}
	select {
	case <-n.may:
		return []string{"127.0.0.1"}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Two nodes that join together, and find each other before they find the owners, do not take
// themselves for the first.
func TestTwoNodesThatJoinTogetherWaitForOwners(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 2)
	gossip, _ := f.nodes[0].ListenAddrs()
	_, port, err := net.SplitHostPort(gossip)
	if err != nil {
		t.Fatal(err)
	}
	net := slowLookup{may: make(chan struct{})}
	first := f.add(func(c *Config) { c.Network, c.Join = net, []string{"fleet:" + port} })
	other, _ := first.ListenAddrs()
	second := f.add(func(c *Config) { c.Network, c.Join = net, []string{other, "fleet:" + port} })
	both := []*testNode{first, second}
	f.eventually("they find each other", func() bool {
		return len(first.View().Members()) == 2 && len(second.View().Members()) == 2
	})
	for _, s := range both {
		if m := s.View().Member(s.self); m.OwnsFrom != placement.Never || s.Ready() {
			t.Errorf("%s owns from %d on, ready: %v", s.self, m.OwnsFrom, s.Ready())
		}
	}
	close(net.may)
	f.awaitAgreement()
	for _, s := range both {
		if s.View().Member(s.self).OwnsFrom == 0 {
			t.Errorf("%s named no date", s.self)
		}
	}
}

// A whole fleet of new nodes owns streams immediately.
func TestNewFleetOwnsImmediately(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	join := func(c *Config) {
		c.ChangeNotice, c.AloneAfter = time.Hour, time.Hour
		if c.Join == nil {
			c.Join = []string{"127.0.0.1:1"} // no node listens there
		}
	}
	for range 3 {
		f.add(join)
	}
	f.eventually("somebody owns", func() bool {
		return f.nodes[1].currentTable().Len() > 0 && f.nodes[2].currentTable().Len() > 0
	})
}

// A node with settings that keep it from its fleet does not begin one of its own: it owns nothing
// while an address answers that does not speak its gossip, and says so. The fleet goes on.
func TestNodeWithOtherSettingsBeginsNoFleet(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(*Config){
		"another secret":  func(c *Config) { c.Secrets = [][]byte{secretB} },
		"another cluster": func(c *Config) { c.FleetName = "other" },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			f := newFleet(t, 1)
			var log testlog.Lines
			began := time.Now()
			newcomer := f.add(change, func(c *Config) { c.AloneAfter, c.Logger = 300*time.Millisecond, log.Logger() })
			other, _ := newcomer.ListenAddrs()
			second := f.add(change, func(c *Config) { // they find each other, and that changes nothing
				c.AloneAfter, c.Join = 300*time.Millisecond, append(c.Join, other)
			})
			f.eventually("they know each other and their patience is over", func() bool {
				return len(newcomer.View().Members()) == 2 && time.Since(began) > time.Second &&
					strings.Contains(newcomer.JoinErrors(), "answers, but its --secret or --cluster differs") &&
					strings.Contains(second.JoinErrors(), "answers, but its --secret or --cluster differs")
			})
			for _, s := range []*testNode{newcomer, second} {
				if m := s.View().Member(s.self); m.OwnsFrom != placement.Never || s.Ready() {
					t.Errorf("%s owns from %d on, ready: %v", s.self, m.OwnsFrom, s.Ready())
				}
			}
			if all := log.Containing("cannot join"); len(all) != 1 {
				t.Errorf("%d lines: %q", len(all), all)
			}
			if !f.nodes[0].Ready() || len(f.nodes[0].View().Members()) != 1 {
				t.Error("the fleet has changed")
			}
			id := f.streamOwnedBy(f.nodes[0])
			f.mustDo(f.nodes[0], write(id, shard.OpCreate), shard.CodeCreated)
			f.killNode(f.nodes[0]) // the last node that answers
			f.eventually("the two are a fleet", func() bool { return newcomer.Ready() && second.Ready() })
		})
	}
}

// A listener that is no node prevents a beginning, too.
func TestListenerThatIsNoNodePreventsABeginning(t *testing.T) {
	t.Parallel()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
			_ = conn.Close()
		}
	}()
	f := newFleet(t, 0)
	began := time.Now()
	s := f.add(func(c *Config) { c.AloneAfter, c.Join = 200*time.Millisecond, []string{ln.Addr().String()} })
	f.eventually("patience is over", func() bool {
		return time.Since(began) > time.Second && strings.Contains(s.JoinErrors(), "it answers, but its --secret or --cluster differs, or it is no node")
	})
	if s.Ready() {
		t.Error("ready")
	}
	_ = ln.Close()
	f.eventually("nobody is there any more, so it begins a fleet", s.Ready)
}

// noNames is a network that finds no name.
type noNames struct{ hostNetwork }

func (noNames) Lookup(_ context.Context, host string) ([]string, error) {
	return nil, &net.DNSError{Err: "no such host", Name: host, IsNotFound: true}
}

// A node that is alone logs why: the name that is not found, or the address that refuses.
func TestWarningSaysWhyANodeIsAlone(t *testing.T) {
	t.Parallel()
	f := newFleet(t, 0)
	var log testlog.Lines
	s := f.add(func(c *Config) {
		c.AloneAfter, c.Join, c.Network, c.Logger = time.Millisecond, []string{"fleet.example"}, noNames{}, log.Logger()
	})
	f.eventually("it is alone", s.Ready)
	all := log.Containing("this node is alone")
	if len(all) != 1 || !strings.Contains(all[0], "fleet.example: the name is not known") {
		t.Errorf("%q", all)
	}
}
