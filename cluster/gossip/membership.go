package gossip

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/hashicorp/memberlist"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// Membership keeps a node in its fleet's gossip and turns gossip into Views. Gossip events only
// mark the View as stale. One goroutine builds the newest View, publishes it and then passes it to
// the observer, which so sees the newest state and never a backlog. It gets the same View again
// when one of its dates has passed.
type Membership struct {
	// Set at construction or by startMemberlist, before any goroutine runs.
	cfg        Config
	name       string // self.Name, which does not change
	log        *slog.Logger
	metrics    *metricSet
	observer   Observer
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
	ownership    Gate
	joinRound    joinRoundResult
}

// New returns this node's membership, which knows no other node until start.
func New(cfg Config, observer Observer) *Membership {
	var suffix [4]byte
	_, _ = rand.Read(suffix[:]) // crypto/rand.Read never fails
	self := cfg.Self
	self.Name += "-" + hex.EncodeToString(suffix[:])
	self.StartedAt, self.Revision, self.OwnsUntil = shard.MillisOf(cfg.Now()), 1, placement.Never
	if len(cfg.Join) > 0 || cfg.StoreGated {
		self.OwnsFrom = placement.Never // it owns nothing until it has found other nodes, and S2
	}
	m := &Membership{
		cfg: cfg, name: self.Name, log: cfg.Logger.With("member", self.Name), metrics: newMetricSet(cfg.Metrics),
		observer:    observer,
		viewStale:   make(chan struct{}, 1),
		selfChanged: make(chan struct{}, 1),
		self:        self,
		others:      map[string]placement.Member{},
		gossipAddrs: map[string]string{}, joinAttempts: map[string]*joinAttempt{}, joinBegan: time.Now(),
	}
	m.ownership.MustNotBegin = cfg.StoreGated
	m.view.Store(placement.NewView([]placement.Member{self}))
	return m
}

// Name returns this node's member name.
func (m *Membership) Name() string { return m.name }

// ListenAddr returns the address on which gossip listens.
func (m *Membership) ListenAddr() string { return m.gossipAddr }

// Start begins to gossip.
func (m *Membership) Start() error {
	if err := m.startMemberlist(); err != nil {
		return fmt.Errorf("start gossip: %w", err)
	}
	m.log.Info("gossip started", "addr", m.gossipAddr)
	m.startLoops()
	return nil
}

func (m *Membership) startLoops() {
	ctx, stop := context.WithCancel(context.Background())
	m.stop = stop
	m.wg.Go(func() { m.publishViews(ctx) })
	if m.gossip != nil {
		m.wg.Go(func() { m.joinLoop(ctx) })
		m.wg.Go(func() { m.gossipSelf(ctx) })
	}
}

// View returns the newest View.
func (m *Membership) View() *placement.View { return m.view.Load() }

// publishViews builds Views and passes them to the observer, the newest one again whenever one of its
// dates passes.
func (m *Membership) publishViews(ctx context.Context) {
	nextChange := time.NewTimer(time.Hour)
	defer nextChange.Stop()
	superseder := ""
	var loggedTable *placement.OwnerTable // as it was last logged
	for {
		view := m.buildView()
		now := m.cfg.Now()
		owners := view.TableAt(now).Len() // builds the ring here, so that no request does
		m.metrics.owners.Set(float64(owners))
		m.metrics.members.Set(float64(len(view.Members())))
		if old := m.view.Load(); !view.Equal(old) {
			m.view.Store(view)
			m.metrics.viewChanges.Inc()
			logMemberChanges(m.log, m.name, old, view)
		}
		if table := view.TableAt(now); loggedTable == nil || !loggedTable.SameOwners(table) {
			m.log.Info("owners changed", "owners", owners, "members", len(view.Members()), "self", table.HasOwner(m.name))
			loggedTable = table
		}
		m.observer.OnView(m.view.Load())
		superseder = m.warnSuperseded(view.SupersededBy(m.name, now), superseder)
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

// warnSuperseded warns once that another process has this node's ring key, and returns that
// member's name. This node then owns nothing. The same name was given to two nodes.
func (m *Membership) warnSuperseded(by *placement.Member, before string) string {
	if by == nil {
		return ""
	}
	if by.Name != before {
		m.log.Warn("a newer node has this one's ring key: this one owns nothing",
			"key", by.RingKey, "addr", m.cfg.Self.RelayAddr, "peer", by.Name, "peerAddr", by.RelayAddr)
	}
	return by.Name
}

// buildView builds the newest View. It also sets the date from which this node owns streams, once
// another member owns some or has announced a date.
func (m *Membership) buildView() *placement.View {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := m.cfg.Now()
	m.yieldOwnershipLocked(now)
	if m.self.OwnsFrom == placement.Never && m.othersOwnLocked(now) && m.mayOwnLocked(now) {
		m.setStartLocked(m.nextChangeAt(now))
	}
	return placement.NewView(m.allMembersLocked())
}

// othersOwnLocked reports whether another member owns streams or has announced a date. A node that
// waited for the date to pass would make a fleet begin one date after the other.
func (m *Membership) othersOwnLocked(now time.Time) bool {
	for _, o := range m.others {
		if o.OwnsOrWill(shard.MillisOf(now)) {
			return true
		}
	}
	return false
}

// Close leaves gossip and waits for every goroutine.
func (m *Membership) Close(goodbye bool) error {
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
