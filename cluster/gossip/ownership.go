package gossip

import (
	"cmp"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// This file decides whether this node may own streams, from what S2 answers and from the fleet's
// record. A node owns nothing before S2 has answered it with its own settings and has shown it the
// fleet's record. Members that own streams are right: a node with another record owns nothing and
// is not ready. Owners never yield to a newcomer. A member of a release that announces no record
// neither excludes others nor is excluded.

// Gate holds what a node's standing allows its membership. The zero gate allows all.
type Gate struct {
	MustNotBegin  bool // the node must not begin to own
	MustYield     bool // the node must stop owning
	StoreAnswered bool // S2 has answered this node
}

// joinRoundResult is the result of the last round of joining that might have begun a fleet
// (endJoinRound).
type joinRoundResult struct {
	done, reachedAll bool
	aloneReason      string
}

// foundersWindow bounds the time between the start dates of owners that count as having begun
// together.
const foundersWindow = 10 * time.Second

// recordGroup holds the owners that found the same record.
type recordGroup struct {
	fleet uint64
	since shard.Millis
	count int
}

// rightfulRecord returns the fleet record that counts: the record of the member that has owned
// streams for longest. If several began together, it is the record of most of them. 0: no owner
// announces one.
func rightfulRecord(members []placement.Member, now shard.Millis) uint64 {
	var groups []recordGroup
	earliest := shard.Millis(placement.Never)
	for i := range members {
		m := &members[i]
		if m.FleetHash == 0 || !m.OwnsOrWill(now) {
			continue
		}
		since := max(m.OwnsFrom, m.StartedAt)
		earliest = min(earliest, since)
		at := slices.IndexFunc(groups, func(p recordGroup) bool { return p.fleet == m.FleetHash })
		if at < 0 {
			at = len(groups)
			groups = append(groups, recordGroup{fleet: m.FleetHash, since: since})
		}
		groups[at].since = min(groups[at].since, since)
		groups[at].count++
	}
	groups = slices.DeleteFunc(groups, func(p recordGroup) bool {
		return p.since-earliest > shard.Millis(foundersWindow.Milliseconds())
	})
	if len(groups) == 0 {
		return 0
	}
	return slices.MinFunc(groups, func(a, b recordGroup) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.fleet, b.fleet))
	}).fleet
}

// allMembersLocked returns this node and the others.
func (m *Membership) allMembersLocked() []placement.Member {
	all := make([]placement.Member, 0, 1+len(m.others))
	all = append(all, m.self)
	for _, o := range m.others {
		all = append(all, o)
	}
	return all
}

// recordDiffersLocked reports whether this node found a record that is not the rightful record.
func (m *Membership) recordDiffersLocked(now time.Time) bool {
	if m.self.FleetHash == 0 && !m.ownership.StoreAnswered {
		return false
	}
	right := rightfulRecord(m.allMembersLocked(), shard.MillisOf(now))
	return right != 0 && right != m.self.FleetHash
}

// mayOwnLocked reports whether this node may begin to own streams.
func (m *Membership) mayOwnLocked(now time.Time) bool {
	return !m.ownership.MustNotBegin && !m.recordDiffersLocked(now)
}

// yieldOwnershipLocked ends this node's ownership if it must end.
func (m *Membership) yieldOwnershipLocked(now time.Time) {
	if m.self.OwnsFrom == placement.Never || !m.ownership.MustYield && !m.recordDiffersLocked(now) {
		return
	}
	m.setStartLocked(placement.Never)
}

// noteJoinRoundLocked keeps the result of a round of joining for when the gate opens; first: it is
// the first result.
func (m *Membership) noteJoinRoundLocked(reachedAll bool, aloneReason string) (first bool) {
	first = !m.joinRound.done
	m.joinRound = joinRoundResult{true, reachedAll, aloneReason}
	return first
}

// ApplyStanding applies what S2 answers to this node's membership.
func (m *Membership) ApplyStanding(g Gate, features placement.Features, fleet uint64) {
	m.mu.Lock()
	opened := m.ownership.MustNotBegin && !g.MustNotBegin
	changed := g != m.ownership
	m.ownership = g
	said := m.self.Features&^placement.StoreFeatures | features
	if said != m.self.Features || fleet != m.self.FleetHash {
		m.self.Features, m.self.FleetHash = said, fleet
		m.self.Revision++
		notify.Send(m.selfChanged)
		changed = true
	}
	now := m.cfg.Now()
	if opened && len(m.cfg.Join) == 0 && m.self.OwnsFrom == placement.Never && m.mayOwnLocked(now) && !m.othersOwnLocked(now) {
		m.setStartLocked(0)
	}
	last := m.joinRound
	m.mu.Unlock()
	if opened && last.done {
		m.endJoinRound(last.reachedAll, last.aloneReason)
	}
	if changed {
		notify.Send(m.viewStale)
	}
}

// FleetRole returns what this node may do about the fleet record. The stream manager asks for it.
func (m *Membership) FleetRole() shard.Role {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := shard.MillisOf(m.cfg.Now())
	role := shard.Role{Owns: m.self.OwnsFrom != placement.Never, Level: shard.FormatLevel}
	looked := role.Owns || m.joinRound.done || len(m.cfg.Join) == 0
	role.MayCreate, role.SoleOwner = looked, looked
	for _, o := range m.others {
		role.Level = min(role.Level, o.FormatLevel)
		if o.OwnsOrWill(now) {
			role.SoleOwner = false
			role.MayCreate = role.MayCreate && (o.FleetHash == 0 || o.FleetHash == m.self.FleetHash)
		}
	}
	return role
}

// JudgeStanding compares a Standing with the members that own streams. It returns their rightful
// record, and why this node must own nothing; empty: it may own.
func (m *Membership) JudgeStanding(st shard.Standing) (right uint64, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	right = rightfulRecord(m.allMembersLocked(), shard.MillisOf(now))
	switch {
	case !st.Passed, right != 0 && right == st.Fleet && st.RecordProblem == "":
		return right, ""
	case right == 0 && !m.joinRound.done && len(m.cfg.Join) > 0:
		return 0, "" // it may write the record, once it has looked for other members
	case right == 0:
		return 0, st.RecordProblem
	}
	var owner string
	for _, o := range m.others {
		if o.FleetHash == right && o.OwnsOrWill(shard.MillisOf(now)) && (owner == "" || o.Name < owner) {
			owner = o.Name
		}
	}
	what := st.RecordProblem
	if what == "" {
		what = "in " + st.Where + " is the record of another fleet"
	}
	return right, "the settings for S2 are not those of " + owner + ": " + what
}
