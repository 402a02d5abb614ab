package cluster

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Timing of tend and Leave.
const (
	reconcileEvery = time.Second
	maxDropping    = 16
	leavePoll      = 50 * time.Millisecond
)

// reconcileLoop looks each second, and whenever owners or links changed, whether this
// node is still right to serve what it serves.
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
		if late := now.Sub(last); late > reconcileEvery+silenceTimeout {
			r.membership.rejoinAfterPause(late)
		}
		last = now
		r.reconcileStreams()
		r.closeBridges()
		r.local.forgetExpired(now)
	}
}

// servingRule says whether this node may serve a stream: it owns it, or whoever does
// cannot be reached from here; else who should.
func (r *Node) servingRule() func(shard.StreamID) (to peerAddr, ok bool) {
	t := r.currentTable()
	up := map[string]bool{}
	for _, m := range t.members {
		up[m.Name] = m.Name != r.self && r.peers.link(m.Name) != nil
	}
	return func(id shard.StreamID) (peerAddr, bool) {
		m := t.Owner(id)
		if m == nil || !up[m.Name] {
			return peerAddr{}, true
		}
		return peerAddr{m.Name, m.Relay}, false
	}
}

// reconcileStreams sends subscribers of streams that others own to them, and lets go of
// such streams once nobody here is fed by them. It returns how many are left.
func (r *Node) reconcileStreams() (left int) {
	r.reconcileMu.Lock()
	defer r.reconcileMu.Unlock()
	mayServe := r.servingRule()
	left = r.server.checkSubscriptions(time.Now(), mayServe)
	if !r.hasMisplaced.Swap(false) && left == 0 {
		return 0
	}
	for _, id := range r.local.host.OwnedStreams() {
		_, ok := mayServe(id)
		switch {
		case ok && r.followLoop.ownsStream(id):
			continue
		case !ok:
			left++
			r.releaseStream(id)
		}
		r.hasMisplaced.Store(true) // to be looked at again
	}
	return left
}

// releaseStream drops a stream if nobody is fed by it, without waiting. While its new owner may
// still ask for it only its session ends: that one has its own.
func (r *Node) releaseStream(id shard.StreamID) {
	keep := keepMovedFor
	if r.leaving.Load() {
		keep = keepMovedLeaving
	}
	switch {
	case r.local.hasFeeds(id):
		return
	case r.history.unchangedFor(r.cfg.Now()) < keep:
		r.local.host.EndSession(id)
		return
	}
	select {
	case r.dropSlots <- struct{}{}:
	default:
		return // next time
	}
	r.wg.Go(func() {
		defer func() { <-r.dropSlots }()
		r.local.dropUnfed(id)
	})
}

// Leave stops being an owner: it says from when on, serves until then, hands its
// streams over, sends everybody who follows one here to the next owner, and lets go of
// the rest. This node's own readers go on, fed by others. It returns when nothing is
// owned here any more, or with ctx's cause. Close comes after the last reader has left.
func (r *Node) Leave(ctx context.Context) error {
	r.leaving.Store(true)
	at := r.membership.announceLeave()
	look := time.NewTicker(leavePoll)
	defer look.Stop()
	for {
		r.hasMisplaced.Store(true) // a View is published before its observer hears of it
		if r.View().TableAt(at).Len() == 0 {
			return nil // there is nobody to leave anything to
		} else if t := r.currentTable(); !t.hasOwner(r.self) && r.reconcileStreams() == 0 && len(r.dropSlots) == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// CancelLeave takes Leave back: this node owns streams again, from some second on.
func (r *Node) CancelLeave() {
	r.hasShare.Store(false)
	r.membership.cancelLeave()
	r.leaving.Store(false)
}

// Close leaves gossip, cuts all links and waits for every goroutine. Calls under
// way fail.
func (r *Node) Close() error { return r.shutDown(true) }

func (r *Node) shutDown(goodbye bool) (err error) {
	r.closeOnce.Do(func() {
		err = r.membership.close(goodbye) // nobody is sent here from now on
		r.stop()
		r.followLoop.close()
		r.peers.close()
		r.server.close()
		r.openPool.close()
		r.stateCalls.wg.Wait()
		r.wg.Wait()
		r.closeBridges()
	})
	return err
}
