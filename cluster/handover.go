package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// A stream moves by being fetched. A new owner that is asked for a stream it does not hold fetches
// it from the previous owner (Hand), installs it and serves, without reading S2. When owners
// change, the previous owner only offers the new one each stream that is followed or was
// used recently (offerBacklog, by the call TakeOver); the first request for a stream has the same effect. So every
// change of owners works in this one way, whether a node joins, leaves, or the load bound of the
// ring shifts partitions. What is handed over is a cache: whatever is lost on the way costs a read
// of S2 and nothing else.
//
// From then on the previous owner sends requests for the stream to the new one, whatever its own
// table says (localStreams.handedOver). It feeds the subscribers that have not moved yet from the
// new owner (openBridge), so no feed is interrupted.

// Timing of handovers.
const (
	// maxPreviousOwners bounds the previous owners that are asked, if there were several changes.
	maxPreviousOwners = 3
	// handoverTimeout bounds one fetch; after it the stream is read from S2.
	handoverTimeout = 2 * time.Second
	// incomingWait bounds the wait for a stream that is arriving at this node while the next owner
	// already asks for it.
	incomingWait = 500 * time.Millisecond
	// handedOverFor bounds how long a node refuses a stream that it has handed over.
	handedOverFor = 5 * time.Second
	// maxOffersPerPeer bounds the streams that a node hands over to one other concurrently. More
	// of them are not faster, and delay appends.
	maxOffersPerPeer = 8
	// offerRetry is the pause before a member with a clock that is behind is asked again.
	offerRetry = 100 * time.Millisecond
	// hotWithin bounds the time since the last use of a stream that is handed over without being
	// asked for.
	hotWithin = time.Minute
	// keepMovedFor bounds how long streams that moved are kept, because their new owner may ask for
	// them. keepMovedLeaving does for a node that leaves.
	keepMovedFor     = 10 * time.Second
	keepMovedLeaving = time.Second
)

// previousOwners returns the links to the nodes that owned a stream before this one, newest first.
func (r *Node) previousOwners(id shard.StreamID) (all []*transport.Link) {
	tables := r.history.PreviousTables(r.View(), r.cfg.Now())
	if !r.followLoop.ownsStream(id) { // it will by a date that is near
		tables = slices.Insert(tables, 0, r.currentTable())
	}
	for _, t := range tables {
		m := t.Owner(id)
		if m == nil || m.Name == r.self || len(all) == maxPreviousOwners {
			continue
		}
		if l := r.peers.Link(m.Name); l != nil && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// fetchHandover asks the previous owners for what they know of a stream; false: none of them knows
// anything, or this node serves the stream without owning it. Without force a node that will own the
// stream by a date that is near asks too: the previous owner, with a clock that is ahead, has named it.
func (r *Node) fetchHandover(ctx context.Context, id shard.StreamID, force bool) (h shard.Handover, found bool) {
	if !r.followLoop.ownsStream(id) && (force || !r.View().OwnsSoon(id, r.self, r.cfg.Now())) {
		return h, false
	}
	from := shard.Pos(0)
	if t := r.followLoop.tails.Lookup(id); t != nil {
		from = t.Next()
		t.Release()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTimeout)
	defer cancel()
	for _, l := range r.previousOwners(id) {
		h, found, err := l.RequestHandover(ctx, id, from, placement.PeerAddr{Name: r.self, Address: r.addr})
		switch {
		case err != nil:
			r.metrics.handovers.lost.Inc()
			r.cfg.Logger.Info("stream was not handed over", "stream", id, "peer", l.Peer().Name, "err", err)
		case found:
			r.metrics.handovers.received.Inc()
			return h, true
		}
	}
	return h, false
}

// isSuccessor reports whether the member that asks for a stream is its next owner.
func (r *Node) isSuccessor(id shard.StreamID, to placement.PeerAddr) bool {
	v := r.View()
	if r.cfg.handOverToAny {
		return v.Member(to.Name) != nil
	}
	return v.IsSuccessor(id, r.self, to, r.cfg.Now())
}

// handoverBacklog holds the streams in use that this node has still to hand over after a change of
// owners, most-watched first. None of them is dropped before it was offered.
type handoverBacklog struct {
	table   *placement.OwnerTable
	streams []shard.StreamID

	mu        sync.Mutex
	remaining map[string]int // how many streams, by the name of their new owner
	waiting   map[shard.StreamID]struct{}
}

func (r *Node) newBacklog(t *placement.OwnerTable) *handoverBacklog {
	o := &handoverBacklog{table: t, remaining: map[string]int{}, waiting: map[shard.StreamID]struct{}{}}
	for _, id := range r.local.manager.HotStreams(hotWithin) {
		if m := t.Owner(id); m != nil && m.Name != r.self {
			o.streams = append(o.streams, id)
			o.remaining[m.Name]++
			o.waiting[id] = struct{}{}
		}
	}
	return o
}

// remainingFor returns how many streams the member has still to receive, and whether it owns any at
// all.
func (o *handoverBacklog) remainingFor(name string) (left int, owner bool) {
	if o == nil {
		return 0, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.remaining[name], o.table.HasOwner(name)
}

func (o *handoverBacklog) noteDone(name string, id shard.StreamID) {
	o.mu.Lock()
	o.remaining[name]--
	delete(o.waiting, id)
	o.mu.Unlock()
}

// isWaiting reports whether the stream has still to be offered to its new owner.
func (o *handoverBacklog) isWaiting(id shard.StreamID) bool {
	if o == nil {
		return false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, ok := o.waiting[id]
	return ok
}

// offerBacklog offers the streams of the backlog to their new owners, which fetch them. It returns once each
// has been offered, or when ctx ends.
func (r *Node) offerBacklog(ctx context.Context, backlog *handoverBacklog) {
	byOwner := map[string][]shard.StreamID{} // by owner, so that one that hangs delays no other
	for _, id := range backlog.streams {
		m := backlog.table.Owner(id)
		byOwner[m.Name] = append(byOwner[m.Name], id)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, ids := range byOwner {
		next := make(chan shard.StreamID)
		for range min(maxOffersPerPeer, len(ids)) {
			wg.Go(func() {
				for id := range next {
					r.offerStream(ctx, name, id)
					backlog.noteDone(name, id)
				}
			})
		}
		wg.Go(func() {
			defer close(next)
			for _, id := range ids {
				select {
				case next <- id:
				case <-ctx.Done():
					return
				}
			}
		})
	}
}

// offerStream offers a stream to the member that owns it now. A member with a clock that is behind answers
// that it does not own the stream yet, and is asked again. If all attempts fail, the next request for the
// stream has the same effect.
func (r *Node) offerStream(ctx context.Context, member string, id shard.StreamID) {
	l := r.peers.Link(member)
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	for {
		var other *placement.RedirectError
		if err := l.OfferStream(ctx, id); !errors.As(err, &other) {
			return
		}
		select {
		case <-time.After(offerRetry):
		case <-ctx.Done():
			return
		}
	}
}

// ServeOffered implements Streams: it makes this node, the new owner of a stream, serve it. It waits for a
// transfer of the stream that is underway, fetches it from the previous owner and installs it
// (localStreams.acquire). A stream that is not handed over is read from S2.
func (o *ownerSide) ServeOffered(ctx context.Context, id shard.StreamID) error {
	_, err := o.local.info(ctx, id, shard.InfoAllowCached, false)
	return err
}

// errNotSuccessor refuses to hand a stream to a member that is not its next owner.
var errNotSuccessor = errors.New("not the stream's owner")

// HandOver implements Streams: it gives a stream up in favour of its next owner, and feeds the subscribers that
// this node was feeding from there.
func (o *ownerSide) HandOver(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (
	h shard.Handover, found bool, err error,
) {
	r := (*Node)(o)
	if !r.isSuccessor(id, to) {
		r.cfg.Logger.Info("stream not handed over", "stream", id, "peer", to.Name, "why", "by this node's table it is not the owner")
		return h, false, errNotSuccessor
	}
	h, found, ref := r.local.handOver(ctx, id, from, to)
	if ref != nil {
		r.openBridge(id, to, ref)
	}
	if found {
		r.metrics.handovers.given.Inc()
		r.noteLeaveProgress()
	}
	return h, found, nil
}

// openBridge feeds the subscribers that the stream manager was feeding from the new owner, until
// they have moved there. It runs before Hand replies, which gives the new feed a head start.
func (r *Node) openBridge(id shard.StreamID, to placement.PeerAddr, ref *feedRef) {
	f := r.followLoop.followForBridge(id, to)
	if f == nil {
		return
	}
	r.mu.Lock()
	r.bridges[ref] = bridge{f, to}
	r.mu.Unlock()
}

// bridge is a stream that this node follows for subscribers that have not moved yet.
type bridge struct {
	follower *follower
	to       placement.PeerAddr
}

// closeBridges closes the bridges that no subscriber needs any more, and opens those again that
// failed.
func (r *Node) closeBridges() {
	r.mu.Lock()
	bridges := maps.Clone(r.bridges)
	r.mu.Unlock()
	for ref, h := range bridges {
		needed := r.local.hasRefs(ref)
		if needed && !h.follower.isOver() {
			continue
		}
		r.mu.Lock()
		delete(r.bridges, ref)
		r.mu.Unlock()
		if needed {
			r.openBridge(h.follower.id, h.to, ref)
		}
		h.follower.removeReader()
	}
}
