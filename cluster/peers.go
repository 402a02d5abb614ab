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
	cfg  *Config
	self string
	addr string // of this node's server
	met  *metrics
	// panics catches those of a link's goroutines.
	panics *shard.Panics
	creds  *creds
	// up and lost are told of links, from the peer's goroutine; lost with the
	// subscriptions that were on it.
	up   func(name string)
	lost func(l *link, subs []*upstream)
	ctx  context.Context
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu      sync.Mutex
	m       map[string]*peer
	granted int // link credit of the links that are open
}

// linkBudget is Config.LinkBytes's default: it bounds the credit of all links together, what may be on its way
// to this node, whoever sends it.
const linkBudget = 256 << 20

// grant is the credit of a link that is opened: Config's, as long as that is a quarter
// of what is left, and never less than a subscription's. ungrant takes it back.
func (ps *peers) grant() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := max(min(ps.cfg.linkWindow, (int(ps.cfg.LinkBytes)-ps.granted)/4), ps.cfg.window)
	ps.granted += n
	return n
}

func (ps *peers) ungrant(n int) {
	ps.mu.Lock()
	ps.granted -= n
	ps.mu.Unlock()
}

func newPeers(cfg *Config, self, addr string, met *metrics) *peers {
	ps := &peers{cfg: cfg, self: self, addr: addr, met: met, m: map[string]*peer{}}
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
		if p := ps.m[m.Name]; p != nil {
			p.secure.Store(secure)
			continue
		}
		p := &peer{peers: ps, to: place{m.Name, m.Relay}, since: time.Now()}
		p.secure.Store(secure)
		ctx, stop := context.WithCancel(ps.ctx)
		p.stop = stop
		ps.m[m.Name] = p
		ps.wg.Go(func() { p.run(ctx) })
	}
	for name, p := range ps.m {
		if v.Member(name) == nil {
			p.stop()
			delete(ps.m, name)
		}
	}
}

// link is the link to a member that is up now, or nil.
func (ps *peers) link(name string) *link {
	ps.mu.Lock()
	p := ps.m[name]
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
	all := make(map[string]*relaypb.Status, len(ps.m))
	for name, p := range ps.m {
		p.mu.Lock()
		if p.link != nil {
			all[name] = p.link.status.Load()
		}
		p.mu.Unlock()
	}
	return all
}

// patience is how long a member may be down before a request gives it up.
const patience = time.Second

// reach is link, but waits for a member that is not down for long.
func (ps *peers) reach(ctx context.Context, name string) (*link, error) {
	ps.mu.Lock()
	p := ps.m[name]
	ps.mu.Unlock()
	if p == nil {
		return nil, errUnreachable
	}
	for {
		p.mu.Lock()
		l, left := p.link, p.patience()
		if l == nil && p.change == nil {
			p.change = make(chan struct{})
		}
		change := p.change
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

// hopeful reports whether a member is down for so short a time that it is worth
// waiting for.
func (ps *peers) hopeful(name string) bool {
	ps.mu.Lock()
	p := ps.m[name]
	ps.mu.Unlock()
	if p == nil {
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.link == nil && p.patience() > 0
}

// close closes every link and waits.
func (ps *peers) close() {
	ps.stop()
	ps.wg.Wait()
}

// peer is one other member.
type peer struct {
	peers *peers
	to    place
	stop  context.CancelFunc
	// secure: it says that it speaks TLS, so nothing else is spoken to it.
	secure atomic.Bool

	mu     sync.Mutex
	link   *link         // nil while it is down
	since  time.Time     // down since
	gone   bool          // nobody listens at its address: the process has ended
	change chan struct{} // closed when it comes up, or is gone; made when somebody waits
}

// Pauses between attempts to open a link, full jitter.
const (
	redialMin = 50 * time.Millisecond
	redialMax = time.Second
)

// complainAfter is how long a member is out of reach when that is said: one that has died
// is no member by then, as a rule; a port that is blocked stays so.
const complainAfter = 10 * time.Second

func (p *peer) run(ctx context.Context) {
	wait, complained := redialMin, false
	for ctx.Err() == nil {
		l, err := openLink(ctx, p)
		if err == nil {
			if wait = redialMin; complained {
				complained = false
				p.peers.cfg.Logger.Warn("member is within reach again", "peer", p.to.name, "addr", p.to.address)
			}
			p.set(l)
			p.peers.met.links.Inc()
			p.peers.cfg.Logger.Info("link up", "peer", p.to.name)
			p.peers.up(p.to.name)
			err = l.run()
			p.set(nil)
			p.peers.met.links.Dec()
			if ctx.Err() != nil { // it has left, or this node does
				p.peers.cfg.Logger.Debug("link closed", "peer", p.to.name)
			} else {
				p.peers.cfg.Logger.Info("link down", "peer", p.to.name, "err", err)
			}
			p.peers.ungrant(l.linkWindow)
			p.peers.lost(l, l.close())
		} else {
			p.peers.cfg.Logger.Debug("open link", "peer", p.to.name, "err", err)
			wait = min(2*wait, redialMax)
			if !complained && ctx.Err() == nil && p.downFor() >= complainAfter {
				complained = true
				p.peers.cfg.Logger.Warn("member is out of reach", "peer", p.to.name, "addr", p.to.address, "err", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-time.After(rand.N(wait)):
		}
	}
}

func (p *peer) set(l *link) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.link = l
	if p.gone = false; l == nil {
		p.since = time.Now()
	} else {
		p.tellLocked()
	}
}

// downFor is how long there has been no link.
func (p *peer) downFor() time.Duration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return time.Since(p.since)
}

// tellLocked has those who wait look again.
func (p *peer) tellLocked() {
	if p.change != nil {
		close(p.change)
		p.change = nil
	}
}

// patience is how long the member is still waited for, under mu.
func (p *peer) patience() time.Duration {
	if p.gone {
		return 0
	}
	return patience - time.Since(p.since)
}

// reachAddr is the dialer. A process that has ended is not waited for: another one at its
// address would have another name.
func (p *peer) reachAddr(ctx context.Context, addr string) (net.Conn, error) {
	conn, err := p.peers.cfg.Network.Dial(ctx, addr)
	if errors.Is(err, syscall.ECONNREFUSED) {
		p.mu.Lock()
		p.gone = true
		p.tellLocked()
		p.mu.Unlock()
	}
	return conn, err
}

// dial makes a connection. It is the link's own: closing it is the only way to
// be rid of a transport that has fallen silent.
func (p *peer) dial() (*grpc.ClientConn, error) {
	creds, err := p.peers.creds.of(p.secure.Load())
	if err != nil {
		return nil, err
	}
	opts := []grpc.DialOption{
		grpc.WithTransportCredentials(creds),
		grpc.WithInitialWindowSize(streamWindow),
		grpc.WithInitialConnWindowSize(connWindow),
		grpc.WithReadBufferSize(frameBytes),
		grpc.WithWriteBufferSize(frameBytes),
		grpc.WithDisableServiceConfig(),
		grpc.WithIdleTimeout(0),
		grpc.WithContextDialer(p.reachAddr),
	}
	return grpc.NewClient("passthrough:///"+p.to.address, opts...)
}

// Windows of the transport, in bytes. Set, they also turn its estimator off.
const (
	streamWindow = 2 << 20
	connWindow   = 8 << 20
)
