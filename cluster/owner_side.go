package cluster

import (
	"context"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// ownerSide is a Node as its peers use it, by the server. Handing over is in handover.go, and the status in
// heartbeat_status.go.
type ownerSide Node

var _ transport.Streams = (*ownerSide)(nil)

// CheckOwnership implements Streams.
func (o *ownerSide) CheckOwnership(ctx context.Context, id shard.StreamID, rt placement.Route) error {
	n := (*Node)(o)
	t := n.currentTable()
	err := placement.CheckOwnership(t, n.self, id, rt, func(m *placement.Member) bool { return n.memberAnswers(ctx, m) })
	if err != nil {
		n.metrics.notOwner.Inc()
	} else if m := t.Owner(id); m == nil || m.Name != n.self {
		n.noteMisplaced()
	}
	return err
}

// Write implements Streams.
func (o *ownerSide) Write(ctx context.Context, req *shard.Request, force bool) (shard.Outcome, error) {
	return o.local.write(ctx, req, force)
}

// Info implements Streams.
func (o *ownerSide) Info(ctx context.Context, id shard.StreamID, a shard.InfoOptions, force bool) (shard.Info, error) {
	return o.local.info(ctx, id, a, force)
}

// ReadPage implements Streams.
func (o *ownerSide) ReadPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	return o.local.manager.ReadPage(ctx, id, info, from)
}

// FindTime implements Streams.
func (o *ownerSide) FindTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error) {
	return o.local.manager.FindTime(ctx, id, info, since)
}

// SubmitOpen implements Streams.
func (o *ownerSide) SubmitOpen(id shard.StreamID, fn func()) bool {
	return o.openPool.submit(o.local.answersLocally(id), fn)
}

// StartFeed implements Streams.
func (o *ownerSide) StartFeed(ctx context.Context, id shard.StreamID, from shard.Pos, force bool) (
	*shard.TailBuffer, func(), error,
) {
	t, fd, err := o.local.startFeed(ctx, id, from, force)
	return t, fd.release, err
}

// IsMember implements Streams.
func (o *ownerSide) IsMember(name string) bool { return (*Node)(o).View().Member(name) != nil }

// onFeedReleased implements followHost.
func (n *Node) onFeedReleased() { notify.Send(n.reconcileNow) }
