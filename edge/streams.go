package edge

import (
	"context"

	"github.com/fantail-dev/fantail/shard"
)

// Streams is all that the edge asks of the world behind it: *shard.Host on a lone
// node, *cluster.Relay in a fleet. See Host's methods for shapes and errors.
type Streams interface {
	Do(ctx context.Context, req *shard.Request) (shard.Outcome, error)
	State(ctx context.Context, id shard.StreamID, ask shard.Ask) (shard.Info, error)
	Follow(ctx context.Context, id shard.StreamID, from uint64) (*shard.Tail, func(), error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from uint64) (shard.Range, error)
}
