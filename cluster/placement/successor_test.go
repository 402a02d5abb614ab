package placement

import (
	"testing"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// The next owner may know of its date before this node does.
func TestOwnerOfADateThatIsNearIsASuccessor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	v := NewView([]Member{
		{Name: "a-1", RingKey: "a", Revision: 1, OwnsUntil: shard.MillisOf(now.Add(maxHandoverLead / 2)), RelayAddr: "a:1"},
		{Name: "b", RingKey: "b", Revision: 1, OwnsFrom: shard.MillisOf(now.Add(maxHandoverLead / 2)), OwnsUntil: Never, RelayAddr: "b:1"},
		{Name: "c", RingKey: "c", Revision: 1, OwnsFrom: shard.MillisOf(now.Add(time.Hour)), OwnsUntil: Never, RelayAddr: "c:1"},
	})
	if !v.IsSuccessor("p/s", "a-1", PeerAddr{"b", "b:1"}, now) || v.IsSuccessor("p/s", "a-1", PeerAddr{"c", "c:1"}, now) {
		t.Error("not the owner of a date that is near, but that of one far off")
	}
}

// A member owns a stream soon if a date that is near says so.
func TestMemberOwnsSoonByADateThatIsNear(t *testing.T) {
	t.Parallel()
	now := time.Now()
	change := shard.MillisOf(now.Add(maxHandoverLead / 2))
	v := NewView([]Member{
		{Name: "a", RingKey: "a", Revision: 1, OwnsUntil: change}, {Name: "b", RingKey: "b", Revision: 1, OwnsFrom: change, OwnsUntil: Never},
	})
	for name, c := range map[string]struct {
		member string
		now    time.Time
		want   bool
	}{
		"the next owner":           {"b", now, true},
		"the present one":          {"a", now, false},
		"long before":              {"b", now.Add(-maxHandoverLead), false},
		"after it: it does so now": {"b", now.Add(maxHandoverLead), false},
	} {
		t.Run(name, func(t *testing.T) {
			if got := v.OwnsSoon("p/s", c.member, c.now); got != c.want {
				t.Errorf("%v", got)
			}
		})
	}
}

// A member that cancels its leave, or that S2 answers again, knows that before others do.
func TestMemberThatIsBackIsASuccessor(t *testing.T) {
	t.Parallel()
	now := time.Now()
	for what, back := range map[string]Member{
		"its leave": {OwnsUntil: 1, Flags: FlagLeaving}, "its way to S2": {OwnsUntil: Never, Flags: FlagStoreDown},
	} {
		t.Run(what, func(t *testing.T) {
			back.Name, back.RingKey, back.Revision, back.RelayAddr = "b", "b", 1, "b:1"
			v := NewView([]Member{{Name: "a-1", RingKey: "a", Revision: 1, OwnsUntil: Never, RelayAddr: "a:1"}, back})
			for _, id := range []shard.StreamID{"p/s", "p/t", "p/u", "p/v", "p/w", "p/x"} {
				want := newTable([]*Member{{Name: "a-1", RingKey: "a"}, {Name: "b", RingKey: "b"}}).Owner(id).Name == "b"
				if got := v.IsSuccessor(id, "a-1", PeerAddr{"b", "b:1"}, now); got != want {
					t.Errorf("%s taken back: %s is handed over: %v, want %v", what, id, got, want)
				}
			}
		})
	}
}
