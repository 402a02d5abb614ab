package cluster

import (
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// View is who is here, with the dates between which each member owns streams. It
// is an immutable value; views have identity but no order.
type View struct {
	members []Member // by Name, distinct
	changes []uint64 // the instants at which the table changes, ascending
	spans   []span   // spans[i] is before flips[i]; the last one after them all
}

// span is a stretch of time without a change.
type span struct {
	once  sync.Once
	table *OwnerTable
}

// NewView returns the view of the given members; of two with one Name the higher
// Rev counts.
func NewView(members []Member) *View {
	ms := slices.Clone(members)
	slices.SortFunc(ms, func(a, b Member) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return compareUint64(b.Revision, a.Revision)
	})
	ms = slices.CompactFunc(ms, func(a, b Member) bool { return a.Name == b.Name })
	v := &View{members: ms}
	for _, m := range ms {
		for _, at := range []uint64{m.OwnsFrom, m.OwnsUntil} {
			if at != 0 && at != Never {
				v.changes = append(v.changes, at)
			}
		}
	}
	slices.Sort(v.changes)
	v.changes = slices.Compact(v.changes)
	v.spans = make([]span, len(v.changes)+1)
	return v
}

func compareUint64(a, b uint64) int {
	switch {
	case a < b:
		return -1
	case a > b:
		return 1
	default:
		return 0
	}
}

// Members lists the members by name. Shared; must not be changed.
func (v *View) Members() []Member { return v.members }

// allSpeak reports whether every member knows a version of the relay's contract.
func (v *View) allSpeak(version uint8) bool {
	return !slices.ContainsFunc(v.members, func(m Member) bool { return m.RelayVersion < version })
}

// FormatLevel returns the level of the log format that every member speaks: fields of
// a higher one would be lost at a stream's next owner.
func (v *View) FormatLevel() uint8 {
	level := uint8(shard.FormatLevel)
	for i := range v.members {
		level = min(level, v.members[i].FormatLevel)
	}
	return level
}

// hasLegacyAt reports whether a member is at an address that does not speak TLS.
func (v *View) hasLegacyAt(ip net.IP) bool {
	return slices.ContainsFunc(v.members, func(m Member) bool {
		return m.Features&FeatureTLS == 0 && m.isAt(ip)
	})
}

// hasMemberAt reports whether a member is at an address.
func (v *View) hasMemberAt(ip net.IP) bool {
	return slices.ContainsFunc(v.members, func(m Member) bool { return m.isAt(ip) })
}

// isAt reports whether the member's relay is at an address.
func (m *Member) isAt(ip net.IP) bool {
	host, _, _ := net.SplitHostPort(m.Relay)
	return ip.Equal(net.ParseIP(host))
}

// Member is the member of that name, or nil.
func (v *View) Member(name string) *Member {
	i, ok := slices.BinarySearchFunc(v.members, name, func(m Member, name string) int {
		return strings.Compare(m.Name, name)
	})
	if !ok {
		return nil
	}
	return &v.members[i]
}

// TableChanges lists the instants at which the table changes, past ones included.
func (v *View) TableChanges() []time.Time {
	at := make([]time.Time, len(v.changes))
	for i, ms := range v.changes {
		at[i] = time.UnixMilli(int64(ms))
	}
	return at
}

// TableAt is the table for an instant.
func (v *View) TableAt(t time.Time) *OwnerTable {
	ms := unixMillis(t)
	i, found := slices.BinarySearch(v.changes, ms)
	if found {
		i++ // a flip's own instant is after it
	}
	s := &v.spans[i]
	s.once.Do(func() { s.table = newTable(v.ownersAt(ms)) })
	return s.table
}

// ownersAt lists who may own streams at an instant. The order of the filters
// matters: a successor that is not yet due must not hide its predecessor.
func (v *View) ownersAt(ms uint64) []*Member {
	newest := make(map[string]*Member, len(v.members))
	for i := range v.members {
		m := &v.members[i]
		if !m.ownsAt(ms) {
			continue
		}
		if o := newest[m.RingKey]; o == nil || m.supersedes(o) {
			newest[m.RingKey] = m
		}
	}
	var all, stored []*Member
	for _, m := range newest {
		all = append(all, m)
		if m.Flags&FlagNoStore == 0 {
			stored = append(stored, m)
		}
	}
	if len(stored) > 0 {
		return stored
	}
	return all
}

// tableIfPresent is the table for an instant if the member of that name has not left and S2 answers
// it, whatever is known of that.
func (v *View) tableIfPresent(name string, t time.Time) *OwnerTable {
	at, ms := v.TableAt(t), unixMillis(t)
	if at.hasOwner(name) {
		return at
	}
	members := slices.Clone(v.members)
	for i := range members {
		if m := &members[i]; m.Name == name {
			m.Flags &^= FlagNoStore
			m.OwnsUntil = Never
		}
	}
	return newTable((&View{members: members}).ownersAt(ms))
}

// SupersededBy is the member that owns at an instant what the one of that name would own: it has
// the same key and is newer. nil: there is none.
func (v *View) SupersededBy(name string, t time.Time) *Member {
	m, ms := v.Member(name), unixMillis(t)
	if m == nil || !m.ownsAt(ms) {
		return nil
	}
	for i := range v.members {
		if o := &v.members[i]; o.RingKey == m.RingKey && o.ownsAt(ms) && o.supersedes(m) {
			return o
		}
	}
	return nil
}

// equal reports whether two views say the same.
func (v *View) equal(o *View) bool { return slices.Equal(v.members, o.members) }

// OwnerTable says who owns what at an instant. Immutable.
type OwnerTable struct {
	members []*Member // by Key
	ring    *Ring

	mu           sync.Mutex
	withoutCache map[string]*OwnerTable // see without
}

// maxWithoutCache bounds the tables remembered by without; when it is reached they are
// all forgotten.
const maxWithoutCache = 32

func newTable(ms []*Member) *OwnerTable {
	slices.SortFunc(ms, func(a, b *Member) int { return strings.Compare(a.RingKey, b.RingKey) })
	keys := make([]string, len(ms))
	for i, m := range ms {
		keys[i] = m.RingKey
	}
	return &OwnerTable{members: ms, ring: cachedRing(keys)}
}

// Len is the number of members that own streams.
func (t *OwnerTable) Len() int { return len(t.members) }

// sameOwners reports whether two tables name the same owners.
func (t *OwnerTable) sameOwners(o *OwnerTable) bool {
	return slices.EqualFunc(t.members, o.members, func(a, b *Member) bool { return a.Name == b.Name })
}

// hasOwner reports whether the member of that name owns streams.
func (t *OwnerTable) hasOwner(name string) bool {
	return slices.ContainsFunc(t.members, func(m *Member) bool { return m.Name == name })
}

// Owner is the stream's owner, or nil if nobody owns anything.
func (t *OwnerTable) Owner(id shard.StreamID) *Member {
	i := t.ring.ownerIndex(id)
	if i < 0 {
		return nil
	}
	return t.members[i]
}

// without is the table that these members, by name, are not in.
func (t *OwnerTable) without(names []string) *OwnerTable {
	gone := make([]string, 0, len(names))
	for _, m := range t.members {
		if slices.Contains(names, m.Name) {
			gone = append(gone, m.Name)
		}
	}
	if len(gone) == 0 {
		return t
	}
	key := strings.Join(gone, "\x00") // in the table's order: one key for one set
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.withoutCache[key]; o != nil {
		return o
	}
	if t.withoutCache == nil || len(t.withoutCache) >= maxWithoutCache {
		t.withoutCache = make(map[string]*OwnerTable)
	}
	left := slices.DeleteFunc(slices.Clone(t.members), func(m *Member) bool {
		return slices.Contains(gone, m.Name)
	})
	o := newTable(left)
	t.withoutCache[key] = o
	return o
}
