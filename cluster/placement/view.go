package placement

import (
	"cmp"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// View holds the members, with the dates between which each owns streams. It is immutable.
type View struct {
	members []Member       // by Name, distinct
	changes []shard.Millis // the instants at which the table changes, ascending
	spans   []span         // spans[i] is before changes[i]; the last one after them all
}

// span is a stretch of time in which owners do not change.
type span struct {
	once  sync.Once
	table *OwnerTable
}

// NewView returns the view of the given members. Of two entries with one Name the one with the
// higher Revision counts.
func NewView(members []Member) *View {
	ms := slices.Clone(members)
	slices.SortFunc(ms, func(a, b Member) int {
		if c := strings.Compare(a.Name, b.Name); c != 0 {
			return c
		}
		return cmp.Compare(b.Revision, a.Revision)
	})
	ms = slices.CompactFunc(ms, func(a, b Member) bool { return a.Name == b.Name })
	v := &View{members: ms}
	for _, m := range ms {
		for _, at := range []shard.Millis{m.OwnsFrom, m.OwnsUntil} {
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

// Members returns the members by name. The slice is shared; callers must not change it.
func (v *View) Members() []Member { return v.members }

// AllSpeak reports whether every member speaks a version of the relay's contract.
func (v *View) AllSpeak(version uint8) bool {
	return !slices.ContainsFunc(v.members, func(m Member) bool { return m.RelayVersion < version })
}

// FormatLevel returns the highest level of the log format that every member knows: a stream's next
// owner would lose the fields of a higher one.
func (v *View) FormatLevel() uint8 {
	level := uint8(shard.FormatLevel)
	for i := range v.members {
		level = min(level, v.members[i].FormatLevel)
	}
	return level
}

// HasLegacyAt reports whether a member at an IP address (unmapped) speaks no TLS.
func (v *View) HasLegacyAt(ip netip.Addr) bool {
	return slices.ContainsFunc(v.members, func(m Member) bool {
		return m.Features&FeatureTLS == 0 && m.isAt(ip)
	})
}

// HasMemberAt reports whether a member is at an IP address (unmapped).
func (v *View) HasMemberAt(ip netip.Addr) bool {
	return slices.ContainsFunc(v.members, func(m Member) bool { return m.isAt(ip) })
}

// isAt reports whether the member's relay is at an IP address.
func (m *Member) isAt(ip netip.Addr) bool {
	at, err := netip.ParseAddrPort(m.RelayAddr)
	return err == nil && at.Addr().Unmap() == ip
}

// Member returns the member of that name, or nil.
func (v *View) Member(name string) *Member {
	i, ok := slices.BinarySearchFunc(v.members, name, func(m Member, name string) int {
		return strings.Compare(m.Name, name)
	})
	if !ok {
		return nil
	}
	return &v.members[i]
}

// TableChanges returns the instants at which the table changes, past ones included.
func (v *View) TableChanges() []time.Time {
	at := make([]time.Time, len(v.changes))
	for i, ms := range v.changes {
		at[i] = time.UnixMilli(int64(ms))
	}
	return at
}

// TableAt returns the table for an instant.
func (v *View) TableAt(t time.Time) *OwnerTable {
	ms := shard.MillisOf(t)
	i, found := slices.BinarySearch(v.changes, ms)
	if found {
		i++ // an instant of change belongs to the span after it
	}
	s := &v.spans[i]
	s.once.Do(func() { s.table = newTable(v.ownersAt(ms)) })
	return s.table
}

// maxTablesAhead bounds the tables that are built ahead. Nodes announce whole seconds, so a deploy
// has few of them.
const maxTablesAhead = 4

// BuildTablesAhead builds the tables of the next dates. Otherwise all requests at a date would wait
// for the first one to build the ring.
func (v *View) BuildTablesAhead(now time.Time) {
	ahead := 0
	for _, at := range v.TableChanges() {
		if at.After(now) && ahead < maxTablesAhead {
			ahead++
			v.TableAt(at)
		}
	}
}

// ownersAt returns the members that own streams at an instant. The order of the filters matters: a
// successor that is not due yet must not hide its predecessor.
func (v *View) ownersAt(ms shard.Millis) []*Member {
	newest := make(map[string]*Member, len(v.members))
	for i := range v.members {
		m := &v.members[i]
		if !m.OwnsAt(ms) {
			continue
		}
		if o := newest[m.RingKey]; o == nil || m.supersedes(o) {
			newest[m.RingKey] = m
		}
	}
	var all, stored []*Member
	for _, m := range newest {
		all = append(all, m)
		if m.Flags&FlagStoreDown == 0 {
			stored = append(stored, m)
		}
	}
	if len(stored) > 0 {
		return stored
	}
	return all
}

// SupersededBy returns the newer member with the same key that owns, at an instant, what the member
// of that name would own; nil: there is none.
func (v *View) SupersededBy(name string, t time.Time) *Member {
	m, ms := v.Member(name), shard.MillisOf(t)
	if m == nil || !m.OwnsAt(ms) {
		return nil
	}
	for i := range v.members {
		if o := &v.members[i]; o.RingKey == m.RingKey && o.OwnsAt(ms) && o.supersedes(m) {
			return o
		}
	}
	return nil
}

// Equal reports whether two views have the same content.
func (v *View) Equal(o *View) bool { return slices.Equal(v.members, o.members) }

// OwnerTable maps streams to their owners at an instant. It is immutable but for withoutCache.
type OwnerTable struct {
	members []*Member // by Key
	ring    *ring

	mu           sync.Mutex
	withoutCache map[string]*OwnerTable // guarded by mu; see without
}

// maxWithoutCache bounds the tables that without remembers; when it is reached all are forgotten.
const maxWithoutCache = 32

func newTable(ms []*Member) *OwnerTable {
	slices.SortFunc(ms, func(a, b *Member) int { return strings.Compare(a.RingKey, b.RingKey) })
	keys := make([]string, len(ms))
	for i, m := range ms {
		keys[i] = m.RingKey
	}
	return &OwnerTable{members: ms, ring: cachedRing(keys)}
}

// Owners returns the members that own streams, by ring key. The slice is shared; callers must not
// change it.
func (t *OwnerTable) Owners() []*Member { return t.members }

// Len returns the number of members that own streams.
func (t *OwnerTable) Len() int { return len(t.members) }

// SameOwners reports whether two tables name the same owners.
func (t *OwnerTable) SameOwners(o *OwnerTable) bool {
	return slices.EqualFunc(t.members, o.members, func(a, b *Member) bool { return a.Name == b.Name })
}

// HasOwner reports whether the member of that name owns streams.
func (t *OwnerTable) HasOwner(name string) bool {
	return slices.ContainsFunc(t.members, func(m *Member) bool { return m.Name == name })
}

// Owner returns the stream's owner; nil: no member owns streams.
func (t *OwnerTable) Owner(id shard.StreamID) *Member {
	i := t.ring.ownerIndex(id)
	if i < 0 {
		return nil
	}
	return t.members[i]
}

// Without returns the table without the members of these names.
func (t *OwnerTable) Without(names []string) *OwnerTable {
	excluded := make([]string, 0, len(names))
	for _, m := range t.members {
		if slices.Contains(names, m.Name) {
			excluded = append(excluded, m.Name)
		}
	}
	if len(excluded) == 0 {
		return t
	}
	key := strings.Join(excluded, "\x00") // in the table's order: one key for one set
	t.mu.Lock()
	defer t.mu.Unlock()
	if o := t.withoutCache[key]; o != nil {
		return o
	}
	if t.withoutCache == nil || len(t.withoutCache) >= maxWithoutCache {
		t.withoutCache = make(map[string]*OwnerTable)
	}
	left := slices.DeleteFunc(slices.Clone(t.members), func(m *Member) bool {
		return slices.Contains(excluded, m.Name)
	})
	o := newTable(left)
	t.withoutCache[key] = o
	return o
}
