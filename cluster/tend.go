package cluster

import (
	"context"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Timing of tend and Leave.
const (
	tendEvery  = time.Second
	dropAtOnce = 16
	leaveLook  = 50 * time.Millisecond
)

// tend looks each second, and whenever owners or links changed, whether this
// node is still right to serve what it serves.
func (r *Relay) tend(ctx context.Context) {
	tick := time.NewTicker(tendEvery)
	defer tick.Stop()
	last := time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.news:
		case <-tick.C:
		}
		now := time.Now()
		r.tendStanding(now)
		r.tendStore(now)
		r.tendSkew()
		if late := now.Sub(last); late > tendEvery+deadAfter {
			r.ms.paused(late)
		}
		last = now
		r.examine()
		r.unhold()
		r.hosted.forget(now)
	}
}

// right says whether this node may serve a stream: it owns it, or whoever does
// cannot be reached from here; else who should.
func (r *Relay) right() func(shard.StreamID) (to place, ok bool) {
	t := r.table()
	up := map[string]bool{}
	for _, m := range t.members {
		up[m.Name] = m.Name != r.self && r.peers.link(m.Name) != nil
	}
	return func(id shard.StreamID) (place, bool) {
		m := t.Owner(id)
		if m == nil || !up[m.Name] {
			return place{}, true
		}
		return place{m.Name, m.Relay}, false
	}
}

// examine sends subscribers of streams that others own to them, and lets go of
// such streams once nobody here is fed by them. It returns how many are left.
func (r *Relay) examine() (left int) {
	r.tending.Lock()
	defer r.tending.Unlock()
	right := r.right()
	left = r.server.examine(time.Now(), right)
	if !r.strays.Swap(false) && left == 0 {
		return 0
	}
	for _, id := range r.hosted.host.Owned() {
		_, ok := right(id)
		switch {
		case ok && r.followers.owns(id):
			continue
		case !ok:
			left++
			r.letGo(id)
		}
		r.strays.Store(true) // to be looked at again
	}
	return left
}

// letGo drops a stream if nobody is fed by it, without waiting. While its new owner may
// still ask for it only its session ends: that one has its own.
func (r *Relay) letGo(id shard.StreamID) {
	keep := keepFormer
	if r.leaving.Load() {
		keep = keepLeaving
	}
	switch {
	case r.hosted.used(id):
		return
	case r.past.settledFor(r.cfg.Now()) < keep:
		r.hosted.host.Rest(id)
		return
	}
	select {
	case r.drops <- struct{}{}:
	default:
		return // next time
	}
	r.wg.Go(func() {
		defer func() { <-r.drops }()
		r.hosted.drop(id)
	})
}

// Leave stops being an owner: it says from when on, serves until then, hands its
// streams over, sends everybody who follows one here to the next owner, and lets go of
// the rest. This node's own readers go on, fed by others. It returns when nothing is
// owned here any more, or with ctx's cause. Close comes after the last reader has left.
func (r *Relay) Leave(ctx context.Context) error {
	r.leaving.Store(true)
	at := r.ms.leaving()
	look := time.NewTicker(leaveLook)
	defer look.Stop()
	for {
		r.strays.Store(true) // a View is published before its observer hears of it
		if r.View().At(at).Len() == 0 {
			return nil // there is nobody to leave anything to
		} else if t := r.table(); !t.has(r.self) && r.examine() == 0 && len(r.drops) == 0 {
			return nil
		}
		select {
		case <-look.C:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// Return takes Leave back: this node owns streams again, from some second on.
func (r *Relay) Return() {
	r.full.Store(false)
	r.ms.returning()
	r.leaving.Store(false)
}

// Close leaves gossip, cuts all links and waits for every goroutine. Calls under
// way fail.
func (r *Relay) Close() error { return r.shut(true) }

func (r *Relay) shut(goodbye bool) (err error) {
	r.closing.Do(func() {
		err = r.ms.close(goodbye) // nobody is sent here from now on
		r.stop()
		r.followers.close()
		r.peers.close()
		r.server.close()
		r.openers.close()
		r.flights.wg.Wait()
		r.wg.Wait()
		r.unhold()
	})
	return err
}
