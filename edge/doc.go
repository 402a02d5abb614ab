// Package edge speaks Durable Streams over HTTPAddr.
//
// # The life of a request
//
// A tap (tap.go) takes note of every answer, for metrics, log and access log. Below it,
// ServeHTTP (server.go) is the route table: the escaped path names a stream
// (name.go), the method a handler. Writes (publish.go) read a bounded body, make
// a shard.Request of it and let Streams.Do decide; refusals and errors become
// problem documents by the tables in errors.go. Reads (subscribe.go) turn an
// offset (query.go, offset.go) into a log position of the stream's current life, and then
// answer a chunk (catch-up), wait once (longpoll.go) or stream (sse.go).
//
// A header that is kept, travels to other nodes or comes back in an answer has a row in
// headerTable (headertable.go), which says its bound, its bytes and where it goes; a write's are
// checked before anything else of it is read.
//
// A fork is read leg by leg (place.go): what it inherited in its ancestors' logs,
// under offsets of their lives, then its own. fork.go finds out what a PUT inherits.
//
// A request that has come whole is carried out and answered though its client says that nothing
// follows (a FIN, which may be half of a hang-up), within wholeFor (whole.go). What waits for news
// does not: a long-poll is answered then as if its time were over, and an event stream gets what is
// there in one turn and ends.
//
// # The life of an SSE reader
//
// A cursor (cursor.go) is the reader's place in the stream's TailBuffer and the bytes
// that it is owed. RecordBatches become frames (frame.go), rendered once for all readers
// that stand at the same place; each data event is followed by its control event.
// A driver writes what is
// pending, fetches a page when the reader stands below the TailBuffer, and waits for
// news when it is idle.
//
// There are two. The handler has read the request, checked it and brought the first page
// (sse.go). A reader on HTTPAddr/1.1 on Linux then leaves net/http: the reactor
// (reactor_linux.go), a few loops with epoll, takes its descriptor and its cursor, and its
// tls.Conn, if it has one (seal_linux.go). Readers of a stream who stand alike are sent the
// same bytes (step_linux.go). All others are driven by their request's goroutine.
//
// # The life of a catch-up answer
//
// collect (chunk.go) finds a chunk's messages in pages, within what may be held (pins.go);
// send writes it: on TCP in a turn (stint.go), so that a crowd that catches up leaves
// processors for everything else; elsewhere piece by piece (pacer.go).
//
// # The life of a connection that appends
//
// It is net/http's until it has brought a few appends. From then on a writer (writer.go) reads
// it, parses what is ordinary (request.go), and calls the same handler; what is not, and what
// does not come, it gives back to net/http with the connection, as it came. So net/http stays
// the only judge of what it could refuse, and what an append costs beside the appending is half.
//
// # Invariants
//
//  1. Only this package knows client offsets; everything behind it speaks log
//     positions.
//  2. The offset shown is the place after the last message delivered, or the
//     visible tail: POST, HEAD, GET and SSE agree, whatever control records follow.
//  3. A reader is never skipped: it takes every RecordBatch that joins where it stands,
//     and falls back to pages (fantail_gaps_detected_total counts the contrary).
//  4. What is cut into a chunk depends on the offset and the messages only, so
//     every node gives the same bytes.
//     A reader of text (text.go) is shown the same text whichever messages share an event: an LF
//     after a CR is no second line break, though they lie in two, and no event ends inside a
//     character. Only the half of a character whose rest does not come for a second is shown as
//     U+FFFD, and the reader goes on at the next character: of broken text two readers may see
//     two versions. Catch-up gives the bytes. Text that declares another charset than UTF-8 or
//     US-ASCII is base64, as what is no text, and is never held.
//  5. An SSE connection ends between two events: in a drain in its turn (drain.go), or
//     because other nodes have fewer (rebalance.go).
//  6. No answer says 404 or 410 because an owner could not be reached.
//  7. What is in flight is bounded: readers by MaxReaders, those of them
//     that have a goroutine by MaxGoroutineReaders, and those on one connection of HTTPAddr/2 by
//     connReaders, which leaves room for appends beside them (occupy.go), writes by MaxBodies (intake.go),
//     a reader's owed bytes by its turn's budget and one append, what all of them hold
//     while it is written by PinnedBytes, what was encrypted for them included, what is
//     written to those who catch up by ChunkBytes and a chunk for each of collectors, and
//     what a loop copies to be sent to many by 64 KiB (stepMost). A writer has room for 4 KiB
//     (writerRoom), as a connection of net/http has.
//  8. A writer's handler is asked what net/http's would be, of the same bytes, or nothing:
//     FuzzWriter has both hear the same.
//  9. A panic costs the reader or the request that met it, whatever drives it (guard.go). It
//     is counted, and logged with its stack.
//  10. Only its loop writes to a reader of the reactor or closes it, and nothing in a loop
//     can block. What others want of it comes by mail.
//
// # What a request may cost
//
// In memory, in bytes for each byte that was sent, and where that is counted; TestWhatWritesHold
// measures it. A request has a goroutine as well, with a stack of 8 to 16 KiB while it is in flight:
// one for a connection of HTTPAddr/1.1, one for each stream of one of HTTPAddr/2.
//
//	PUT, POST of text   3 of the first MiB and 8 KiB, 1 beyond it (shard.Cost); MaxBodies
//	POST of an array    as text, and 512 for an element up to the 1,000th, 60 for each of
//	                    more than that: 45 for [0,0,…] of 64 KiB; MaxBodies
//	a body on its way   4 and 2 KiB, nothing before its first byte; coded with gzip 64 KiB more
//	                    and 4 for each byte that it decodes to; MaxBodies
//	PUT that forks      as PUT; what it copies of its source counts as if it were sent, and a
//	                    node copies copyPerSecond bytes; MaxBodies
//	HEAD, DELETE        8 KiB; a DELETE is counted as a POST without a body; MaxBodies
//	GET, catch-up       a chunk (collect), shared by all who get the same one; ChunkBytes
//	long-poll           as GET once there is news, nothing but the connection before; MaxReaders
//	event stream        what it is written in one turn, shared by all who get the same;
//	                    FrameBytes, PinnedBytes, MaxReaders
//
// Over HTTPAddr/2 what has come of bodies and was not read is 1 MiB a connection at most; handlers read
// immediately, or refuse. A request's head has 32 KiB at most, and counts with a write.
// What waits is refused when there is no room: writes with 429, readers with 503. Bodies on their
// way go first, the slowest before the others (intake.ease).
//
// # Goroutines
//
// The request's own, by net/http; a writer's, in its place, and one that looks for writers whose
// requests take too long. With the first reader that it takes the reactor starts two for each
// processor: the loop, and one that waits for its epoll descriptor; one that gives memory back
// once a crowd has come (settle_linux.go); and one for each page that readers of a loop wait
// for, at most pagesAtOnce. Server.Close ends them and waits.
//
// # Decisions
//
// An event's id is its last line. Some clients (eventsource 1 and 2, fetch-event-source) take
// an id when its line comes and not with the event, and a connection that broke below the line
// would lose them the event. One byte is left, between that line and the empty one, because no
// byte can end both. The control event that follows a data event has no id: the data event has
// said it, so a connection that breaks between the two resumes behind the data. Of an event of
// 256 bytes that is 38 bytes of 475. A control event that stands alone has one, or a reader that
// is told nothing but where the stream ends would come back to where it began.
//
// The id of the last event comes in Last-Event-ID, or in a parameter by that name or as
// lastEventId, as event-source-polyfill sends it. Of several the one furthest on in the stream
// counts: a URL may hold one from when its page was made.
//
// An event stream that the reactor writes ends with its connection, and has no chunked transfer
// coding. Chunks cost next to nothing: 7 bytes for an event of 432, and no CPU that can be
// measured (bench/results/readers.txt). With them a client and a proxy tell a cut from an end,
// and that is the reason against them. After a node's crash the protocol's published client, which
// comes back after a clean end, gives up for good after an error: in Node behind nginx it did so,
// and Chromium's fetch reports such a cut as a network error. fetch-event-source, as it comes, does
// the opposite: it gives up after a clean end, and needs an onclose that throws. It would need that
// with chunks too, because a drain, which is far more frequent than a crash, ends streams cleanly.
// Over HTTPAddr/2, and where net/http writes the stream, a cut is visible already.
//
// Any origin may ask with any header, because no answer allows credentials.
//
// A client takes one space away after "data:". Text that begins with one therefore
// gets another (appendSpare), so that SSE gives what catch-up gives; the reference
// servers write the bytes as they are, and " brave" becomes "brave" at their readers.
// The one case of the protocol's client suites that counts on that loss
// (sse-strips-single-leading-space) fails with Fantail.
//
// # Not here
//
// Which node a stream belongs to (the Streams behind), storage, and health and
// metrics endpoints, which never stand on the public address.
package edge
