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
	// formerFor is how long after a change the owner before it is asked, and formersAsked
	// how many of them, if there were more changes.
	formerFor    = 15 * time.Second
	formersAsked = 3
	// fetchTimeout bounds that; then the stream is read from S2.
	fetchTimeout = 2 * time.Second
	// comingWait is how long a stream is waited for that is on its way to this node when
	// the next one asks for it.
	comingWait = 500 * time.Millisecond
	// handedFor is how long a node that handed a stream over refuses to serve it.
	handedFor = 5 * time.Second
	// nudgeAtOnce bounds the streams that one node is handing over to another. With more
	// nothing is faster, and appends wait longer for the processor.
	nudgeAtOnce = 8
	// nudgeAgain is the pause before another nudge of a member that is behind.
	nudgeAgain = 100 * time.Millisecond
	// hot is how recently a stream was used that is handed over without being asked for.
	hot = time.Minute
	// keepFormer is how long streams that moved are kept to be asked for, and
	// keepLeaving how long by a node that leaves.
	keepFormer  = 10 * time.Second
	keepLeaving = time.Second
)

// past is the tables of the last formerFor, newest last.
type past struct {
	mu     sync.Mutex
	last   *Table
	since  time.Time // when last became the table
	tables []pastTable
}

type pastTable struct {
	table *Table
	until time.Time
}

// note is told of the table of this moment; changed: it is another one.
func (p *past) note(t *Table, now time.Time) (changed bool) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for len(p.tables) > 0 && now.After(p.tables[0].until) {
		p.tables = p.tables[1:]
	}
	if p.last != nil && t.same(p.last) { // of another View, perhaps
		p.last = t
		return false
	}
	if p.last != nil {
		p.tables = append(p.tables, pastTable{p.last, now.Add(formerFor)})
	}
	p.last, p.since = t, now
	return true
}

// settledFor is how long the table has been the same.
func (p *past) settledFor(now time.Time) time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return now.Sub(p.since)
}

// before lists the tables that were, newest first. The dates of v count from when they
// pass, which may be before note is told.
func (p *past) before(v *View, now time.Time) (out []*Table) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, flips := 0, v.Flips(); i < len(flips); i++ {
		if at := flips[len(flips)-1-i]; at.After(p.since) && !at.After(now) {
			out = append(out, v.At(at.Add(-time.Millisecond)))
		}
	}
	for i := len(p.tables) - 1; i >= 0 && !now.After(p.tables[i].until); i-- {
		out = append(out, p.tables[i].table)
	}
	return out
}

// formers are the links to who owned a stream before this node, newest first.
func (r *Relay) formers(id shard.StreamID) (all []*link) {
	for _, t := range r.past.before(r.View(), r.cfg.Now()) {
		m := t.Owner(id)
		if m == nil || m.Name == r.self || len(all) == formersAsked {
			continue
		}
		if l := r.peers.link(m.Name); l != nil && !slices.Contains(all, l) {
			all = append(all, l)
		}
	}
	return all
}

// fetch gets what an owner before knows of a stream; false: nobody knows anything, or the
// stream is served here though another owns it.
func (r *Relay) fetch(ctx context.Context, id shard.StreamID) (h shard.Handover, found bool) {
	if !r.followers.owns(id) {
		return h, false
	}
	from := uint64(0)
	if t := r.followers.tails.Lookup(id); t != nil {
		from = t.Next()
		t.Release()
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), fetchTimeout)
	defer cancel()
	for _, l := range r.formers(id) {
		h, found, err := l.hand(ctx, id, from, place{r.self, r.addr})
		switch {
		case err != nil:
			r.met.handovers.lost.Inc()
			r.cfg.Logger.Info("stream was not handed over", "stream", id, "peer", l.to.name, "err", err)
		case found:
			r.met.handovers.taken.Inc()
			return h, true
		}
	}
	return h, false
}

// hand asks the member to hand a stream over.
func (l *link) hand(ctx context.Context, id shard.StreamID, from uint64, to place) (
	h shard.Handover, found bool, err error,
) {
	ctx, end := l.bind(ctx)
	defer end()
	reply, err := l.client.Hand(ctx, &relaypb.HandRequest{Stream: raw(id), From: from, To: placeToWire(to)})
	if err != nil {
		return h, false, statusToError(err)
	}
	h, err = handoverFrom(reply)
	return h, reply.GetFound() && err == nil, err
}

// handAhead is how far a peer's clock, and its news of who owns streams, may be ahead when it
// asks for a stream.
const handAhead = 10 * time.Second

// heir reports whether a member that asks for a stream is its owner by this node's table, or
// by that of a date that is near, or once this node owns nothing, or once the member has
// taken its leave back, or S2 answers it again: that is its own news, of which others hear later.
func (r *Relay) heir(id shard.StreamID, to place) bool {
	v, now := r.View(), r.cfg.Now()
	m := v.Member(to.name)
	if m != nil && r.cfg.anyHeir {
		return true
	}
	if m == nil || m.Relay != to.address || to.name == r.self {
		return false
	}
	tables := []*Table{v.At(now), v.At(now).without([]string{r.self}), v.claimed(to.name, now)}
	for _, at := range v.Flips() {
		if at.After(now) && at.Before(now.Add(handAhead)) {
			tables = append(tables, v.At(at))
		}
	}
	return slices.ContainsFunc(tables, func(t *Table) bool {
		o := t.Owner(id)
		return o != nil && o.Name == to.name
	})
}

// Hand hands a stream over to the caller, if that is its owner by now.
func (s *server) Hand(ctx context.Context, q *relaypb.HandRequest) (*relaypb.HandReply, error) {
	id, err := checkHand(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	to := placeFromWire(q.GetTo())
	if !s.heir(id, to) {
		s.log.Info("stream not handed over", "stream", id, "peer", to.name, "why", "by this node's table it is not the owner")
		return nil, status.Error(codes.PermissionDenied, "not the stream's owner")
	}
	h, found, used := s.hosted.hand(ctx, id, q.GetFrom(), to)
	if used != nil {
		s.handed(id, to, used)
	}
	if !found {
		return &relaypb.HandReply{}, nil
	}
	s.met.handovers.given.Inc()
	reply := &relaypb.HandReply{Found: true, State: h.State}
	for _, r := range h.Tail {
		reply.Tail = append(reply.Tail, r.Bytes())
	}
	return reply, nil
}

// owing is what a node owes after a change of owners: the streams in use that others own
// now, most-watched first.
type owing struct {
	table   *Table
	streams []shard.StreamID

	mu   sync.Mutex
	left map[string]int // by the name of the new owner
}

func (r *Relay) owes(t *Table) *owing {
	o := &owing{table: t, left: map[string]int{}}
	for _, id := range r.hosted.host.Hot(hot) {
		if m := t.Owner(id); m != nil && m.Name != r.self {
			o.streams = append(o.streams, id)
			o.left[m.Name]++
		}
	}
	return o
}

// to is how many streams are owed to a member; owner: it owns any.
func (o *owing) to(name string) (left int, owner bool) {
	if o == nil {
		return 0, false
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.left[name], o.table.has(name)
}

func (o *owing) paid(name string) {
	o.mu.Lock()
	o.left[name]--
	o.mu.Unlock()
}

// nudge has the new owners fetch what this node owes them. It returns once each has been
// asked, or ctx ends.
func (r *Relay) nudge(ctx context.Context, o *owing) {
	owed := map[string][]shard.StreamID{} // by owner: one that hangs holds up no other
	for _, id := range o.streams {
		m := o.table.Owner(id)
		owed[m.Name] = append(owed[m.Name], id)
	}
	var wg sync.WaitGroup
	defer wg.Wait()
	for name, ids := range owed {
		next := make(chan shard.StreamID)
		for range min(nudgeAtOnce, len(ids)) {
			wg.Go(func() {
				for id := range next {
					r.nudgeOne(ctx, name, id)
					o.paid(name)
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

func (r *Relay) nudgeOne(ctx context.Context, member string, id shard.StreamID) {
	if l := r.peers.link(member); l != nil {
		ctx, cancel := context.WithTimeout(ctx, fetchTimeout)
		defer cancel()
		l.nudge(ctx, id)
	}
}

// nudge has the member serve a stream, and so fetch it. One whose clock is behind says
// that it does not own it yet. If all fails, whoever asks for the stream next asks the
// same.
func (l *link) nudge(ctx context.Context, id shard.StreamID) {
	for {
		var other *redirect
		if _, err := l.state(ctx, id, shard.AskLocal, route{}); !errors.As(err, &other) {
			return
		}
		select {
		case <-time.After(nudgeAgain):
		case <-ctx.Done():
			return
		}
	}
}

// handed has whoever was fed here by the host be fed by the new owner of a stream until
// they have moved there. It is called before that one's answer, so with a head start.
func (r *Relay) handed(id shard.StreamID, to place, used *use) {
	f := r.followers.handed(id, to)
	if f == nil {
		return
	}
	r.mu.Lock()
	r.holds[used] = holding{f, to}
	r.mu.Unlock()
}

// holding is a stream that is followed here for the sake of who has not moved yet.
type holding struct {
	f  *follower
	to place
}

// unhold gives up what nobody needs any more, and begins again where following failed.
func (r *Relay) unhold() {
	r.mu.Lock()
	holds := maps.Clone(r.holds)
	r.mu.Unlock()
	for used, h := range holds {
		needed := r.hosted.needed(used)
		if needed && !h.f.stopped() {
			continue
		}
		r.mu.Lock()
		delete(r.holds, used)
		r.mu.Unlock()
		if needed {
			r.handed(h.f.id, h.to, used)
		}
		h.f.leave()
	}
}
