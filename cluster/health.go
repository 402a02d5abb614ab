package cluster

import (
	"time"

	"github.com/fantail-dev/fantail/proto/relaypb"
)

// What nodes tell each other with every heartbeat, and what follows from it: whether a
// newcomer has its share, how readers are spread, and whether it is S2 that fails or only
// the way of one node to it.

// statusFor is how this node is, for a peer.
func (r *Node) statusFor(peer string) *relaypb.Status {
	left, owner := r.backlog.Load().remainingFor(peer)
	return &relaypb.Status{
		Readers: uint64(max(r.readerCount.Load(), 0)), StoreDown: r.storeLost(),
		Owner: owner, Owed: uint64(max(left, 0)), Now: unixMillis(r.cfg.Now()),
	}
}

// shareTimeout is how long after it became an owner a node is ready, whatever it is owed.
const shareTimeout = 10 * time.Second

// Ready reports whether this node owns its part of the streams, and has got those of them
// that are in use.
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
			if st == nil || !st.GetOwner() || st.GetOwed() > 0 {
				return false
			}
		}
	}
	r.hasShare.Store(true)
	return true
}

// JoinErrors lists the addresses to join that this node does not reach, with the last error of
// each; empty while there is none.
func (r *Node) JoinErrors() string { return r.membership.joinErrors() }

// ExchangeReaders tells others how many readers are connected to this node, and returns how many
// are connected to each of those that are there to stay; nobody's if the fleet is
// changing.
func (r *Node) ExchangeReaders(readers int) (others []int) {
	r.readerCount.Store(int64(readers))
	if r.history.unchangedFor(r.cfg.Now()) < r.cfg.StableFor {
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

// storeHealth is what this node says of its way to S2.
type storeHealth struct {
	lost           bool      // it said that S2 is lost to it
	downAloneSince time.Time // since when S2 has answered others and not this node; zero: no
	upSince        time.Time // since when it has; zero: it does not
}

// Timing of store.
const (
	// storeLostAfter is how long S2 is down here, and not for others, on top of the Manager's own
	// patience, before this node says so: where it comes back for all, some find out a
	// little earlier.
	storeLostAfter = 2 * time.Second
	// storeFoundAfter is how long it answers again before this node takes that back.
	storeFoundAfter = 10 * time.Second
)

// updateLost reports whether what the node says changes: it has no S2 while S2 has been down
// here for a while and answers others. If it answers nobody, no other would fare better.
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
		r.cfg.Logger.Warn("storage", "lost", r.storeHealth.lost)
		r.membership.setStoreLost(r.storeHealth.lost)
	}
}
