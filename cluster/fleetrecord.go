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
	// featureAnswered: S2 has answered this process, with all rights.
	featureAnswered Features = 1 << 1
	// featureRefused: S2 refuses it now.
	featureRefused Features = 1 << 2
	// featureDiffers: what it found in S2 is not what the members that own streams found.
	featureDiffers Features = 1 << 3

	featuresOfStore = featureAnswered | featureRefused | featureDiffers
)

// gate is what a node's standing lets its membership do. The zero gate is open.
type gate struct {
	closed bool // owning must not begin
	barred bool // and must end
	passed bool // storage has answered this node

	// What the last round of joining found that might have begun a fleet (sought).
	sought, all bool
	why         string
}

// sameBeginning is how far apart the dates of owners may be that began together.
const sameBeginning = 10 * time.Second

// party is the owners that found one record.
type party struct {
	fleet uint64
	since uint64
	count int
}

// rightful returns the record that counts among members: that of whoever has owned streams for
// longest; of those that began together, that of most. 0: no owner tells of one.
func rightful(members []Member, now uint64) uint64 {
	var all []party
	first := uint64(Never)
	for i := range members {
		m := &members[i]
		if m.Fleet == 0 || !m.dated(now) {
			continue
		}
		since := max(m.StartAt, m.Start)
		first = min(first, since)
		at := slices.IndexFunc(all, func(p party) bool { return p.fleet == m.Fleet })
		if at < 0 {
			at = len(all)
			all = append(all, party{fleet: m.Fleet, since: since})
		}
		all[at].since = min(all[at].since, since)
		all[at].count++
	}
	all = slices.DeleteFunc(all, func(p party) bool {
		return p.since-first > uint64(sameBeginning.Milliseconds())
	})
	if len(all) == 0 {
		return 0
	}
	return slices.MinFunc(all, func(a, b party) int {
		return cmp.Or(cmp.Compare(b.count, a.count), cmp.Compare(a.fleet, b.fleet))
	}).fleet
}

// dated reports whether the member owns streams, or has named the date from which it will.
func (m *Member) dated(now uint64) bool { return m.StartAt != Never && now < m.StopAt }

// allLocked lists this node and the others.
func (m *membership) allLocked() []Member {
	all := make([]Member, 0, 1+len(m.known))
	all = append(all, m.self)
	for _, o := range m.known {
		all = append(all, o)
	}
	return all
}

// differsLocked reports whether this node found another record than those who are right.
func (m *membership) differsLocked(now time.Time) bool {
	if m.self.Fleet == 0 && !m.gate.passed {
		return false
	}
	right := rightful(m.allLocked(), millis(now))
	return right != 0 && right != m.self.Fleet
}

// mayLocked reports whether this node may begin to own streams.
func (m *membership) mayLocked(now time.Time) bool { return !m.gate.closed && !m.differsLocked(now) }

// yieldLocked ends the node's owning if it must.
func (m *membership) yieldLocked(now time.Time) {
	if m.self.StartAt == Never || !m.gate.barred && !m.differsLocked(now) {
		return
	}
	m.activateLocked(Never)
}

// soughtLocked keeps what a round of joining found, for when the gate opens; first: nothing was
// before.
func (m *membership) soughtLocked(all bool, why string) (first bool) {
	first = !m.gate.sought
	m.gate.sought, m.gate.all, m.gate.why = true, all, why
	return first
}

// rule takes in what storage says.
func (m *membership) rule(g gate, features Features, fleet uint64) {
	m.mu.Lock()
	opened := m.gate.closed && !g.closed
	changed := g.closed != m.gate.closed || g.barred != m.gate.barred || g.passed != m.gate.passed
	m.gate.closed, m.gate.barred, m.gate.passed = g.closed, g.barred, g.passed
	said := m.self.Features&^featuresOfStore | features
	if said != m.self.Features || fleet != m.self.Fleet {
		m.self.Features, m.self.Fleet = said, fleet
		m.self.Rev++
		poke(m.tell)
		changed = true
	}
	now := m.cfg.Now()
	if opened && len(m.cfg.Join) == 0 && m.self.StartAt == Never && m.mayLocked(now) && !m.ownedLocked(now) {
		m.activateLocked(0)
	}
	again, all, why := opened && m.gate.sought, m.gate.all, m.gate.why
	m.mu.Unlock()
	if again {
		m.sought(all, why)
	}
	if changed {
		poke(m.news)
	}
}

// role is what this node may do about the record: shard.Host.Stand asks.
func (m *membership) role() shard.Role {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := millis(m.cfg.Now())
	role := shard.Role{Owns: m.self.StartAt != Never, Level: shard.FormatLevel}
	looked := role.Owns || m.gate.sought || len(m.cfg.Join) == 0
	role.Founds, role.Rules = looked, looked
	for _, o := range m.known {
		role.Level = min(role.Level, o.Format)
		if o.dated(now) {
			role.Rules = false
			role.Founds = role.Founds && (o.Fleet == 0 || o.Fleet == m.self.Fleet)
		}
	}
	return role
}

// verdict is what a Standing means beside the members that own streams: right is the record of
// theirs that counts, and why says why this node must own nothing; empty: it may.
func (m *membership) verdict(st shard.Standing) (right uint64, why string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	right = rightful(m.allLocked(), millis(now))
	switch {
	case !st.Passed, right != 0 && right == st.Fleet && st.Record == "":
		return right, ""
	case right == 0 && !m.gate.sought && len(m.cfg.Join) > 0:
		return 0, "" // it may write the record once it has looked for others
	case right == 0:
		return 0, st.Record
	}
	var owner string
	for _, o := range m.known {
		if o.Fleet == right && o.dated(millis(now)) && (owner == "" || o.Name < owner) {
			owner = o.Name
		}
	}
	what := st.Record
	if what == "" {
		what = "in " + st.Where + " is the record of another fleet"
	}
	return right, "the settings for S2 are not those of " + owner + ": " + what
}

// stand is what the Relay makes of its Standings. Owned by tend, but for why and outage.
type stand struct {
	quiet time.Time // since when storage has answered no other member
	right uint64    // the record that counts
	why   string    // the verdict
	since time.Time // it has been this one
	said  string    // the last error that was logged
	at    time.Time
	heard map[string]heard // by member
}

// lookAgain is how long a node that does not find the record of others looks again before it
// says so: they may just have written it.
const lookAgain = 2 * time.Second

// sayEvery is how often an error that lasts is logged.
const sayEvery = time.Minute

// tendStanding draws the consequences of what storage says to this node and to others.
func (r *Relay) tendStanding(now time.Time) {
	if !r.cfg.gated {
		return
	}
	st := r.standing()
	if r.stand.quiet.IsZero() || r.othersAnswered() {
		r.stand.quiet = now
	}
	outage := !st.Passed && st.Refused == "" && now.Sub(r.stand.quiet) >= shard.OutageAfter
	if outage && !r.outage.Load() {
		r.cfg.Logger.Error("S2 answers no node: this one owns streams without, and refuses what needs it")
	}
	r.outage.Store(outage)
	right, why := r.ms.verdict(st)
	if right != r.stand.right {
		r.stand.right = right
		r.restand()
	}
	if why != r.stand.why {
		r.stand.why, r.stand.since = why, now
	}
	if now.Sub(r.stand.since) < lookAgain {
		why = ""
	}
	r.verdict.Store(&why)
	features := Features(0)
	for f, on := range map[Features]bool{
		featureAnswered: st.Passed, featureRefused: st.Refused != "", featureDiffers: right != 0 && why != "",
	} {
		if on {
			features |= f
		}
	}
	r.ms.rule(gate{
		closed: st.Refused != "" || !st.Passed && !outage || st.Passed && st.Record != "",
		barred: st.Passed && st.Refused == "" && st.Silent == "" && st.Record != "",
		passed: st.Passed,
	}, features, st.Fleet)
	r.sayDiffers(now, why)
	r.tendOthers()
}

// sayDiffers logs why this node must own nothing, once and then each minute.
func (r *Relay) sayDiffers(now time.Time, why string) {
	if why == "" || why == r.stand.said && now.Sub(r.stand.at) < sayEvery {
		return
	}
	r.stand.said, r.stand.at = why, now
	r.cfg.Logger.Error("this node owns no streams", "why", why)
}

// heard is what a member said last of S2, and what was said of it here.
type heard struct{ last, told Features }

// tendOthers logs once of each other member what is the matter with it. When S2 begins to refuse
// one this node asks for itself, before that one's streams move: it may refuse all.
func (r *Relay) tendOthers() {
	v := r.View()
	for i := range v.members {
		m := &v.members[i]
		before, now := r.stand.heard[m.Name], m.Features&(featureRefused|featureDiffers)
		if m.Name == r.self || before.last == now {
			continue
		}
		r.stand.heard[m.Name] = heard{now, before.told | now}
		if now&^before.last&featureRefused != 0 {
			r.restand()
		}
		if now&^before.told&featureRefused != 0 {
			r.cfg.Logger.Warn("S2 refuses a member, which is not ready", "peer", m.Name, "addr", m.Relay)
		}
		if now&^before.told&featureDiffers != 0 {
			r.cfg.Logger.Warn("a member has other settings for S2 than the fleet: it owns no streams", "peer", m.Name, "addr", m.Relay)
		}
	}
	maps.DeleteFunc(r.stand.heard, func(name string, _ heard) bool { return v.Member(name) == nil })
}

// othersAnswered reports whether storage answers another member, as far as is known here.
func (r *Relay) othersAnswered() bool {
	said := r.peers.statuses()
	for i := range r.View().members {
		m := &r.View().members[i]
		if m.Name == r.self {
			continue
		}
		switch st := said[m.Name]; {
		case st != nil && !st.GetStoreDown():
			return true
		case st == nil && m.Features&featureAnswered != 0 && m.Features&featureRefused == 0:
			return true
		}
	}
	return false
}

// storeLost reports whether storage does not serve this node: none of its calls is answered,
// or its own probe is refused, or was never answered.
func (r *Relay) storeLost() bool {
	return r.hosted.host.StoreDown() || r.cfg.gated && r.standing().Lost()
}

// Trouble says in one line what in S2, or in the settings for it, keeps this node from being
// ready; empty: nothing.
func (r *Relay) Trouble() string {
	if !r.cfg.gated {
		return ""
	}
	st := r.standing()
	switch {
	case st.Refused != "":
		return st.Refused
	case !st.Passed && r.outage.Load():
		return ""
	case !st.Passed && st.Silent == "":
		return "S2 has not answered yet"
	case !st.Passed:
		return st.Silent
	}
	if why := r.verdict.Load(); why != nil {
		return *why
	}
	return ""
}
