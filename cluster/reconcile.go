package cluster

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// Timing of reconcileLoop and Leave.
const (
	reconcileEvery = time.Second
	maxDropping    = 16
	leavePace      = 20 * time.Millisecond // the least time between two looks of Leave
)

// reconcileLoop checks each second, and whenever owners or links change, whether this node should
// still serve what it serves.
func (n *Node) reconcileLoop(ctx context.Context) {
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-n.reconcileNow:
		case <-tick.C:
		}
		now := time.Now()
		n.reconcileStanding(now)
		n.reconcileStore(now)
		n.checkClockSkew()
		n.warnOfReadsModes(now)
		if late := now.Sub(last); late > reconcileEvery+transport.SilenceTimeout {
			n.membership.RejoinAfterPause(late)
		}
		last = now
		n.reconcileStreams()
		n.closeBridges()
		n.local.forgetExpired(now)
		n.noteLeaveProgress()
	}
}

// servingRule returns a function that reports whether this node may serve a stream: because it owns
// it, or because the owner cannot be reached from here. Otherwise the function returns the owner.
func (n *Node) servingRule() func(shard.StreamID) (to placement.PeerAddr, ok bool) {
	t := n.currentTable()
	up := map[string]bool{}
	for _, m := range t.Owners() {
		up[m.Name] = m.Name != n.self && n.peers.Link(m.Name) != nil
	}
	return func(id shard.StreamID) (placement.PeerAddr, bool) {
		m := t.Owner(id)
		if m == nil || !up[m.Name] {
			return placement.PeerAddr{}, true
		}
		return m.Addr(), false
	}
}

// reconcileStreams tells subscribers of streams that others own to move, and releases those streams
// once no subscriber here is fed. It returns how many are left.
func (n *Node) reconcileStreams() (left int) {
	n.reconcileMu.Lock()
	defer n.reconcileMu.Unlock()
	mayServe := n.servingRule()
	left = n.server.CheckSubscriptions(time.Now(), mayServe)
	if !n.hasMisplaced.Swap(false) && left == 0 {
		return 0
	}
	for _, id := range n.local.manager.OwnedStreams() {
		_, ok := mayServe(id)
		switch {
		case ok && n.followLoop.ownsStream(id):
			continue
		case !ok:
			left++
			n.releaseStream(id)
		}
		n.hasMisplaced.Store(true) // checked again next time
	}
	return left
}

// releaseStream drops a stream, without waiting, unless it has feeds or has still to be offered to its new owner. While the new owner may still
// ask for the stream only its read session ends: the new owner has its own.
func (n *Node) releaseStream(id shard.StreamID) {
	keep := keepMovedFor
	if n.leaving.Load() {
		keep = keepMovedLeaving
	}
	switch {
	case n.local.hasFeeds(id), n.backlog.Load().isWaiting(id):
		return
	case n.history.UnchangedFor(n.currentTable(), n.cfg.Now()) < keep:
		n.local.manager.EndSession(id)
		return
	}
	select {
	case n.dropSlots <- struct{}{}:
	default:
		return // all slots are taken: next time
	}
	n.wg.Go(func() {
		defer func() {
			<-n.dropSlots
			n.noteLeaveProgress()
		}()
		n.local.dropUnfed(id)
	})
}
