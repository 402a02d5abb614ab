// Package s2dev is an S2 in a Go process: a server that speaks S2's v1 API on one port, in memory
// or in a folder, which S2's own client cannot tell from s2-lite (sdksuite_test.go).
//
// It owns basins, streams and records as S2 defines them, and imports nothing of Fantail: the log
// of shard/s2 reaches it through the SDK and a socket, as it reaches S2; a lone node in the same
// process may leave those out (direct.go).
//
// # The life of a record
//
// A request comes in over HTTP/1.1 or HTTP/2 without TLS, as JSON, protobuf, or a frame of an
// append session (http.go, frames.go), decoded under the bounds of a batch (appendinput.go). checkAppend judges what needs no state: sizes, headers,
// commands (record.go). stream.begin takes the stream's lock, judges the fencing token and the
// match, gives every record its sequence number and timestamp, encodes it once as it will go out,
// and hands the batch to the backing, which decides its place: a slice (backing.go) or one Pebble
// batch of the records and the stream's head (pebble.go). The lock is let go; pending.settle waits
// for the fsync, moves the tail and closes the channel that followers wait on. A follower wakes,
// reads the store at its own position and copies the encoded records into a frame (session.go).
// A trim, the retention's age (sweep.go) or the stream's deletion ends the record.
//
// # Invariants
//
//  1. Readers, tail checks and acks tell only what is durable: tail never passes what was waited
//     for, and head, which judges appends, is never behind it.
//  2. A refusal (412) is told only after everything it rests on is durable.
//  3. A batch is there whole or not at all, after a crash too.
//  4. The order of a stream is decided under its lock, in memory and on disk alike; waiting is done
//     outside the lock, so one fsync serves many batches.
//  5. Every batch that was ordered is settled, also when nobody is left to hear of it: otherwise
//     the tail would stay behind the head.
//  6. A stream's id is never used again; a stream made again under a name is another one, and no
//     follower of the first ever sees the second.
//  7. Timestamps and arrivals never fall along a stream, so that both can be searched.
//  8. Nothing is queued per follower. An append session queues maxUnacked batches and then stops
//     reading.
//  9. Without AllowRemote it listens on loopback only and answers to loopback's names only; there
//     is no authentication.
//  10. A storage that has failed (failure.go: a full disk) acknowledges nothing more, is told of
//     once, and ends its process. Damage in the log is looked for before the store opens
//     (wal.go), and never taken for the log's end.
//
// # Goroutines
//
// The accept loop, the HTTP server's own per connection, one per request, and a second one per
// append session that writes its acks; the request waits for it. The sweeper, and with
// SyncInterval the syncer. Close and Restart cut the connections and wait for all of them: first
// the requests, then the connections, the sweeper, and last the store.
//
// # What is deliberately not here
//
// Access tokens, locations and metrics of the API (501, as s2-lite), encryption (a stream of a
// basin with a cipher exists but answers 501 for its records: nobody is to believe it encrypted),
// storage classes (kept, without effect), deletion that blocks a name for minutes, rate limits;
// Faults can play the last two.
package s2dev
