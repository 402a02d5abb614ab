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

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// peers holds one link to each other member: opened when the member appears in
// the View, opened again for as long as it is there, closed when it goes.
type peers struct {
	// set at construction
	cfg     *Config
	self    string
	addr    string // of this node's server
	metrics *metrics
	// panics catches those of a link's goroutines.
	panics *shard.PanicHandler
	creds  *tlsCreds
	// onLinkUp and lost are told of links, from the peer's goroutine; lost with the
	// subscriptions that were on it.
	onLinkUp   func(name string)
	onLinkLost func(l *link, subs []*upstreamSub)
	ctx        context.Context
	stop       context.CancelFunc
	wg         sync.WaitGroup

	mu            sync.Mutex
	byName        map[string]*peer
	creditGranted int // link credit of the links that are open
}

// defaultLinkBytes is Config.LinkBytes's default: it bounds the credit of all links together, what may be on its way
// to this node, whoever sends it.
const defaultLinkBytes = 256 << 20

// grantCredit is the credit of a link that is opened: Config's, as long as that is a quarter
// of what is left, and never less than a subscription's. ungrant takes it back.
func (ps *peers) grantCredit() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := max(min(ps.cfg.linkWindow, (int(ps.cfg.LinkBytes)-ps.creditGranted)/4), ps.cfg.subscriptionWindow)
	ps.creditGranted += n
	return n
}

func (ps *peers) returnCredit(n int) {
	ps.mu.Lock()
	ps.creditGranted -= n
	ps.mu.Unlock()
}

func newPeers(cfg *Config, self, addr string, met *metrics) *peers {
	ps := &peers{cfg: cfg, self: self, addr: addr, metrics: met, byName: map[string]*peer{}}
	ps.ctx, ps.stop = context.WithCancel(context.Background())
	return ps
}

// update opens and closes links as the View says.
func (ps *peers) update(v *View) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.ctx.Err() != nil {
		return
	}
	for _, m := range v.Members() {
		if m.Name == ps.self {
			continue
		}
		secure := m.Features&FeatureTLS != 0
		if p := ps.byName[m.Name]; p != nil {
			p.speaksTLS.Store(secure)
			continue
		}
		p := &peer{peers: ps, addr: peerAddr{m.Name, m.Relay}, downSince: time.Now()}
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

// link is the link to a member that is up now, or nil.
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

// statuses lists what the members that are up said last, by name.
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

// downPatience is how long a member may be down before a request gives it up.
const downPatience = time.Second

// awaitLink is link, but waits for a member that is not down for long.
func (ps *peers) awaitLink(ctx context.Context, name string) (*link, error) {
	ps.mu.Lock()
	p := ps.byName[name]
	ps.mu.Unlock()
	if p == nil {
		return nil, errUnreachable
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
			return nil, errUnreachable
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

// isDownBriefly reports whether a member is down for so short a time that it is worth
// waiting for.
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

// close closes every link and waits.
func (ps *peers) close() {
	ps.stop()
	ps.wg.Wait()
}

// peer is one other member.
type peer struct {
	peers *peers
	addr  peerAddr
	stop  context.CancelFunc
	// speaksTLS: it says that it speaks TLS, so nothing else is spoken to it.
	speaksTLS atomic.Bool

	mu          sync.Mutex
	link        *link         // nil while it is down
	downSince   time.Time     // down since
	processGone bool          // nobody listens at its address: the process has ended
	changed     chan struct{} // closed when it comes up, or is gone; made when somebody waits
}

// Pauses between attempts to open a link, full jitter.
const (
	redialMin = 50 * time.Millisecond
	redialMax = time.Second
)

// warnUnreachableAfter is how long a member is out of reach when that is said: one that has died
// is no member by then, as a rule; a port that is blocked stays so.
const warnUnreachableAfter = 10 * time.Second

func (p *peer) keepLinked(ctx context.Context) {
	wait, warned := redialMin, false
	for ctx.Err() == nil {
		l, err := openLink(ctx, p)
		if err == nil {
			if wait = redialMin; warned {
				warned = false
				p.peers.cfg.Logger.Warn("member is within reach again", "peer", p.addr.name, "addr", p.addr.address)
			}
			p.setLink(l)
			p.peers.metrics.links.Inc()
			p.peers.cfg.Logger.Info("link up", "peer", p.addr.name)
			p.peers.onLinkUp(p.addr.name)
			err = l.run()
			p.setLink(nil)
			p.peers.metrics.links.Dec()
			if ctx.Err() != nil { // it has left, or this node does
				p.peers.cfg.Logger.Debug("link closed", "peer", p.addr.name)
			} else {
				p.peers.cfg.Logger.Info("link down", "peer", p.addr.name, "err", err)
			}
			p.peers.returnCredit(l.linkWindow)
			p.peers.onLinkLost(l, l.close())
		} else {
			p.peers.cfg.Logger.Debug("open link", "peer", p.addr.name, "err", err)
			wait = min(2*wait, redialMax)
			if !warned && ctx.Err() == nil && p.downFor() >= warnUnreachableAfter {
				warned = true
				p.peers.cfg.Logger.Warn("member is out of reach", "peer", p.addr.name, "addr", p.addr.address, "err", err)
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

// downFor is how long there has been no link.
func (p *peer) downFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.downSince)
}

// notifyWaitersLocked has those who wait look again.
func (p *peer) notifyWaitersLocked() {
	if p.changed != nil {
		close(p.changed)
		p.changed = nil
	}
}

// patienceLeftLocked is how long the member is still waited for, under mu.
func (p *peer) patienceLeftLocked() time.Duration {
	if p.processGone {
		return 0
	}
	return downPatience - time.Since(p.downSince)
}

// dialAddr is the dialer. A process that has ended is not waited for: another one at its
// address would have another name.
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

// newClientConn makes a connection. It is the link's own: closing it is the only way to
// be rid of a transport that has fallen silent.
func (p *peer) newClientConn() (*grpc.ClientConn, error) {
	creds, err := p.peers.creds.clientCredsFor(p.speaksTLS.Load())
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(maxFrameBytes),
		grpc.WithWriteBufferSize(maxFrameBytes),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(p.dialAddr),
	}
	return grpc.NewClient("passthrough:///"+p.addr.address, opts...)
}

// Windows of the transport, in bytes. Set, they also turn its estimator off.
const (
	streamWindow = 2 << 20
	connWindow   = 8 << 20
)
