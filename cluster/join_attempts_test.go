package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

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
			var log logLines
			newcomer := f.add(change, func(c *Config) { c.AloneAfter, c.Logger = 300*time.Millisecond, log.logger() })
			other, _ := newcomer.ListenAddrs()
			second := f.add(change, func(c *Config) { // they find each other, and that changes nothing
				c.AloneAfter, c.Join = 300*time.Millisecond, append(c.Join, other)
			})
			f.eventually("they know each other and their patience is over", func() bool {
				return len(newcomer.View().Members()) == 2 && time.Since(newcomer.membership.joinBegan) > time.Second &&
					strings.Contains(newcomer.JoinErrors(), "answers, but its --secret or --cluster differs") &&
					strings.Contains(second.JoinErrors(), "answers, but its --secret or --cluster differs")
			})
			for _, s := range []*testNode{newcomer, second} {
				if m := s.View().Member(s.self); m.OwnsFrom != placement.Never || s.Ready() {
					t.Errorf("%s owns from %s on, ready: %v", s.self, formatDate(m.OwnsFrom), s.Ready())
				}
			}
			if all := log.containing("cannot join"); len(all) != 1 {
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
	s := f.add(func(c *Config) { c.AloneAfter, c.Join = 200*time.Millisecond, []string{ln.Addr().String()} })
	f.eventually("patience is over", func() bool {
		return time.Since(s.membership.joinBegan) > time.Second && strings.Contains(s.JoinErrors(), errNotThisFleet.Error())
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
	var log logLines
	s := f.add(func(c *Config) {
		c.AloneAfter, c.Join, c.Network, c.Logger = time.Millisecond, []string{"fleet.example"}, noNames{}, log.logger()
	})
	f.eventually("it is alone", s.Ready)
	all := log.containing("this node is alone")
	if len(all) != 1 || !strings.Contains(all[0], "fleet.example: the name is not known") {
		t.Errorf("%q", all)
	}
}

// Attempts at an address are logged while no node was found, when their result changes, and once a
// minute.
func TestJoinAttemptsAreLoggedSparingly(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logLines
		m := membershipWithoutGossip(log.logger(), "fleet")
		refused, other := errors.New("refused"), errors.New("timeout")
		for _, c := range []struct {
			after time.Duration
			err   error
			alien bool
			want  int // lines so far
		}{
			{0, refused, false, 0}, // a fleet that starts
			{joinWarnGrace, refused, false, 1},
			{time.Second, refused, false, 1},
			{time.Second, other, false, 2},
			{joinWarnEvery, other, false, 3},
			{time.Second, other, true, 4},
			{time.Second, nil, false, 4},
			{time.Second, other, true, 5},
		} {
			<-time.After(c.after)
			m.noteAttempt(t.Context(), "10.0.0.9:1", c.err, c.alien)
			if n := len(log.containing("cannot join")); n != c.want {
				t.Errorf("after %v (alien %v): %d lines, want %d", c.err, c.alien, n, c.want)
			}
		}
		m.receive(placement.Member{Name: "a", RingKey: "a", Revision: 1, OwnsUntil: placement.Never})
		m.noteAttempt(t.Context(), "10.0.0.8:1", refused, false) // an address of a fleet that refuses
		if n := len(log.containing("10.0.0.8")); n != 0 {
			t.Errorf("%d lines about a node that does not run", n)
		}
		if m.forgetAttempts(map[string]bool{"10.0.0.8:1": true}); strings.Contains(m.joinErrors(), "10.0.0.9") {
			t.Errorf("%q", m.joinErrors())
		}
	})
}

// One line of each kind passes in a window, then one with the count of the others.
func TestGossipLogIsLimited(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log logLines
		g := newGossipLog(log.logger())
		for i := range 500 {
			fmt.Fprintf(g, "[ERR] memberlist: failed to receive: No installed keys could decrypt the message from=127.0.0.1:%d\n", i)
			fmt.Fprintf(g, "[ERR] memberlist: discarding stream with unacceptable label \"x%d\": from=10.0.0.%d:1\n", i, i)
		}
		if all := log.containing("gossip"); len(all) != 2 {
			t.Errorf("%q", all)
		}
		<-time.After(gossipWindow)
		synctest.Wait()
		if all := log.containing("more=499"); len(all) != 2 || !strings.Contains(all[0]+all[1], "from=127.0.0.1:499") {
			t.Errorf("%q", all)
		}
		fmt.Fprintln(g, "[ERR] memberlist: failed to receive: No installed keys could decrypt the message from=127.0.0.1:1")
		if all := log.containing("gossip"); len(all) != 4 { // the window that began with the count
			t.Errorf("%q", all)
		}
		<-time.After(2 * gossipWindow)
		synctest.Wait()
		if all := log.containing("gossip"); len(all) != 5 || g.count() != 0 {
			t.Errorf("%d kinds, %q", g.count(), all)
		}
		for i := range 10 * maxGossipKinds { // further kinds count as one
			fmt.Fprintf(g, "[ERR] memberlist: %s\n", strings.Repeat("x", i%70+1)+string(rune('a'+i/70)))
		}
		if n := g.count(); n > maxGossipKinds+1 {
			t.Errorf("%d kinds", n)
		}
		<-time.After(3 * gossipWindow)
		synctest.Wait()
	})
}

// count returns how many kinds have a window.
func (g *gossipLog) count() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.kinds)
}

func TestParseJoinAddrs(t *testing.T) {
	t.Parallel()
	clean, err := ParseJoinAddrs([]string{" a", "b:1\n", "[::1]:2", "fe80::1"})
	if want := "a b:1 [::1]:2 fe80::1"; err != nil || strings.Join(clean, " ") != want {
		t.Errorf("%q, %v", clean, err)
	}
	for _, bad := range []string{"", "http://a", "a b", "a/b", "a:0", "a:70000", ":1", "a:b:c", "x@y", "a:", `"a"`} {
		if _, err := ParseJoinAddrs([]string{"ok", bad}); err == nil || !strings.Contains(err.Error(), fmt.Sprintf("%q", bad)) {
			t.Errorf("%q: %v", bad, err)
		}
	}
}
