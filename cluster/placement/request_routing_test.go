package placement

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/shard"
)

func tableOfNames(names ...string) (*View, *OwnerTable) {
	var ms []Member
	for _, n := range names {
		ms = append(ms, Member{Name: n, RingKey: n, Revision: 1, OwnsUntil: Never, RelayAddr: n + ":1"})
	}
	v := NewView(ms)
	return v, v.TableAt(time.Unix(1, 0))
}

// routingSim holds nodes with tables that may differ, and that may not reach each other.
type routingSim struct {
	names  []string
	views  map[string]*View
	tables map[string]*OwnerTable
	dead   map[string]bool            // they answer no other node
	cut    map[string]map[string]bool // cut[a][b]: a does not reach b
}

func drawRoutingSim(t *rapid.T) *routingSim {
	s := &routingSim{
		views: map[string]*View{}, tables: map[string]*OwnerTable{}, dead: map[string]bool{},
		cut: map[string]map[string]bool{},
	}
	n := rapid.IntRange(1, 6).Draw(t, "nodes")
	for i := range n {
		s.names = append(s.names, fmt.Sprintf("n%d", i))
	}
	for i, name := range s.names {
		sees := slices.DeleteFunc(slices.Clone(s.names), func(o string) bool {
			return o != name && rapid.IntRange(0, 3).Draw(t, "unseen") == 0
		})
		s.views[name], s.tables[name] = tableOfNames(sees...)
		s.dead[name] = i > 0 && rapid.IntRange(0, 3).Draw(t, "dead") == 0
		s.cut[name] = map[string]bool{}
		for _, o := range s.names {
			s.cut[name][o] = o != name && rapid.IntRange(0, 4).Draw(t, "cut") == 0
		}
	}
	return s
}

func (s *routingSim) reaches(a, b string) bool { return !s.dead[b] && !s.cut[a][b] }

// ask makes one attempt of a routing; nil: it was served.
func (s *routingSim) ask(from string, to Target, id shard.StreamID, r Route) (name string, err error) {
	if to.Member == nil {
		return from, nil
	}
	name = to.Member.Name
	if !s.reaches(from, name) {
		return name, ErrUnreachable
	}
	return name, CheckOwnership(s.tables[name], name, id, r, func(m *Member) bool { return s.reaches(name, m.Name) })
}

// Whatever nodes believe and whichever cannot be reached, a request that begins on a living node is
// served, in few steps and by ever higher hops.
func TestRoutingEndsWhateverNodesBelieve(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		s := drawRoutingSim(t)
		id := shard.StreamID(fmt.Sprintf("default/%d", rapid.IntRange(0, 50).Draw(t, "stream")))
		var r Routing
		last := HopFirst
		for step := 0; ; step++ {
			if step > 4*len(s.names)+4 {
				t.Fatalf("no end after %d steps", step)
			}
			to, ok := r.NextTarget(s.views["n0"], s.tables["n0"], id, "n0")
			if !ok {
				t.Fatal("nobody to ask")
			}
			if to.Hop < last && !r.ownerVouched {
				t.Fatalf("hop fell from %d to %d", last, to.Hop)
			}
			last = to.Hop
			name, err := s.ask("n0", to, id, Route{Hop: to.Hop, Excluded: r.Excluded})
			if err == nil {
				return
			}
			if !r.HandleAnswer(name, err) {
				t.Fatalf("gave up after %d steps: %v", step, err)
			}
		}
	})
}

// ownerAndSuccessor returns some stream in the table, with its owner and successor.
func ownerAndSuccessor(t *OwnerTable, not string) (id shard.StreamID, owner, successor *Member) {
	for i := 0; ; i++ {
		id = shard.StreamID(fmt.Sprintf("default/%d", i))
		owner = t.Owner(id)
		successor = t.Without([]string{owner.Name}).Owner(id)
		if owner.Name != not && successor.Name != not {
			return id, owner, successor
		}
	}
}

func TestRoutingAfterALostOwner(t *testing.T) {
	v, table := tableOfNames("a", "b", "c", "d")
	id, owner, successor := ownerAndSuccessor(table, "a")
	var r Routing
	step := func(want *Member, wantHop Hop, err error) {
		t.Helper()
		to, _ := r.NextTarget(v, table, id, "a")
		if to.Member != want || to.Hop != wantHop {
			t.Fatalf("asks %+v at hop %d, want %s at %d", to.Member, to.Hop, want.Name, wantHop)
		}
		if err != nil && !r.HandleAnswer(want.Name, err) {
			t.Fatal("gives up")
		}
	}
	step(owner, HopFirst, ErrUnreachable)
	// The successor reaches the owner. The caller tries it once more, and then forces it.
	step(successor, HopRedirected, &RedirectError{Owner: PeerAddr{owner.Name, owner.RelayAddr}, OwnerAlive: true})
	step(owner, HopRedirected, ErrUnreachable)
	step(successor, HopForce, nil)
}

func TestCheckOwnership(t *testing.T) {
	_, table := tableOfNames("a", "b", "c", "d")
	id, owner, successor := ownerAndSuccessor(table, "a")
	without := []string{owner.Name}
	for _, c := range []struct {
		name          string
		self          string
		r             Route
		answers       bool
		served, alive bool
	}{
		{"the owner serves", owner.Name, Route{}, true, true, false},
		{"others name it", successor.Name, Route{}, true, false, false},
		{"at hop 1 too", "a", Route{Hop: HopRedirected}, true, false, false},
		{"the successor serves for a lost owner", successor.Name, Route{HopRedirected, without}, false, true, false},
		{"unless that answers it", successor.Name, Route{HopRedirected, without}, true, false, true},
		{"others than the successor do not", "a", Route{HopRedirected, without}, false, false, false},
		{"must is always served", "a", Route{Hop: HopForce}, true, true, false},
	} {
		t.Run(c.name, func(t *testing.T) {
			err := CheckOwnership(table, c.self, id, c.r, func(*Member) bool { return c.answers })
			var r *RedirectError
			if served := err == nil; served != c.served {
				t.Errorf("%s: %v", c.name, err)
			} else if !served && (!errors.As(err, &r) || r.OwnerAlive != c.alive || r.Owner.Name != owner.Name) {
				t.Errorf("%s: %v", c.name, err)
			}
		})
	}
}

// A node that S2 does not answer is asked once. After two of them S2 counts as down.
func TestRoutingWhenStoreIsDown(t *testing.T) {
	v, table := tableOfNames("a", "b", "c", "d")
	id, owner, _ := ownerAndSuccessor(table, "a")
	var r Routing
	to, _ := r.NextTarget(v, table, id, "a")
	if to.Member != owner || !r.HandleAnswer(owner.Name, shard.ErrStoreDown) {
		t.Fatal("gives up after the first")
	}
	to, _ = r.NextTarget(v, table, id, "a")
	if to.Member == owner || to.Hop != HopForce {
		t.Fatalf("asks %+v at hop %d", to.Member, to.Hop)
	}
	if r.HandleAnswer(to.Member.Name, shard.ErrStoreDown) {
		t.Fatal("goes on after the second")
	}
}
