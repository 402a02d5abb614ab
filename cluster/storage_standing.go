package cluster

import (
	"maps"
	"time"

	"github.com/fantail-dev/fantail/cluster/gossip"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// This file acts on what S2 answers to this node (shard.Standing) and to others, and on the fleet's
// record. Package gossip decides from that whether this node may own streams. The answers to
// requests play no part.

// standingState holds what reconcileStanding remembers between its calls. reconcileLoop owns it.
type standingState struct {
	othersSilentSince time.Time // since when S2 has answered no other member
	rightRecord       uint64    // the record that counts
	reason            string    // of JudgeStanding
	reasonSince       time.Time // since when it has been this reason
	loggedReason      string    // as it was last logged
	loggedAt          time.Time
	byMember          map[string]memberStoreState // by member name
}

// recheckAfter is the time for which a node checks again before it reports that it does not find
// the others' record: they may just have written it.
const recheckAfter = 2 * time.Second

// logAgainEvery is the pause between two log lines about an error that lasts.
const logAgainEvery = time.Minute

// reconcileStanding acts on what S2 answers to this node and to others.
func (n *Node) reconcileStanding(now time.Time) {
	if !n.cfg.storeGated {
		return
	}
	st := n.prober.Standing()
	if n.standingState.othersSilentSince.IsZero() || n.storeAnswersOthers() {
		n.standingState.othersSilentSince = now
	}
	outage := !st.Passed && st.Refused == "" && now.Sub(n.standingState.othersSilentSince) >= shard.OutageAfter
	if outage && !n.storeOutage.Load() {
		n.cfg.Logger.Error("S2 answers no node: this one owns streams without, and refuses what needs it")
	}
	n.storeOutage.Store(outage)
	rightRecord, reason := n.membership.JudgeStanding(st)
	if rightRecord != n.standingState.rightRecord {
		n.standingState.rightRecord = rightRecord
		n.prober.ProbeNow()
	}
	if reason != n.standingState.reason {
		n.standingState.reason, n.standingState.reasonSince = reason, now
	}
	if now.Sub(n.standingState.reasonSince) < recheckAfter {
		reason = ""
	}
	n.recordProblem.Store(&reason)
	features := placement.Features(0)
	for f, on := range map[placement.Features]bool{
		placement.FeatureStoreAnswered: st.Passed, placement.FeatureStoreRefused: st.Refused != "", placement.FeatureRecordDiffers: rightRecord != 0 && reason != "",
	} {
		if on {
			features |= f
		}
	}
	n.membership.ApplyStanding(gossip.Gate{
		MustNotBegin:  st.Refused != "" || !st.Passed && !outage || st.Passed && st.RecordProblem != "",
		MustYield:     st.Passed && st.Refused == "" && st.Silent == "" && st.RecordProblem != "",
		StoreAnswered: st.Passed,
	}, features, st.Fleet)
	n.logDiffers(now, reason)
	n.logOtherMembers()
}

// logDiffers logs why this node must own nothing, once and then each minute.
func (n *Node) logDiffers(now time.Time, why string) {
	if why == "" || why == n.standingState.loggedReason && now.Sub(n.standingState.loggedAt) < logAgainEvery {
		return
	}
	n.standingState.loggedReason, n.standingState.loggedAt = why, now
	n.cfg.Logger.Error("this node owns no streams", "why", why)
}

// memberStoreState holds the last S2 features of a member, and those that were logged.
type memberStoreState struct{ last, logged placement.Features }

// logOtherMembers logs once what is wrong with each other member. When S2 begins to refuse one,
// this node probes immediately, before that member's streams move: S2 may refuse all.
func (n *Node) logOtherMembers() {
	v := n.View()
	for i := range v.Members() {
		m := &v.Members()[i]
		before, now := n.standingState.byMember[m.Name], m.Features&(placement.FeatureStoreRefused|placement.FeatureRecordDiffers)
		if m.Name == n.self || before.last == now {
			continue
		}
		n.standingState.byMember[m.Name] = memberStoreState{now, before.logged | now}
		if now&^before.last&placement.FeatureStoreRefused != 0 {
			n.prober.ProbeNow()
		}
		if now&^before.logged&placement.FeatureStoreRefused != 0 {
			n.cfg.Logger.Warn("S2 refuses a member, which is not ready", "peer", m.Name, "addr", m.RelayAddr)
		}
		if now&^before.logged&placement.FeatureRecordDiffers != 0 {
			n.cfg.Logger.Warn("a member has other settings for S2 than the fleet: it owns no streams", "peer", m.Name, "addr", m.RelayAddr)
		}
	}
	maps.DeleteFunc(n.standingState.byMember, func(name string, _ memberStoreState) bool { return v.Member(name) == nil })
}

// storeAnswersOthers reports whether S2 answers another member, as far as this node knows.
func (n *Node) storeAnswersOthers() bool {
	said := n.peers.Statuses()
	for i := range n.View().Members() {
		m := &n.View().Members()[i]
		if m.Name == n.self {
			continue
		}
		switch st := said[m.Name]; {
		case st != nil && !st.StoreDown:
			return true
		case st == nil && m.Features&placement.FeatureStoreAnswered != 0 && m.Features&placement.FeatureStoreRefused == 0:
			return true
		}
	}
	return false
}

// storeLost reports whether S2 does not serve this node: it answers none of its calls, refuses its
// probe, or has never answered it.
func (n *Node) storeLost() bool {
	return n.local.manager.StoreDown() || n.cfg.storeGated && n.prober.Standing().Lost()
}

// NotReadyReason returns, in one line, what in S2 or in the settings for it keeps this node from
// being ready; empty: nothing does.
func (n *Node) NotReadyReason() string {
	if !n.cfg.storeGated {
		return ""
	}
	st := n.prober.Standing()
	switch {
	case st.Refused != "":
		return st.Refused
	case !st.Passed && n.storeOutage.Load():
		return ""
	case !st.Passed && st.Silent == "":
		return "S2 has not answered yet"
	case !st.Passed:
		return st.Silent
	}
	if why := n.recordProblem.Load(); why != nil {
		return *why
	}
	return ""
}
