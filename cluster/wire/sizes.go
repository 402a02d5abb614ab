package wire

import "github.com/fantail-dev/fantail/shard"

// Sizes on the wire, in bytes.
const (
	// MaxFrameBytes bounds the data of a Frame, about, and of a chunk of a call.
	MaxFrameBytes = 64 << 10
	// MaxPieceBytes bounds the data of one subscription in one Frame.
	MaxPieceBytes = 32 << 10
	// PartOverhead is the space that a Part takes beside its data.
	PartOverhead = 24
	// MaxBatchBytes bounds a record batch: the largest append and what was batched with it, with
	// its index.
	MaxBatchBytes = 2*shard.MaxBody + 4<<20
)

// Bounds of what a peer may send. There is one for each part of a message that has a size.
const (
	// MaxMessageBytes bounds one message of any kind; gRPC refuses more.
	MaxMessageBytes = 4 << 20
	// maxMemberName bounds a member's name, maxExcluded the names in a route.
	maxMemberName = 255
	maxExcluded   = 256
	// maxTextBytes bounds a text that logs hold, such as a content type: no record header is
	// longer.
	maxTextBytes = 64 << 10
	// maxControlItems bounds each list of one control message.
	maxControlItems = 4096
	// maxPosition bounds a position; S2 will never reach it.
	maxPosition = 1 << 62
	// maxTime bounds an instant, in milliseconds since 1970.
	maxTime = 1 << 53
	// maxHandoverBatches bounds the record batches of a Handover.
	maxHandoverBatches = 1 << 16
	// maxReaders bounds the number of readers that a node reports.
	maxReaders = 1 << 30
	// maxStoreAnswerAge bounds the age of S2's last answer that a node reports, in milliseconds: a
	// day.
	maxStoreAnswerAge = 24 * 60 * 60 * 1000
)
