package cluster

import (
	"context"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// This file has what the server asks of the node for its peers (servedStreams). takeOver and handOver
// are in handover.go, statusFor is in health.go.

var _ servedStreams = (*Node)(nil)

func (r *Node) checkOwnership(ctx context.Context, id shard.StreamID, rt placement.Route) error {
	t := r.currentTable()
	err := placement.CheckOwnership(t, r.self, id, rt, func(m *placement.Member) bool { return r.memberAnswers(ctx, m) })
	if err != nil {
		r.metrics.notOwner.Inc()
	} else if m := t.Owner(id); m == nil || m.Name != r.self {
		r.noteMisplaced()
	}
	return err
}

func (r *Node) write(ctx context.Context, req *shard.Request, force bool) (shard.Outcome, error) {
	return r.local.write(ctx, req, force)
}

func (r *Node) info(ctx context.Context, id shard.StreamID, a shard.InfoOptions, force bool) (shard.Info, error) {
	return r.local.info(ctx, id, a, force)
}

func (r *Node) readPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	return r.local.manager.ReadPage(ctx, id, info, from)
}

func (r *Node) submitOpen(id shard.StreamID, fn func()) bool {
	return r.openPool.submit(r.local.answersLocally(id), fn)
}

func (r *Node) startFeed(ctx context.Context, id shard.StreamID, from shard.Pos, force bool) (
	*shard.TailBuffer, localFeed, error,
) {
	return r.local.startFeed(ctx, id, from, force)
}

func (r *Node) isMember(name string) bool { return r.View().Member(name) != nil }

// onLinkUp implements linkObserver.
func (r *Node) onLinkUp() { r.linksChanged() }

// onLinkLost implements linkObserver.
func (r *Node) onLinkLost(subs []*upstreamSub) {
	r.followLoop.onLinkLost(subs)
	r.linksChanged()
}

// onFeedReleased implements followHost.
func (r *Node) onFeedReleased() { notify.Send(r.reconcileNow) }
