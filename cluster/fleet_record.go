package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// This file decides, from what S2 answers, whether this node may own streams. A node owns nothing
// before S2 has answered it with its own settings and has shown it the fleet's record
// (shard.Standing). Members that own streams are right: a node with another record owns nothing and
// is not ready. Owners never yield to a newcomer. A member of a release that announces no record
// neither excludes others nor is excluded. The answers to requests play no part.

// ownershipGate holds what a node's standing allows its membership. The zero gate allows all.
type ownershipGate struct {
	mustNotBegin  bool // the node must not begin to own
	mustYield     bool // the node must stop owning
	storeAnswered bool // S2 has answered this node

	// Result of the last round of joining that might have begun a fleet (endJoinRound).
	joinRoundDone, reachedAll bool
	aloneReason               string
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

// rightfulRecord returns the fleet record that counts: that of the member that has owned streams
// for longest, and of those that began together that of most. 0: no owner announces one.
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
func (m *membership) allMembersLocked() []placement.Member {
	all := make([]placement.Member, 0, 1+len(m.others))
	all = append(all, m.self)
	for _, o := range m.others {
		all = append(all, o)
	}
	return all
}

// recordDiffersLocked reports whether this node found another record than the rightful one.
func (m *membership) recordDiffersLocked(now time.Time) bool {
	if m.self.FleetHash == 0 && !m.ownership.storeAnswered {
		return false
	}
	right := rightfulRecord(m.allMembersLocked(), shard.MillisOf(now))
	return right != 0 && right != m.self.FleetHash
}

// mayOwnLocked reports whether this node may begin to own streams.
func (m *membership) mayOwnLocked(now time.Time) bool {
	return !m.ownership.mustNotBegin && !m.recordDiffersLocked(now)
}

// yieldOwnershipLocked ends this node's ownership if it must end.
func (m *membership) yieldOwnershipLocked(now time.Time) {
	if m.self.OwnsFrom == placement.Never || !m.ownership.mustYield && !m.recordDiffersLocked(now) {
		return
	}
	m.setStartLocked(placement.Never)
}

// noteJoinRoundLocked keeps the result of a round of joining for when the gate opens; first: it is
// the first result.
func (m *membership) noteJoinRoundLocked(reachedAll bool, aloneReason string) (first bool) {
	first = !m.ownership.joinRoundDone
	m.ownership.joinRoundDone, m.ownership.reachedAll, m.ownership.aloneReason = true, reachedAll, aloneReason
	return first
}

// applyStanding applies what S2 answers to this node's membership.
func (m *membership) applyStanding(g ownershipGate, features placement.Features, fleet uint64) {
	m.mu.Lock()
	opened := m.ownership.mustNotBegin && !g.mustNotBegin
	changed := g.mustNotBegin != m.ownership.mustNotBegin || g.mustYield != m.ownership.mustYield || g.storeAnswered != m.ownership.storeAnswered
	m.ownership.mustNotBegin, m.ownership.mustYield, m.ownership.storeAnswered = g.mustNotBegin, g.mustYield, g.storeAnswered
	said := m.self.Features&^placement.StoreFeatures | features
	if said != m.self.Features || fleet != m.self.FleetHash {
		m.self.Features, m.self.FleetHash = said, fleet
		m.self.Revision++
		notify(m.selfChanged)
		changed = true
	}
	now := m.cfg.Now()
	if opened && len(m.cfg.Join) == 0 && m.self.OwnsFrom == placement.Never && m.mayOwnLocked(now) && !m.othersOwnLocked(now) {
		m.setStartLocked(0)
	}
	again, all, why := opened && m.ownership.joinRoundDone, m.ownership.reachedAll, m.ownership.aloneReason
	m.mu.Unlock()
	if again {
		m.endJoinRound(all, why)
	}
	if changed {
		notify(m.viewStale)
	}
}

// fleetRole returns what this node may do about the fleet record. The stream manager asks for it.
func (m *membership) fleetRole() shard.Role {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := shard.MillisOf(m.cfg.Now())
	role := shard.Role{Owns: m.self.OwnsFrom != placement.Never, Level: shard.FormatLevel}
	looked := role.Owns || m.ownership.joinRoundDone || len(m.cfg.Join) == 0
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

// judgeStanding compares a Standing with the members that own streams. It returns their rightful
// record, and why this node must own nothing; empty: it may own.
func (m *membership) judgeStanding(st shard.Standing) (right uint64, reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	right = rightfulRecord(m.allMembersLocked(), shard.MillisOf(now))
	switch {
	case !st.Passed, right != 0 && right == st.Fleet && st.RecordProblem == "":
		return right, ""
	case right == 0 && !m.ownership.joinRoundDone && len(m.cfg.Join) > 0:
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

// standingState holds what reconcileStanding remembers between its calls. reconcileLoop owns it.
type standingState struct {
	othersSilentSince time.Time // since when S2 has answered no other member
	rightRecord       uint64    // the record that counts
	reason            string    // of judgeStanding
	reasonSince       time.Time // since when it has been this reason
	loggedReason      string    // the last one that was logged
	loggedAt          time.Time
	byMember          map[string]memberStoreState // by member name
}

// recheckAfter is the time for which a node that does not find the others' record checks again
// before it reports that: they may just have written it.
const recheckAfter = 2 * time.Second

// logAgainEvery is the pause between two log lines about an error that lasts.
const logAgainEvery = time.Minute

// reconcileStanding acts on what S2 answers to this node and to others.
func (r *Node) reconcileStanding(now time.Time) {
	if !r.cfg.storeGated {
		return
	}
	st := r.storeStanding()
	if r.standingState.othersSilentSince.IsZero() || r.storeAnswersOthers() {
		r.standingState.othersSilentSince = now
	}
	outage := !st.Passed && st.Refused == "" && now.Sub(r.standingState.othersSilentSince) >= shard.OutageAfter
	if outage && !r.storeOutage.Load() {
		r.cfg.Logger.Error("S2 answers no node: this one owns streams without, and refuses what needs it")
	}
	r.storeOutage.Store(outage)
	rightRecord, reason := r.membership.judgeStanding(st)
	if rightRecord != r.standingState.rightRecord {
		r.standingState.rightRecord = rightRecord
		r.probeStoreNow()
	}
	if reason != r.standingState.reason {
		r.standingState.reason, r.standingState.reasonSince = reason, now
	}
	if now.Sub(r.standingState.reasonSince) < recheckAfter {
		reason = ""
	}
	r.recordProblem.Store(&reason)
	features := placement.Features(0)
	for f, on := range map[placement.Features]bool{
		placement.FeatureStoreAnswered: st.Passed, placement.FeatureStoreRefused: st.Refused != "", placement.FeatureRecordDiffers: rightRecord != 0 && reason != "",
	} {
		if on {
			features |= f
		}
	}
	r.membership.applyStanding(ownershipGate{
		mustNotBegin:  st.Refused != "" || !st.Passed && !outage || st.Passed && st.RecordProblem != "",
		mustYield:     st.Passed && st.Refused == "" && st.Silent == "" && st.RecordProblem != "",
		storeAnswered: st.Passed,
	}, features, st.Fleet)
	r.logDiffers(now, reason)
	r.logOtherMembers()
}

// logDiffers logs why this node must own nothing, once and then each minute.
func (r *Node) logDiffers(now time.Time, why string) {
	if why == "" || why == r.standingState.loggedReason && now.Sub(r.standingState.loggedAt) < logAgainEvery {
		return
	}
	r.standingState.loggedReason, r.standingState.loggedAt = why, now
	r.cfg.Logger.Error("this node owns no streams", "why", why)
}

// memberStoreState holds the last S2 features of a member, and those that were logged.
type memberStoreState struct{ last, logged placement.Features }

// logOtherMembers logs once what is wrong with each other member. When S2 begins to refuse one,
// this node probes immediately, before that member's streams move: S2 may refuse all.
func (r *Node) logOtherMembers() {
	v := r.View()
	for i := range v.Members() {
		m := &v.Members()[i]
		before, now := r.standingState.byMember[m.Name], m.Features&(placement.FeatureStoreRefused|placement.FeatureRecordDiffers)
		if m.Name == r.self || before.last == now {
			continue
		}
		r.standingState.byMember[m.Name] = memberStoreState{now, before.logged | now}
		if now&^before.last&placement.FeatureStoreRefused != 0 {
			r.probeStoreNow()
		}
		if now&^before.logged&placement.FeatureStoreRefused != 0 {
			r.cfg.Logger.Warn("S2 refuses a member, which is not ready", "peer", m.Name, "addr", m.RelayAddr)
		}
		if now&^before.logged&placement.FeatureRecordDiffers != 0 {
			r.cfg.Logger.Warn("a member has other settings for S2 than the fleet: it owns no streams", "peer", m.Name, "addr", m.RelayAddr)
		}
	}
	maps.DeleteFunc(r.standingState.byMember, func(name string, _ memberStoreState) bool { return v.Member(name) == nil })
}

// storeAnswersOthers reports whether S2 answers another member, as far as this node knows.
func (r *Node) storeAnswersOthers() bool {
	said := r.peers.statuses()
	for i := range r.View().Members() {
		m := &r.View().Members()[i]
		if m.Name == r.self {
			continue
		}
		switch st := said[m.Name]; {
		case st != nil && !st.GetStoreDown():
			return true
		case st == nil && m.Features&placement.FeatureStoreAnswered != 0 && m.Features&placement.FeatureStoreRefused == 0:
			return true
		}
	}
	return false
}

// storeLost reports whether S2 does not serve this node: it answers none of its calls, refuses its
// probe, or has never answered it.
func (r *Node) storeLost() bool {
	return r.local.manager.StoreDown() || r.cfg.storeGated && r.storeStanding().Lost()
}

// NotReadyReason returns, in one line, what in S2 or in the settings for it keeps this node from
// being ready; empty: nothing does.
func (r *Node) NotReadyReason() string {
	if !r.cfg.storeGated {
		return ""
	}
	st := r.storeStanding()
	switch {
	case st.Refused != "":
		return st.Refused
	case !st.Passed && r.storeOutage.Load():
		return ""
	case !st.Passed && st.Silent == "":
		return "S2 has not answered yet"
	case !st.Passed:
		return st.Silent
	}
	if why := r.recordProblem.Load(); why != nil {
		return *why
	}
	return ""
}
