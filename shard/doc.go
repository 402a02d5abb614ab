// Package shard keeps streams: the record format, the fold of a log into a State, the sequencer of
// appends, and the tail.Buffer that every reader reads. GLOSSARY.md explains the words.
//
// # The path of an append
//
//	Manager.Do                     acquireStream finds or makes the Stream; a create that forks: createFork
//	  Stream.submit                awaitFold folds a log that is not in memory: runOpening, takeOver
//	    submitWithOpening          a create request for such a log goes beside the reads: sendCreate
//	    enqueue                    a full queue refuses; no batch in flight: the caller leads
//	    leadWrites → writeLoop     and, if callers wait or the outcome is open, a goroutine goes on
//	      decideBatch → composeFrom
//	        composer.compose       fills one batch, with a checkpoint where due
//	          decideCall → decide  pure: each caller against fold + what the batch holds
//	          placeDrafts          recordGenerator makes the records; putRecord encodes and folds them
//	      sendBatch                Log.Append at exactly the position of the fold
//	        foldAck
//	          foldFromLog → foldRecords
//	            absorbRecords      drops what is known, by position; State.foldRecord, assembler.addRecord
//	              publishBatch     assembler.flushBatch → tail.Buffer.ExtendLater
//	            wakers.WakeAll     once Stream.mu is released
//	      resolveBatch             answerCalls
//
// Manager.log is a breaker around the Log (breaker.go). Where storage answers nothing, its calls fail
// immediately; otherwise they are those of s2.Log.
//
// Where storage is far away and callers wait, the batches go over an append session, several at a
// time, and each is decided on the prediction of the one before it:
//
//	openPipeline             an append session, if there is room for one
//	pipeline.run
//	  takeAcks               foldFromLog, and the callers' answers
//	  settleRefusals         refusals, once they are proved
//	  sendDue                composeFrom, AppendSession.Submit
//	leaveFailed              the session has ended: resolveBatch has the oldest batch sent again
//
// An append that no batch holds goes in parts: composePart composes each part once the part before
// it is written. If the position is refused, resolveLoss reads what another writer wrote, folds it,
// and has the callers decided again. The whole loop is outlined in sequencer.go.
//
// # The path of a delivery
//
//	Manager.Follow                 describe, then addFollower → openSession → requestTurn
//	  turnLimiter                  the most followed streams first
//	  openFeed                     Feeder.Feed (or Log.Follow): one read session per followed stream
//	    readSession.TakePage       called by the Log; records below WantedPos were left out
//	      foldRecords              the same function as for acknowledgements and read-back
//	        absorbRecords → publishBatch → tail.Buffer.ExtendLater
//	        wakers.WakeAll         once no lock is held: Waker.Wake of each reader that watches
//
// A reader that waits for a stream that does not exist follows nothing: Manager.AwaitCreation adds an
// entry (creation_waits.go), which openTail of the created stream finds.
//
// A reader reads at its position: RecordBatches from tail.Buffer.ReadAt; pages below it, from
// Manager.ReadPage. At the tip it waits with tail.Buffer.Watch. No reader has a queue. Manager.FindTime
// finds the position of a time: by tail.Buffer.FindTime, else from a peer or by one read of the log by
// timestamp (pages.findTime).
//
// The tail.Buffers are one set for the Manager and for cluster's followers, so a reader does not see
// whether its node owns the stream, and keeps its Buffer when that changes.
//
// # The path of a handover
//
//	previous owner: Manager.HandOver
//	  Stream.halt                  refuses the queue, waits for the batch in flight, ends the session
//	  State.encodeHandover         the whole fold, with the last use that only memory knows of
//	  tail.Buffer.Newest            for readers that are a little behind
//	next owner: Manager.InstallHandover
//	  decodeHandover               the fold goes on from there; nothing is read
//	  installTail                  opens or extends the tail.Buffer
//	  addInstalled                 from now on Manager.Do finds the Stream
//
// If the previous owner is dead, Stream.takeOver reads instead: the log's last record, and beside it
// up to 8 KiB of the newest ones; then, unless these reach down to it, everything from the checkpoint
// that the last record points back to (foldFromCheckpoint).
//
// # The path of a fork, and of its pages
//
//	Manager.Do(create, Fork)
//	  createFork
//	    submit                     decideCreate → inheritConfig: would it be made?
//	    StreamOwners.Do(OpHold)    the source's owner: decideHold → addForkRef
//	    submit                     the create record holds the chain: the ancestors' logs, bounded
//	    releaseInBackground        if this attempt did not make it
//	Manager.Info → Stream.describe
//	  confirmChain                 a new owner: askSources → sourceReader: do the sources hold it?
//	  State.Info                   servedChain: what readers are served
//	Manager.ReadPage(ancestor, …)  the edge reads an inherited page in the ancestor's log,
//	                               with an Info that it makes from the chain
//	  ReadPageVia(…, ask)          cluster's Node calls this: ask requests the page of the owner
//	    Buffers.ReadAt             the tail.Buffer of that log may have it
//	    pages.readPage             the cache; all callers that want the page now share one read
//	      readOnce                 askPeer, else fetchPage from the log; caches it
//
// A position that was trimmed from an ancestor's log is a TrimmedError, as in a stream's own log. A
// reader that begins at the start of the stream goes on at the first position that is kept; any other
// is told that its offset is gone.
//
// The reference is in the source's log before the fork's create record, and is given back after the
// fork's end (releasePending, OpRelease). A source that is deleted while forks hold it is gone:
// nothing of it is trimmed, and its name stays taken, until the last reference is back. The source's
// owner removes what a crash leaves behind, after it has asked the forks (sweepRefs). A new owner of
// a fork trusts its create record only once the sources' logs hold the fork (fork_confirm.go). What
// it reads of them is bounded (maxFoldRecords, maxFoldBytes); of a fork that needs more nothing is
// told, and its sources are asked again ten minutes later.
//
// A checkpoint is written with an append, or before one, and never for a reader: a log that only
// others write to is read from its last checkpoint, or its start, at each cold open. Such a log that
// was never created by a fleet is not this fleet's to write to.
//
// # What a trace tells
//
// A caller's context may have a span (package tracing). Then its call carries notes of its wait and of the
// batches it was in (call_trace.go), of which spans are made once it is answered: a batch belongs to many
// callers, of which few are traced. Other calls to storage have their spans in breaker.go. Where several
// callers share a step, it is a step of the caller that began it.
//
// # How a node stands with storage
//
// Where the Log is a Prober, Manager.WatchStanding (standing_watcher.go) asks it every ten seconds,
// with the node's own settings and in the basins that they name. It asks for the fleet's record
// (fleet_record.go) and for each right that a node needs: by appends that are refused for their
// position, not for want of the right. The result is a Standing (standing.go), and nothing else takes
// streams from a node because storage refuses it. A refused request never does: clients name
// projects, and would choose what is refused. The Manager serves whatever its Standing is; its
// callers decide what readiness and ownership make of it.
//
// # Invariants
//
//  1. Every append carries the position at which it must stand. Two owners of one stream cannot
//     corrupt it: one of them loses, reads, and decides again. A batch that stands on one that is not
//     acknowledged travels on the session of that one, and by no other way (pipeline.go). It names
//     that one, so a fold notices if another is there (batch_ids.go).
//  2. Nothing enters a tail.Buffer before the Log has acknowledged it, and everything acknowledged
//     enters it once, in order.
//  3. An append id is written at most once, whichever node sends it, as long as it is among the last
//     1,024; beyond that the answer is ErrOutcomeUnknown and never a second record.
//  4. fold(checkpoint + what follows) = fold(everything).
//  5. A record that does not carry our header, whole and at its own position, is a foreign message,
//     and so is one that no Fantail writes (validate.go); a record of a later release makes the node
//     decline. Whatever a stranger appends to one log has no effect on another: no log is read or
//     written only because a record of another one says so. A forged name of a batch below ends
//     pipelining on this node, which costs time.
//  6. Parts of an append are visible all or not at all: the run must be contiguous and end in its
//     commit.
//  7. A refusal rests on a tail check, or on the reads that opened the stream, sent after its caller
//     arrived; a description on such, on an open session, or on a check sent within 250 ms.
//  8. Everything here is a cache. Dropping a Stream at any moment costs one or two reads and nothing
//     else.
//  9. While storage answers nothing, calls that need it fail immediately; a caller in the middle of
//     an append waits for certainty (breaker.go). Sessions are opened, and streams
//     that are not in memory are read, under token buckets (turn_limiter.go): followers' streams
//     wait for their turn, other requests for a second. So do questions after names without a
//     stream.
//  10. Only a create request makes a log, and only at position 0: where an append makes the log that it
//     names, nothing else is appended while no log is known.
//
// # Bounds
//
// The streams in memory are bounded by their size (Config.StateBytes, estimated in
// memory_charge.go) and by count. When the table is full, the least recently used idle Stream is
// evicted (stream_table.go). Idle means: no caller holds it, nothing is in flight, it has no
// followers, no session and no reference tasks, and its uses are durable as far as the next owner's
// grace does not cover them. If none is idle a newcomer gets ErrOverloaded, and at five quarters of
// the budget so does every request that would make a State grow. Names without a stream have 64 MiB
// of their own and evict only each other. Each stream's queue, its producers and its forks have
// bounds of their own (Config, checkpoint.go, fork_state.go). At most maxAwaitedNames names without a
// stream are waited for.
//
// What a request may have written is bounded as well, beside its own body. That is a record of at
// most 5 KiB (a create record with its chain, fork_state.go) or a tombstone (the last 1,024 append
// ids and the table of forks, some 45 KiB). Every 500 records or 512 KiB it is a checkpoint, too
// (256 KiB of producers beside that). What streams ask each other's owners by themselves
// (fork_refs.go) is paced by a token bucket, with longer and longer pauses where it brings nothing.
// At most 16 logs of forks' sources are folded together, 8 of one project (source_reader.go). The
// edge charges what a fork copies of a message.
//
// # What a write holds
//
// A Request's messages lie in one piece of memory (messages.go) and cost four bytes each beside
// their own. Of its records one batch exists at a time, at most 1,000. Request.Cost bounds all the
// memory that carrying it out holds, wherever it waits. Everything that takes requests from
// strangers charges that to a budget before Manager.Do: the edge (MaxBodies) and the server of
// peers. Requests that wait for one stream's batch are bounded by maxQueueBytes and maxQueueRequests
// too. A stream has at most maxFlightBatches batches in flight, of maxFlightCalls appends and
// maxFlightBytes; a node has at most maxAppendSessions sessions for them.
//
// # Clocks
//
// A node has a wall clock (Config.Now), which may be off by any amount or jump, and a monotonic
// clock. Each place of storage has a clock, which acknowledgements show (storage_clock.go). Where two
// clocks meet:
//
//   - A generation expires (TTL, Expires-At) only when the node's clock and storage's both say so:
//     storage's is the newest acknowledgement in a log with timestamps of its own, or capped by its
//     clock, plus monotonic time since. Where none is known for ten minutes, a clock record is
//     written, once a minute at most, to the fleet's log (or, until the fleet's record is there, to
//     __ds/clock), never to the stream. Where storage does not say, the stream lives on. A stream
//     that is followed is in use.
//   - Uses that memory knows of are monotonic instants, compared as "so long ago" on storage's
//     scale; a Handover holds them as durations, too. Grace is storage's time.
//   - A touch is due by storage's clock alone. The ages of producers, and the times that a
//     checkpoint holds, are storage's times among each other.
//   - A reference is swept once an acknowledgement is refGrace later than it, in storage's time
//     alone. A fork's maker measures maxForkTime monotonically.
//   - An append id's age is the sender's monotonic duration, handed on with each hop. The times of
//     the outcomeWindow are storage's, read by a clock that shows rather too little.
//   - The number of a new generation is the wall clock's, or the last one's successor. A clock that
//     is off makes offsets look odd, and never makes two generations equal while the log is there.
//   - Views of the fleet are dated by wall clocks (cluster): nodes that are apart disagree on owners
//     for as long, which costs sessions and nothing else.
//
// A clock that is off by more than a second is reported: fantail_clock_skew_seconds.
//
// # Goroutines
//
// A stream at rest has none. Manager.spawn starts every goroutine and Manager.Close waits for all:
//
//   - one per session that is being opened (takeTurn) or whose feed has failed (resume), and none
//     while it is open or waits for its turn, unless the Log is no Feeder: then one that runs
//     Log.Follow;
//   - one per tail check of the tailGuard, guardChecks at most, and the one that starts them;
//   - one per attempt to open a stream (runOpening) and two for its first reads (readAside), one to
//     check its tail (runTailCheck) or to ask a fork's sources (askSources);
//   - one per stream that an append has made, until its configuration is checked (ensureConfig),
//     maxConfigChecks of them with a call under way;
//   - per Stream at most one writeLoop, where callers wait behind a batch or its first sending left
//     the outcome open; the first sending runs on the goroutine of the caller that found no batch in
//     flight. It stays for pipelineLinger while the stream has an append session;
//   - per refusal that a pipeline has to prove a tail check (startCheck);
//   - per Stream at most one for its reference tasks (startRefTasks), and one per reference that an
//     attempt gives back (releaseInBackground);
//   - the one that wakes callers that wait for streams to be created (creation_waits.go), and its
//     checks of storage, maxCreatedChecks at most;
//   - the sweeper, the probe of storage, and the standingWatcher with up to eight for its basins;
//   - until its answer is known, the trial of append sessions (runOrderProbe);
//   - one dispatch per limiter while sessions or streams wait for their turn;
//   - one per place of storage that writes a clock record (storageClock.refresh).
//
// No lock is held over I/O, and wakers run after locks are released. Lock order: Manager.mu,
// Stream.mu, then one of storageClocks.mu, storageClock.mu, turnLimiter.mu and tail.Buffers.mu,
// then tail.Buffer.mu. creationWaits.mu comes last.
//
// # Not here
//
// Which node owns a stream (cluster), client offsets and HTTP (edge), S2 itself (shard/s2).
// Decision: positions in this package are S2 sequence numbers and nothing else, because only the
// edge speaks to clients.
package shard
