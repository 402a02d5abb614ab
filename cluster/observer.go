package cluster

import (
	"github.com/fantail-dev/fantail/cluster/placement"
)

// nodeObserver is a Node to which gossip and links bring news.
type nodeObserver Node

// OnJoinRound implements Observer.
func (o *nodeObserver) OnJoinRound() {
	if o.prober != nil {
		o.prober.ProbeNow()
	}
}

// OnView implements Observer.
func (o *nodeObserver) OnView(v *placement.View) {
	n := (*Node)(o)
	n.peers.Update(v)
	if t := n.currentTable(); n.history.NoteTable(t, n.cfg.Now()) && n.ctx.Err() == nil {
		n.local.reclaimOwned(n.followLoop.ownsStream)
		b := n.newBacklog(t)
		n.backlog.Store(b)
		n.wg.Go(func() { n.offerBacklog(n.ctx, b) })
	}
	n.linksChanged()
}

// OnLinksChanged implements Observer, of package transport.
func (o *nodeObserver) OnLinksChanged() { (*Node)(o).linksChanged() }
