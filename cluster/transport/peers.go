package transport

import (
	"context"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// Peers holds one link to each other member: it is opened when the member appears in the View,
// reopened while the member is there, and closed when it goes.
type Peers struct {
	// Set at construction.
	cfg      Config
	metrics  *endMetrics
	links    prometheus.Gauge
	panics   *shard.PanicHandler // handles those of a link's goroutines
	observer Observer
	ctx      context.Context
	stop     context.CancelFunc
	wg       sync.WaitGroup

	mu            sync.Mutex
	byName        map[string]*peer
	creditGranted int // link credit of all open links, in bytes
}

// Observer hears of links. Its method is called from the goroutine of the link's member.
type Observer interface {
	// OnLinksChanged is called after a link came up, or was lost.
	OnLinksChanged()
}

// grantCredit returns the credit of a link that is being opened: LinkWindow while that is at most
// a quarter of what is left, and never less than one subscription's credit. returnCredit takes it
// back.
func (ps *Peers) grantCredit() int {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	n := max(min(ps.cfg.LinkWindow, (int(ps.cfg.LinkCreditBytes)-ps.creditGranted)/4), ps.cfg.SubscriptionWindow)
	ps.creditGranted += n
	return n
}

func (ps *Peers) returnCredit(n int) {
	ps.mu.Lock()
	ps.creditGranted -= n
	ps.mu.Unlock()
}

// NewPeers returns the links of a node, of which there are none yet.
func NewPeers(cfg Config, observer Observer) *Peers {
	cfg.setDefaults()
	ps := &Peers{
		cfg: cfg, metrics: newEndMetrics(cfg.Metrics, endEdge), panics: shard.NewPanicHandler(cfg.Logger, cfg.Metrics),
		links:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "fantail_links_up", Help: "Links to other nodes that are up."}),
		observer: observer, byName: map[string]*peer{},
	}
	if cfg.Metrics != nil {
		cfg.Metrics.MustRegister(ps.links)
	}
	ps.ctx, ps.stop = context.WithCancel(context.Background())
	return ps
}

// Update opens and closes links as the View demands.
func (ps *Peers) Update(v *placement.View) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	if ps.ctx.Err() != nil {
		return
	}
	for _, m := range v.Members() {
		if m.Name == ps.cfg.Self.Name {
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

// Link returns the link to a member if it is up, else nil.
func (ps *Peers) Link(name string) *Link {
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

// Statuses returns the last status of each member with a link, by name; nil: it has sent none yet.
func (ps *Peers) Statuses() map[string]*Status {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	all := make(map[string]*Status, len(ps.byName))
	for name, p := range ps.byName {
		p.mu.Lock()
		if p.link != nil {
			all[name] = p.link.peerStatus.Load()
		}
		p.mu.Unlock()
	}
	return all
}

// WorstClockSkew returns how far this node's clock is ahead of a peer's, for the peer with the
// largest difference, and that peer's name.
func (ps *Peers) WorstClockSkew() (worst time.Duration, name string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for n, p := range ps.byName {
		p.mu.Lock()
		if p.link != nil {
			if d := p.link.ClockAhead(); d.Abs() > worst.Abs() {
				worst, name = d, n
			}
		}
		p.mu.Unlock()
	}
	return worst, name
}

// downPatience bounds the time for which a request waits for a member that is down.
const downPatience = time.Second

// AwaitLink returns the link to a member, and waits for it if the member has not been down for
// long.
func (ps *Peers) AwaitLink(ctx context.Context, name string) (*Link, error) {
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

// IsDownBriefly reports whether a member has been down for so short a time that it is worth waiting
// for.
func (ps *Peers) IsDownBriefly(name string) bool {
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

// Close closes every link and waits for their goroutines.
func (ps *Peers) Close() {
	ps.stop()
	ps.wg.Wait()
}
