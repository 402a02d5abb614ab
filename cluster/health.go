package cluster

import (
	"time"

	"github.com/fantail-dev/fantail/proto/relaypb"
)

// This file has what nodes tell each other with every heartbeat, and its uses: whether a new node
// has its share of the streams, how readers are spread, and whether S2 fails or only one node's
// access to it.

// statusFor returns this node's status for a peer.
func (r *Node) statusFor(peer string) *relaypb.Status {
	left, owner := r.backlog.Load().remainingFor(peer)
	return &relaypb.Status{
		Readers: uint64(max(r.readerCount.Load(), 0)), StoreDown: r.storeLost(),
		PeerOwns: owner, HandoversDue: uint64(max(left, 0)), ClockMillis: unixMillis(r.cfg.Now()),
	}
}

// shareTimeout bounds the time for which a new owner waits for handovers before it is ready.
const shareTimeout = 10 * time.Second

// Ready reports whether this node owns its part of the streams and has received those that are in
// use.
func (r *Node) Ready() bool {
	v := r.View()
	me := v.Member(r.self)
	if me == nil || r.leaving.Load() || r.NotReadyReason() != "" || !v.TableAt(r.cfg.Now()).hasOwner(r.self) {
		return false
	}
	if r.hasShare.Load() {
		return true
	}
	now := unixMillis(r.cfg.Now())
	if now < me.OwnsFrom+uint64(shareTimeout.Milliseconds()) {
		for _, st := range r.peers.statuses() {
			if st == nil || !st.GetPeerOwns() || st.GetHandoversDue() > 0 {
				return false
			}
		}
	}
	r.hasShare.Store(true)
	return true
}

// JoinErrors lists the addresses to join that this node does not reach, with the last error of
// each; empty: there is none.
func (r *Node) JoinErrors() string { return r.membership.joinErrors() }

// ExchangeReaders tells the other nodes how many readers are connected to this one, and returns the
// counts of those that are not leaving. It returns none while the fleet is changing.
func (r *Node) ExchangeReaders(readers int) (others []int) {
	r.readerCount.Store(int64(readers))
	if r.history.unchangedFor(r.currentTable(), r.cfg.Now()) < r.cfg.StableFor {
		return nil
	}
	v := r.View()
	for name, st := range r.peers.statuses() {
		if m := v.Member(name); st != nil && m != nil && m.Flags&FlagLeaving == 0 {
			others = append(others, int(st.GetReaders()))
		}
	}
	return others
}

// storeHealth holds the announcements of this node about its access to S2.
type storeHealth struct {
	lost           bool      // announced: S2 does not answer this node
	downAloneSince time.Time // since when S2 has answered others but not this node; zero: it does not differ
	upSince        time.Time // since when S2 has answered this node; zero: it does not
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

func (r *Node) reconcileStore(now time.Time) {
	othersUp := false
	for _, st := range r.peers.statuses() {
		othersUp = othersUp || st != nil && !st.GetStoreDown()
	}
	me := r.View().Member(r.self)
	owns := me != nil && me.OwnsFrom != Never
	if r.storeHealth.updateLost(now, owns && r.storeLost(), othersUp) {
		if r.storeHealth.lost {
			r.cfg.Logger.Warn("S2 answers other nodes and not this one, which owns no streams meanwhile")
		} else {
			r.cfg.Logger.Warn("S2 answers this node again")
		}
		r.membership.setStoreLost(r.storeHealth.lost)
	}
}
