package cluster

import (
	"slices"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// This file has what nodes tell each other with every heartbeat, and its uses: whether a new node
// has its share of the streams, how readers are spread, and whether S2 fails or only one node's
// access to it.

// StatusFor implements Streams.
func (o *ownerSide) StatusFor(peer string) transport.Status {
	n := (*Node)(o)
	left, owner := n.backlog.Load().remainingFor(peer)
	st := transport.Status{
		Readers: int(n.readerCount.Load()), StoreDown: n.storeLost(), PeerOwns: owner, HandoversDue: left, Clock: n.cfg.Now(),
	}
	if n.cfg.storeGated && n.prober != nil {
		st.StoreAnswered, _ = n.prober.StorageAnswered()
	}
	if said := n.rights.Load(); said != nil {
		own := (*said)()
		st.RightsHash, st.Revocations = own.Hash, own.Revocations
	}
	return st
}

// Rights holds what a node tells the others of the file of rights by which it judges requests.
type Rights struct {
	// Hash is the hash of the file; empty: the node judges no request.
	Hash string
	// Revocations is the position up to which the node has read the stream of revocations.
	Revocations uint64
}

// AnnounceRights has this node tell the others by which file of rights it judges, from now on: own
// is called with each heartbeat.
func (n *Node) AnnounceRights(own func() Rights) { n.rights.Store(&own) }

// PeerRights returns what each linked node said of its rights. A node of a release without rights
// judges no request.
func (n *Node) PeerRights() map[string]Rights {
	out := map[string]Rights{}
	for name, st := range n.peers.Statuses() {
		if st != nil {
			out[name] = Rights{st.RightsHash, st.Revocations}
		}
	}
	return out
}

// shareTimeout bounds the time for which a new owner waits for handovers before it is ready.
const shareTimeout = 10 * time.Second

// Ready reports whether this node owns its part of the streams and has received those that are in
// use.
func (n *Node) Ready() bool {
	v := n.View()
	me := v.Member(n.self)
	if me == nil || n.leaving.Load() || n.NotReadyReason() != "" || !v.TableAt(n.cfg.Now()).HasOwner(n.self) {
		return false
	}
	if n.hasShare.Load() {
		return true
	}
	now := shard.MillisOf(n.cfg.Now())
	if now < me.OwnsFrom+shard.Millis(shareTimeout.Milliseconds()) {
		for _, st := range n.peers.Statuses() {
			if st == nil || !st.PeerOwns || st.HandoversDue > 0 {
				return false
			}
		}
	}
	n.hasShare.Store(true)
	return true
}

// JoinErrors lists the addresses to join that this node does not reach, with the last error of
// each; empty: there is none.
func (n *Node) JoinErrors() string { return n.membership.JoinErrors() }

// ExchangeReaders tells the other nodes how many readers are connected to this one, and returns the
// counts of those that are not leaving. It returns none while the fleet is changing.
func (n *Node) ExchangeReaders(readers int) (others []int) {
	n.readerCount.Store(int64(readers))
	if n.history.UnchangedFor(n.currentTable(), n.cfg.Now()) < n.cfg.StableFor {
		return nil
	}
	v := n.View()
	for name, st := range n.peers.Statuses() {
		if m := v.Member(name); st != nil && m != nil && m.Flags&placement.FlagLeaving == 0 {
			others = append(others, st.Readers)
		}
	}
	return others
}

// storeHealth holds the announcements of this node about its access to S2.
type storeHealth struct {
	lost           bool      // announced: S2 does not answer this node
	downAloneSince time.Time // since when S2 has answered others but not this node; zero: it does not differ
	upSince        time.Time // since when S2 has answered this node; zero: it does not

	downPeers map[string]bool // the peers that said at the last look that S2 does not answer them
}

// Timing of storeHealth.
const (
	// storeLostAfter is the time for which S2 must fail here and not for others, after StoreDown
	// has said so, before this node announces it. Where S2 comes back for all nodes, some find out
	// a little earlier.
	storeLostAfter = 2 * time.Second
	// storeFoundAfter is the time for which S2 must answer again before this node withdraws that.
	storeFoundAfter = 10 * time.Second
)

// updateLost updates lost and reports whether it changed. This node is lost while S2 has failed
// here for storeLostAfter and answers others. If S2 answers no node, no other owner would fare
// better.
func (s *storeHealth) updateLost(now time.Time, down, othersUp bool) (changed bool) {
	switch alone := down && othersUp; {
	case !alone:
		s.downAloneSince = time.Time{}
	case s.downAloneSince.IsZero():
		s.downAloneSince = now
	}
	switch {
	case down:
		s.upSince = time.Time{}
	case s.upSince.IsZero():
		s.upSince = now
	}
	lost := s.lost
	switch {
	case !othersUp && down:
		s.lost = false
	case down && now.Sub(s.downAloneSince) >= storeLostAfter:
		s.lost = true
	case !down && now.Sub(s.upSince) >= storeFoundAfter:
		s.lost = false
	}
	return s.lost != lost
}

// noteDownPeers notes which peers S2 does not answer, and reports whether one of them is new.
func (s *storeHealth) noteDownPeers(reports []storeReport) (grew bool) {
	down := map[string]bool{}
	for _, report := range reports {
		if report.down {
			down[report.peer] = true
			grew = grew || !s.downPeers[report.peer]
		}
	}
	s.downPeers = down
	return grew
}

// answersOthers reports whether S2 has answered a peer since it fell silent here. An answer counts
// if it came at least storeLostAfter after the silence began, or if the peer does not say when it
// came. The margin is there because a node without load notices an outage only by its next probe,
// up to ten seconds late. Nodes probe immediately when a peer says that S2 does not answer it.
func answersOthers(reports []storeReport, silentSince time.Time) bool {
	return slices.ContainsFunc(reports, func(report storeReport) bool {
		return !report.down && (silentSince.IsZero() || report.answered.IsZero() || report.answered.After(silentSince.Add(storeLostAfter)))
	})
}

// storeReport holds what a peer says of its access to S2.
type storeReport struct {
	peer     string
	down     bool
	answered time.Time // when S2 last answered the peer; zero: it does not say
}

// storeReports returns the last report of each member with a link that has sent one.
func (n *Node) storeReports() (all []storeReport) {
	for name, st := range n.peers.Statuses() {
		if st != nil {
			all = append(all, storeReport{name, st.StoreDown, st.StoreAnswered})
		}
	}
	return all
}

// silentSince returns since when, on the clock of time.Now, S2 has answered nothing here; zero: it
// is not silent.
func (n *Node) silentSince() time.Time {
	if n.prober == nil {
		return time.Time{}
	}
	_, since := n.prober.StorageAnswered()
	if since.IsZero() {
		return since
	}
	return time.Now().Add(-n.cfg.Now().Sub(since))
}

func (n *Node) reconcileStore(now time.Time) {
	reports := n.storeReports()
	if n.storeHealth.noteDownPeers(reports) && n.prober != nil {
		n.prober.ProbeNow()
	}
	othersUp := answersOthers(reports, n.silentSince())
	me := n.View().Member(n.self)
	owns := me != nil && me.OwnsFrom != placement.Never
	if n.storeHealth.updateLost(now, owns && n.storeLost(), othersUp) {
		if n.storeHealth.lost {
			n.cfg.Logger.Warn("S2 answers other nodes and not this one, which owns no streams meanwhile")
		} else {
			n.cfg.Logger.Warn("S2 answers this node again")
		}
		n.membership.SetStoreLost(n.storeHealth.lost)
	}
}
