package cluster

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
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
func (r *Node) reconcileLoop(ctx context.Context) {
	tick := time.NewTicker(reconcileEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.reconcileNow:
		case <-tick.C:
		}
		now := time.Now()
		r.reconcileStanding(now)
		r.reconcileStore(now)
		r.checkClockSkew()
		if late := now.Sub(last); late > reconcileEvery+transport.SilenceTimeout {
			r.membership.RejoinAfterPause(late)
		}
		last = now
		r.reconcileStreams()
		r.closeBridges()
		r.local.forgetExpired(now)
		r.noteLeaveProgress()
	}
}

// servingRule returns a function that reports whether this node may serve a stream: because it owns
// it, or because the owner cannot be reached from here. Otherwise the function returns the owner.
func (r *Node) servingRule() func(shard.StreamID) (to placement.PeerAddr, ok bool) {
	t := r.currentTable()
	up := map[string]bool{}
	for _, m := range t.Owners() {
		up[m.Name] = m.Name != r.self && r.peers.Link(m.Name) != nil
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
func (r *Node) reconcileStreams() (left int) {
	r.reconcileMu.Lock()
	defer r.reconcileMu.Unlock()
	mayServe := r.servingRule()
	left = r.server.CheckSubscriptions(time.Now(), mayServe)
	if !r.hasMisplaced.Swap(false) && left == 0 {
		return 0
	}
	for _, id := range r.local.manager.OwnedStreams() {
		_, ok := mayServe(id)
		switch {
		case ok && r.followLoop.ownsStream(id):
			continue
		case !ok:
			left++
			r.releaseStream(id)
		}
		r.hasMisplaced.Store(true) // checked again next time
	}
	return left
}

// releaseStream drops a stream, without waiting, unless it has feeds or has still to be offered to its new owner. While the new owner may still
// ask for the stream only its read session ends: the new owner has its own.
func (r *Node) releaseStream(id shard.StreamID) {
	keep := keepMovedFor
	if r.leaving.Load() {
		keep = keepMovedLeaving
	}
	switch {
	case r.local.hasFeeds(id), r.backlog.Load().isWaiting(id):
		return
	case r.history.UnchangedFor(r.currentTable(), r.cfg.Now()) < keep:
		r.local.manager.EndSession(id)
		return
	}
	select {
	case r.dropSlots <- struct{}{}:
	default:
		return // all slots are taken: next time
	}
	r.wg.Go(func() {
		defer func() {
			<-r.dropSlots
			r.noteLeaveProgress()
		}()
		r.local.dropUnfed(id)
	})
}

// noteLeaveProgress wakes Leave, if it runs: owners or links changed, or a stream may be left less.
func (r *Node) noteLeaveProgress() {
	if r.leaving.Load() {
		notify.Send(r.leaveProgress)
	}
}
