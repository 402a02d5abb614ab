package shard

import "github.com/fantail-dev/fantail/shard/tail"

// The types of package tail under this package's name, for its callers: they are the arguments and
// results of its exported methods, so an importer of shard needs no second import to read a stream.
// TailBuffer is what the texts call a tail buffer.
type (
	// RecordBatch is tail.RecordBatch.
	RecordBatch = tail.RecordBatch
	// Message is tail.Message.
	Message = tail.Message
	// TailBuffer is tail.Buffer.
	TailBuffer = tail.Buffer
	// TailBuffers is tail.Buffers.
	TailBuffers = tail.Buffers
	// TailStatus is tail.Status.
	TailStatus = tail.Status
	// GapError is tail.GapError.
	GapError = tail.GapError
	// Waker is tail.Waker.
	Waker = tail.Waker
)

// The statuses of tail.Buffer.ReadAt.
const (
	StatusTip    = tail.StatusTip
	StatusMore   = tail.StatusMore
	StatusBelow  = tail.StatusBelow
	StatusClosed = tail.StatusClosed
	StatusGone   = tail.StatusGone
)

// NewTailBuffers calls tail.NewBuffers.
func NewTailBuffers(perStream int, budget int64) *TailBuffers {
	return tail.NewBuffers(perStream, budget)
}

// ParseBatch calls tail.ParseBatch.
func ParseBatch(b []byte) (RecordBatch, error) { return tail.ParseBatch(b) }

// EmptyBatch calls tail.EmptyBatch.
func EmptyBatch(from, to, shown Pos, closed bool) RecordBatch {
	return tail.EmptyBatch(from, to, shown, closed)
}
