package transport

import (
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// Subscriber receives what a subscription brings. Its methods are called from the goroutine of the link's
// bulk lane, and must not block.
type Subscriber interface {
	// OnSubscribed is the owner's answer, or its restart at a later position. Records follow from start on.
	OnSubscribed(u *Subscription, info shard.Info, start shard.Pos)
	OnRecords(u *Subscription, r shard.RecordBatch)
	// OnOwnerMoved says that another node owns the stream now.
	OnOwnerMoved(u *Subscription, to placement.PeerAddr)
	// OnSubscriptionEnd says that the subscription is over, or was refused.
	OnSubscriptionEnd(u *Subscription, why error)
	// OnLinkLost is called from the goroutine of the link's member.
	OnLinkLost(u *Subscription)
}

// Observer hears of links. Its method is called from the goroutine of the link's member.
type Observer interface {
	// OnLinksChanged is called after a link came up, or was lost.
	OnLinksChanged()
}
