package cluster

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// A stream moves by being fetched. Whoever is asked for a stream that it owns and does
// not have asks who owned it until now (Hand), installs what it gets, and serves: it
// reads nothing. At a flip the old owner only nudges the new one about each stream that
// somebody follows or used of late; the first request for a stream does the same. So
// every change of owners takes the one way, whoever joins, leaves or is shifted by the
// load bound, and whatever is lost on it costs a read and nothing else: what is handed
// over is a cache.
//
// The old owner sends requests for the stream to the new one from then on, whatever its
// own table says (handed), and feeds those who still follow the stream there from the
// new owner (followers.handed) until they have moved: nobody's feed stops.

// Timing of handing over.
const (
	// askPreviousFor is how long after a change the owner before it is asked, and maxPreviousOwners
	// how many of them, if there were more changes.
	askPreviousFor    = 15 * time.Second
	maxPreviousOwners = 3
	// handoverTimeout bounds that; then the stream is read from S2.
	handoverTimeout = 2 * time.Second
	// incomingWait is how long a stream is waited for that is on its way to this node when
	// the next one asks for it.
	incomingWait = 500 * time.Millisecond
	// handedOverFor is how long a node that handed a stream over refuses to serve it.
	handedOverFor = 5 * time.Second
	// maxTakeoversPerPeer bounds the streams that one node is handing over to another. With more
	// nothing is faster, and appends wait longer for the processor.
	maxTakeoversPerPeer = 8
	// takeoverRetry is the pause before another nudge of a member that is behind.
	takeoverRetry = 100 * time.Millisecond
	// hotWithin is how recently a stream was used that is handed over without being asked for.
	hotWithin = time.Minute
	// keepMovedFor is how long streams that moved are kept to be asked for, and
	// keepMovedLeaving how long by a node that leaves.
	keepMovedFor     = 10 * time.Second
	keepMovedLeaving = time.Second
)

// tableHistory is the tables of the last askPreviousFor, newest last.
type tableHistory struct {
	mu       sync.Mutex
	current  *OwnerTable
	since    time.Time // when last became the table
	previous []previousTable
}

type previousTable struct {
	table *OwnerTable
	until time.Time
}

// noteTable is told of the table of this moment; changed: it is another one.
func (p *tableHistory) noteTable(t *OwnerTable, now time.Time) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.previous) > 0 && now.After(p.previous[0].until) {
		p.previous = p.previous[1:]
	}
	if p.current != nil && t.sameOwners(p.current) { // of another View, perhaps
		p.current = t
		return false
	}
	if p.current != nil {
		p.previous = append(p.previous, previousTable{p.current, now.Add(askPreviousFor)})
	}
	p.current, p.since = t, now
	return true
}

// unchangedFor is how long the table has been the same.
func (p *tableHistory) unchangedFor(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.since)
}

// previousTables lists the tables that were, newest first. The dates of v count from when they
// pass, which may be before note is told.
func (p *tableHistory) previousTables(v *View, now time.Time) (out []*OwnerTable) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, flips := 0, v.TableChanges(); i < len(flips); i++ {
		if at := flips[len(flips)-1-i]; at.After(p.since) && !at.After(now) {
			out = append(out, v.TableAt(at.Add(-time.Millisecond)))
		}
	}
	for i := len(p.previous) - 1; i >= 0 && !now.After(p.previous[i].until); i-- {
		out = append(out, p.previous[i].table)
	}
	return out
}

// previousOwners are the links to who owned a stream before this node, newest first.
func (r *Node) previousOwners(id shard.StreamID) (all []*link) {
	for _, t := range r.history.previousTables(r.View(), r.cfg.Now()) {
		m := t.Owner(id)
		if m == nil || m.Name == r.self || len(all) == maxPreviousOwners {
			continue
		}
		if l := r.peers.link(m.Name); l != nil && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// fetchHandover gets what an owner before knows of a stream; false: nobody knows anything, or the
// stream is served here though another owns it.
func (r *Node) fetchHandover(ctx context.Context, id shard.StreamID) (h shard.Handover, found bool) {
	if !r.followLoop.ownsStream(id) {
		return h, false
	}
	from := uint64(0)
	if t := r.followLoop.tails.Lookup(id); t != nil {
		from = t.Next()
		t.Release()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), handoverTimeout)
	defer cancel()
	for _, l := range r.previousOwners(id) {
		h, found, err := l.requestHandover(ctx, id, from, peerAddr{r.self, r.addr})
		switch {
		case err != nil:
			r.metrics.handovers.lost.Inc()
			r.cfg.Logger.Info("stream was not handed over", "stream", id, "peer", l.peer.name, "err", err)
		case found:
			r.metrics.handovers.received.Inc()
			return h, true
		}
	}
	return h, false
}

// requestHandover asks the member to hand a stream over.
func (l *link) requestHandover(ctx context.Context, id shard.StreamID, from uint64, to peerAddr) (
	h shard.Handover, found bool, err error,
) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.Hand(ctx, &relaypb.HandRequest{Stream: wireBytes(id), From: from, To: placeToWire(to)})
	if err != nil {
		return h, false, statusToError(err)
	}
	h, err = checkHandover(reply)
	return h, reply.GetFound() && err == nil, err
}

// maxTakeoverLead is how far a peer's clock, and its news of who owns streams, may be ahead when it
// asks for a stream.
const maxTakeoverLead = 10 * time.Second

// isSuccessor reports whether a member that asks for a stream is its owner by this node's table, or
// by that of a date that is near, or once this node owns nothing, or once the member has
// taken its leave back, or S2 answers it again: that is its own news, of which others hear later.
func (r *Node) isSuccessor(id shard.StreamID, to peerAddr) bool {
	v, now := r.View(), r.cfg.Now()
	m := v.Member(to.name)
	if m != nil && r.cfg.handOverToAny {
		return true
	}
	if m == nil || m.Relay != to.address || to.name == r.self {
		return false
	}
	tables := []*OwnerTable{v.TableAt(now), v.TableAt(now).without([]string{r.self}), v.tableIfPresent(to.name, now)}
	for _, at := range v.TableChanges() {
		if at.After(now) && at.Before(now.Add(maxTakeoverLead)) {
			tables = append(tables, v.TableAt(at))
		}
	}
	return slices.ContainsFunc(tables, func(t *OwnerTable) bool {
		o := t.Owner(id)
		return o != nil && o.Name == to.name
	})
}

// Hand hands a stream over to the caller, if that is its owner by now.
func (s *server) Hand(ctx context.Context, q *relaypb.HandRequest) (*relaypb.HandReply, error) {
	id, err := checkHandRequest(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	to := placeFromWire(q.GetTo())
	if !s.isSuccessor(id, to) {
		s.log.Info("stream not handed over", "stream", id, "peer", to.name, "why", "by this node's table it is not the owner")
		return nil, status.Error(codes.PermissionDenied, "not the stream's owner")
	}
	h, found, ref := s.local.handOver(ctx, id, q.GetFrom(), to)
	if ref != nil {
		s.openBridge(id, to, ref)
	}
	if !found {
		return &relaypb.HandReply{}, nil
	}
	s.metrics.handovers.given.Inc()
	reply := &relaypb.HandReply{Found: true, State: h.State}
	for _, r := range h.Tail {
		reply.Tail = append(reply.Tail, r.Bytes())
	}
	return reply, nil
}

// handoffBacklog is what a node owes after a change of owners: the streams in use that others own
// now, most-watched first.
type handoffBacklog struct {
	table   *OwnerTable
	streams []shard.StreamID

	mu        sync.Mutex
	remaining map[string]int // by the name of the new owner
}

func (r *Node) newBacklog(t *OwnerTable) *handoffBacklog {
	o := &handoffBacklog{table: t, remaining: map[string]int{}}
	for _, id := range r.local.host.HotStreams(hotWithin) {
		if m := t.Owner(id); m != nil && m.Name != r.self {
			o.streams = append(o.streams, id)
			o.remaining[m.Name]++
		}
	}
	return o
}

// remainingFor is how many streams are owed to a member; owner: it owns any.
func (o *handoffBacklog) remainingFor(name string) (left int, owner bool) {
	if o == nil {
		return 0, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.remaining[name], o.table.hasOwner(name)
}

func (o *handoffBacklog) noteDone(name string) {
	o.mu.Lock()
	o.remaining[name]--
	o.mu.Unlock()
}

// requestTakeovers has the new owners fetch what this node owes them. It returns once each has been
// asked, or ctx ends.
func (r *Node) requestTakeovers(ctx context.Context, o *handoffBacklog) {
	byOwner := map[string][]shard.StreamID{} // by owner: one that hangs holds up no other
	for _, id := range o.streams {
		m := o.table.Owner(id)
		byOwner[m.Name] = append(byOwner[m.Name], id)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, ids := range byOwner {
		next := make(chan shard.StreamID)
		for range min(maxTakeoversPerPeer, len(ids)) {
			wg.Go(func() {
				for id := range next {
					r.requestTakeover(ctx, name, id)
					o.noteDone(name)
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

func (r *Node) requestTakeover(ctx context.Context, member string, id shard.StreamID) {
	if l := r.peers.link(member); l != nil {
		ctx, cancel := context.WithTimeout(ctx, handoverTimeout)
		defer cancel()
		l.requestTakeover(ctx, id)
	}
}

// requestTakeover has the member serve a stream, and so fetch it. One whose clock is behind says
// that it does not own it yet. If all fails, whoever asks for the stream next asks the
// same.
func (l *link) requestTakeover(ctx context.Context, id shard.StreamID) {
	for {
		var other *redirectError
		if _, err := l.requestInfo(ctx, id, shard.InfoAllowCached, route{}); !errors.As(err, &other) {
			return
		}
		select {
		case <-time.After(takeoverRetry):
		case <-ctx.Done():
			return
		}
	}
}

// openBridge has whoever was fed here by the host be fed by the new owner of a stream until
// they have moved there. It is called before that one's answer, so with a head start.
func (r *Node) openBridge(id shard.StreamID, to peerAddr, ref *feedRef) {
	f := r.followLoop.followForBridge(id, to)
	if f == nil {
		return
	}
	r.mu.Lock()
	r.bridges[ref] = bridge{f, to}
	r.mu.Unlock()
}

// bridge is a stream that is followed here for the sake of who has not moved yet.
type bridge struct {
	follower *follower
	to       peerAddr
}

// closeBridges gives up what nobody needs any more, and begins again where following failed.
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
