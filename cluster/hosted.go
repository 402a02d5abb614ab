package cluster

import (
	"context"
	"maps"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// host is what runs the streams that this node serves: *shard.Host.
type host interface {
	Do(ctx context.Context, req *shard.Request) (shard.Outcome, error)
	State(ctx context.Context, id shard.StreamID, ask shard.Ask) (shard.Info, error)
	Follow(ctx context.Context, id shard.StreamID, from uint64) (*shard.Tail, func(), error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from uint64) (shard.Range, error)
	ReadPageVia(ctx context.Context, id shard.StreamID, info shard.Info, from uint64, ask func(context.Context) (shard.Range, error)) (shard.Range, error)
	Owned() []shard.StreamID
	Hot(within time.Duration) []shard.StreamID
	Has(id shard.StreamID) bool
	Rest(id shard.StreamID)
	DropUnused(id shard.StreamID) bool
	Hand(id shard.StreamID, from uint64) (shard.Handover, bool)
	Install(id shard.StreamID, h shard.Handover) error
	StoreDown() bool
}

// hosted is the host with rules added. A stream is let go of only while nobody here is
// fed by it, or somebody else feeds them; and nobody begins to use it while it comes or
// goes (a Tail that its host dropped is fed no more, and would look idle for ever). A
// stream that is not here is fetched from its owner before, if there was one of late.
type hosted struct {
	host  host
	fetch func(ctx context.Context, id shard.StreamID) (shard.Handover, bool)

	mu     sync.Mutex
	uses   map[shard.StreamID]*use     // feeds taken from the host
	moving map[shard.StreamID]*passage // on its way here, or away
	handed map[shard.StreamID]handed   // at most as many as were handed over in handedFor
}

// use is the feeds of one stream that end together, when the stream is handed over.
type use struct {
	n    int         // guarded by hosted.mu: those that were not given back
	gone atomic.Bool // the host feeds them no more
}

// passage is a stream's way here, or away.
type passage struct {
	done   chan struct{} // closed at its end
	coming bool
}

// handed is where a stream went.
type handed struct {
	to    place
	until time.Time
}

func newHosted(h host, fetch func(context.Context, shard.StreamID) (shard.Handover, bool)) *hosted {
	return &hosted{
		host: h, fetch: fetch, uses: map[shard.StreamID]*use{},
		moving: map[shard.StreamID]*passage{}, handed: map[shard.StreamID]handed{},
	}
}

// hostFeed is a feed from the host. The holder calls release once, whatever became of
// the stream.
type hostFeed struct {
	use     *use
	release func()
}

// feed has the host feed the stream's Tail. must: also if the stream was handed over.
func (h *hosted) feed(ctx context.Context, id shard.StreamID, from uint64, must bool) (
	*shard.Tail, hostFeed, error,
) {
	u, err := h.settled(ctx, id, 1, must)
	if err != nil {
		return nil, hostFeed{}, err
	}
	t, release, err := h.host.Follow(ctx, id, from)
	if err != nil {
		h.done(id, u)
		return nil, hostFeed{}, err
	}
	return t, hostFeed{u, func() {
		release()
		h.done(id, u)
	}}, nil
}

// done takes one use back.
func (h *hosted) done(id shard.StreamID, u *use) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if u.n--; u.n == 0 && h.uses[id] == u {
		delete(h.uses, id)
	}
}

// needed reports whether anybody is left of those who were fed together.
func (h *hosted) needed(u *use) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return u.n > 0
}

// settled waits until the stream neither comes nor goes, has it fetched if it is not
// here, and adds uses to it. *redirect: it was handed over, and not must.
func (h *hosted) settled(ctx context.Context, id shard.StreamID, uses int, must bool) (*use, error) {
	for fetched := false; ; {
		h.mu.Lock()
		over, ok := h.handed[id]
		moving := h.moving[id]
		switch {
		case moving != nil:
		case ok && !must && time.Now().Before(over.until):
			h.mu.Unlock()
			return nil, &redirect{owner: over.to}
		case fetched, h.host.Has(id):
			delete(h.handed, id)
			u := h.useLocked(id, uses)
			h.mu.Unlock()
			return u, nil
		default:
			here := &passage{make(chan struct{}), true}
			h.moving[id] = here
			h.mu.Unlock()
			h.bring(ctx, id)
			h.moved(id, here)
			fetched = true
			continue
		}
		h.mu.Unlock()
		select {
		case <-moving.done:
			fetched = fetched || moving.coming // if not even that helped, do without
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// useLocked adds uses of a stream; of none, which is what a request adds, it keeps no
// account.
func (h *hosted) useLocked(id shard.StreamID, uses int) *use {
	if uses == 0 {
		return nil
	}
	u := h.uses[id]
	if u == nil {
		u = &use{}
		h.uses[id] = u
	}
	u.n += uses
	return u
}

// bring fetches a stream. Whatever fails, the log has it all.
func (h *hosted) bring(ctx context.Context, id shard.StreamID) {
	if over, ok := h.fetch(ctx, id); ok {
		_ = h.host.Install(id, over)
	}
}

// moved ends a stream's coming or going.
func (h *hosted) moved(id shard.StreamID, p *passage) {
	h.mu.Lock()
	delete(h.moving, id)
	h.mu.Unlock()
	close(p.done)
}

// hand lets go of a stream in favour of another node. used, if not nil: they were fed by
// the host, and need another feed now.
func (h *hosted) hand(ctx context.Context, id shard.StreamID, from uint64, to place) (
	over shard.Handover, found bool, used *use,
) {
	h.mu.Lock()
	if p := h.moving[id]; p != nil && p.coming {
		h.mu.Unlock()
		late := time.NewTimer(comingWait)
		defer late.Stop()
		select {
		case <-p.done:
		case <-late.C: // it may be this very call that it waits for
		case <-ctx.Done():
		}
		h.mu.Lock()
	}
	if h.moving[id] != nil || !h.host.Has(id) {
		h.mu.Unlock()
		return over, false, nil
	}
	gone := &passage{done: make(chan struct{})}
	h.moving[id] = gone
	h.mu.Unlock()
	over, found = h.host.Hand(id, from)
	h.mu.Lock()
	h.handed[id] = handed{to, time.Now().Add(handedFor)}
	if used = h.uses[id]; used != nil {
		used.gone.Store(true)
		delete(h.uses, id)
	}
	h.mu.Unlock()
	h.moved(id, gone)
	return over, found, used
}

// forget drops what is no longer true of streams that were handed over.
func (h *hosted) forget(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for id, over := range h.handed {
		if now.After(over.until) {
			delete(h.handed, id)
		}
	}
}

// reclaim forgets that streams were handed over that are this node's again.
func (h *hosted) reclaim(owns func(shard.StreamID) bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	maps.DeleteFunc(h.handed, func(id shard.StreamID, _ handed) bool { return owns(id) })
}

// used reports whether somebody here is fed by the host.
func (h *hosted) used(id shard.StreamID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.uses[id] != nil
}

// drop lets go of the stream and reports whether it did: not while it is used.
// It waits for the batch in flight.
func (h *hosted) drop(id shard.StreamID) bool {
	h.mu.Lock()
	if h.uses[id] != nil || h.moving[id] != nil {
		h.mu.Unlock()
		return false
	}
	gone := &passage{done: make(chan struct{})}
	h.moving[id] = gone
	h.mu.Unlock()
	defer h.moved(id, gone)
	return h.host.DropUnused(id)
}

func (h *hosted) do(ctx context.Context, req *shard.Request, must bool) (shard.Outcome, error) {
	if _, err := h.settled(ctx, req.Stream, 0, must); err != nil {
		return shard.Outcome{}, err
	}
	return h.host.Do(ctx, req)
}

func (h *hosted) state(ctx context.Context, id shard.StreamID, a shard.Ask, must bool) (shard.Info, error) {
	if _, err := h.settled(ctx, id, 0, must); err != nil {
		return shard.Info{}, err
	}
	return h.host.State(ctx, id, a)
}

// near reports whether an answer for the stream needs no other node: it is here, on its
// way here, or was handed over.
func (h *hosted) near(id shard.StreamID) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, over := h.handed[id]
	p := h.moving[id]
	return over || p != nil && p.coming || h.host.Has(id)
}

// openers runs what may block on S2: at most limit at once. Those that wait are
// at most waiting; beyond that add refuses (the asker tries again later). Streams that
// are near go first, but for one in nearFirst: after a change of owners a node that handed
// its streams over follows them here for all its readers, who must not wait until
// thousands of others are fetched.
type openers struct {
	limit, waiting int

	wg     sync.WaitGroup
	mu     sync.Mutex
	active int
	near   []func()
	far    []func()
	turn   int
	closed bool
}

const (
	openAtOnce  = 64
	openWaiting = 1 << 16
	nearFirst   = 16
)

// add runs fn soon; false: too many wait, or the openers are closed.
func (o *openers) add(near bool, fn func()) bool {
	o.mu.Lock()
	defer o.mu.Unlock()
	switch {
	case o.closed:
		return false
	case o.active < o.limit:
		o.active++
		o.wg.Go(func() { o.work(fn) })
		return true
	case len(o.near)+len(o.far) >= o.waiting:
		return false
	case near:
		o.near = append(o.near, fn)
	default:
		o.far = append(o.far, fn)
	}
	return true
}

func (o *openers) work(fn func()) {
	for fn != nil {
		fn()
		o.mu.Lock()
		o.turn++
		queue := &o.near
		if len(o.near) == 0 || len(o.far) > 0 && o.turn%nearFirst == 0 {
			queue = &o.far
		}
		fn = nil
		if len(*queue) > 0 {
			fn, (*queue)[0] = (*queue)[0], nil
			*queue = (*queue)[1:]
		} else {
			o.active--
		}
		o.mu.Unlock()
	}
}

// close refuses what comes from now on and waits for the rest, which its
// context tells to hurry.
func (o *openers) close() {
	o.mu.Lock()
	o.closed = true
	o.mu.Unlock()
	o.wg.Wait()
}
