package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// Do carries out a write at the stream's owner. It returns the errors of the stream manager, and
// ErrUnavailable. After ErrOutcomeUnknown the write may have taken effect.
func (n *Node) Do(ctx context.Context, req *shard.Request) (shard.Outcome, error) {
	if req.Fork != nil && !n.View().AllSpeak(placement.RelayVersionForks) {
		return shard.Outcome{}, errForksLater
	}
	var out shard.Outcome
	maybeWritten := false // a node may have carried it out without answering
	failures := 0         // nodes at which the call failed
	attempt := func(ctx context.Context, l *transport.Link, rt placement.Route) (err error) {
		q := req
		if maybeWritten && !req.Repeat {
			again := *req
			again.Repeat, q = true, &again
		}
		var delivered bool
		if l == nil {
			out, err = n.local.write(ctx, q, rt.Hop == placement.HopForce)
		} else {
			out, delivered, err = l.RequestWrite(ctx, q, rt)
		}
		if errors.Is(err, placement.ErrCallFailed) {
			failures++
		}
		maybeWritten = maybeWritten || delivered && (errors.Is(err, placement.ErrUnreachable) || errors.Is(err, placement.ErrCallFailed)) ||
			errors.Is(err, shard.ErrOutcomeUnknown)
		if l != nil && err == nil && out.Code.Accepted() {
			n.followLoop.endOlderGeneration(req.Stream, out.Info)
		}
		return err
	}
	for began := time.Now(); ; {
		err := n.routeRequest(ctx, req.Stream, attempt)
		switch {
		case err == nil, ctx.Err() != nil:
			return out, err
		case !maybeWritten:
			return shard.Outcome{}, publicError(err)
		case time.Since(began) > resolveTimeout, failures >= maxFailures:
			return shard.Outcome{}, errors.Join(shard.ErrOutcomeUnknown, publicError(err))
		}
		select {
		case <-time.After(resolveRetry/2 + rand.N(resolveRetry)):
		case <-ctx.Done():
		}
	}
}

// A write that a node may have carried out is sent again, with its append id, until some node tells
// its outcome. After resolveTimeout the caller gets ErrOutcomeUnknown.
const (
	resolveTimeout = 15 * time.Second
	resolveRetry   = 500 * time.Millisecond
	maxFailures    = 2 // a call that failed twice will fail again
)

// errForksLater refuses a fork while a member runs a release that knows none: such an owner would
// create a plain stream instead, and such an edge would show the fork without what it inherited.
var errForksLater = fmt.Errorf("%w: a member runs a release that knows no forks", shard.ErrUnavailable)

// Info describes a stream. Without InfoAllowCached the answer reflects every write that any node
// acknowledged before the call.
func (n *Node) Info(ctx context.Context, id shard.StreamID, a shard.InfoOptions) (shard.Info, error) {
	if n.followLoop.ownsStream(id) {
		info, err := n.routeInfo(ctx, id, a)
		return info, publicError(err)
	}
	if a&shard.InfoAllowCached != 0 {
		info, ok := n.followLoop.localInfo(id)
		if ok && (a&shard.InfoTouch == 0 || !info.HasTTL) {
			return info, nil
		}
	}
	info, err := n.stateCalls.callShared(ctx, stateCallKey{id, a}, func(ctx context.Context) (shard.Info, error) {
		return n.routeInfo(ctx, id, a)
	})
	if err != nil && ctx.Err() == nil {
		err = publicError(err)
	}
	return info, err
}

func (n *Node) routeInfo(ctx context.Context, id shard.StreamID, a shard.InfoOptions) (shard.Info, error) {
	var info shard.Info
	err := n.routeRequest(ctx, id, func(ctx context.Context, l *transport.Link, rt placement.Route) (err error) {
		if l == nil {
			info, err = n.local.info(ctx, id, a, rt.Hop == placement.HopForce)
			return err
		}
		info, err = l.RequestInfo(ctx, id, a, rt)
		if err == nil {
			n.followLoop.endOlderGeneration(id, info)
		}
		return err
	})
	return info, err
}

// Follow returns the stream's tail buffer on this node and keeps it fed, from whichever node owns
// the stream, until release. The caller calls release exactly once. from is the position at which
// the caller will read, and only a hint. It returns the errors of the stream manager, and
// ErrUnavailable.
func (n *Node) Follow(ctx context.Context, id shard.StreamID, from shard.Pos) (
	t *shard.TailBuffer, release func(), err error,
) {
	return n.followLoop.follow(ctx, id, from)
}

// peerPageTimeout bounds the wait for a page from the owner. After it this node reads the page from
// S2.
const peerPageTimeout = time.Second

// ReadPage returns a page of history: from this node's memory, else from the owner if it answers
// within peerPageTimeout, else from S2.
func (n *Node) ReadPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	var ask func(context.Context) (shard.RecordBatch, error)
	if l := n.ownerLink(id); l != nil {
		ask = func(ctx context.Context) (shard.RecordBatch, error) {
			ctx, cancel := context.WithTimeout(ctx, peerPageTimeout)
			defer cancel()
			return l.RequestPage(ctx, id, info, from)
		}
	}
	return n.local.manager.ReadPageVia(ctx, id, info, from, ask)
}

// FindTime returns the position of the first message at or after since. It asks the nodes that
// ReadPage asks. If the owner's release lacks the call, S2 is asked in its place.
func (n *Node) FindTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error) {
	var ask func(context.Context) (shard.Pos, error)
	if l := n.ownerLink(id); l != nil {
		ask = func(ctx context.Context) (shard.Pos, error) {
			ctx, cancel := context.WithTimeout(ctx, peerPageTimeout)
			defer cancel()
			return l.RequestTime(ctx, id, info, since)
		}
	}
	return n.local.manager.FindTimeVia(ctx, id, info, since, ask)
}

// ownerLink returns the link to the stream's owner; nil: this node owns it, or there is no link.
func (n *Node) ownerLink(id shard.StreamID) *transport.Link {
	if m := n.currentTable().Owner(id); m != nil && m.Name != n.self {
		return n.peers.Link(m.Name)
	}
	return nil
}

// routeRequest sends a request to one node after another, as routing.NextTarget says, until a node
// gives a final answer. attempt gets the link of the node, or nil for this node.
func (n *Node) routeRequest(
	ctx context.Context, id shard.StreamID, attempt func(context.Context, *transport.Link, placement.Route) error,
) error {
	var r placement.Routing
	began := time.Now()
	for {
		to, ok := r.NextTarget(n.View(), n.currentTable(), id, n.self)
		if !ok && !n.leaving.Load() {
			if err := n.awaitOwner(ctx, began); err != nil {
				return err
			}
			continue
		}
		if to.Hop == placement.HopForce {
			n.metrics.forced.Inc()
		}
		name, err := n.askTarget(ctx, id, to, r.Route, attempt)
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case !r.HandleAnswer(name, err):
			return err
		}
	}
}

func (n *Node) askTarget(
	ctx context.Context, id shard.StreamID, to placement.Target, rt placement.Route,
	attempt func(context.Context, *transport.Link, placement.Route) error,
) (name string, err error) {
	if to.Member == nil {
		if !n.followLoop.ownsStream(id) {
			n.noteMisplaced()
		}
		return n.self, attempt(ctx, nil, rt)
	}
	l, err := n.peers.AwaitLink(ctx, to.Member.Name)
	if err == nil {
		err = attempt(ctx, l, rt)
	}
	return to.Member.Name, err
}

// awaitOwner waits for the next View while no member owns streams, until noOwnerTimeout after
// began.
func (n *Node) awaitOwner(ctx context.Context, began time.Time) error {
	changed := n.nextChange()
	if n.currentTable().Len() > 0 {
		return nil // the View changed in between
	}
	left := time.NewTimer(noOwnerTimeout - time.Since(began))
	defer left.Stop()
	select {
	case <-changed:
		return nil
	case <-left.C:
		return shard.ErrUnavailable
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
