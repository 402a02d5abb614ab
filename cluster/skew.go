package cluster

import (
	"time"
)

// skewLimit is how far a clock may be from a peer's before somebody is told.
const skewLimit = time.Second

// tendSkew compares clocks: a node that is ahead or behind takes streams too early or too
// late, and lets those live on whose time is over.
func (r *Relay) tendSkew() {
	worst, name := r.peers.skew()
	r.met.skew.Set(worst.Seconds())
	if worst.Abs() > skewLimit {
		r.skewed.Do(func() {
			r.cfg.Logger.Warn("this node's clock differs from a peer's", "ahead", worst, "peer", name)
		})
	}
}

// skew is how far this node's clock is ahead of its peers', the worst of all.
func (ps *peers) skew() (worst time.Duration, name string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for n, p := range ps.m {
		p.mu.Lock()
		if p.link != nil {
			if d := time.Duration(p.link.skew.Load()) * time.Millisecond; d.Abs() > worst.Abs() {
				worst, name = d, n
			}
		}
		p.mu.Unlock()
	}
	return worst, name
}
