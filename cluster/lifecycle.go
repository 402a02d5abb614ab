package cluster

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/cluster/gossip"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// Join starts this node's part of the fleet: its server, gossip and links. host runs the streams
// that this node owns, and feeds the tail buffers of tails. The caller closes both, after Close of
// the value returned.
func Join(ctx context.Context, cfg Config, host *shard.Manager, tails *shard.TailBuffers) (*Node, error) {
	if err := cfg.validate(); err != nil {
		return nil, err
	}
	cfg.storeGated = host.CanProbe()
	r, ln, err := newNode(ctx, cfg, host, tails)
	if err != nil {
		return nil, err
	}
	host.UseFleet(r) // must precede the first request
	r.start(ln)
	if err := r.membership.Start(); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	if cfg.PlaintextMode == peertls.PlaintextAlways && !isLoopback(cfg.AdvertiseIP) {
		r.cfg.Logger.Warn("the nodes' own traffic is not encrypted, and every client that reaches its address is taken for a node", "addr", r.addr)
	}
	if cfg.ReloadCredentials != nil {
		r.wg.Go(func() { r.renewLoop(r.ctx) })
	}
	host.WatchStanding(r.membership.FleetRole, func(shard.Standing) { notify.Send(r.reconcileNow) })
	return r, nil
}

// newNode returns a Node that knows no other member yet.
func newNode(ctx context.Context, cfg Config, manager streamManager, tails *shard.TailBuffers) (
	*Node, net.Listener, error,
) {
	listener, err := cfg.Network.Listen(ctx, cfg.RelayAddr)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for peers (--relay; by default at --advertise): %w", err)
	}
	r := &Node{
		cfg: cfg, metrics: newMetrics(cfg.Metrics),
		addr: advertisedAddr(&cfg, listener.Addr()), bridges: map[*feedRef]bridge{},
		openPool:     &openPool{limit: maxOpening, maxWaiting: maxOpensWaiting},
		reconcileNow: make(chan struct{}, 1), leaveProgress: make(chan struct{}, 1), dropSlots: make(chan struct{}, maxDropping),
	}
	r.skewWarning.Interval = time.Minute
	r.membership = gossip.New(gossipConfigOf(&r.cfg, r.addr), (*nodeObserver)(r))
	r.self = r.membership.Name()
	r.cfg.Logger = cfg.Logger.With("member", r.self)
	if r.creds, err = peertls.New(credsConfigOf(&r.cfg, r)); err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	ctx, r.stop = context.WithCancel(context.WithoutCancel(ctx))
	r.ctx = ctx
	r.stateCalls = newStateCalls(ctx)
	r.stateCalls.panics = shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	if manager, ok := manager.(*shard.Manager); ok {
		r.prober = manager
		r.standingState.byMember = map[string]memberStoreState{}
	}
	r.local = newLocalStreams(manager, r)
	r.peers = transport.NewPeers(r.transportConfig(), (*nodeObserver)(r))
	r.server = transport.NewServer(r.transportConfig(), (*ownerSide)(r))
	r.followLoop = &followLoop{
		self: r.self, tails: tails, local: r.local, openPool: r.openPool, peers: r.peers,
		node: r, log: r.cfg.Logger, metrics: r.metrics, wake: make(chan struct{}, 1),
		byStream: map[shard.StreamID]*follower{}, pending: map[*follower]struct{}{},
	}
	r.followLoop.ctx, r.followLoop.stop = context.WithCancel(ctx)
	r.wg.Go(func() { r.reconcileLoop(ctx) })
	r.followLoop.wg.Go(r.followLoop.run)
	return r, listener, nil
}

// credsConfigOf returns the configuration of a node's credentials.
func credsConfigOf(cfg *Config, n *Node) peertls.Config {
	return peertls.Config{
		FleetName: cfg.FleetName, Secrets: cfg.Secrets, Identity: cfg.Identity, Mode: cfg.PlaintextMode,
		Members: n, Logger: cfg.Logger, Metrics: cfg.Metrics,
	}
}

// transportConfig returns the configuration of a node's links and server.
func (r *Node) transportConfig() transport.Config {
	return transport.Config{
		Self: placement.PeerAddr{Name: r.self, Address: r.addr}, Dialer: r.cfg.Network, Creds: r.creds,
		PeerWriteBytes: r.cfg.PeerWriteBytes, LinkCreditBytes: r.cfg.LinkCreditBytes,
		SubscriptionWindow: r.cfg.subscriptionWindow, LinkWindow: r.cfg.linkWindow, BodyGrace: r.cfg.bodyGrace,
		Now: r.cfg.Now, Logger: r.cfg.Logger, Metrics: r.cfg.Metrics,
	}
}

// gossipConfigOf returns the configuration of a node's gossip.
func gossipConfigOf(cfg *Config, relayAddr string) gossip.Config {
	self := placement.Member{
		Name: cfg.Name, RingKey: cfg.Name, RelayVersion: cfg.relayVersion, RelayAddr: relayAddr,
		HTTPAddr: cfg.HTTPAddr, FormatLevel: shard.FormatLevel,
	}
	if cfg.PlaintextMode != peertls.PlaintextAlways {
		self.Features |= placement.FeatureTLS
	}
	return gossip.Config{
		Self: self, FleetName: cfg.FleetName, Secrets: cfg.Secrets, ListenAddr: cfg.GossipAddr, AdvertiseIP: cfg.AdvertiseIP,
		Join: cfg.Join, AloneAfter: cfg.AloneAfter, ChangeNotice: cfg.ChangeNotice, StoreGated: cfg.storeGated,
		Now: cfg.Now, Logger: cfg.Logger, Metrics: cfg.Metrics, Network: cfg.Network,
	}
}

// advertisedAddr returns the address at which peers reach the server.
func advertisedAddr(cfg *Config, ln net.Addr) string {
	tcp, ok := ln.(*net.TCPAddr)
	if !ok {
		return ln.String()
	}
	if tcp.IP.IsUnspecified() && cfg.AdvertiseIP != "" {
		return net.JoinHostPort(cfg.AdvertiseIP, strconv.Itoa(tcp.Port))
	}
	return tcp.String()
}

// start serves peers in a goroutine.
func (r *Node) start(ln net.Listener) {
	r.wg.Go(func() {
		if err := r.server.Serve(ln); err != nil {
			r.cfg.Logger.Error("serve peers", "err", err)
		}
	})
}

// Leave ends this node's ownership: it announces from when on this node owns nothing, serves until
// then, hands its streams over, tells the subscribers of each to move to the next owner, and
// releases the rest. This node's own readers continue, fed by others. It returns when nothing is
// owned here any more, or with ctx's cause. Close comes after the last reader has left.
func (r *Node) Leave(ctx context.Context) error {
	r.leaving.Store(true)
	at := r.membership.AnnounceLeave()
	expiry := time.NewTimer(keepMovedLeaving)
	defer expiry.Stop()
	for {
		r.hasMisplaced.Store(true) // a View is published before onView runs
		if r.View().TableAt(at).Len() == 0 {
			return nil // there is no other owner
		} else if t := r.currentTable(); !t.HasOwner(r.self) && r.reconcileStreams() == 0 && len(r.dropSlots) == 0 {
			return nil
		}
		if kept := keepMovedLeaving - r.history.UnchangedFor(r.currentTable(), r.cfg.Now()); kept > 0 {
			expiry.Reset(kept)
		}
		select {
		case <-r.leaveProgress:
		case <-expiry.C: // from now on streams that moved may be dropped
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		select { // what ends within leavePace is looked at together
		case <-time.After(leavePace):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// CancelLeave cancels Leave: this node owns streams again, from an announced second on.
func (r *Node) CancelLeave() {
	r.hasShare.Store(false)
	r.membership.CancelLeave()
	r.leaving.Store(false)
}

// Close leaves gossip, disconnects all links and waits for every goroutine. Calls in progress fail.
func (r *Node) Close() error { return r.shutDown(true) }

// Abort is Close without a goodbye: the other nodes find out as if the process had died.
func (r *Node) Abort() error { return r.shutDown(false) }

func (r *Node) shutDown(goodbye bool) (err error) {
	r.closeOnce.Do(func() {
		err = r.membership.Close(goodbye) // from here on no peer sends requests here
		r.stop()
		r.followLoop.close()
		r.peers.Close()
		r.server.Close()
		r.openPool.close()
		r.stateCalls.wg.Wait()
		r.wg.Wait()
		r.closeBridges()
	})
	return err
}
