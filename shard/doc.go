// Package shard keeps streams: the record format, the fold of a log into a
// state, the sequencer of appends, and the TailBuffer that every reader reads.
//
// # The life of an append
//
// Manager.Do finds the stream's Stream and gives it the request. If the Stream is
// cold it first takes the log over (takeover.go): the last record, then from the
// checkpoint that it points back to. The sequencer (sequencer.go) has one batch
// in flight; whoever comes meanwhile waits. compose (batch.go) then fills one
// batch: it decides each caller (decide.go, pure) against the State plus what the
// batch already holds, encodes the records (header.go) and, where due, adds a
// checkpoint (checkpoint.go). An append that no batch holds goes in parts, each laid out once the
// one before it is written (script.go). The batch goes to the Log at exactly the position
// that the fold has reached. Acknowledged, its records are folded (state.go,
// pure), assembled into a RecordBatch (assemble.go, record_batch.go), appended to the TailBuffer,
// and the callers are answered. Refused, the Stream reads what somebody else
// wrote, folds it, and every caller is decided again.
//
// # The life of a reader
//
// Manager.Follow gives the stream's TailBuffer and has a read session open while anybody
// follows. Records enter from acks, the session and read-back through one
// function, Stream.absorb; what is known already is dropped by position. A reader
// reads at its position: RecordBatches from the TailBuffer, pages (pages.go) below it, and
// waits by a Waker at the tip. Nothing is queued for a reader.
//
// # The life of a fork
//
// A fork (fork.go, pure; forks.go) has a log of its own; its create record holds the
// chain of ancestors whose logs it reads, up to a bound each. Its owner has the
// source's owner write a reference (KindHold) first, then creates, and gives the
// reference back (KindRelease) after the fork's end. A source that is deleted while
// it is held is gone: nothing of it is trimmed, and its name stays taken, until the
// last reference is back. What a crash leaves behind is struck out by the source's
// owner, which asks the forks (verify). A new owner of a fork believes its create record
// only once the sources' logs hold it (confirm.go). What it reads of them is bounded: beyond
// that nothing is told of the fork, and the sources are asked again ten minutes later. Forks
// that name one source share a read of it (source_reader.go), sixteen sources are read at a
// time, and eight of one project.
//
// A checkpoint is written with an append, or before one, and never because somebody reads: a
// log that only others write to is read from its last checkpoint, or its start, at each cold
// open. Such a log that nobody has created is not this fleet's to write to.
//
// # How a node stands with storage
//
// Where the Log is a Prober, Stand (stander.go) asks it every ten seconds, with the node's own
// settings and in the basins that they name, for the fleet's record (fleetrecord.go) and for
// each right that a node needs: by appends that are refused for their position, not for want
// of the right. What it finds is a Standing (standing.go): the only thing that takes streams
// from a node because storage refuses it. A refused request never does: clients name projects,
// and would choose what is refused. The Manager serves whatever its Standing is; readiness and
// owners are for those who ask it.
//
// # Invariants
//
//  1. Every append carries the position at which it must stand. Two owners of one
//     stream cannot corrupt it: one of them loses, reads, and decides again.
//  2. Nothing enters a TailBuffer before the Log has acknowledged it, and everything
//     acknowledged enters it once, in order.
//  3. An append id is written at most once, whoever sends it, as long as it is
//     among the last 1,024; beyond that the answer is ErrOutcomeUnknown and
//     never a second record.
//  4. fold(checkpoint + what follows) = fold(everything).
//  5. A record that does not carry our header, whole and at its own position, is a
//     foreign message, and so is one that says what no Fantail writes (validate.go); a
//     record of a later release makes the node decline. Whatever a stranger appends to
//     one log has no effect on another: no log is read or written because a record of
//     another one says so alone.
//  6. Parts of an append are visible all or not at all: the run must be contiguous
//     and end in its commit.
//  7. A refusal rests on a tail check sent after its caller arrived; a description
//     on one such, on an open session, or on a check sent within 250 ms.
//  8. All that is here is a cache. Dropping a Stream at any moment costs one or two
//     reads and nothing else.
//  9. While storage answers nothing, whoever needs it hears so at once; who is in the
//     middle of an append waits for certainty (breaker.go). Sessions are opened under
//     token buckets (opens.go), and streams that are not in memory are read under
//     another (cold.go): followers' wait for their turn, other requests for a second.
//     So are questions after names without a stream.
//
// # Bounds
//
// The streams in memory are bounded by what they cost (Config.StateBytes, estimated in
// weight.go) and by count. Full, the least recently used that is idle makes room
// (states.go): no caller holds it, nothing is on its way, nobody follows it, it has no
// session, owes nothing, and its uses are durable as far as the next owner's grace does
// not cover them. If none is idle a newcomer hears ErrOverloaded, and at five quarters
// of the budget so does what would make a State grow. Names without a stream have 64 MiB
// of their own and push out only each other. Each stream's queue, its producers and its
// forks have bounds of their own (Config, checkpoint.go, fork.go).
//
// What a request may have written is bounded as well, beside its own body: a record of
// at most 5 KiB (a create record with its chain, fork.go) or a tombstone (the last 1,024
// append ids and the table of forks, some 45 KiB), and every 500 records or 512 KiB a
// checkpoint (256 KiB of producers beside that). What streams ask of each other's owners
// on their own (forks.go) takes turns under a token bucket, with longer and longer pauses
// where it brings nothing. What a fork copies of a message is the edge's to charge.
//
// # What a write holds
//
// A Request's messages lie in one piece of memory (messages.go) and cost four bytes each beside
// their own. Of its records one batch exists at a time, at most 1,000. Request.Cost bounds all that
// carrying it out holds, wherever it waits, and whoever takes requests from strangers charges that
// to a budget before Manager.Do: the edge (MaxBodies) and the server of peers. What waits for one
// stream's batch is bounded by QueueBytes and QueueRequests as well.
//
// # Clocks
//
// A node has a wall clock (Config.Now), which may be off by any amount or jump, and a
// monotonic one. Each place of storage has a clock, which acknowledgements show
// (clock.go). Where two clocks meet:
//
//   - A life ends (TTL, Expires-At) only when the node's clock and storage's both say so:
//     storage's is the newest acknowledgement in a log whose timestamps are its own or
//     capped by it, plus monotonic time since. Where none is known for ten minutes, a
//     clock record is written, once a minute at most, to the fleet's log (or, until the
//     fleet's record is there, to __ds/clock), never to the stream. Where storage does
//     not say, the stream lives on. A stream that is followed is in use.
//   - Uses that memory knows of are monotonic instants, compared as "so long ago" on
//     storage's scale; a Handover holds them as durations, too. Grace is storage's time.
//   - A touch is due by storage's clock alone. The ages of producers, and the times that
//     a checkpoint holds, are storage's times among each other.
//   - A hold is looked into once an acknowledgement is refGrace later than it, in
//     storage's time alone. A fork's maker measures maxForkTime monotonically.
//   - An append id's age is the sender's monotonic duration, handed on with each hop; the
//     window's times are storage's, read by a clock that rather shows too little.
//   - A new life's number is the wall clock's or the last one's successor: a clock that
//     is off makes offsets look odd, and never makes two lives the same while the log is
//     there.
//   - Views of the fleet are dated by wall clocks (cluster): nodes that are apart disagree
//     on owners for as long, which costs sessions and nothing else.
//
// A clock that is off by more than a second is told of: fantail_clock_skew_seconds.
//
// # Goroutines
//
// None per stream at rest. Manager.spawn starts every goroutine and Manager.Close waits
// for all: one per open session (runSession), one per attempt to open or to check
// the tail, the sweeper, the probe of storage, the one that asks how the node stands (with
// up to eight for the basins that it asks in), one that gives turns while sessions wait to
// be opened and one while streams wait to be read, one per place of storage that
// writes a clock record, one for the chores of a stream that owes or is gone, one
// per reference that an attempt gives back, and, where callers wait behind a batch or its first
// sending did not settle it, one that carries batches out (fly). The first
// sending is done by the caller that found no batch in flight, on its own
// goroutine. No lock is held over I/O, and wakers run after locks are released.
// Lock order: Manager.mu, Stream.mu, (clocks.mu, clock.mu, cold.mu or
// TailBuffers.mu), Tail.mu.
//
// # Not here
//
// Which node owns a stream (cluster), client offsets and HTTPAddr (edge), S2 itself
// (shard/s2). Decision: positions in this package are S2 sequence numbers and
// nothing else, because only the edge speaks to clients.
package shard
