package edge

import (
	"context"

	"github.com/fantail-dev/fantail/shard"
)

// Backend serves the edge's requests: *shard.Manager on a lone node, *cluster.Node in a fleet.
// Manager's methods document arguments and errors.
type Backend interface {
	Do(ctx context.Context, req *shard.Request) (shard.Outcome, error)
	Info(ctx context.Context, id shard.StreamID, ask shard.InfoOptions) (shard.Info, error)
	Follow(ctx context.Context, id shard.StreamID, from shard.Pos) (*shard.TailBuffer, func(), error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error)
}

// CreationWaiter tells when streams are created: *shard.Manager on a lone node, *cluster.Node in a fleet.
// Manager's methods document arguments and errors.
type CreationWaiter interface {
	AwaitCreation(id shard.StreamID, w shard.Waker) (stop func(), err error)
}

// Lister lists streams: *shard.Manager, whose methods document arguments and errors.
type Lister interface {
	List(ctx context.Context, project, prefix, after string, limit int) (list shard.LogList, calls int, err error)
	Summarize(ctx context.Context, id shard.StreamID) (shard.Summary, error)
}
