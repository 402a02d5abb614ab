package transport

import (
	"context"
	"errors"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/shard"
)

// This file has both halves of a subscription that awaits a stream's creation. It brings no records:
// its End says that the stream may exist, or where to ask next.

// awaitCreation has the subscription end once the stream exists. Until then it is an entry at the
// stream manager.
func (s *session) awaitCreation(ctx context.Context, sub *sessionSub, r placement.Route) error {
	stop, exists, err := s.streams.AwaitCreation(ctx, sub.id, r.Hop == placement.HopForce, createdWaker{sub})
	switch {
	case err != nil:
		return err
	case exists:
		return wire.ErrCreated
	}
	s.mu.Lock()
	dead := sub.flags&subRemoved != 0
	if !dead {
		sub.release = stop
		sub.flags |= subAwaits
	}
	s.mu.Unlock()
	if dead {
		stop()
	}
	return nil
}

// createdWaker is woken when the stream that a subscription awaits may exist.
type createdWaker struct{ sub *sessionSub }

// Wake implements shard.Waker.
func (w createdWaker) Wake() { w.sub.session.endSub(w.sub, wire.ErrCreated) }

// redirectWaitLocked ends a subscription that awaits a creation which another node will see.
func (s *session) redirectWaitLocked(sub *sessionSub, mayServe func(shard.StreamID) (placement.PeerAddr, bool)) {
	if to, ok := mayServe(sub.id); !ok && sub.endErr == nil {
		sub.endErr = &placement.RedirectError{Owner: to}
		s.markDirtyLocked(sub)
	}
}

// AwaitCreation waits until the member says that a stream of that name may exist. It returns an error
// if the member refuses, or is not the one to ask any more, and when ctx ends. A member of a release
// that cannot wait says whether there is a stream now: ErrNotFound if there is none.
func (l *Link) AwaitCreation(ctx context.Context, id shard.StreamID, r placement.Route) error {
	if l.peerVersion < placement.RelayVersionAwait {
		info, err := l.RequestInfo(ctx, id, shard.InfoAllowCached, r)
		if err == nil && !info.Exists {
			err = shard.ErrNotFound
		}
		return err
	}
	w := &creationSubscriber{ended: make(chan error, 1)}
	sub := l.subscribe(w, &subscribeRequest{id: id, route: r, awaitsCreation: true})
	if sub == nil {
		return placement.ErrUnreachable
	}
	defer sub.Unsubscribe()
	select {
	case err := <-w.ended:
		if errors.Is(err, wire.ErrCreated) {
			return nil
		}
		return err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// creationSubscriber receives the end of a subscription that awaits a creation.
type creationSubscriber struct{ ended chan error }

var _ Subscriber = (*creationSubscriber)(nil)

// end reports the first reason for which the subscription is over.
func (w *creationSubscriber) end(why error) {
	select {
	case w.ended <- why:
	default:
	}
}

// OnSubscribed implements Subscriber. No member says so of such a subscription.
func (w *creationSubscriber) OnSubscribed(*Subscription, shard.Info, shard.Pos) {
	w.end(placement.ErrCallFailed)
}

// OnRecords implements Subscriber.
func (w *creationSubscriber) OnRecords(*Subscription, shard.RecordBatch) {}

// OnOwnerMoved implements Subscriber.
func (w *creationSubscriber) OnOwnerMoved(_ *Subscription, to placement.PeerAddr) {
	w.end(&placement.RedirectError{Owner: to})
}

// OnSubscriptionEnd implements Subscriber.
func (w *creationSubscriber) OnSubscriptionEnd(_ *Subscription, why error) { w.end(why) }

// OnLinkLost implements Subscriber.
func (w *creationSubscriber) OnLinkLost(*Subscription) { w.end(placement.ErrUnreachable) }
