package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/shard"
)

// Relay is a node's way to every stream of the fleet: here, where this node owns
// it, or at the peer that does. It has the methods of shard.Host that an edge
// needs. Errors are those of shard; beside them ErrUnavailable says that nobody
// who could serve the stream can be reached.
type Relay struct {
	// set at construction
	cfg       Config
	self      string
	addr      string
	met       *metrics
	creds     *creds
	ms        *membership
	peers     *peers
	hosted    *hosted
	openers   *openers
	server    *server
	followers *followers
	flights   *flights
	standing  func() shard.Standing // of the host; nil unless gated
	restand   func()                // has the host ask anew
	ctx       context.Context       // ends with Close
	stop      context.CancelFunc
	wg        sync.WaitGroup
	news      chan struct{} // cap 1, never closed: ownership needs a look
	drops     chan struct{} // cap dropAtOnce: streams being let go of

	past    past
	strays  atomic.Bool // the host may have streams that others own
	owing   atomic.Pointer[owing]
	full    atomic.Bool // this node has its share of the streams
	leaving atomic.Bool
	readers atomic.Int64           // see Balance
	store   store                  // owned by tend
	stand   stand                  // owned by tend
	verdict atomic.Pointer[string] // why this node must own nothing, for the sake of others
	outage  atomic.Bool            // S2 has answered nobody: this node does without
	skewed  rate.Sometimes
	tending sync.Mutex // held while ownership is looked at
	closing sync.Once

	mu      sync.Mutex
	changed chan struct{} // closed with the next View or link; made when somebody waits
	holds   map[*use]holding
}

// Join starts the node's part of the fleet: its server, gossip, links. host runs
// what this node owns and feeds Tails of the set tails. The Relay owns nothing
// else of either and does not close them; Close the Relay first.
func Join(ctx context.Context, cfg Config, host *shard.Host, tails *shard.Tails) (*Relay, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.gated = host.Probes()
	r, ln, err := newRelay(ctx, cfg, host, tails)
	if err != nil {
		return nil, err
	}
	host.Join(r) // before the first request
	r.start(ln)
	if err := r.ms.start(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if cfg.Plaintext == PlaintextAlways && !loopback(cfg.Advertise) {
		r.cfg.Logger.Warn("the nodes' own traffic is not encrypted, and whoever reaches its address is taken for a node", "addr", r.addr)
	}
	if cfg.Renew != nil {
		r.wg.Go(func() { r.renew(r.ctx) })
	}
	host.Stand(r.ms.role, func(shard.Standing) { poke(r.news) })
	return r, nil
}

// newRelay builds a Relay that knows only itself.
func newRelay(ctx context.Context, cfg Config, h host, tails *shard.Tails) (
	*Relay, net.Listener, error,
) {
	ln, err := cfg.Network.Listen(ctx, cfg.Relay)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for peers (--relay; by default at --advertise): %w", err)
	}
	met := newMetrics(cfg.Metrics)
	creds, err := newCreds(&cfg, met)
	if err != nil {
		return nil, nil, errors.Join(err, ln.Close())
	}
	r := &Relay{
		cfg: cfg, met: met, creds: creds,
		addr: advertised(&cfg, ln.Addr()), holds: map[*use]holding{},
		openers: &openers{limit: openAtOnce, waiting: openWaiting},
		news:    make(chan struct{}, 1), drops: make(chan struct{}, dropAtOnce),
	}
	r.skewed.Interval = time.Minute
	r.hosted = newHosted(h, r.fetch)
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.ctx = ctx
	r.flights = newFlights(ctx)
	r.flights.panics = shard.NewPanics(cfg.Logger, cfg.Metrics)
	r.ms = newMembership(&r.cfg, r.met, r.addr, r.observe)
	if h, ok := h.(*shard.Host); ok {
		r.standing, r.restand, r.ms.looked = h.Standing, h.Restand, h.Restand
		r.stand.heard = map[string]heard{}
	}
	r.self = r.ms.self.Name
	r.cfg.Logger = cfg.Logger.With("member", r.self)
	r.ms.log = r.cfg.Logger
	r.peers = newPeers(&r.cfg, r.self, r.addr, r.met)
	r.peers.panics, r.peers.creds = r.flights.panics, creds
	creds.elder, creds.log = func(ip net.IP) bool { return r.View().elder(ip) }, r.cfg.Logger
	creds.member = func(ip net.IP) bool { return r.View().member(ip) }
	r.server = newServer(&r.cfg, r.self, r.hosted, r.openers, r.met, creds)
	r.server.addr, r.server.table, r.server.foreign = r.addr, r.table, r.foreign
	r.server.answers, r.server.handed, r.server.status = r.answers, r.handed, r.status
	r.server.heir = r.heir
	r.server.member = func(name string) bool { return r.View().Member(name) != nil }
	r.followers = &followers{
		self: r.self, tails: tails, hosted: r.hosted, openers: r.openers, peers: r.peers,
		view: r.View, table: r.table, foreign: r.foreign, freed: func() { poke(r.news) },
		log: r.cfg.Logger, met: r.met, wake: make(chan struct{}, 1),
		m: map[shard.StreamID]*follower{}, pending: map[*follower]struct{}{},
	}
	r.followers.ctx, r.followers.stop = context.WithCancel(ctx)
	r.peers.up = func(string) { r.linksChanged() }
	r.peers.lost = func(_ *link, subs []*upstream) {
		r.followers.lost(subs)
		r.linksChanged()
	}
	r.wg.Go(func() { r.tend(ctx) })
	r.followers.wg.Go(r.followers.run)
	return r, ln, nil
}

// advertised is the address at which others reach the server.
func advertised(cfg *Config, ln net.Addr) string {
	tcp, ok := ln.(*net.TCPAddr)
	if !ok {
		return ln.String()
	}
	if tcp.IP.IsUnspecified() && cfg.Advertise != "" {
		return net.JoinHostPort(cfg.Advertise, strconv.Itoa(tcp.Port))
	}
	return tcp.String()
}

// start begins to answer peers.
func (r *Relay) start(ln net.Listener) {
	r.wg.Go(func() {
		if err := r.server.grpc.Serve(ln); err != nil {
			r.cfg.Logger.Error("serve peers", "err", err)
		}
	})
}

// Addrs are the addresses at which gossip and the relay's server listen.
func (r *Relay) Addrs() (gossip, relay string) { return r.ms.addr, r.addr }

// Self is this node's member name.
func (r *Relay) Self() string { return r.self }

// View is the newest view of the fleet.
func (r *Relay) View() *View { return r.ms.current() }

func (r *Relay) table() *Table { return r.ms.current().At(r.cfg.Now()) }

// answers reports whether a member answers this node at once.
func (r *Relay) answers(ctx context.Context, m *Member) bool {
	l := r.peers.link(m.Name)
	return l != nil && l.ping(ctx)
}

// observe is told of Views.
func (r *Relay) observe(v *View) {
	r.peers.update(v)
	if t := r.table(); r.past.note(t, r.cfg.Now()) && r.ctx.Err() == nil {
		r.hosted.reclaim(r.followers.owns)
		o := r.owes(t)
		r.owing.Store(o)
		r.wg.Go(func() { r.nudge(r.ctx, o) })
	}
	r.linksChanged()
}

// linksChanged has everything looked at that depends on who is reachable.
func (r *Relay) linksChanged() {
	r.mu.Lock()
	if r.changed != nil {
		close(r.changed)
		r.changed = nil
	}
	r.mu.Unlock()
	r.followers.pendAll()
	r.foreign()
}

// change is closed when a View or a link changes after the call.
func (r *Relay) change() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.changed == nil {
		r.changed = make(chan struct{})
	}
	return r.changed
}

// Await waits until n members own streams and this node reaches all of them.
func (r *Relay) Await(ctx context.Context, n int) error {
	for {
		changed := r.change()
		if t := r.table(); t.Len() >= n && r.reaches(t) {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return fmt.Errorf("await %d nodes: %w", n, context.Cause(ctx))
		}
	}
}

func (r *Relay) reaches(t *Table) bool {
	for _, m := range t.members {
		if m.Name != r.self && r.peers.link(m.Name) == nil {
			return false
		}
	}
	return true
}

// foreign notes that the host may have streams that others own.
func (r *Relay) foreign() {
	r.strays.Store(true)
	poke(r.news)
}

// Do carries a write out, at the stream's owner. Errors: those of Host.Do and
// ErrUnavailable. After ErrOutcomeUnknown the write may have taken effect.
func (r *Relay) Do(ctx context.Context, req *shard.Request) (shard.Outcome, error) {
	if req.Fork != nil && !r.View().speaks(relayForks) {
		return shard.Outcome{}, errForksLater
	}
	var out shard.Outcome
	sent := false // somebody may have carried it out without telling
	failed := 0   // nodes that failed the call
	try := func(ctx context.Context, l *link, rt route) (err error) {
		q := req
		if sent && !req.Repeat {
			again := *req
			again.Repeat, q = true, &again
		}
		var delivered bool
		if l == nil {
			out, err = r.hosted.do(ctx, q, rt.hop == hopMust)
		} else {
			out, delivered, err = l.do(ctx, q, rt)
		}
		if errors.Is(err, errFailed) {
			failed++
		}
		sent = sent || delivered && (errors.Is(err, errUnreachable) || errors.Is(err, errFailed)) ||
			errors.Is(err, shard.ErrOutcomeUnknown)
		if l != nil && err == nil && out.Code.Accepted() {
			r.followers.heard(req.Stream, out.Info)
		}
		return err
	}
	for began := time.Now(); ; {
		err := r.route(ctx, req.Stream, try)
		switch {
		case err == nil, ctx.Err() != nil:
			return out, err
		case !sent:
			return shard.Outcome{}, public(err)
		case time.Since(began) > certainWithin, failed >= failedMost:
			return shard.Outcome{}, errors.Join(shard.ErrOutcomeUnknown, public(err))
		}
		select {
		case <-time.After(certainAgain/2 + rand.N(certainAgain)):
		case <-ctx.Done():
		}
	}
}

// A write that may have been carried out is repeated, with its id, until some node says
// so or not; after certainWithin its caller hears that nobody can say.
const (
	certainWithin = 15 * time.Second
	certainAgain  = 500 * time.Millisecond
	failedMost    = 2 // what has failed a call twice will do so again
)

// errForksLater: an owner of an earlier release would make a plain stream of a fork,
// and an edge would show it without what it inherited.
var errForksLater = fmt.Errorf("%w: a member runs a release that knows no forks", shard.ErrUnavailable)

// State describes a stream, as Host.State does. Without AskLocal the answer
// knows of every write that was acknowledged anywhere before the call.
func (r *Relay) State(ctx context.Context, id shard.StreamID, a shard.Ask) (shard.Info, error) {
	if r.followers.owns(id) {
		info, err := r.state(ctx, id, a)
		return info, public(err)
	}
	if a&shard.AskLocal != 0 {
		info, ok := r.followers.local(id)
		if ok && (a&shard.AskTouch == 0 || !info.HasTTL) {
			return info, nil
		}
	}
	info, err := r.flights.do(ctx, flightKey{id, a}, func(ctx context.Context) (shard.Info, error) {
		return r.state(ctx, id, a)
	})
	if err != nil && ctx.Err() == nil {
		err = public(err)
	}
	return info, err
}

func (r *Relay) state(ctx context.Context, id shard.StreamID, a shard.Ask) (shard.Info, error) {
	var info shard.Info
	err := r.route(ctx, id, func(ctx context.Context, l *link, rt route) (err error) {
		if l == nil {
			info, err = r.hosted.state(ctx, id, a, rt.hop == hopMust)
			return err
		}
		info, err = l.state(ctx, id, a, rt)
		if err == nil {
			r.followers.heard(id, info)
		}
		return err
	})
	return info, err
}

// Follow returns the stream's Tail on this node and keeps it fed, from wherever
// the stream is owned, until release is called (once). from is where the caller will
// read from; it is only a hint. Errors: those of Host.Follow and ErrUnavailable.
func (r *Relay) Follow(ctx context.Context, id shard.StreamID, from uint64) (
	t *shard.Tail, release func(), err error,
) {
	return r.followers.follow(ctx, id, from)
}

// pageTimeout is how long the owner may take for a page that this node can read
// itself.
const pageTimeout = time.Second

// ReadPage reads history, as Host.ReadPage does: from this node's memory, from the owner's
// if it answers at once, from S2 otherwise.
func (r *Relay) ReadPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from uint64,
) (shard.Range, error) {
	var ask func(context.Context) (shard.Range, error)
	if m := r.table().Owner(id); m != nil && m.Name != r.self {
		if l := r.peers.link(m.Name); l != nil {
			ask = func(ctx context.Context) (shard.Range, error) {
				ctx, cancel := context.WithTimeout(ctx, pageTimeout)
				defer cancel()
				return l.page(ctx, id, info, from)
			}
		}
	}
	return r.hosted.host.ReadPageVia(ctx, id, info, from, ask)
}

// route asks node after node, by the rules of course, until one gives a final
// answer. try gets the link to ask over, or nil for this node.
func (r *Relay) route(
	ctx context.Context, id shard.StreamID, try func(context.Context, *link, route) error,
) error {
	var c course
	began := time.Now()
	for {
		to, ok := c.next(r.View(), r.table(), id, r.self)
		if !ok && !r.leaving.Load() {
			if err := r.awaitView(ctx, began); err != nil {
				return err
			}
			continue
		}
		if to.hop == hopMust {
			r.met.must.Inc()
		}
		name, err := r.ask(ctx, id, to, c.route, try)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !c.learn(name, err):
			return err
		}
	}
}

func (r *Relay) ask(
	ctx context.Context, id shard.StreamID, to target, rt route,
	try func(context.Context, *link, route) error,
) (name string, err error) {
	if to.member == nil {
		if !r.followers.owns(id) {
			r.foreign()
		}
		return r.self, try(ctx, nil, rt)
	}
	l, err := r.peers.reach(ctx, to.member.Name)
	if err == nil {
		err = try(ctx, l, rt)
	}
	return to.member.Name, err
}

// awaitView waits for another View while nobody owns anything.
func (r *Relay) awaitView(ctx context.Context, began time.Time) error {
	changed := r.change()
	if r.table().Len() > 0 {
		return nil // changed in between
	}
	left := time.NewTimer(emptyWait - time.Since(began))
	defer left.Stop()
	select {
	case <-changed:
		return nil
	case <-left.C:
		return shard.ErrUnavailable
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
