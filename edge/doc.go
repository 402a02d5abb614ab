// Package edge speaks Durable Streams over HTTP.
//
// What needs no HTTP is in packages of its own:
//
//	access       what the holder of a credential may do
//	position     offsets, forks' segments, Stream-Cursor
//	sse          one reader's event stream, without its connection
//	sendbudget   the memory that is held while it is written
//	byteclass    which bytes a header may have
//	netconn      connections that can be taken from net/http
//	reactor      event streams without goroutines, on Linux
//
// The files here are the HTTP semantics. "PROTOCOL 5.6" is section 5.6 of the protocol's document, which is at
// https://github.com/durable-streams/durable-streams/blob/main/PROTOCOL.md.
//
// # The path of a request
//
// serveRecorded (serve_http.go) records every answer for metrics, log and access log. It calls route
// (route.go): streamRoots.parseStreamPath turns the escaped path into a stream, boundBodyTime bounds how long the
// body may take, authorize decides whether the request may do what it asks for, and the method picks
// a handler. Errors become problem documents by the two tables in problem_table.go: writeError for
// errors, writeRefusal for verdicts; writeDenial (deny.go) answers what the Judge of package access
// refuses.
//
// authorize is the one place that decides, on the canonical stream id. It comes before anything about
// the stream is asked, before a body is read, and before an answer says what exists. What it returns,
// a decision, says how the answer may be cached (decision.cacheControl) and how long a reader may stay
// (beginStay). The reader's sse.Permit follows from it, and watchLeases has all readers ask theirs again
// after a revocation or a change of the file. stillAllows asks once more before an append is handed on, because its body may have
// taken minutes. Without a file of rights it returns immediately.
//
// A header that is kept, travels to other nodes or comes back in an answer has a row in
// headerTable (header_rules.go), with its bound, its bytes and where it goes; a write's headers are
// checked before anything else of it is read.
//
// A request that has arrived whole is executed and answered although its client has sent a FIN
// (which may be half of a hang-up), within maxRequestTime (request_context.go). Reads that wait for
// news are different: a long-poll is answered as if its time were over, and an event stream gets
// what there is in one turn and ends.
//
// # The path of an append
//
// servePost (write_handlers.go) calls newWrite, which makes a shard.Request of the headers, and
// doWrite. That calls loadMessages, which reads the body (readBody, readAll) as it arrives, charges
// it to the budget of writes (bodyCharge.reserve), and splits it into messages (setMessages,
// splitJSON). Then Backend.Do (shard.Manager of a lone node, cluster.Node of a fleet) decides the
// request; servePost sets the headers of the Outcome. A PUT goes the same way through servePut;
// parseFork and inspectSource find out what a fork inherits.
//
// After a few appends the connection leaves net/http: netconn.AppendConns.TakeOver. Its requests reach
// the same handler, and what is not a plain append goes back to net/http.
//
// # The path of a delivery
//
// serveGet (read_handlers.go) parses the query (parseQuery) and finds the position (resolveRead,
// position.Offset.Resolve). openEventStream (sse_handler.go) admits the reader (admitOnConn, admitReader),
// follows the stream (Backend.Follow) and fetches the first page of a reader below the tail buffer
// (prepareFirstPage). An sse.Session holds the reader's position in the tail buffer and its pending
// output: package sse has the path from RecordBatches to bytes.
//
// A session does no I/O. It says what is to be done (sse.Session.Next), and one of two executors does
// that. eventStream.serve offers the stream to the reactor (handToReactor); if that does not take it,
// writeHead and run serve it:
//
//   - eventStream.run, on the goroutine of the request: any net/http connection, HTTP/2 above all.
//     It writes through a netconn.StallWriter.
//   - The reactor, for HTTP/1.1 on Linux, with and without TLS: its package has the path from there.
//
// # The path of a catch-up page, of a fork too
//
// serveCatchUp answers a plain GET, within serveCompressed. loadChunk (catchup.go) waits for a load
// slot and for room in the budget (acquireLoadSlot), and readChunk collects messages page by page up
// to the bound of a chunk. A fork is read segment by segment: Offset.Resolve lists the inherited
// segments, oldest first; Position.CurrentSegment names the ancestor's log, from which
// Backend.ReadPage reads; SkipReadSegments moves on to the next one, and at last to
// the stream's own log. So the offsets of inherited messages are those of the ancestors'
// generations. Where an ancestor's log was trimmed, the answer is 410, except that a read from the
// start of the stream goes on at the first position that is kept. sendChunk writes the chunk: on TCP in a write slot (netconn.WriteSlots), so that a
// crowd that catches up leaves processors for everything else; otherwise in pieces
// (netconn.StallWriter).
//
// An event stream reads pages too, while its reader is below the tail buffer. sse.Session.WantedPage
// names the segment and the position; eventStream.readPage reads it on the goroutine of the request,
// and reactor.Config.ReadPage (readPageRecovered) on a goroutine of its own. Both call
// Backend.ReadPage, and Session.AcceptPage gets the page.
//
// offset=tail-N and offset=at:TIME are searched for (searchPosition) before anything else of a read is
// done: messages are counted backwards, page by page (positionFromEnd), or Backend.FindTime tells
// in which segment and where a time begins (positionSince).
//
// # The path of a long-poll
//
// serveLongPoll (longpoll.go) answers immediately like catch-up if there is something at the
// position. Otherwise awaitNews follows the stream and waits for news, the end of the time, the
// client's hang-up or the node's drain; then loadChunk and sendChunk answer, or a 204.
//
// # The path of a read that waits for its stream
//
// With create=wait serveGet hands a live read of a stream that does not exist to eventsOfCreated or
// longPollCreated (create_wait.go). createWait.admit counts it as the reader that it will be, and has
// CreationWaiter wake it. createWait.wait asks whether the stream exists when it begins and whenever it is
// woken. Then the read is resolved as any other, and openEventStream or serveLongPoll goes on.
// The response header of an event stream is written by then (eventStream.begun): without chunks, so that
// the reactor can take the connection in the middle of the response.
//
// # The files
//
// Each file refers to files of lower rows only. The exception is overstay: the server's list of the
// event streams that it may have to cut off.
//
//	serve_http                            an answer, recorded and logged
//	route                                 method and path
//	server_life                           New, Shutdown, Close, HTTPServer
//	read_handlers                         GET, HEAD
//	create_wait
//	longpoll, sse_handler, resolve_read, write_handlers, control, listing
//	caching, stay                         what an answer may promise, and for how long
//	authorize, deny                       the rights
//	catchup, search_position, from_end, request_body, fork what the handlers do
//	admission, drain, rebalance, conn_reader_limit
//	common_headers, write_problem, panics what each answer may need
//	server                                the fields of Server
//	if_match                              the condition of an append, and the entity tag of a stream's end
//	headers, query, location              what a request says
//	request_span                          the span of a request
//	header_rules, problem_advice, writes_budget, response_recorder
//	metrics, header_names, problem_table, reader_counts, create_wait_counts, config
//	roots                                 what a path may begin with
//	stream_path, request_labels, request_id, request_context, lease_ends, json_messages, backend, overstay
//
// # Invariants
//
//  1. Only edge and its packages know client offsets; everything behind them speaks log
//     positions.
//  2. The offset shown is the position after the last message delivered, or the
//     visible tail: POST, HEAD, GET and SSE agree, whatever control records follow.
//  3. A reader never skips messages: it accepts only a RecordBatch that joins its position,
//     and falls back to pages otherwise (fantail_gaps_detected_total counts such batches).
//  4. The content of a chunk depends on the offset and the messages only, so
//     every node gives the same bytes.
//     A reader of an event stream of text is shown the same text whichever messages share an event
//     (package sse). Only if the rest of a character does not come for a second, its half is shown as
//     U+FFFD, and the reader continues at the next character: of broken text two readers may see
//     two versions. Catch-up gives the bytes. Text that declares a charset other than UTF-8 or
//     US-ASCII is sent as base64, like all that is not text, and is never held back.
//  5. An SSE connection ends between two events: at its time in a drain, or because other nodes have
//     fewer readers (sse.Departure).
//  6. No answer says 404 or 410 because an owner could not be reached.
//  7. Everything in flight is bounded. Readers: by MaxReaders, those with a goroutine by
//     MaxGoroutineReaders, and those on one connection of HTTP/2 by maxConnReaders, which leaves room
//     for appends beside them. Writes: by MaxBodies (writes_budget.go). A reader's pending
//     output: by the budget of one turn and one append; what all readers hold while it is written,
//     encrypted bytes included, by PinnedBytes. Catch-up: by ChunkBytes, and one chunk for each of
//     maxChunkLoads.
//  8. A panic costs only the reader or the request in which it happens, on each executor (panics.go).
//     It is counted, and logged with its stack.
//
// # What a request may cost
//
// In memory, in bytes for each byte that was sent, and where that is counted; TestWhatWritesHold
// measures it. A request also has a goroutine, with a stack of 8 to 16 KiB while it is in flight:
// one for a connection of HTTP/1.1, one for each stream of a connection of HTTP/2.
//
//	PUT, POST of text   3 for the first MiB and 8 KiB, 1 beyond it (shard.RequestCost); MaxBodies
//	POST of an array    as text, and 512 for an element up to the 1,000th, 60 for each of
//	                    more than that: 45 for [0,0,…] of 64 KiB; MaxBodies
//	an arriving body    4 and 2 KiB, nothing before its first byte; coded with gzip 64 KiB more
//	                    and 4 for each byte that it decodes to; MaxBodies
//	PUT that forks      as PUT; what it copies of its source counts as if it were sent, and a
//	                    node copies copyPerSecond bytes; MaxBodies
//	HEAD, DELETE        8 KiB; a DELETE is counted as a POST without a body; MaxBodies
//	GET, catch-up       a chunk (loadChunk), shared by all clients that get the same pages; ChunkBytes
//	long-poll           as GET once there is news, nothing but the connection before; MaxReaders
//	event stream        what it is written in one turn, shared by all readers that get the same;
//	                    FrameBytes, PinnedBytes, MaxReaders
//	create=wait         a goroutine, and an entry for the name at its owner; maxCreateWaits,
//	                    maxProjectCreateWaits, MaxReaders
//
// Over HTTP/2 the received and unread bytes of bodies are 1 MiB a connection at most; handlers read
// immediately, or refuse. A request's header has 32 KiB at most, and counts with a write.
// A request that finds no room is refused: writes with 429, readers with 503. Arriving bodies are
// given up first, the slowest before the others (writesBudget.evictSlowest).
//
// # Goroutines
//
// The request's own, by net/http, and those of netconn and reactor; where a file of rights decides, one
// that watches leases (watchLeases). Server.Close ends these and waits.
//
// # Decisions
//
// The id of the last event comes in Last-Event-ID, or in a parameter with that name or as
// lastEventId, as event-source-polyfill sends it. Of several ids the one furthest in the stream
// counts: a URL may hold an id from when its page was made.
//
// An event stream that the reactor writes ends with its connection, and has no chunked transfer
// coding. Chunks cost next to nothing: 7 bytes for an event of 432, and no CPU that can be measured
// (bench/results/readers.txt). With them a client and a proxy tell a cut from an end, and that is
// the reason against them. After a node's crash the protocol's published client, which comes back
// after a clean end, gives up for good after an error. In Node behind nginx it did so, and
// Chromium's fetch reports such a cut as a network error. fetch-event-source, as it comes, does the
// opposite: it gives up after a clean end, and needs an onclose that throws. It would need that
// with chunks too, because a drain, which is far more frequent than a crash, ends streams cleanly.
// Over HTTP/2, and where net/http writes the stream, a cut is visible already.
//
// Where no origins are configured every origin may send any header, because no answer allows
// credentials then. Pages of origins that are listed may have the browser attach a cookie, which
// gives the right to read and nothing else.
//
// # Not here
//
// Which node owns a stream (the Backend), storage, and the health and
// metrics endpoints, which are never on the public address.
package edge
