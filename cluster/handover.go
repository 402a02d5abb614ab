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
	"github.com/fantail-dev/fantail/shard/tracing"
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
func (n *Node) previousOwners(id shard.StreamID) (all []*transport.Link) {
	for _, t := range n.history.PreviousTables(n.View(), n.cfg.Now()) {
		m := t.Owner(id)
		if m == nil || m.Name == n.self || len(all) == maxPreviousOwners {
			continue
		}
		if l := n.peers.Link(m.Name); l != nil && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// handoverSources returns the links to the nodes that may hand a stream over to this one, newest owner first. It
// returns none if this node serves the stream without owning it. Without force, a node that will own the stream
// by a date that is near asks the owner. The owner's clock is ahead, and it has already named this node as the
// next owner.
func (n *Node) handoverSources(id shard.StreamID, force bool) []*transport.Link {
	switch {
	case n.followLoop.ownsStream(id):
		return n.previousOwners(id)
	case force, !n.View().OwnsSoon(id, n.self, n.cfg.Now()):
		return nil
	}
	sources := n.previousOwners(id)
	if m := n.currentTable().Owner(id); m != nil {
		if l := n.peers.Link(m.Name); l != nil {
			sources = slices.Insert(sources, 0, l)
		}
	}
	return sources
}

// fetchHandover asks the nodes of handoverSources for what they know of a stream, and installs that, if
// one of them knows anything. It is a step of the request or the offer that needs the stream; without one
// that is traced, a trace of its own.
func (n *Node) fetchHandover(ctx context.Context, id shard.StreamID, force bool, install func(shard.Handover)) {
	sources := n.handoverSources(id, force)
	if len(sources) == 0 {
		n.noteNotFetched(id)
		return
	}
	if tracing.FromContext(ctx) == nil {
		whole := n.cfg.Tracer.Begin("handover")
		ctx = whole.In(ctx)
		defer whole.End()
	}
	ctx, span := tracing.Start(ctx, "handover.fetch", tracing.Internal)
	defer span.End()
	h, found := n.askSources(ctx, id, sources)
	if span.Bool(tracing.Found, found); !found {
		n.noteNotFetched(id)
		return
	}
	installing := span.Child("handover.install", tracing.Internal)
	install(h)
	installing.End()
}

// askSources asks nodes for what they know of a stream, one after the other; false: none of them knows
// anything.
func (n *Node) askSources(ctx context.Context, id shard.StreamID, sources []*transport.Link) (h shard.Handover, found bool) {
	from := shard.Pos(0)
	if t := n.followLoop.tails.Lookup(id); t != nil {
		from = t.Next()
		t.Release()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTimeout)
	defer cancel()
	for _, l := range sources {
		h, found, err := l.RequestHandover(ctx, id, from, placement.PeerAddr{Name: n.self, Address: n.addr})
		switch {
		case err != nil:
			n.local.manager.ExpectRivals()
			n.metrics.handovers.lost.Inc()
			n.cfg.Logger.Info("stream was not handed over", "stream", id, "peer", l.Peer().Name, "err", err)
		case found:
			n.metrics.handovers.received.Inc()
			return h, true
		}
	}
	return h, false
}

// isSuccessor reports whether the member that asks for a stream is its next owner.
func (n *Node) isSuccessor(id shard.StreamID, to placement.PeerAddr) bool {
	v := n.View()
	if n.cfg.handOverToAny {
		return v.Member(to.Name) != nil
	}
	return v.IsSuccessor(id, n.self, to, n.cfg.Now())
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

func (n *Node) newBacklog(t *placement.OwnerTable) *handoverBacklog {
	b := &handoverBacklog{table: t, remaining: map[string]int{}, waiting: map[shard.StreamID]struct{}{}}
	for _, id := range n.local.manager.HotStreams(hotWithin) {
		if m := t.Owner(id); m != nil && m.Name != n.self {
			b.streams = append(b.streams, id)
			b.remaining[m.Name]++
			b.waiting[id] = struct{}{}
		}
	}
	return b
}

// remainingFor returns how many streams the member has still to receive, and whether it owns any at
// all.
func (b *handoverBacklog) remainingFor(name string) (left int, owner bool) {
	if b == nil {
		return 0, false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.remaining[name], b.table.HasOwner(name)
}

func (b *handoverBacklog) noteDone(name string, id shard.StreamID) {
	b.mu.Lock()
	b.remaining[name]--
	delete(b.waiting, id)
	b.mu.Unlock()
}

// isWaiting reports whether the stream has still to be offered to its new owner.
func (b *handoverBacklog) isWaiting(id shard.StreamID) bool {
	if b == nil {
		return false
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	_, ok := b.waiting[id]
	return ok
}

// offerBacklog offers the streams of the backlog to their new owners, which fetch them. It returns once each
// has been offered, or when ctx ends.
func (n *Node) offerBacklog(ctx context.Context, backlog *handoverBacklog) {
	byOwner := map[string][]shard.StreamID{} // by owner, so that an owner that hangs delays no other
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
					n.offerStream(ctx, name, id)
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

// offerStream offers a stream to the member that owns it now, in a trace of its own. A member with a clock that is behind answers
// that it does not own the stream yet, and is asked again. If all attempts fail, the next request for the
// stream has the same effect.
func (n *Node) offerStream(ctx context.Context, member string, id shard.StreamID) {
	l := n.peers.Link(member)
	if l == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
	defer cancel()
	span := n.cfg.Tracer.Begin("handover")
	span.Text(tracing.Peer, member)
	ctx = span.In(ctx)
	defer span.End()
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

// HandOver implements Streams: it gives a stream up to its next owner. The subscribers that this node was
// feeding are fed with what the next owner sends, until they have moved there.
func (o *ownerSide) HandOver(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (
	h shard.Handover, found bool, err error,
) {
	n := (*Node)(o)
	if !n.isSuccessor(id, to) {
		n.cfg.Logger.Info("stream not handed over", "stream", id, "peer", to.Name, "why", "by this node's table it is not the owner")
		n.local.manager.ExpectRival(id) // it may write all the same
		return h, false, errNotSuccessor
	}
	_, span := tracing.Start(ctx, "handover.seal", tracing.Internal)
	h, found, ref := n.local.handOver(ctx, id, from, to)
	span.End()
	if ref != nil {
		_, span = tracing.Start(ctx, "handover.bridge", tracing.Internal)
		n.openBridge(id, to, ref)
		span.End()
	}
	if found {
		n.metrics.handovers.given.Inc()
		n.noteLeaveProgress()
	}
	return h, found, nil
}

// openBridge feeds the subscribers that the stream manager was feeding from the new owner, until
// they have moved there. It runs before Hand replies, which gives the new feed a head start.
func (n *Node) openBridge(id shard.StreamID, to placement.PeerAddr, ref *feedRef) {
	f := n.followLoop.followForBridge(id, to)
	if f == nil {
		return
	}
	n.mu.Lock()
	n.bridges[ref] = bridge{f, to}
	n.mu.Unlock()
}

// bridge is a stream that this node follows for subscribers that have not moved yet.
type bridge struct {
	follower *follower
	to       placement.PeerAddr
}

// closeBridges closes the bridges that no subscriber needs any more, and opens those again that
// failed.
func (n *Node) closeBridges() {
	n.mu.Lock()
	bridges := maps.Clone(n.bridges)
	n.mu.Unlock()
	for ref, h := range bridges {
		needed := n.local.hasRefs(ref)
		if needed && !h.follower.isOver() {
			continue
		}
		n.mu.Lock()
		delete(n.bridges, ref)
		n.mu.Unlock()
		if needed {
			n.openBridge(h.follower.id, h.to, ref)
		}
		h.follower.removeBridge()
	}
}
