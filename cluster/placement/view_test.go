package placement

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

func at(ms int64) time.Time { return time.UnixMilli(ms) }

func ownerNames(t *OwnerTable) []string {
	names := make([]string, len(t.members))
	for i, m := range t.members {
		names[i] = m.Name
	}
	slices.Sort(names)
	return names
}

func TestViewTableOfAnInstant(t *testing.T) {
	t.Parallel()
	for _, tc := range []struct {
		name    string
		members []Member
		want    map[int64][]string
	}{
		{"nobody", nil, map[int64][]string{0: {}}},
		{
			"for ever",
			[]Member{{Name: "a", RingKey: "a", OwnsUntil: Never}, {Name: "b", RingKey: "b", OwnsUntil: Never}},
			map[int64][]string{0: {"a", "b"}, 1 << 40: {"a", "b"}},
		},
		{
			"joins and leaves on the instant",
			[]Member{{Name: "a", RingKey: "a", OwnsUntil: 2000}, {Name: "b", RingKey: "b", OwnsFrom: 1000, OwnsUntil: Never}},
			map[int64][]string{0: {"a"}, 999: {"a"}, 1000: {"a", "b"}, 1999: {"a", "b"}, 2000: {"b"}},
		},
		{
			"not yet joined",
			[]Member{{Name: "a", RingKey: "a", OwnsFrom: Never, OwnsUntil: Never}},
			map[int64][]string{0: {}, 1 << 50: {}},
		},
		{
			"newest process of a key",
			[]Member{
				{Name: "a1", RingKey: "a", StartedAt: 1, OwnsUntil: Never},
				{Name: "a2", RingKey: "a", StartedAt: 2, OwnsUntil: Never},
			},
			map[int64][]string{0: {"a2"}},
		},
		{
			"a successor that is not due hides nobody",
			[]Member{
				{Name: "a1", RingKey: "a", StartedAt: 1, OwnsUntil: Never},
				{Name: "a2", RingKey: "a", StartedAt: 2, OwnsFrom: 500, OwnsUntil: Never},
			},
			map[int64][]string{499: {"a1"}, 500: {"a2"}},
		},
		{
			"no store",
			[]Member{
				{Name: "a", RingKey: "a", OwnsUntil: Never, Flags: FlagStoreDown},
				{Name: "b", RingKey: "b", OwnsFrom: 10, OwnsUntil: Never},
			},
			map[int64][]string{0: {"a"}, 10: {"b"}},
		},
		{
			"no store anywhere",
			[]Member{
				{Name: "a", RingKey: "a", OwnsUntil: Never, Flags: FlagStoreDown},
				{Name: "b", RingKey: "b", OwnsUntil: Never, Flags: FlagStoreDown},
			},
			map[int64][]string{0: {"a", "b"}},
		},
		{
			"the newest process has no store: the key owns nothing",
			[]Member{
				{Name: "a1", RingKey: "a", StartedAt: 1, OwnsUntil: Never},
				{Name: "a2", RingKey: "a", StartedAt: 2, OwnsUntil: Never, Flags: FlagStoreDown},
				{Name: "b", RingKey: "b", OwnsUntil: Never},
			},
			map[int64][]string{0: {"b"}},
		},
		{
			"the higher revision counts",
			[]Member{
				{Name: "a", RingKey: "a", Revision: 2, OwnsUntil: Never},
				{Name: "a", RingKey: "a", Revision: 1, OwnsUntil: 1},
			},
			map[int64][]string{5: {"a"}},
		},
	} {
		t.Run(tc.name, func(t *testing.T) {
			t.Parallel()
			for _, ms := range [][]Member{tc.members, reversed(tc.members)} {
				v := NewView(ms)
				for ms, want := range tc.want {
					if got := ownerNames(v.TableAt(at(ms))); !slices.Equal(got, want) {
						t.Errorf("at %d: %v, want %v", ms, got, want)
					}
				}
			}
		})
	}
}

func reversed(ms []Member) []Member {
	ms = slices.Clone(ms)
	slices.Reverse(ms)
	return ms
}

// Every combination of three members' dates, keys and flags, compared with the rules written out
// naively.
func TestViewTableMatchesTheRules(t *testing.T) {
	t.Parallel()
	dates := [][2]uint64{{0, Never}, {0, 2}, {2, Never}, {1, 3}, {Never, Never}}
	kinds := []Member{}
	for _, d := range dates {
		for _, f := range []Flags{0, FlagStoreDown} {
			for _, k := range []string{"k", "l"} {
				kinds = append(kinds, Member{RingKey: k, OwnsFrom: shard.Millis(d[0]), OwnsUntil: shard.Millis(d[1]), Flags: f})
			}
		}
	}
	for i := range kinds {
		for j := range kinds {
			a, b := kinds[i], kinds[j]
			a.Name, a.StartedAt, b.Name, b.StartedAt = "a", 1, "b", 2
			c := Member{Name: "c", RingKey: "m", StartedAt: 1, OwnsFrom: 1, OwnsUntil: Never}
			all := []Member{a, b, c}
			v := NewView(all)
			for ms := range uint64(5) {
				// Not TableAt, which would build a ring each time: TestViewTableOfAnInstant covers
				// that.
				got, want := ownerNames(&OwnerTable{members: v.ownersAt(shard.Millis(ms))}), naiveOwners(all, shard.Millis(ms))
				if !slices.Equal(got, want) {
					t.Fatalf("%+v at %d: %v, want %v", all, ms, got, want)
				}
			}
		}
	}
}

func naiveOwners(all []Member, ms shard.Millis) []string {
	var due, newest, stored []Member
	for _, m := range all {
		if m.OwnsFrom <= ms && ms < m.OwnsUntil {
			due = append(due, m)
		}
	}
	for _, m := range due {
		if !slices.ContainsFunc(due, func(o Member) bool { return o.RingKey == m.RingKey && o.StartedAt > m.StartedAt }) {
			newest = append(newest, m)
		}
	}
	for _, m := range newest {
		if m.Flags&FlagStoreDown == 0 {
			stored = append(stored, m)
		}
	}
	if len(stored) == 0 {
		stored = newest
	}
	names := []string{}
	for _, m := range stored {
		names = append(names, m.Name)
	}
	slices.Sort(names)
	return names
}

func TestViewListsItsDates(t *testing.T) {
	t.Parallel()
	v := NewView([]Member{
		{Name: "a", RingKey: "a", OwnsFrom: 3000, OwnsUntil: Never},
		{Name: "b", RingKey: "b", OwnsUntil: 1000},
		{Name: "c", RingKey: "c", OwnsFrom: 1000, OwnsUntil: 3000},
		{Name: "d", RingKey: "d", OwnsFrom: Never, OwnsUntil: Never},
	})
	if got := v.TableChanges(); len(got) != 2 || !got[0].Equal(at(1000)) || !got[1].Equal(at(3000)) {
		t.Errorf("%v", got)
	}
}

func fleetView(n int) *View {
	ms := make([]Member, n)
	for i := range ms {
		key := fmt.Sprintf("n%d", i)
		ms[i] = Member{Name: key + "-x", RingKey: key, OwnsUntil: Never, RelayAddr: key}
	}
	return NewView(ms)
}

func TestTableWithoutMembers(t *testing.T) {
	t.Parallel()
	tab := fleetView(4).TableAt(at(0))
	less := tab.Without([]string{"n2-x", "nobody"})
	if less.Len() != 3 || tab.Without([]string{"n2-x"}) != less {
		t.Errorf("%d members, or not remembered", less.Len())
	}
	if tab.Without(nil) != tab || tab.Without([]string{"nobody"}) != tab {
		t.Error("nobody left out gave another table")
	}
	for i := range 200 {
		id := shard.StreamID(fmt.Sprintf("s/%d", i))
		was, is := tab.Owner(id), less.Owner(id)
		if is.Name == "n2-x" || was.Name != "n2-x" && was.Name != is.Name {
			t.Errorf("%s went from %s to %s", id, was.Name, is.Name)
		}
	}
	if m := tab.Without([]string{"n0-x", "n1-x", "n2-x", "n3-x"}).Owner("a"); m != nil {
		t.Errorf("nobody is left, but %s owns", m.Name)
	}
}

// Requests at an announced date find the table built, for the next maxTablesAhead dates.
func TestTablesAreBuiltAhead(t *testing.T) {
	t.Parallel()
	var ms []Member
	for i := range uint64(maxTablesAhead + 2) {
		ms = append(ms, Member{
			Name: fmt.Sprint(i), RingKey: fmt.Sprint(i), Revision: 1, OwnsFrom: shard.Millis(1000 * (i + 2)), OwnsUntil: Never,
		})
	}
	v := NewView(ms)
	v.TableAt(at(1000))
	v.BuildTablesAhead(at(1000))
	for i := range v.spans {
		if stands := v.spans[i].table != nil; stands != (i <= maxTablesAhead) {
			t.Errorf("after %d dates: %v", i, stands)
		}
	}
}
