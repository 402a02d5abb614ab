package edge

import (
	"context"

	"github.com/fantail-dev/fantail/shard"
)

// Backend is all that the edge asks of the world behind it: *shard.Manager on a lone
// node, *cluster.Node in a fleet. See Manager's methods for shapes and errors.
type Backend interface {
	Do(ctx context.Context, req *shard.Request) (shard.Outcome, error)
	Info(ctx context.Context, id shard.StreamID, ask shard.InfoOptions) (shard.Info, error)
	Follow(ctx context.Context, id shard.StreamID, from uint64) (*shard.TailBuffer, func(), error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from uint64) (shard.RecordBatch, error)
}
