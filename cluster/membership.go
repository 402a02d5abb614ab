package cluster

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log"
	"log/slog"
	mrand "math/rand/v2"
	"net"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"
	"golang.org/x/sync/errgroup"

	"github.com/fantail-dev/fantail/shard"
)

// membership keeps a node in its fleet's gossip and turns what gossip says into
// Views. Events only mark that something changed; one goroutine builds the
// newest View, publishes it and then calls the observer: it is told the newest
// state, never a backlog, and a View may be told twice when a date passed.
type membership struct {
	// set at construction
	cfg     *Config
	log     *slog.Logger
	met     *metrics
	observe func(*View)
	ml      *memberlist.Memberlist
	addr    string // where gossip listens
	keys    *memberlist.Keyring
	stop    context.CancelFunc
	wg      sync.WaitGroup

	view atomic.Pointer[View]
	news chan struct{} // cap 1, never closed: something changed
	tell chan struct{} // cap 1, never closed: self changed, others must hear

	mu    sync.Mutex
	self  Member
	known map[string]Member // the others, by name
	addrs map[string]string // where they gossip, by name
	began time.Time         // when joining did
	// attempts is the last try of each address to join that failed, by name or address; at most
	// as many as there are.
	attempts map[string]*attempt
	gate     gate

	looked func() // called once a round of joining might have begun a fleet; may be nil
}

// The calm profile: gossip places streams, links notice deaths.
const (
	gossipInterval   = 100 * time.Millisecond
	gossipNodes      = 4
	retransmitMult   = 10 // with 6, of nine nodes one misses 3 changes in 1,000 until the next push/pull
	pushPullInterval = 10 * time.Second
	gossipTimeout    = 3 * time.Second
	handoffQueue     = 4096
	tellTimeout      = 2 * time.Second
	leaveTimeout     = 2 * time.Second
)

// newMembership is this node, alone until start. relayAddr is where its server
// listens; observe is called from one goroutine, from start to close.
func newMembership(cfg *Config, met *metrics, relayAddr string, observe func(*View)) *membership {
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // crypto/rand.Read never fails
	m := &membership{
		cfg: cfg, log: cfg.Logger, met: met, observe: observe,
		news:  make(chan struct{}, 1),
		tell:  make(chan struct{}, 1),
		known: map[string]Member{},
		addrs: map[string]string{}, attempts: map[string]*attempt{}, began: time.Now(),
		self: Member{
			Name: cfg.Name + "-" + hex.EncodeToString(suffix[:]), Key: cfg.RingKey,
			Start: millis(cfg.Now()), Rev: 1, StopAt: Never,
			Speaks: relayVersion, Relay: relayAddr, HTTP: cfg.HTTP, Format: shard.FormatLevel,
		},
	}
	if cfg.Plaintext != PlaintextAlways {
		m.self.Features |= FeatureTLS
	}
	m.gate.closed = cfg.gated
	if len(cfg.Join) > 0 || cfg.gated {
		m.self.StartAt = Never // owns nothing before it has found somebody, and S2
	}
	m.view.Store(NewView([]Member{m.self}))
	return m
}

// start begins to gossip.
func (m *membership) start() error {
	if err := m.create(); err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	m.log.Info("gossip started", "addr", m.addr)
	m.run()
	return nil
}

func (m *membership) create() error {
	host, port, err := splitAddr(m.cfg.Gossip)
	if err != nil {
		return err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	c := memberlist.DefaultLANConfig()
	c.Name = m.self.Name
	c.BindAddr, c.BindPort = host, port
	c.AdvertiseAddr, c.AdvertisePort = m.cfg.Advertise, port
	c.Label = m.cfg.Cluster
	if c.Keyring, err = memberlist.NewKeyring(m.cfg.Secrets, m.cfg.Secrets[0]); err != nil {
		return err
	}
	m.keys = c.Keyring
	c.GossipVerifyIncoming, c.GossipVerifyOutgoing = true, true
	c.GossipInterval, c.GossipNodes = gossipInterval, gossipNodes
	c.RetransmitMult = retransmitMult
	c.PushPullInterval = pushPullInterval
	c.TCPTimeout = gossipTimeout
	c.EnableCompression = false
	c.HandoffQueueDepth = handoffQueue
	c.Delegate, c.Events = (*delegate)(m), (*delegate)(m)
	if c.Transport, err = m.cfg.Network.Gossip(m.cfg.Gossip); err != nil {
		return err
	}
	c.Logger = log.New(newGossipLog(m.log), "", 0) //nolint:forbidigo // what memberlist takes
	if c.Transport == nil {
		t, err := newGossipTransport(host, port, c.Logger)
		if err != nil {
			return err
		}
		c.Transport, c.BindPort, c.AdvertisePort = t, t.GetAutoBindPort(), t.GetAutoBindPort()
	}
	if m.ml, err = memberlist.Create(c); err != nil {
		_ = c.Transport.Shutdown()
		return err
	}
	m.addr = nodeAddr(m.ml.LocalNode())
	return nil
}

func nodeAddr(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

func (m *membership) run() {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.wg.Go(func() { m.publish(ctx) })
	if m.ml != nil {
		m.wg.Go(func() { m.join(ctx) })
		m.wg.Go(func() { m.speak(ctx) })
	}
}

// current is the newest View.
func (m *membership) current() *View { return m.view.Load() }

// publish builds Views, and repeats the newest one to the observer whenever one
// of its dates passes.
func (m *membership) publish(ctx context.Context) {
	flip := time.NewTimer(time.Hour)
	defer flip.Stop()
	hidden := ""
	var told *Table // the last one that the log tells of
	for {
		v := m.build()
		now := m.cfg.Now()
		owners := v.At(now).Len() // lays the ring out here, off the way of requests
		m.met.owners.Set(float64(owners))
		m.met.members.Set(float64(len(v.members)))
		if old := m.view.Load(); !v.equal(old) {
			m.view.Store(v)
			m.met.views.Inc()
			tellMembers(m.log, m.self.Name, old, v)
		}
		if table := v.At(now); told == nil || !told.same(table) {
			m.log.Info("owners changed", "owners", owners, "members", len(v.members), "self", table.has(m.self.Name))
			told = table
		}
		m.observe(m.view.Load())
		hidden = m.complain(v.HiddenBy(m.self.Name, now), hidden)
		m.layOut(m.view.Load(), now)
		wait := time.Hour
		for _, at := range v.Flips() {
			if at.After(now) {
				wait = max(at.Sub(m.cfg.Now()), 0)
				break
			}
		}
		flip.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-m.news:
		case <-flip.C:
		}
	}
}

// flipsAhead bounds the tables that are laid out ahead: nodes name whole seconds, so those
// of a deploy are few.
const flipsAhead = 4

// layOut lays out the tables after the next dates: at a date all requests would wait for
// the first that comes, and that one for the ring.
func (m *membership) layOut(v *View, now time.Time) {
	ahead := 0
	for _, at := range v.Flips() {
		if at.After(now) && ahead < flipsAhead {
			ahead++
			v.At(at)
		}
	}
}

// complain says once that another process has this node's ring key, so that this one owns
// nothing, and returns its name. Two nodes were given one name.
func (m *membership) complain(by *Member, before string) string {
	if by == nil {
		return ""
	}
	if by.Name != before {
		m.log.Warn("a newer node has this one's ring key: this one owns nothing",
			"key", by.Key, "addr", m.self.Relay, "peer", by.Name, "peerAddr", by.Relay)
	}
	return by.Name
}

// build makes the newest View, and names the date from which this node owns streams once
// it knows somebody who does, or will.
func (m *membership) build() *View {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	m.yieldLocked(now)
	if m.self.StartAt == Never && m.ownedLocked(now) && m.mayLocked(now) {
		m.activateLocked(m.flip(now))
	}
	return NewView(m.allLocked())
}

// flip is the instant of a change that this node announces now: a whole second, so
// that changes of several nodes fall together, and so far ahead that every node knows of
// it by then. All switch by their own clocks, and not when gossip comes by.
func (m *membership) flip(now time.Time) uint64 {
	at := now.Add(m.cfg.Lead)
	if m.cfg.Lead >= time.Second {
		at = at.Add(time.Second - 1).Truncate(time.Second)
	}
	return max(millis(at), 1)
}

func (m *membership) activateLocked(at uint64) {
	m.self.StartAt = at
	m.self.Rev++
	poke(m.tell)
}

// ownedLocked reports whether somebody else owns streams, or has named the date from which it
// will: to wait for that would have a fleet begin one date after the other.
func (m *membership) ownedLocked(now time.Time) bool {
	for _, o := range m.known {
		if o.dated(millis(now)) {
			return true
		}
	}
	return false
}

// sought is the end of a round of joining, or of the patience with it. Who owns nothing yet
// and has met only such as own nothing either may be the first to own, but not before that:
// the owners may be those that were still being dialled. all: nobody was missed. Otherwise
// the owners may be among the missed: then it names a date, by which it may hear of them.
// why, if not empty: a node without company need not wait for any. While an address answers that
// does not speak this node's gossip (seek.go) it begins nothing.
func (m *membership) sought(all bool, why string) (company bool) {
	m.mu.Lock()
	now := m.cfg.Now()
	company = len(m.known) > 0
	ripe := (company || why != "") && !m.aliensLocked()
	first := ripe && m.soughtLocked(all, why)
	begins := ripe && m.self.StartAt == Never && !m.ownedLocked(now) && m.mayLocked(now)
	switch {
	case !begins:
	case all || !company:
		m.activateLocked(0)
	default:
		m.activateLocked(m.flip(now))
	}
	m.mu.Unlock()
	if first && m.looked != nil {
		m.looked()
	}
	if begins {
		poke(m.news)
	}
	if begins && !company {
		if tried := m.seeks(); tried != "" {
			why += ": " + tried
		}
		m.alone(why)
	}
	return company
}

func (m *membership) alone(why string) { m.log.Warn("this node is alone", "why", why) }

// returning takes leaving back.
func (m *membership) returning() {
	m.mu.Lock()
	if m.self.Flags&FlagLeaving != 0 {
		m.self.Flags &^= FlagLeaving
		m.self.StartAt, m.self.StopAt = m.flip(m.cfg.Now()), Never
		if !m.mayLocked(m.cfg.Now()) {
			m.self.StartAt = Never
		}
		m.self.Rev++
	}
	m.mu.Unlock()
	m.changed()
}

// changed has a change of self heard, here and by others.
func (m *membership) changed() {
	poke(m.news)
	poke(m.tell)
}

// noStore says whether S2 answers this node.
func (m *membership) noStore(lost bool) {
	m.mu.Lock()
	m.self.Flags &^= FlagNoStore
	if lost {
		m.self.Flags |= FlagNoStore
	}
	m.self.Rev++
	m.mu.Unlock()
	m.changed()
}

// paused: this node stood still for so long that others have taken its streams. It comes
// back as one that joins, instead of being a second owner of each.
func (m *membership) paused(late time.Duration) {
	now := m.cfg.Now()
	m.mu.Lock()
	again := len(m.known) > 0 && m.self.owns(millis(now))
	if again {
		m.self.StartAt = m.flip(now)
		m.self.Rev++
	}
	m.mu.Unlock()
	m.log.Warn("stood still", "for", late)
	if again {
		m.changed()
	}
}

// leaving says that this node owns nothing from some instant on, which it returns: now,
// if there is nobody to tell.
func (m *membership) leaving() (at time.Time) {
	m.mu.Lock()
	if m.self.Flags&FlagLeaving == 0 {
		now := m.cfg.Now()
		m.self.Flags |= FlagLeaving
		m.self.StopAt = m.flip(now)
		if len(m.known) == 0 {
			m.self.StopAt = max(millis(now), 1)
		}
		m.self.Rev++
	}
	at = time.UnixMilli(int64(m.self.StopAt))
	m.mu.Unlock()
	m.changed()
	return at
}

// speak tells the fleet whenever self changed, and again if gossip holds an
// older saying of ours.
func (m *membership) speak(ctx context.Context) {
	check := time.NewTicker(pushPullInterval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.tell:
		case <-check.C:
			m.mu.Lock()
			now := m.self.encode()
			m.mu.Unlock()
			if bytes.Equal(now, m.ml.LocalNode().Meta) {
				continue
			}
		}
		if err := m.ml.UpdateNode(tellTimeout); err != nil {
			m.log.Debug("gossip", "err", err)
		}
	}
}

// close leaves gossip and waits for every goroutine.
func (m *membership) close(goodbye bool) error {
	if m.stop != nil {
		m.stop()
	}
	m.wg.Wait()
	if m.ml == nil {
		return nil
	}
	if goodbye {
		if err := m.ml.Leave(leaveTimeout); err != nil { // the others find out by themselves
			m.log.Debug("nobody heard the goodbye", "err", err)
		}
	}
	return m.ml.Shutdown()
}

// Joining.
const (
	joinSoon   = 500 * time.Millisecond // while nobody was found
	joinEvery  = 10 * time.Second       // and up to half as much again
	joinAtOnce = 8
)

// seekPatience is how long a round may take before the addresses that have not answered
// yet count as missed: they must not keep a fleet from beginning.
const seekPatience = time.Second

// join looks for members for ever: a partition of more than half a minute never
// heals without it, because the dead are forgotten.
func (m *membership) join(ctx context.Context) {
	if len(m.cfg.Join) == 0 {
		m.await(ctx)
		return
	}
	for {
		late := time.AfterFunc(seekPatience, func() { m.sought(false, "") })
		all, strangers := m.seek(ctx)
		late.Stop()
		why := ""
		switch {
		case all && !strangers:
			why = "all addresses to join are this node's own"
		case time.Since(m.began) >= m.cfg.Alone:
			why = "found nobody to join"
		}
		wait := joinEvery + mrand.N(joinEvery/2)
		if !m.sought(all, why) {
			wait = joinSoon/2 + mrand.N(joinSoon)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// await says so if nobody joins a node that has nobody to join: an address may be missing
// in its configuration.
func (m *membership) await(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(m.cfg.Alone):
	}
	m.mu.Lock()
	company := len(m.known) > 0
	m.mu.Unlock()
	if !company {
		m.alone("no addresses to join, and nobody has joined")
	}
}

// seek looks up the addresses to join and dials those that are not in the view.
// all: every name was looked up, and whoever was dialled answered; strangers: there was
// somebody to dial.
func (m *membership) seek(ctx context.Context) (all, strangers bool) {
	seen := map[string]bool{m.addr: true}
	m.mu.Lock()
	for _, a := range m.addrs {
		seen[a] = true
	}
	m.mu.Unlock()
	all = true
	var dial errgroup.Group
	dial.SetLimit(joinAtOnce)
	tried := map[string]bool{}
	for _, name := range m.cfg.Join {
		tried[name] = true
		addrs, err := m.lookup(ctx, name)
		if err != nil {
			all = false
			continue
		}
		for _, a := range addrs {
			if seen[a] {
				continue
			}
			seen[a], tried[a], strangers = true, true, true
			dial.Go(func() error { return m.dial(ctx, a) })
		}
	}
	err := dial.Wait()
	m.forgetTries(tried)
	return err == nil && all, strangers
}

// resolve turns host or host:port into addresses.
func (m *membership) resolve(ctx context.Context, name string) ([]string, error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = name, strconv.Itoa(DefaultPort)
	}
	ctx, cancel := context.WithTimeout(ctx, gossipTimeout)
	defer cancel()
	ips, err := m.cfg.Network.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	for i, ip := range ips {
		ips[i] = net.JoinHostPort(ip, port)
	}
	return slices.Compact(slices.Sorted(slices.Values(ips))), nil
}

// poke leaves a note in a channel of capacity one.
func poke(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// delegate is what memberlist calls, under its own lock: it only notes.
type delegate membership

func (d *delegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.self.encode()
}

func (d *delegate) NotifyJoin(n *memberlist.Node)   { d.heard(n) }
func (d *delegate) NotifyUpdate(n *memberlist.Node) { d.heard(n) }

func (d *delegate) NotifyLeave(n *memberlist.Node) {
	d.mu.Lock()
	delete(d.known, n.Name)
	delete(d.addrs, n.Name)
	d.mu.Unlock()
	poke(d.news)
}

func (d *delegate) heard(n *memberlist.Node) {
	if n.Name == d.self.Name { // set at construction
		return
	}
	o, err := decodeMember(n.Name, n.Meta)
	if err != nil {
		d.log.Warn("member left out", "peer", n.Name, "err", err)
		return
	}
	d.mu.Lock()
	d.addrs[n.Name] = nodeAddr(n)
	if old, ok := d.known[n.Name]; !ok || o.Rev > old.Rev {
		d.known[n.Name] = o
	}
	d.mu.Unlock()
	poke(d.news)
}

func (d *delegate) NotifyMsg([]byte)                {}
func (d *delegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (d *delegate) LocalState(bool) []byte          { return nil }
func (d *delegate) MergeRemoteState([]byte, bool)   {}
