package cluster

import (
	"cmp"
	"maps"
	"slices"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// What storage says to a node, and what follows for the streams that it owns. A node owns
// nothing before storage has answered it with its own settings, and has shown it the fleet's
// record (shard.Standing). Members that own streams are right: one whose record differs
// from theirs owns nothing and is not ready. None yields to a newcomer, and a member of a
// release that tells nothing of a record neither bars nor is barred. What requests are
// answered plays no part.

// Features that tell of S2. A change of each is gossip: a probe finds it, ten seconds apart.
const (
	// featureStoreAnswered: S2 has answered this process, with all rights.
	featureStoreAnswered Features = 1 << 1
	// featureStoreRefused: S2 refuses it now.
	featureStoreRefused Features = 1 << 2
	// featureRecordDiffers: what it found in S2 is not what the members that own streams found.
	featureRecordDiffers Features = 1 << 3

	storeFeatures = featureStoreAnswered | featureStoreRefused | featureRecordDiffers
)

// ownershipGate is what a node's standing lets its membership do. The zero gate is open.
type ownershipGate struct {
	closed        bool // owning must not begin
	barred        bool // and must end
	storeAnswered bool // storage has answered this node

	// What the last round of joining found that might have begun a fleet (sought).
	joinRoundDone, reachedAll bool
	aloneReason               string
}

// foundersWindow is how far apart the dates of owners may be that began together.
const foundersWindow = 10 * time.Second

// recordGroup is the owners that found one record.
type recordGroup struct {
	fleet uint64
	since uint64
	count int
}

// rightfulRecord returns the record that counts among members: that of whoever has owned streams for
// longest; of those that began together, that of most. 0: no owner tells of one.
func rightfulRecord(members []Member, now uint64) uint64 {
	var all []recordGroup
	first := uint64(Never)
	for i := range members {
		m := &members[i]
		if m.Fleet == 0 || !m.ownsOrWill(now) {
			continue
		}
		since := max(m.OwnsFrom, m.Start)
		first = min(first, since)
		at := slices.IndexFunc(all, func(p recordGroup) bool { return p.fleet == m.Fleet })
		if at < 0 {
			at = len(all)
			all = append(all, recordGroup{fleet: m.Fleet, since: since})
		}
		all[at].since = min(all[at].since, since)
		all[at].count++
	}
	all = slices.DeleteFunc(all, func(p recordGroup) bool {
		return p.since-first > uint64(foundersWindow.Milliseconds())
	})
	if len(all) == 0 {
		return 0
	}
	return slices.MinFunc(all, func(a, b recordGroup) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.fleet, b.fleet))
	}).fleet
}

// ownsOrWill reports whether the member owns streams, or has named the date from which it will.
func (m *Member) ownsOrWill(now uint64) bool { return m.OwnsFrom != Never && now < m.OwnsUntil }

// allMembersLocked lists this node and the others.
func (m *membership) allMembersLocked() []Member {
	all := make([]Member, 0, 1+len(m.others))
	all = append(all, m.self)
	for _, o := range m.others {
		all = append(all, o)
	}
	return all
}

// recordDiffersLocked reports whether this node found another record than those who are right.
func (m *membership) recordDiffersLocked(now time.Time) bool {
	if m.self.Fleet == 0 && !m.gate.storeAnswered {
		return false
	}
	right := rightfulRecord(m.allMembersLocked(), unixMillis(now))
	return right != 0 && right != m.self.Fleet
}

// mayOwnLocked reports whether this node may begin to own streams.
func (m *membership) mayOwnLocked(now time.Time) bool {
	return !m.gate.closed && !m.recordDiffersLocked(now)
}

// yieldOwnershipLocked ends the node's owning if it must.
func (m *membership) yieldOwnershipLocked(now time.Time) {
	if m.self.OwnsFrom == Never || !m.gate.barred && !m.recordDiffersLocked(now) {
		return
	}
	m.setStartLocked(Never)
}

// noteJoinRoundLocked keeps what a round of joining found, for when the gate opens; first: nothing was
// before.
func (m *membership) noteJoinRoundLocked(all bool, why string) (first bool) {
	first = !m.gate.joinRoundDone
	m.gate.joinRoundDone, m.gate.reachedAll, m.gate.aloneReason = true, all, why
	return first
}

// applyStanding takes in what storage says.
func (m *membership) applyStanding(g ownershipGate, features Features, fleet uint64) {
	m.mu.Lock()
	opened := m.gate.closed && !g.closed
	changed := g.closed != m.gate.closed || g.barred != m.gate.barred || g.storeAnswered != m.gate.storeAnswered
	m.gate.closed, m.gate.barred, m.gate.storeAnswered = g.closed, g.barred, g.storeAnswered
	said := m.self.Features&^storeFeatures | features
	if said != m.self.Features || fleet != m.self.Fleet {
		m.self.Features, m.self.Fleet = said, fleet
		m.self.Revision++
		notify(m.selfChanged)
		changed = true
	}
	now := m.cfg.Now()
	if opened && len(m.cfg.Join) == 0 && m.self.OwnsFrom == Never && m.mayOwnLocked(now) && !m.othersOwnLocked(now) {
		m.setStartLocked(0)
	}
	again, all, why := opened && m.gate.joinRoundDone, m.gate.reachedAll, m.gate.aloneReason
	m.mu.Unlock()
	if again {
		m.endJoinRound(all, why)
	}
	if changed {
		notify(m.viewStale)
	}
}

// fleetRole is what this node may do about the record: shard.Manager.Stand asks.
func (m *membership) fleetRole() shard.Role {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := unixMillis(m.cfg.Now())
	role := shard.Role{Owns: m.self.OwnsFrom != Never, Level: shard.FormatLevel}
	looked := role.Owns || m.gate.joinRoundDone || len(m.cfg.Join) == 0
	role.MayCreate, role.SoleOwner = looked, looked
	for _, o := range m.others {
		role.Level = min(role.Level, o.FormatLevel)
		if o.ownsOrWill(now) {
			role.SoleOwner = false
			role.MayCreate = role.MayCreate && (o.Fleet == 0 || o.Fleet == m.self.Fleet)
		}
	}
	return role
}

// judgeStanding is what a Standing means beside the members that own streams: right is the record of
// theirs that counts, and why says why this node must own nothing; empty: it may.
func (m *membership) judgeStanding(st shard.Standing) (right uint64, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	right = rightfulRecord(m.allMembersLocked(), unixMillis(now))
	switch {
	case !st.Passed, right != 0 && right == st.Fleet && st.RecordProblem == "":
		return right, ""
	case right == 0 && !m.gate.joinRoundDone && len(m.cfg.Join) > 0:
		return 0, "" // it may write the record once it has looked for others
	case right == 0:
		return 0, st.RecordProblem
	}
	var owner string
	for _, o := range m.others {
		if o.Fleet == right && o.ownsOrWill(unixMillis(now)) && (owner == "" || o.Name < owner) {
			owner = o.Name
		}
	}
	what := st.RecordProblem
	if what == "" {
		what = "in " + st.Where + " is the record of another fleet"
	}
	return right, "the settings for S2 are not those of " + owner + ": " + what
}

// standingState is what the Node makes of its Standings. Owned by tend, but for why and outage.
type standingState struct {
	othersSilentSince time.Time // since when storage has answered no other member
	rightRecord       uint64    // the record that counts
	reason            string    // the verdict
	reasonSince       time.Time // it has been this one
	loggedReason      string    // the last error that was logged
	loggedAt          time.Time
	byMember          map[string]memberStoreState // by member
}

// recheckAfter is how long a node that does not find the record of others looks again before it
// says so: they may just have written it.
const recheckAfter = 2 * time.Second

// logAgainEvery is how often an error that lasts is logged.
const logAgainEvery = time.Minute

// reconcileStanding draws the consequences of what storage says to this node and to others.
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
	right, why := r.membership.judgeStanding(st)
	if right != r.standingState.rightRecord {
		r.standingState.rightRecord = right
		r.probeStoreNow()
	}
	if why != r.standingState.reason {
		r.standingState.reason, r.standingState.reasonSince = why, now
	}
	if now.Sub(r.standingState.reasonSince) < recheckAfter {
		why = ""
	}
	r.recordProblem.Store(&why)
	features := Features(0)
	for f, on := range map[Features]bool{
		featureStoreAnswered: st.Passed, featureStoreRefused: st.Refused != "", featureRecordDiffers: right != 0 && why != "",
	} {
		if on {
			features |= f
		}
	}
	r.membership.applyStanding(ownershipGate{
		closed:        st.Refused != "" || !st.Passed && !outage || st.Passed && st.RecordProblem != "",
		barred:        st.Passed && st.Refused == "" && st.Silent == "" && st.RecordProblem != "",
		storeAnswered: st.Passed,
	}, features, st.Fleet)
	r.logDiffers(now, why)
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

// memberStoreState is what a member said last of S2, and what was said of it here.
type memberStoreState struct{ last, logged Features }

// logOtherMembers logs once of each other member what is the matter with it. When S2 begins to refuse
// one this node asks for itself, before that one's streams move: it may refuse all.
func (r *Node) logOtherMembers() {
	v := r.View()
	for i := range v.members {
		m := &v.members[i]
		before, now := r.standingState.byMember[m.Name], m.Features&(featureStoreRefused|featureRecordDiffers)
		if m.Name == r.self || before.last == now {
			continue
		}
		r.standingState.byMember[m.Name] = memberStoreState{now, before.logged | now}
		if now&^before.last&featureStoreRefused != 0 {
			r.probeStoreNow()
		}
		if now&^before.logged&featureStoreRefused != 0 {
			r.cfg.Logger.Warn("S2 refuses a member, which is not ready", "peer", m.Name, "addr", m.Relay)
		}
		if now&^before.logged&featureRecordDiffers != 0 {
			r.cfg.Logger.Warn("a member has other settings for S2 than the fleet: it owns no streams", "peer", m.Name, "addr", m.Relay)
		}
	}
	maps.DeleteFunc(r.standingState.byMember, func(name string, _ memberStoreState) bool { return v.Member(name) == nil })
}

// storeAnswersOthers reports whether storage answers another member, as far as is known here.
func (r *Node) storeAnswersOthers() bool {
	said := r.peers.statuses()
	for i := range r.View().members {
		m := &r.View().members[i]
		if m.Name == r.self {
			continue
		}
		switch st := said[m.Name]; {
		case st != nil && !st.GetStoreDown():
			return true
		case st == nil && m.Features&featureStoreAnswered != 0 && m.Features&featureStoreRefused == 0:
			return true
		}
	}
	return false
}

// storeLost reports whether storage does not serve this node: none of its calls is answered,
// or its own probe is refused, or was never answered.
func (r *Node) storeLost() bool {
	return r.local.host.StoreDown() || r.cfg.storeGated && r.storeStanding().Lost()
}

// NotReadyReason says in one line what in S2, or in the settings for it, keeps this node from being
// ready; empty: nothing.
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
