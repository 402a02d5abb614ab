package cluster

import (
	"context"
	"errors"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"

	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// peers holds one link to each other member: it is opened when the member appears in the View,
// reopened while the member is there, and closed when it goes.
type peers struct {
	// Set at construction.
	cfg     *Config
	self    placement.PeerAddr
	metrics *metrics
	// handles panics of a link's goroutines
	panics   *shard.PanicHandler
	creds    *peertls.Credentials
	observer linkObserver
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup

	mu            sync.Mutex
	byName        map[string]*peer
	creditGranted int // link credit of all open links, in bytes
}

// linkObserver hears of links: *Node. Its methods are called from the peer's goroutine.
type linkObserver interface {
	onLinkUp()
	// onLinkLost gets the subscriptions that were on the link.
	onLinkLost(subs []*upstreamSub)
}

// defaultLinkBytes is the default of Config.LinkCreditBytes, which bounds the credit of all links
// together: the bytes that may be on their way to this node.
const defaultLinkBytes = 256 << 20

// grantCredit returns the credit of a link that is being opened: Config.linkWindow while that is at
// most a quarter of what is left, and never less than that of one subscription. returnCredit takes
// it back.
func (ps *peers) grantCredit() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := max(min(ps.cfg.linkWindow, (int(ps.cfg.LinkCreditBytes)-ps.creditGranted)/4), ps.cfg.subscriptionWindow)
	ps.creditGranted += n
	return n
}

func (ps *peers) returnCredit(n int) {
	ps.mu.Lock()
	ps.creditGranted -= n
	ps.mu.Unlock()
}

func newPeers(
	cfg *Config, self placement.PeerAddr, met *metrics, panics *shard.PanicHandler, creds *peertls.Credentials, observer linkObserver,
) *peers {
	ps := &peers{cfg: cfg, self: self, metrics: met, panics: panics, creds: creds, observer: observer, byName: map[string]*peer{}}
	ps.ctx, ps.stop = context.WithCancel(context.Background())
	return ps
}

// update opens and closes links as the View demands.
func (ps *peers) update(v *placement.View) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.ctx.Err() != nil {
		return
	}
	for _, m := range v.Members() {
		if m.Name == ps.self.Name {
			continue
		}
		secure := m.Features&placement.FeatureTLS != 0
		if p := ps.byName[m.Name]; p != nil {
			p.speaksTLS.Store(secure)
			continue
		}
		p := &peer{peers: ps, addr: m.Addr(), downSince: time.Now()}
		p.speaksTLS.Store(secure)
		ctx, stop := context.WithCancel(ps.ctx)
		p.stop = stop
		ps.byName[m.Name] = p
		ps.wg.Go(func() { p.keepLinked(ctx) })
	}
	for name, p := range ps.byName {
		if v.Member(name) == nil {
			p.stop()
			delete(ps.byName, name)
		}
	}
}

// link returns the link to a member if it is up, else nil.
func (ps *peers) link(name string) *link {
	ps.mu.Lock()
	p := ps.byName[name]
	ps.mu.Unlock()
	if p == nil {
		return nil
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link
}

// statuses returns the last status of each member with a link, by name.
func (ps *peers) statuses() map[string]*relaypb.Status {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := make(map[string]*relaypb.Status, len(ps.byName))
	for name, p := range ps.byName {
		p.mu.Lock()
		if p.link != nil {
			all[name] = p.link.peerStatus.Load()
		}
		p.mu.Unlock()
	}
	return all
}

// storeReport holds what a peer says of its access to S2.
type storeReport struct {
	peer     string
	down     bool
	answered time.Time // when S2 last answered the peer; zero: it does not say
}

// storeReports returns the last report of each member with a link that has sent one.
func (ps *peers) storeReports() (all []storeReport) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for name, p := range ps.byName {
		p.mu.Lock()
		l := p.link
		p.mu.Unlock()
		if l == nil {
			continue
		}
		st, answered := l.peerStatus.Load(), l.peerStoreAnswer.Load()
		if st == nil {
			continue
		}
		report := storeReport{peer: name, down: st.GetStoreDown()}
		if answered != 0 {
			report.answered = time.Unix(0, answered)
		}
		all = append(all, report)
	}
	return all
}

// downPatience bounds the time for which a request waits for a member that is down.
const downPatience = time.Second

// awaitLink returns the link to a member, and waits for it if the member has not been down for
// long.
func (ps *peers) awaitLink(ctx context.Context, name string) (*link, error) {
	ps.mu.Lock()
	p := ps.byName[name]
	ps.mu.Unlock()
	if p == nil {
		return nil, placement.ErrUnreachable
	}
	for {
		p.mu.Lock()
		l, left := p.link, p.patienceLeftLocked()
		if l == nil && p.changed == nil {
			p.changed = make(chan struct{})
		}
		change := p.changed
		p.mu.Unlock()
		if l != nil {
			return l, nil
		}
		if left <= 0 {
			return nil, placement.ErrUnreachable
		}
		timer := time.NewTimer(left)
		select {
		case <-change:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
	}
}

// isDownBriefly reports whether a member has been down for so short a time that it is worth waiting
// for.
func (ps *peers) isDownBriefly(name string) bool {
	ps.mu.Lock()
	p := ps.byName[name]
	ps.mu.Unlock()
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link == nil && p.patienceLeftLocked() > 0
}

// close closes every link and waits for their goroutines.
func (ps *peers) close() {
	ps.stop()
	ps.wg.Wait()
}

// peer is one other member.
type peer struct {
	peers *peers
	addr  placement.PeerAddr
	stop  context.CancelFunc
	// the member announces TLS, so it is never spoken to in plaintext
	speaksTLS atomic.Bool

	mu          sync.Mutex
	link        *link         // nil while it is down
	downSince   time.Time     // since when it has been down
	processGone bool          // its address refuses connections: the process has ended
	changed     chan struct{} // closed when the member comes up or its process ends; nil while no goroutine waits
}

// Pauses between attempts to open a link, with full jitter.
const (
	minRedialDelay = 50 * time.Millisecond
	maxRedialDelay = time.Second
)

// warnUnreachableAfter is the time for which a member must be unreachable before a warning is
// logged. A member that died has usually left the View by then; a blocked port stays blocked.
const warnUnreachableAfter = 10 * time.Second

func (p *peer) keepLinked(ctx context.Context) {
	wait, warned := minRedialDelay, false
	for ctx.Err() == nil {
		l, err := openLink(ctx, p)
		if err == nil {
			if wait = minRedialDelay; warned {
				warned = false
				p.peers.cfg.Logger.Warn("member is within reach again", "peer", p.addr.Name, "addr", p.addr.Address)
			}
			p.setLink(l)
			p.peers.metrics.links.Inc()
			p.peers.cfg.Logger.Info("link up", "peer", p.addr.Name)
			p.peers.observer.onLinkUp()
			err = l.keepAlive()
			p.setLink(nil)
			p.peers.metrics.links.Dec()
			if ctx.Err() != nil { // the member has left, or this node stops
				p.peers.cfg.Logger.Debug("link closed", "peer", p.addr.Name)
			} else {
				p.peers.cfg.Logger.Info("link down", "peer", p.addr.Name, "err", err)
			}
			p.peers.returnCredit(l.linkWindow)
			p.peers.observer.onLinkLost(l.close())
		} else {
			p.peers.cfg.Logger.Debug("open link", "peer", p.addr.Name, "err", err)
			wait = min(2*wait, maxRedialDelay)
			if !warned && ctx.Err() == nil && p.downFor() >= warnUnreachableAfter {
				warned = true
				p.peers.cfg.Logger.Warn("member is out of reach", "peer", p.addr.Name, "addr", p.addr.Address, "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)):
		}
	}
}

func (p *peer) setLink(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
	if p.processGone = false; l == nil {
		p.downSince = time.Now()
	} else {
		p.notifyWaitersLocked()
	}
}

// downFor returns how long there has been no link.
func (p *peer) downFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.downSince)
}

// notifyWaitersLocked wakes the goroutines that wait for the link.
func (p *peer) notifyWaitersLocked() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// patienceLeftLocked returns how much longer a request waits for the member. The caller holds mu.
func (p *peer) patienceLeftLocked() time.Duration {
	if p.processGone {
		return 0
	}
	return downPatience - time.Since(p.downSince)
}

// dialAddr connects to the member. If the address refuses connections, its process has ended and is
// not waited for: another process at that address would have another name.
func (p *peer) dialAddr(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := p.peers.cfg.Network.Dial(ctx, addr)
	if errors.Is(err, syscall.ECONNREFUSED) {
		p.mu.Lock()
		p.processGone = true
		p.notifyWaitersLocked()
		p.mu.Unlock()
	}
	return conn, err
}

// newClientConn returns a connection for one link alone: closing it is the only way to get rid of a
// transport that has fallen silent.
func (p *peer) newClientConn() (*grpc.ClientConn, error) {
	creds, err := p.peers.creds.ForDialing(p.speaksTLS.Load())
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(peertls.BufferBytes),
		grpc.WithWriteBufferSize(peertls.BufferBytes),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(p.dialAddr),
	}
	return grpc.NewClient("passthrough:///"+p.addr.Address, opts...)
}

// Windows of the transport, in bytes. Setting them turns its window estimator off.
const (
	streamWindow = 2 << 20
	connWindow   = 8 << 20
)
