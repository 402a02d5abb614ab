package cluster

import (
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// featuresOfMode returns the features that tell others of a stream manager's mode.
func featuresOfMode(m shard.Mode) placement.Features {
	switch m {
	case shard.ModeAuto:
		return placement.FeatureReadsAuto
	case shard.ModeExclusive:
		return placement.FeatureReadsExclusive
	case shard.ModeSession:
	}
	return 0
}

// modeOf returns the mode that features tell of.
func modeOf(f placement.Features) shard.Mode {
	switch f & placement.ReadsFeatures {
	case placement.FeatureReadsAuto:
		return shard.ModeAuto
	case placement.FeatureReadsExclusive:
		return shard.ModeExclusive
	}
	return shard.ModeSession
}

// warnOfReadsModes logs, at most once a minute, that a member has another mode than this node: what
// readers see of S2's own writers, and how soon, then depends on which node owns their stream.
// During a rolling change of the setting that is as it should be.
func (n *Node) warnOfReadsModes(now time.Time) {
	v := n.View()
	for i := range v.Members() {
		m := &v.Members()[i]
		if modeOf(m.Features) == n.cfg.ReadsMode || now.Sub(n.modeWarnedAt) < logAgainEvery {
			continue
		}
		n.modeWarnedAt = now
		n.cfg.Logger.Warn("a member has another --s2-reads than this node", "peer", m.Name, "addr", m.RelayAddr,
			"peer_mode", modeOf(m.Features), "mode", n.cfg.ReadsMode)
	}
}

// noteNotFetched tells the stream manager if a stream that no node handed over may have an owner that
// still writes: an owner that cannot be reached, or the owner in whose place this node serves it.
func (n *Node) noteNotFetched(id shard.StreamID) {
	rivals := !n.followLoop.ownsStream(id)
	for _, t := range n.history.PreviousTables(n.View(), n.cfg.Now()) {
		m := t.Owner(id)
		rivals = rivals || m != nil && m.Name != n.self && n.peers.Link(m.Name) == nil
	}
	if rivals {
		n.local.manager.ExpectRivals()
	}
}
