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
	FindTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error)
}

// CreationWaiter tells when streams are created: *shard.Manager on a lone node, *cluster.Node in a fleet.
// Manager's methods document arguments and errors.
type CreationWaiter interface {
	AwaitCreation(id shard.StreamID, w shard.Waker) (stop func(), err error)
}

// ReaderCounter counts the readers of streams, event streams and long-polls that wait, on all nodes:
// *shard.Manager on a lone node, *cluster.Node in a fleet.
type ReaderCounter interface {
	// CountReaders returns the number of a stream's readers as its owner knows it, to a second or two;
	// known: all nodes count theirs.
	CountReaders(ctx context.Context, id shard.StreamID) (n int, known bool)
	// WatchReaders has KnownReaders know the number until the caller calls stop. The caller follows the
	// stream meanwhile.
	WatchReaders(ctx context.Context, id shard.StreamID) (stop func())
	// KnownReaders returns the number as this node knows it. It does not block.
	KnownReaders(id shard.StreamID) (n int, known bool)
}

// Lister lists streams: *shard.Manager, whose methods document arguments and errors.
type Lister interface {
	List(ctx context.Context, project, prefix, after string, limit int) (list shard.LogList, calls int, err error)
	Summarize(ctx context.Context, id shard.StreamID) (shard.Summary, error)
}
