package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
)

// peer is one other member.
type peer struct {
	peers *Peers
	addr  placement.PeerAddr
	stop  context.CancelFunc
	// the member announces TLS, so it is never spoken to in plaintext
	speaksTLS atomic.Bool

	mu          sync.Mutex
	link        *Link         // nil while it is down
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
			p.peers.links.Inc()
			p.peers.cfg.Logger.Info("link up", "peer", p.addr.Name)
			p.peers.observer.OnLinksChanged()
			err = l.keepAlive()
			p.setLink(nil)
			p.peers.links.Dec()
			if ctx.Err() != nil { // the member has left, or this node stops
				p.peers.cfg.Logger.Debug("link closed", "peer", p.addr.Name)
			} else {
				p.peers.cfg.Logger.Info("link down", "peer", p.addr.Name, "err", err)
			}
			p.peers.returnCredit(l.linkWindow)
			for _, sub := range l.close() {
				sub.subscriber.OnLinkLost(sub)
			}
			p.peers.observer.OnLinksChanged()
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

func (p *peer) setLink(l *Link) {
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
	conn, err := p.peers.cfg.Dialer.Dial(ctx, addr)
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
	creds := insecure.NewCredentials()
	if c := p.peers.cfg.Creds; c != nil {
		var err error
		if creds, err = c.ForDialing(p.speaksTLS.Load()); err != nil {
			return nil, err
		}
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

// openLink connects to a member and exchanges Hello.
func openLink(ctx context.Context, p *peer) (*Link, error) {
	cfg := p.peers.cfg
	conn, err := p.newClientConn()
	if err != nil {
		return nil, err
	}
	l := &Link{
		peer: p.addr, incarnation: rand.Uint64(), conn: conn, client: relaypb.NewRelayClient(conn),
		now: cfg.Now, metrics: p.peers.metrics, panics: p.peers.panics, subscriptionWindow: cfg.SubscriptionWindow, linkWindow: p.peers.grantCredit(),
		wake: make(chan struct{}, 1), subs: map[uint64]*Subscription{}, idleSince: time.Now(),
	}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	err = l.exchangeHello(cfg.Self)
	if err != nil {
		l.cancel(err)
		p.peers.returnCredit(l.linkWindow)
		_ = conn.Close()
		return nil, fmt.Errorf("hello to %s: %w", p.addr.Name, err)
	}
	return l, nil
}
