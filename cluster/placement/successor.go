package placement

import (
	"slices"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// maxHandoverLead bounds how far a peer that asks for a stream may be ahead of the node that has it,
// by its clock and by its news of owners.
const maxHandoverLead = 10 * time.Second

// IsSuccessor reports whether the member that asks the node self for a stream is its next owner. It
// is, if it owns the stream by the present table, by a table of a date that is near, or by the
// table without self. It also is if it owns the stream by the table in which it is present,
// although self still sees it leaving or cut off from S2: the member knows of its own changes
// earlier.
func (v *View) IsSuccessor(id shard.StreamID, self string, to PeerAddr, now time.Time) bool {
	m := v.Member(to.Name)
	if m == nil || m.RelayAddr != to.Address || to.Name == self {
		return false
	}
	tables := []*OwnerTable{v.TableAt(now), v.TableAt(now).Without([]string{self}), v.tableIfPresent(to.Name, now)}
	for _, at := range v.TableChanges() {
		if at.After(now) && at.Before(now.Add(maxHandoverLead)) {
			tables = append(tables, v.TableAt(at))
		}
	}
	return slices.ContainsFunc(tables, func(t *OwnerTable) bool {
		o := t.Owner(id)
		return o != nil && o.Name == to.Name
	})
}

// OwnsSoon reports whether the member owns the stream from a date on that is near. Its clock may be behind
// that of a node that has given the stream up already.
func (v *View) OwnsSoon(id shard.StreamID, name string, now time.Time) bool {
	return slices.ContainsFunc(v.TableChanges(), func(at time.Time) bool {
		if !at.After(now) || at.After(now.Add(maxHandoverLead)) {
			return false
		}
		o := v.TableAt(at).Owner(id)
		return o != nil && o.Name == name
	})
}

// tableIfPresent returns the table for an instant as if the member of that name were not leaving
// and S2 answered it.
func (v *View) tableIfPresent(name string, t time.Time) *OwnerTable {
	at, ms := v.TableAt(t), shard.MillisOf(t)
	if at.HasOwner(name) {
		return at
	}
	members := slices.Clone(v.members)
	for i := range members {
		if m := &members[i]; m.Name == name {
			m.Flags &^= FlagStoreDown
			m.OwnsUntil = Never
		}
	}
	return newTable((&View{members: members}).ownersAt(ms))
}
