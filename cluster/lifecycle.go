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
	n, ln, err := newNode(ctx, cfg, host, tails)
	if err != nil {
		return nil, err
	}
	host.UseOwners(n) // must precede the first request
	n.start(ln)
	if err := n.membership.Start(); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	if cfg.PlaintextMode == peertls.PlaintextAlways && !isLoopback(cfg.AdvertiseIP) {
		n.cfg.Logger.Warn("the nodes' own traffic is not encrypted, and every client that reaches its address is taken for a node", "addr", n.addr)
	}
	if cfg.ReloadCredentials != nil {
		n.wg.Go(func() { n.renewLoop(n.ctx) })
	}
	host.WatchStanding(n.membership.FleetRole, func(shard.Standing) { notify.Send(n.reconcileNow) })
	return n, nil
}

// newNode returns a Node that knows no other member yet.
func newNode(ctx context.Context, cfg Config, manager streamManager, tails *shard.TailBuffers) (
	*Node, net.Listener, error,
) {
	listener, err := cfg.Network.Listen(ctx, cfg.RelayAddr)
	if err != nil {
		return nil, nil, fmt.Errorf("listen for peers (--relay; by default at --advertise): %w", err)
	}
	n := &Node{
		cfg: cfg, metrics: newMetrics(cfg.Metrics),
		addr: advertisedAddr(&cfg, listener.Addr()), bridges: map[*feedRef]bridge{},
		openPool:     &openPool{limit: maxOpening, maxWaiting: maxOpensWaiting},
		reconcileNow: make(chan struct{}, 1), leaveProgress: make(chan struct{}, 1), dropSlots: make(chan struct{}, maxDropping),
	}
	n.skewWarning.Interval = time.Minute
	n.membership = gossip.New(gossipConfigOf(&n.cfg, n.addr), (*nodeObserver)(n))
	n.self = n.membership.Name()
	n.cfg.Logger = cfg.Logger.With("member", n.self)
	if n.creds, err = peertls.New(credsConfigOf(&n.cfg, n)); err != nil {
		return nil, nil, errors.Join(err, listener.Close())
	}
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.ctx = ctx
	n.stateCalls = newStateCalls(ctx)
	n.stateCalls.panics = shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	if manager, ok := manager.(*shard.Manager); ok {
		n.prober = manager
		n.standingState.byMember = map[string]memberStoreState{}
	}
	n.local = newLocalStreams(manager, n)
	n.peers = transport.NewPeers(n.transportConfig(), (*nodeObserver)(n))
	n.server = transport.NewServer(n.transportConfig(), (*ownerSide)(n))
	n.followLoop = &followLoop{
		self: n.self, tails: tails, local: n.local, openPool: n.openPool, peers: n.peers,
		node: n, fed: &n.fed, log: n.cfg.Logger, metrics: n.metrics, wake: make(chan struct{}, 1),
		byStream: map[shard.StreamID]*follower{}, pending: map[*follower]struct{}{},
	}
	n.followLoop.ctx, n.followLoop.stop = context.WithCancel(ctx)
	n.wg.Go(func() { n.reconcileLoop(ctx) })
	n.followLoop.wg.Go(n.followLoop.run)
	return n, listener, nil
}

// credsConfigOf returns the configuration of a node's credentials.
func credsConfigOf(cfg *Config, n *Node) peertls.Config {
	return peertls.Config{
		FleetName: cfg.FleetName, Secrets: cfg.Secrets, Identity: cfg.Identity, Mode: cfg.PlaintextMode,
		Members: n, Logger: cfg.Logger, Metrics: cfg.Metrics,
	}
}

// transportConfig returns the configuration of a node's links and server.
func (n *Node) transportConfig() transport.Config {
	return transport.Config{
		Self: placement.PeerAddr{Name: n.self, Address: n.addr}, Dialer: n.cfg.Network, Creds: n.creds,
		PeerWriteBytes: n.cfg.PeerWriteBytes, LinkCreditBytes: n.cfg.LinkCreditBytes,
		SubscriptionWindow: n.cfg.subscriptionWindow, LinkWindow: n.cfg.linkWindow, BodyGrace: n.cfg.bodyGrace,
		Now: n.cfg.Now, Logger: n.cfg.Logger, Metrics: n.cfg.Metrics, Tracer: n.cfg.Tracer,
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
	self.Features |= featuresOfMode(cfg.ReadsMode)
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
func (n *Node) start(ln net.Listener) {
	n.wg.Go(func() {
		if err := n.server.Serve(ln); err != nil {
			n.cfg.Logger.Error("serve peers", "err", err)
		}
	})
}

// Leave ends this node's ownership: it announces from when on this node owns nothing, serves until
// then, hands its streams over, tells the subscribers of each to move to the next owner, and
// releases the rest. This node's own readers continue, fed by others. It returns when nothing is
// owned here any more, or with ctx's cause. Close comes after the last reader has left.
func (n *Node) Leave(ctx context.Context) error {
	n.leaving.Store(true)
	at := n.membership.AnnounceLeave()
	expiry := time.NewTimer(keepMovedLeaving)
	defer expiry.Stop()
	for {
		n.hasMisplaced.Store(true) // a View is published before OnView runs
		if n.View().TableAt(at).Len() == 0 {
			return nil // there is no other owner
		} else if t := n.currentTable(); !t.HasOwner(n.self) && n.reconcileStreams() == 0 && len(n.dropSlots) == 0 {
			return nil
		}
		if kept := keepMovedLeaving - n.history.UnchangedFor(n.currentTable(), n.cfg.Now()); kept > 0 {
			expiry.Reset(kept)
		}
		select {
		case <-n.leaveProgress:
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
func (n *Node) CancelLeave() {
	n.hasShare.Store(false)
	n.membership.CancelLeave()
	n.leaving.Store(false)
}

// Close leaves gossip, disconnects all links and waits for every goroutine. Calls in progress fail.
func (n *Node) Close() error { return n.shutDown(true) }

// Abort closes the node without a goodbye: the other nodes find out as if the process had died.
func (n *Node) Abort() error { return n.shutDown(false) }

func (n *Node) shutDown(goodbye bool) (err error) {
	n.closeOnce.Do(func() {
		err = n.membership.Close(goodbye) // from here on no peer sends requests here
		n.creationWaits.close()
		n.stop()
		n.followLoop.close()
		n.peers.Close()
		n.server.Close()
		n.openPool.close()
		n.stateCalls.wg.Wait()
		n.wg.Wait()
		n.closeBridges()
	})
	return err
}
