// Package reactor serves event streams without goroutines, on Linux: thousands of readers for each
// processor's loop. A reader costs 264 bytes and its session's frames; no goroutine, no timer, no
// channel and no buffer.
//
// New makes a Reactor; TakeOver moves an event stream over HTTP/1.1 to it, with and without TLS. The
// sessions are those of package sse, which decide what a reader gets, when, and until when. Elsewhere
// than on Linux CanServe returns false, and every event stream has a goroutine in package edge.
//
// # The path of a delivery
//
// TakeOver hijacks the connection, duplicates its descriptor (netconn.Conn.Detach) and mails the
// reader to one of the loops (addConn). News of a stream calls streamReaders.Wake, once for each
// loop. The loop (run, runTurn) walks the stream's readers (deliverToStream). Readers in equal states
// get equal bytes: renderShared renders them once and deliver sends them with one system call. A
// reader that accepts only a part, or is in another state, continues by itself: advance does what
// sse.Session.Next says. When to look at a reader again is in timer_wheel_linux.go and timers_linux.go
// (schedule, tick, runTimers); new orders come as RecheckSessions.
//
// # Invariants
//
//  1. Only its loop writes to a reader or closes it, and nothing in a loop can block. Other
//     goroutines mail the loop what to do (loop.post).
//  2. Each entry of loop.blocked is in the state connBlocked and is watched for being writable.
//  3. An event stream ends between two events, unless its reader accepts nothing.
//  4. A panic costs only the reader in which it happens (recoverConn).
//
// # The files
//
// Functions call those of lower rows only. The types refer to each other: Reactor, loop, streamReaders,
// conn and tlsWriter.
//
//	take_over                    from net/http to a loop
//	run                          the loop's goroutine
//	events, timers, turn         why the loop looks at a reader
//	advance                      does what a reader's session says
//	tls_reads, write             to and from a connection, until its response ends
//	blocked                      a connection that accepts no more
//	close
//	tls_writer, timer_wheel
//	loop_state, memtrim          a loop's state, and its mail
//	conn_table
//	reactor, conn, stream_readers, config
//
// # Bounds
//
// A turn: maxTurnReaders readers, maxTurnBytes bytes. Page reads in progress: maxPageReads for a loop;
// other readers wait. What readers hold while it is written, encrypted bytes included: the
// sendbudget. A shared write: sse.MaxSharedBytes, which is also what one system call may copy, because
// netconn.Send keeps its processor.
//
// # Goroutines and locks
//
// With its first reader a Reactor starts two for each processor: the loop, and a goroutine that waits
// for the loop's epoll descriptor. One more gives memory back after a crowd of joins (trimMemory). For
// each page that a loop's readers wait for there is one. Close ends all of these and waits. Reactor.mu
// guards the list of loops; loop.mu guards a loop's mail. Neither is held while the other is locked.
//
// # Why the odd things are there
//
//   - Iovecs and unsafe pointers are for writev (writeOnce), which unix.Writev would allocate for.
//   - An event stream ends with its connection, without chunked transfer coding: the decisions of
//     package edge say why. The response is ended by shutting down the sending side (endResponse).
//   - Rows of connections (connTable): readers that disconnect while many others connect would leave
//     holes between those on the heap.
package reactor
