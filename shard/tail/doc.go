// Package tail keeps the newest records of streams in memory, for every reader of a node. It is
// pure: it has no I/O, no clock and no goroutine, and it knows neither storage nor the fleet.
//
//	RecordBatch   the unit in which records travel, immutable, in one byte layout
//	Builder       lays a RecordBatch out; ParseBatch checks bytes from outside
//	Buffer        the newest RecordBatches of one generation of one stream
//	Buffers       the Buffers of a node, and their common budget
//	Waker         a reader that waits for news of a Buffer
//	Info          what a Buffer says of its stream
//
// # How records come and go
//
// A feed (an owner's acknowledgements, its read session, the link to another node) opens the
// stream's Buffer with Buffers.Open, and extends it with each RecordBatch: Buffer.Extend, or
// ExtendLater where the feed holds a lock of its own and wakes the readers after it. A Buffer takes
// feeds of several kinds at the same time: it drops records that it has, and returns GapError for a
// hole. SkipTo moves it over records that a feed could not bring.
//
// A reader is a position. It calls Buffer.ReadAt, sends what it gets, and goes on from where that
// ends. At the tip it calls Watch, which arms its Waker unless there is something to read already;
// the next news wakes it, once. Below what the Buffer holds (StatusBelow) it reads pages from
// elsewhere. The Wakers are: all readers of one stream in one loop of package reactor
// (streamReaders), a goroutine of package edge or of cmd/fantail's feed of revocations (sse.WakeSignal),
// and a peer's subscription in package cluster/transport (sessionSub).
//
// # Invariants
//
//  1. A Buffer is a run of RecordBatches without a hole and in order, in one generation.
//  2. The visible tail never falls, and never lies beyond what the Buffer has been given.
//  3. A generation ends once, and stays ended: every reader gets StatusGone and the reason.
//  4. A RecordBatch never changes; all readers and peers share its bytes.
//
// # Why there are no queues
//
// A reader that is slow costs a position and nothing else: what it has not read yet is in the
// Buffer for as long as the budget allows, and in storage after that. A queue for each reader would
// cost memory in proportion to readers and would need a policy for when it is full.
//
// # Bounds
//
// A Buffer holds at most so many bytes, and all Buffers together at most a budget (NewBuffers). When
// either is full, the oldest RecordBatches are dropped. A Buffer with readers keeps its newest
// RecordBatch, which they still have to read, whatever the budget says. If such Buffers alone exceed
// the budget, Reclaim searches again only once they hold a sixteenth of the budget more. The number
// of Buffers is bounded by their owners: streams and followers.
//
// # The files
//
// The files refer one way, to record_batch, info, ids and units. The exception is buffer.go and
// buffers.go, which know each other: a Buffer counts its bytes in its Buffers, and leaves them with
// its last reference.
//
// # Locks
//
// Buffers.mu, then Buffer.mu. Neither is held over a call to a Waker, and a Waker must not block.
package tail
