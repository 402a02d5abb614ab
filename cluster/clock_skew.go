package cluster

import (
	"time"
)

// maxClockSkew bounds the difference of two nodes' clocks; beyond it a warning is logged.
const maxClockSkew = time.Second

// checkClockSkew compares clocks. A node with a wrong clock takes streams over too early or too
// late.
func (r *Node) checkClockSkew() {
	worst, name := r.peers.worstClockSkew()
	r.metrics.clockSkew.Set(worst.Seconds())
	if worst.Abs() > maxClockSkew {
		r.skewWarning.Do(func() {
			r.cfg.Logger.Warn("this node's clock differs from a peer's", "ahead", worst, "peer", name)
		})
	}
}

// worstClockSkew returns how far this node's clock is ahead of a peer's, for the peer with the
// largest difference, and that peer's name.
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
