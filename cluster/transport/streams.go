package transport

import (
	"context"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/shard"
)

// Streams serves the streams of a node to its peers. Its methods are called from the goroutines of
// gRPC's handlers, and may block.
type Streams interface {
	// CheckOwnership returns nil if this node serves a peer's request for the stream, else a
	// *placement.RedirectError.
	CheckOwnership(ctx context.Context, id shard.StreamID, r placement.Route) error
	Write(ctx context.Context, req *shard.Request, force bool) (shard.Outcome, error)
	Info(ctx context.Context, id shard.StreamID, a shard.InfoOptions, force bool) (shard.Info, error)
	ReadPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error)
	FindTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error)
	// SubmitOpen runs fn soon, which calls StartFeed; false: too many streams are being opened.
	SubmitOpen(id shard.StreamID, fn func()) bool
	// StartFeed returns the stream's tail buffer, which is fed until the caller calls release, exactly
	// once.
	StartFeed(ctx context.Context, id shard.StreamID, from shard.Pos, force bool) (t *shard.TailBuffer, release func(), err error)
	// AwaitCreation has w woken when a stream of that name may have come to exist, until the caller calls
	// stop; exists: there is one already, and stop is nil.
	AwaitCreation(ctx context.Context, id shard.StreamID, force bool, w shard.Waker) (stop func(), exists bool, err error)
	// AddReaders says that peers feed so many more readers of the stream from this node.
	AddReaders(id shard.StreamID, delta int)
	// KnownReaders returns the number of a stream's readers on all nodes, as this node knows it.
	KnownReaders(id shard.StreamID) (n int, known bool)
	// ServeOffered makes this node serve a stream that it owns now and that the previous owner
	// offers.
	ServeOffered(ctx context.Context, id shard.StreamID) error
	// HandOver hands a stream to its next owner. A member that is not its next owner gets an error.
	HandOver(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (h shard.Handover, found bool, err error)
	IsMember(name string) bool
	// Report answers a question about this node, of at most MaxQuestion bytes.
	Report(ctx context.Context, question []byte) ([]byte, error)
	// StatusFor returns what this node tells a peer with each heartbeat.
	StatusFor(peer string) Status
}

// MaxQuestion and MaxReport bound the two halves of a report, in bytes.
const (
	MaxQuestion = 4 << 10
	MaxReport   = 1 << 20
)
