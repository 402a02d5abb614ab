package cluster

import (
	"time"
)

// maxClockSkew is how far a clock may be from a peer's before somebody is told.
const maxClockSkew = time.Second

// checkClockSkew compares clocks: a node that is ahead or behind takes streams too early or too
// late, and lets those live on whose time is over.
func (r *Node) checkClockSkew() {
	worst, name := r.peers.worstClockSkew()
	r.metrics.clockSkew.Set(worst.Seconds())
	if worst.Abs() > maxClockSkew {
		r.skewWarning.Do(func() {
			r.cfg.Logger.Warn("this node's clock differs from a peer's", "ahead", worst, "peer", name)
		})
	}
}

// worstClockSkew is how far this node's clock is ahead of its peers', the worst of all.
func (ps *peers) worstClockSkew() (worst time.Duration, name string) {
	ps.mu.Lock()
	defer ps.mu.Unlock()
	for n, p := range ps.byName {
		p.mu.Lock()
		if p.link != nil {
			if d := time.Duration(p.link.clockSkew.Load()) * time.Millisecond; d.Abs() > worst.Abs() {
				worst, name = d, n
			}
		}
		p.mu.Unlock()
	}
	return worst, name
}
