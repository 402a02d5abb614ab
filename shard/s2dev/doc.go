// Package s2dev is an S2 in a Go process: a server that speaks S2's v1 API on one port, in memory
// or in a folder. S2's own client cannot tell it from s2-lite (sdksuite_test.go).
//
// It keeps basins, streams and records as S2 defines them, and imports nothing of Fantail: the Log
// of shard/s2 reaches it through the SDK and a socket, as it reaches S2. A lone node in the same
// process may leave both out (direct.go).
//
// # The path of an append
//
// Server.handle routes a request over HTTP/1.1 or HTTP/2 without TLS to apiCall.appendRecords. A
// unary append, in JSON or protobuf, goes to Server.appendBatch. A frame of an append session goes
// to appendSession.acceptBatch. Both decode it within the bounds of a batch (append_input.go).
// checkAppend then checks what needs no state: sizes, headers, commands. stream.startAppend takes
// the stream's lock, checks the fencing token and the match, and calls sequenceBatch: each record
// gets its sequence number and timestamp, and newRecord encodes it once, as it will be sent.
// recordLog.startAppend decides its place: in a slice (memory_storage.go), or in one Pebble batch
// of the records and the stream's head (disk_storage.go). The stream's lock is released.
// pendingAppend.complete waits for the fsync, moves the tail and closes the channel that followers
// wait for.
//
// # The path of a delivery
//
// apiCall.readRecords parses the bounds (readBounds). A unary read answers with what stream.read
// returns. A read session is readSession.run: it reads the stream at its own position, gives the
// records to its sink, and at the tail waits in waitAtTail for the stream's channel. Over a socket
// the sink encodes them into frames (frameSink, frameEncoder). A trim, the retention's age (sweep.go)
// or the stream's deletion ends a record's life.
//
// Handovers and forks are unknown here: to S2 they are appends and reads.
//
// # Direct and the sessions
//
// Direct serves callers in the same process without HTTP, JSON and frames. It shares with the API
// Server.appendBatch, Server.durableTail, enterStream, the catalogue, stream.read and readSession.
// Direct.Follow is a readSession without bounds whose sink decodes records into messages
// (directSink). It knows only the faults before a session opens, EndSession and Silence; the others
// are faults of a connection.
//
// # Invariants
//
//  1. Readers, tail checks and acks show only what is durable: the tail never passes what was waited
//     for. The head judges appends, and is never behind the tail.
//  2. A refusal (412) is sent only after everything that it rests on is durable.
//  3. A batch is there whole or not at all, after a crash, too.
//  4. The order of a stream is decided under its lock, in memory and on disk alike. Waiting happens
//     outside the lock, so one fsync serves many batches.
//  5. Every batch that was ordered is completed, even if its client has left: otherwise the tail
//     would stay behind the head.
//  6. A stream's id is never used again. A stream that is created again under a name is another
//     stream, and no follower of the first ever sees the second.
//  7. Timestamps and arrivals never fall along a stream, so that both can be searched.
//  8. Nothing is queued per follower. An append session queues maxUnacked batches and then stops
//     reading.
//  9. Without AllowRemote the server listens on loopback only and answers to loopback's names only.
//     There is no authentication.
//  10. A failed storage (storage_failure.go: a full disk) acknowledges nothing more, reports its
//     failure once, and ends the process. Damage in the log is looked for before the storage opens
//     (wal.go), and is never taken for the log's end.
//
// # Lock order
//
// Server.mu, Server.catalogueMu, catalogue.changeMu, catalogue.mu, stream.mu, then the storage's own
// locks. Last meter.sessionsMu, then meter.mu.
//
// # Goroutines
//
// The accept loop, the HTTP server's own per connection, one per request, and a second one per
// append session that writes its acks: the request waits for it. The sweeper, and with SyncInterval
// the syncer. Close and Restart abort the connections and wait for all of them: first the requests,
// then the connections, the sweeper, and last the storage.
//
// # Not here
//
// Access tokens, locations and metrics of the API (501, as in s2-lite). Encryption: a stream in a
// basin with a cipher exists, but answers 501 for its records, since its owner must not believe
// that they are encrypted. Storage classes are kept, without effect. There is no deletion that
// blocks a name for minutes, and there are no rate limits: Faults can play both.
package s2dev
