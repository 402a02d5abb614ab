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

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// membership keeps a node in its fleet's gossip and turns gossip into Views. Gossip events only
// mark the View as stale. One goroutine builds the newest View, publishes it and then calls onView,
// so onView sees the newest state and never a backlog. It gets the same View again when one of its
// dates has passed.
type membership struct {
	// Set at construction or by startMemberlist, before any goroutine runs.
	cfg        *Config
	log        *slog.Logger
	metrics    *metrics
	onView     func(*placement.View)
	gossip     *memberlist.Memberlist
	gossipAddr string // address on which gossip listens
	keyring    *memberlist.Keyring
	stop       context.CancelFunc
	wg         sync.WaitGroup

	view        atomic.Pointer[placement.View]
	viewStale   chan struct{} // cap 1, never closed: the View must be built again
	selfChanged chan struct{} // cap 1, never closed: self changed, and gossip must spread it

	mu          sync.Mutex
	self        placement.Member
	others      map[string]placement.Member // the other members, by name
	gossipAddrs map[string]string           // their gossip addresses, by name
	joinBegan   time.Time                   // when joining began
	// The last failed attempt for each address to join, by name or address; bounded by the number
	// of those.
	joinAttempts map[string]*joinAttempt
	ownership    ownershipGate

	onJoinRound func() // called after the first round of joining that may begin a fleet; may be nil
}

// A slow profile: gossip only decides owners. Links notice deaths.
const (
	gossipInterval    = 100 * time.Millisecond
	gossipNodes       = 4
	retransmitMult    = 10 // with 6, one of nine nodes misses 3 of 1,000 changes until the next push/pull
	pushPullInterval  = 10 * time.Second
	gossipTimeout     = 3 * time.Second
	handoffQueueDepth = 4096
	announceTimeout   = 2 * time.Second
	leaveTimeout      = 2 * time.Second
)

// newMembership returns this node's membership, which knows no other node until start. relayAddr is
// the address on which its server listens. onView is called from one goroutine, between start and
// close.
func newMembership(cfg *Config, met *metrics, relayAddr string, observe func(*placement.View)) *membership {
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // crypto/rand.Read never fails
	m := &membership{
		cfg: cfg, log: cfg.Logger, metrics: met, onView: observe,
		viewStale:   make(chan struct{}, 1),
		selfChanged: make(chan struct{}, 1),
		others:      map[string]placement.Member{},
		gossipAddrs: map[string]string{}, joinAttempts: map[string]*joinAttempt{}, joinBegan: time.Now(),
		self: placement.Member{
			Name: cfg.Name + "-" + hex.EncodeToString(suffix[:]), RingKey: cfg.Name,
			StartedAt: shard.MillisOf(cfg.Now()), Revision: 1, OwnsUntil: placement.Never,
			RelayVersion: placement.RelayVersionNewest, RelayAddr: relayAddr, HTTPAddr: cfg.HTTPAddr, FormatLevel: shard.FormatLevel,
		},
	}
	if cfg.PlaintextMode != PlaintextAlways {
		m.self.Features |= placement.FeatureTLS
	}
	m.ownership.mustNotBegin = cfg.storeGated
	if len(cfg.Join) > 0 || cfg.storeGated {
		m.self.OwnsFrom = placement.Never // it owns nothing until it has found other nodes, and S2
	}
	m.view.Store(placement.NewView([]placement.Member{m.self}))
	return m
}

// start begins to gossip.
func (m *membership) start() error {
	if err := m.startMemberlist(); err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	m.log.Info("gossip started", "addr", m.gossipAddr)
	m.startLoops()
	return nil
}

func (m *membership) startMemberlist() error {
	host, port, err := splitHostPort(m.cfg.GossipAddr)
	if err != nil {
		return err
	}
	if host == "" {
		host = "0.0.0.0"
	}
	cfg := memberlist.DefaultLANConfig()
	cfg.Name = m.self.Name
	cfg.BindAddr, cfg.BindPort = host, port
	cfg.AdvertiseAddr, cfg.AdvertisePort = m.cfg.AdvertiseIP, port
	cfg.Label = m.cfg.FleetName
	if cfg.Keyring, err = memberlist.NewKeyring(m.cfg.Secrets, m.cfg.Secrets[0]); err != nil {
		return err
	}
	m.keyring = cfg.Keyring
	cfg.GossipVerifyIncoming, cfg.GossipVerifyOutgoing = true, true
	cfg.GossipInterval, cfg.GossipNodes = gossipInterval, gossipNodes
	cfg.RetransmitMult = retransmitMult
	cfg.PushPullInterval = pushPullInterval
	cfg.TCPTimeout = gossipTimeout
	cfg.EnableCompression = false
	cfg.HandoffQueueDepth = handoffQueueDepth
	cfg.Delegate, cfg.Events = (*gossipDelegate)(m), (*gossipDelegate)(m)
	if cfg.Transport, err = m.cfg.Network.GossipTransport(m.cfg.GossipAddr); err != nil {
		return err
	}
	cfg.Logger = log.New(newGossipLog(m.log), "", 0) //nolint:forbidigo // what memberlist takes
	if cfg.Transport == nil {
		t, err := newGossipTransport(host, port, cfg.Logger)
		if err != nil {
			return err
		}
		cfg.Transport, cfg.BindPort, cfg.AdvertisePort = t, t.GetAutoBindPort(), t.GetAutoBindPort()
	}
	if m.gossip, err = memberlist.Create(cfg); err != nil {
		_ = cfg.Transport.Shutdown()
		return err
	}
	m.gossipAddr = gossipAddrOf(m.gossip.LocalNode())
	return nil
}

func gossipAddrOf(n *memberlist.Node) string {
	return net.JoinHostPort(n.Addr.String(), strconv.Itoa(int(n.Port)))
}

func (m *membership) startLoops() {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.wg.Go(func() { m.publishViews(ctx) })
	if m.gossip != nil {
		m.wg.Go(func() { m.joinLoop(ctx) })
		m.wg.Go(func() { m.gossipSelf(ctx) })
	}
}

// currentView returns the newest View.
func (m *membership) currentView() *placement.View { return m.view.Load() }

// publishViews builds Views and passes them to onView, the newest one again whenever one of its
// dates passes.
func (m *membership) publishViews(ctx context.Context) {
	nextChange := time.NewTimer(time.Hour)
	defer nextChange.Stop()
	superseder := ""
	var loggedTable *placement.OwnerTable // the last one that was logged
	for {
		view := m.buildView()
		now := m.cfg.Now()
		owners := view.TableAt(now).Len() // builds the ring here, so that no request does
		m.metrics.owners.Set(float64(owners))
		m.metrics.members.Set(float64(len(view.Members())))
		if old := m.view.Load(); !view.Equal(old) {
			m.view.Store(view)
			m.metrics.viewChanges.Inc()
			logMemberChanges(m.log, m.self.Name, old, view)
		}
		if table := view.TableAt(now); loggedTable == nil || !loggedTable.SameOwners(table) {
			m.log.Info("owners changed", "owners", owners, "members", len(view.Members()), "self", table.HasOwner(m.self.Name))
			loggedTable = table
		}
		m.onView(m.view.Load())
		superseder = m.warnSuperseded(view.SupersededBy(m.self.Name, now), superseder)
		m.view.Load().BuildTablesAhead(now)
		wait := time.Hour
		for _, at := range view.TableChanges() {
			if at.After(now) {
				wait = max(at.Sub(m.cfg.Now()), 0)
				break
			}
		}
		nextChange.Reset(wait)
		select {
		case <-ctx.Done():
			return
		case <-m.viewStale:
		case <-nextChange.C:
		}
	}
}

// warnSuperseded warns once that another process has this node's ring key, so that this node owns
// nothing, and returns that member's name. The same name was given to two nodes.
func (m *membership) warnSuperseded(by *placement.Member, before string) string {
	if by == nil {
		return ""
	}
	if by.Name != before {
		m.log.Warn("a newer node has this one's ring key: this one owns nothing",
			"key", by.RingKey, "addr", m.self.RelayAddr, "peer", by.Name, "peerAddr", by.RelayAddr)
	}
	return by.Name
}

// buildView builds the newest View. It also sets the date from which this node owns streams, once
// another member owns some or has announced a date.
func (m *membership) buildView() *placement.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	m.yieldOwnershipLocked(now)
	if m.self.OwnsFrom == placement.Never && m.othersOwnLocked(now) && m.mayOwnLocked(now) {
		m.setStartLocked(m.nextChangeAt(now))
	}
	return placement.NewView(m.allMembersLocked())
}

// nextChangeAt returns the instant of a change that this node announces now. It is a whole second,
// so that changes of several nodes coincide, and so far ahead that every node knows of it by then.
// All nodes switch by their own clocks, not when gossip arrives.
func (m *membership) nextChangeAt(now time.Time) shard.Millis {
	at := now.Add(m.cfg.ChangeNotice)
	if m.cfg.ChangeNotice >= time.Second {
		at = at.Add(time.Second - 1).Truncate(time.Second)
	}
	return max(shard.MillisOf(at), 1)
}

func (m *membership) setStartLocked(at shard.Millis) {
	m.self.OwnsFrom = at
	m.self.Revision++
	notify(m.selfChanged)
}

// othersOwnLocked reports whether another member owns streams or has announced a date. A node that
// waited for the date to pass would make a fleet begin one date after the other.
func (m *membership) othersOwnLocked(now time.Time) bool {
	for _, o := range m.others {
		if o.OwnsOrWill(shard.MillisOf(now)) {
			return true
		}
	}
	return false
}

// endJoinRound ends a round of joining, or is called when a round takes longer than
// joinRoundTimeout. A node that owns nothing and knows only nodes that own nothing may become the
// first owner, but only once the round is over: an owner may be among the peers still being
// dialled.
//
// reachedAll says that every address was reached. Otherwise an owner may be among those that were
// not, so this node announces a date by which it may hear of them. aloneReason, if not empty,
// allows a node without company to begin. While an address answers that does not speak this node's
// gossip (join_attempts.go) the node does not begin.
func (m *membership) endJoinRound(reachedAll bool, aloneReason string) (company bool) {
	m.mu.Lock()
	now := m.cfg.Now()
	company = len(m.others) > 0
	ripe := (company || aloneReason != "") && !m.metForeignLocked()
	first := ripe && m.noteJoinRoundLocked(reachedAll, aloneReason)
	begins := ripe && m.self.OwnsFrom == placement.Never && !m.othersOwnLocked(now) && m.mayOwnLocked(now)
	switch {
	case !begins:
	case reachedAll || !company:
		m.setStartLocked(0)
	default:
		m.setStartLocked(m.nextChangeAt(now))
	}
	m.mu.Unlock()
	if first && m.onJoinRound != nil {
		m.onJoinRound()
	}
	if begins {
		notify(m.viewStale)
	}
	if begins && !company {
		if tried := m.joinErrors(); tried != "" {
			aloneReason += ": " + tried
		}
		m.warnAlone(aloneReason)
	}
	return company
}

func (m *membership) warnAlone(why string) { m.log.Warn("this node is alone", "why", why) }

// cancelLeave withdraws announceLeave.
func (m *membership) cancelLeave() {
	m.mu.Lock()
	if m.self.Flags&placement.FlagLeaving != 0 {
		m.self.Flags &^= placement.FlagLeaving
		m.self.OwnsFrom, m.self.OwnsUntil = m.nextChangeAt(m.cfg.Now()), placement.Never
		if !m.mayOwnLocked(m.cfg.Now()) {
			m.self.OwnsFrom = placement.Never
		}
		m.self.Revision++
	}
	m.mu.Unlock()
	m.announceChange()
}

// announceChange rebuilds the View and spreads self by gossip.
func (m *membership) announceChange() {
	notify(m.viewStale)
	notify(m.selfChanged)
}

// setStoreLost announces whether S2 answers this node.
func (m *membership) setStoreLost(lost bool) {
	m.mu.Lock()
	m.self.Flags &^= placement.FlagStoreDown
	if lost {
		m.self.Flags |= placement.FlagStoreDown
	}
	m.self.Revision++
	m.mu.Unlock()
	m.announceChange()
}

// rejoinAfterPause announces a new start date after this process stood still for so long that
// others have taken its streams. Otherwise each of those would have two owners.
func (m *membership) rejoinAfterPause(late time.Duration) {
	now := m.cfg.Now()
	m.mu.Lock()
	again := len(m.others) > 0 && m.self.OwnsAt(shard.MillisOf(now))
	if again {
		m.self.OwnsFrom = m.nextChangeAt(now)
		m.self.Revision++
	}
	m.mu.Unlock()
	m.log.Warn("this process stood still", "for", late)
	if again {
		m.announceChange()
	}
}

// announceLeave announces the instant from which this node owns nothing, and returns it. Without
// other members that is now.
func (m *membership) announceLeave() (at time.Time) {
	m.mu.Lock()
	if m.self.Flags&placement.FlagLeaving == 0 {
		now := m.cfg.Now()
		m.self.Flags |= placement.FlagLeaving
		m.self.OwnsUntil = m.nextChangeAt(now)
		if len(m.others) == 0 {
			m.self.OwnsUntil = max(shard.MillisOf(now), 1)
		}
		m.self.Revision++
	}
	at = time.UnixMilli(int64(m.self.OwnsUntil))
	m.mu.Unlock()
	m.announceChange()
	return at
}

// gossipSelf spreads self whenever it changed, and again if gossip holds an older version.
func (m *membership) gossipSelf(ctx context.Context) {
	check := time.NewTicker(pushPullInterval)
	defer check.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-m.selfChanged:
		case <-check.C:
			m.mu.Lock()
			now := m.self.Encode()
			m.mu.Unlock()
			if bytes.Equal(now, m.gossip.LocalNode().Meta) {
				continue
			}
		}
		if err := m.gossip.UpdateNode(announceTimeout); err != nil {
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
	if m.gossip == nil {
		return nil
	}
	if goodbye {
		if err := m.gossip.Leave(leaveTimeout); err != nil { // the others find out by themselves
			m.log.Debug("no member heard the goodbye", "err", err)
		}
	}
	return m.gossip.Shutdown()
}

// Timing and bounds of joining.
const (
	joinRetry    = 500 * time.Millisecond // while no member was found, on average
	joinInterval = 10 * time.Second       // plus up to half of it
	maxJoinDials = 8
)

// joinRoundTimeout bounds the time after which the addresses of a round that have not answered
// count as not reached: they must not keep a fleet from beginning.
const joinRoundTimeout = time.Second

// joinLoop looks for members as long as the node lives: gossip forgets the dead, so a partition of
// more than half a minute would never heal without it.
func (m *membership) joinLoop(ctx context.Context) {
	if len(m.cfg.Join) == 0 {
		m.warnIfNeverJoined(ctx)
		return
	}
	for {
		late := time.AfterFunc(joinRoundTimeout, func() { m.endJoinRound(false, "") })
		reachedAll, dialled := m.joinRound(ctx)
		late.Stop()
		aloneReason := ""
		switch {
		case reachedAll && !dialled:
			aloneReason = "all addresses to join are this node's own"
		case time.Since(m.joinBegan) >= m.cfg.AloneAfter:
			aloneReason = "found no node to join"
		}
		wait := joinInterval + mrand.N(joinInterval/2)
		if !m.endJoinRound(reachedAll, aloneReason) {
			wait = joinRetry/2 + mrand.N(joinRetry)
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
	}
}

// warnIfNeverJoined warns if no other node joins a node that has no addresses to join: one may be
// missing in its configuration.
func (m *membership) warnIfNeverJoined(ctx context.Context) {
	select {
	case <-ctx.Done():
		return
	case <-time.After(m.cfg.AloneAfter):
	}
	m.mu.Lock()
	company := len(m.others) > 0
	m.mu.Unlock()
	if !company {
		m.warnAlone("no addresses to join, and no node has joined")
	}
}

// joinRound looks up the addresses to join and dials those that are not members. reachedAll: every
// name was found, and every address that was dialled answered. dialled: there was at least one such
// address.
func (m *membership) joinRound(ctx context.Context) (reachedAll, dialled bool) {
	known := map[string]bool{m.gossipAddr: true}
	m.mu.Lock()
	for _, a := range m.gossipAddrs {
		known[a] = true
	}
	m.mu.Unlock()
	reachedAll = true
	var dials errgroup.Group
	dials.SetLimit(maxJoinDials)
	attempted := map[string]bool{}
	for _, name := range m.cfg.Join {
		attempted[name] = true
		addrs, err := m.lookupAddrs(ctx, name)
		if err != nil {
			reachedAll = false
			continue
		}
		for _, a := range addrs {
			if known[a] {
				continue
			}
			known[a], attempted[a], dialled = true, true, true
			dials.Go(func() error { return m.joinAt(ctx, a) })
		}
	}
	err := dials.Wait()
	m.forgetAttempts(attempted)
	return err == nil && reachedAll, dialled
}

// resolveAddrs looks up host or host:port and returns the addresses.
func (m *membership) resolveAddrs(ctx context.Context, name string) ([]string, error) {
	host, port, err := net.SplitHostPort(name)
	if err != nil {
		host, port = name, strconv.Itoa(DefaultGossipPort)
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

// notify puts a token into a channel of capacity one, unless one is there.
func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// gossipDelegate receives memberlist's callbacks. They run under memberlist's lock, so they only
// record changes.
type gossipDelegate membership

func (d *gossipDelegate) NodeMeta(int) []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.self.Encode()
}

func (d *gossipDelegate) NotifyJoin(n *memberlist.Node)   { d.noteMember(n) }
func (d *gossipDelegate) NotifyUpdate(n *memberlist.Node) { d.noteMember(n) }

func (d *gossipDelegate) NotifyLeave(n *memberlist.Node) {
	d.mu.Lock()
	delete(d.others, n.Name)
	delete(d.gossipAddrs, n.Name)
	d.mu.Unlock()
	notify(d.viewStale)
}

func (d *gossipDelegate) noteMember(n *memberlist.Node) {
	if n.Name == d.self.Name { // immutable, so read without mu
		return
	}
	o, err := placement.DecodeMember(n.Name, n.Meta)
	if err != nil {
		d.log.Warn("member ignored: its metadata cannot be used", "peer", n.Name, "err", err)
		return
	}
	d.mu.Lock()
	d.gossipAddrs[n.Name] = gossipAddrOf(n)
	if old, ok := d.others[n.Name]; !ok || o.Revision > old.Revision {
		d.others[n.Name] = o
	}
	d.mu.Unlock()
	notify(d.viewStale)
}

func (d *gossipDelegate) NotifyMsg([]byte)                {}
func (d *gossipDelegate) GetBroadcasts(_, _ int) [][]byte { return nil }
func (d *gossipDelegate) LocalState(bool) []byte          { return nil }
func (d *gossipDelegate) MergeRemoteState([]byte, bool)   {}
