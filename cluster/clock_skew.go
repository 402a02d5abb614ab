package cluster

import (
	"time"
)

// maxClockSkew bounds the difference of two nodes' clocks; beyond it a warning is logged.
const maxClockSkew = time.Second

// checkClockSkew compares clocks. A node with a wrong clock takes streams over too early or too
// late.
func (n *Node) checkClockSkew() {
	worst, name := n.peers.WorstClockSkew()
	n.metrics.clockSkew.Set(worst.Seconds())
	if worst.Abs() > maxClockSkew {
		n.skewWarning.Do(func() {
			n.cfg.Logger.Warn("this node's clock differs from a peer's", "ahead", worst, "peer", name)
		})
	}
}
