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
