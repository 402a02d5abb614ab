package cluster

import (
	"errors"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// This file has what peers and links tell a follower: the methods of Subscriber.

var _ transport.Subscriber = (*follower)(nil)

// OnSubscribed handles Subscribed: the owner's answer to a subscription, or its restart at a later
// position.
func (f *follower) OnSubscribed(sub *transport.Subscription, info shard.Info, start shard.Pos) {
	f.mu.Lock()
	defer f.unlockAndRun()
	answered := f.move != nil && f.move.upstream == sub
	if !answered && f.feed.upstream != sub {
		sub.Unsubscribe()
		return
	}
	at := infoAt(info, start)
	if f.tail == nil {
		f.tail = f.loop.openTail(f.id, at, start)
	}
	switch {
	case f.tail == nil || info.Generation < f.tail.Generation(): // the peer has not heard of the newest generation
		sub.Unsubscribe()
		if answered {
			f.handleRefusalLocked(time.Now(), shard.ErrNotOwner)
		} else {
			f.replaceFeedLocked(time.Now(), 0)
		}
		return
	case info.Generation > f.tail.Generation():
		f.endGenerationLocked()
		return
	}
	f.tail.SkipTo(start, at.Tail, at.Closed)
	sub.Tail = f.tail
	if answered {
		f.adoptFeedLocked(feed{member: f.move.targetName, upstream: sub}, info.Tail)
	}
}

// replaceFeedLocked clears the lost feed and has another one asked for after wait.
func (f *follower) replaceFeedLocked(now time.Time, wait time.Duration) {
	f.feed = feed{}
	if f.move == nil || !f.move.awaitingAnswer {
		f.move = &feedMove{notBefore: now.Add(wait)}
	}
	f.loop.scheduleStep(f)
}

// OnRecords extends the tail buffer with a batch. Only the goroutine of u's bulk lane calls it,
// without mu.
func (f *follower) OnRecords(sub *transport.Subscription, r shard.RecordBatch) {
	if sub.Tail == nil {
		return
	}
	err := sub.Tail.Extend(r)
	if err == nil {
		return
	}
	f.loop.metrics.gaps.Inc()
	f.loop.log.Error("relayed records do not join", "peer", sub.Peer().Name, "stream", f.id, "err", err)
	f.mu.Lock()
	defer f.unlockAndRun()
	sub.Tail = nil
	sub.Unsubscribe()
	if f.feed.upstream == sub {
		f.replaceFeedLocked(time.Now(), 0)
	}
}

// OnOwnerMoved handles Moved: the feed says that another node owns the stream.
func (f *follower) OnOwnerMoved(sub *transport.Subscription, to placement.PeerAddr) {
	f.mu.Lock()
	defer f.unlockAndRun()
	if f.over || f.feed.upstream != sub || f.move != nil {
		return
	}
	switch {
	case to.Name == f.loop.self && !f.loop.ownsStream(f.id):
		return // this node's clock or its news are behind: it moves once its own table says so
	case to.Name != f.loop.self && f.loop.peers.Link(to.Name) == nil:
		return // the old feed continues for transport.MovedGrace
	}
	f.move = &feedMove{
		notBefore: f.loop.nextMoveTime(time.Now()),
		routing:   placement.RedirectedTo(to.Name),
	}
	f.loop.scheduleStep(f)
}

// OnSubscriptionEnd handles End: the subscription is over, or was refused.
func (f *follower) OnSubscriptionEnd(sub *transport.Subscription, why error) {
	f.mu.Lock()
	defer f.unlockAndRun()
	now := time.Now()
	switch {
	case f.over:
	case f.move != nil && f.move.upstream == sub:
		f.handleRefusalLocked(now, why)
	case f.feed.upstream != sub:
	case shard.IsAbsent(why):
		f.endGenerationLocked()
	case errors.Is(why, placement.ErrCallFailed): // it would fail again soon
		f.loop.log.Warn("the feed of a stream failed and is asked for again", "stream", f.id, "err", why)
		f.replaceFeedLocked(now, randomBetween(retryMinDelay, retryMaxDelay))
	default:
		f.replaceFeedLocked(now, randomBetween(0, lostFeedMinDelay))
		var r *placement.RedirectError
		if errors.As(why, &r) && !f.move.awaitingAnswer {
			f.move.routing = placement.RedirectedTo(r.Owner.Name)
		}
	}
}

// OnLinkLost handles the loss of the link that carried the subscription.
func (f *follower) OnLinkLost(sub *transport.Subscription) {
	f.mu.Lock()
	defer f.unlockAndRun()
	switch {
	case f.over:
	case f.move != nil && f.move.upstream == sub:
		f.handleRefusalLocked(time.Now(), placement.ErrUnreachable)
	case f.feed.upstream == sub:
		f.replaceFeedLocked(time.Now(), randomBetween(lostFeedMinDelay, lostFeedMaxDelay))
	}
}

// infoAt returns info as of the position at: a tail buffer must not claim more than it holds.
func infoAt(info shard.Info, at shard.Pos) shard.Info {
	if info.Tail > at {
		info.Tail, info.Closed = at, false
	}
	return info
}
