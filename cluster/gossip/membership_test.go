package gossip

import (
	"fmt"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/hashicorp/memberlist"
	"github.com/prometheus/client_golang/prometheus/testutil"

	"github.com/fantail-dev/fantail/cluster/internal/testlog"
	"github.com/fantail-dev/fantail/cluster/placement"
)

// membershipWithoutGossip returns a membership that hears what a test tells it.
func membershipWithoutGossip(log *slog.Logger, join ...string) *Membership {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return New(Config{
		Self: placement.Member{Name: "me", RingKey: "me", RelayAddr: "10.0.0.1:1"}, Join: join, Logger: log, Now: time.Now,
		AloneAfter: 30 * time.Second, ChangeNotice: 2 * time.Second,
	}, noObserver{})
}

// noObserver ignores all news.
type noObserver struct{}

func (noObserver) OnView(*placement.View) {}
func (noObserver) OnJoinRound()           {}

func (m *Membership) receive(all ...placement.Member) {
	for i, o := range all {
		o.RelayAddr = fmt.Sprintf("10.0.1.%d:1", i)
		(*delegate)(m).noteMember(&memberlist.Node{Name: o.Name, Addr: net.IPv4(10, 0, 1, byte(i)), Meta: o.Encode()})
	}
}

// A node that joins begins to own immediately only if it reached every address and no member owns
// anything. Otherwise it begins at a second that it announces.
func TestWhichNewNodeBeginsToOwn(t *testing.T) {
	t.Parallel()
	const never, atOnce, dated = "never", "at once", "dated"
	newcomer := placement.Member{Name: "newcomer-1", RingKey: "newcomer", Revision: 1, OwnsFrom: placement.Never, OwnsUntil: placement.Never}
	drained := placement.Member{Name: "drained-1", RingKey: "drained", Revision: 1, OwnsUntil: 1}
	owner := placement.Member{Name: "owner-1", RingKey: "owner", Revision: 1, OwnsUntil: placement.Never}
	for _, c := range []struct {
		name   string
		known  []placement.Member
		sought bool // a round of joining is over
		all    bool
		why    string
		want   string
	}{
		{"nobody yet", nil, false, false, "", never},
		{"still joining, with a newcomer", []placement.Member{newcomer}, false, false, "", never},
		{"still joining, with one that drains", []placement.Member{drained}, false, false, "", never},
		{"still joining, with an owner", []placement.Member{newcomer, owner}, false, false, "", dated},
		{"nobody found", nil, true, false, "", never},
		{"nobody to be found", nil, true, true, "alone", atOnce},
		{"a fleet begins", []placement.Member{newcomer}, true, true, "", atOnce},
		{"all others drain", []placement.Member{drained}, true, true, "", atOnce},
		{"somebody was missed", []placement.Member{newcomer, drained}, true, false, "", dated},
		{"found an owner, after all", []placement.Member{owner}, true, true, "alone", dated},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := membershipWithoutGossip(nil, "fleet")
			m.receive(c.known...)
			m.buildView()
			if c.sought && m.endJoinRound(c.all, c.why) != (len(c.known) > 0) {
				t.Errorf("%s: company", c.name)
			}
			me, got := m.buildView().Member(m.self.Name), dated
			switch me.OwnsFrom {
			case placement.Never:
				got = never
			case 0:
				got = atOnce
			}
			if got != c.want {
				t.Errorf("%s: %s, want %s", c.name, got, c.want)
			}
		})
	}
}

// A node that is alone warns: immediately if it cannot be otherwise, after a while if no node joins
// it.
func TestNodeThatIsAloneWarns(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log testlog.Lines
		m := membershipWithoutGossip(log.Logger(), "fleet")
		m.endJoinRound(true, "a reason")
		m.endJoinRound(true, "a reason")
		if n := len(log.Containing("alone")); n != 1 {
			t.Errorf("said %d times", n)
		}
	})
}

// A node that finds no other within AloneAfter says so once, and owns streams.
func TestNodeThatStaysAloneSaysSo(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		known []placement.Member
		want  int
	}{
		{"nobody joins", nil, 1},
		{"somebody joins", []placement.Member{{Name: "a", RingKey: "a", Revision: 1, OwnsUntil: placement.Never}}, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				log := testlog.Lines{}
				m := membershipWithoutGossip(log.Logger())
				m.receive(c.known...)
				began := time.Now()
				m.joinLoop(t.Context())
				if n := len(log.Containing("alone")); n != c.want || time.Since(began) != m.cfg.AloneAfter {
					t.Errorf("said %d times, after %v", n, time.Since(began))
				}
			})
		})
	}
}

// runUntilEnd publishes Views until the end of the test.
func (m *Membership) runUntilEnd(t *testing.T) {
	m.startLoops()
	t.Cleanup(func() {
		if err := m.Close(false); err != nil {
			t.Error(err)
		}
	})
	synctest.Wait()
}

// Of two nodes with one key the older one warns, once, that it owns nothing.
func TestSupersededNodeWarnsOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		var log testlog.Lines
		m := membershipWithoutGossip(log.Logger())
		m.runUntilEnd(t)
		said := func(want int) {
			t.Helper()
			synctest.Wait()
			if all := log.Containing("owns nothing"); len(all) != want {
				t.Errorf("%q, want %d lines", all, want)
			}
		}
		twin := placement.Member{Name: "me-2", RingKey: "me", Revision: 1, StartedAt: m.self.StartedAt - 1, OwnsUntil: placement.Never}
		m.receive(twin) // the older one
		said(0)
		twin.Revision, twin.StartedAt = 2, m.self.StartedAt+1
		m.receive(twin)
		said(1)
		if all := log.Containing("10.0.0.1:1"); len(all) != 1 || !strings.Contains(all[0], "10.0.1.0:1") {
			t.Errorf("without both addresses: %q", all)
		}
		m.receive(placement.Member{Name: "a", RingKey: "a", Revision: 1, OwnsUntil: placement.Never})
		said(1)
		(*delegate)(m).NotifyLeave(&memberlist.Node{Name: twin.Name})
		said(1)
		m.receive(twin)
		said(2)
	})
}

// A node that no other joins counts itself.
func TestLoneNodeCountsItself(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		m := membershipWithoutGossip(nil)
		m.runUntilEnd(t)
		if members, owners := testutil.ToFloat64(m.metrics.members), testutil.ToFloat64(m.metrics.owners); members != 1 || owners != 1 {
			t.Errorf("%v members, %v owners", members, owners)
		}
	})
}
