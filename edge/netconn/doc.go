// Package netconn has the connections of package edge: what net/http cannot do with one, or only at a
// higher price.
//
// Listen makes a Conn of each TCP connection; ConnContext puts it into the context of the
// connection's requests, where Of and SoleOf find it. With a Conn
//
//   - an event stream's connection can be taken from net/http (Detach), for a loop that owns the
//     descriptor from then on;
//   - a connection that brings appends is served without net/http (AppendConns.TakeOver), and goes
//     back to it with the first request that is anything else;
//   - a catch-up answer is written in slots (WriteSlots.Use), so that a crowd that catches up leaves
//     processors for everything else.
//
// A StallWriter disconnects a client that accepts nothing, on a Conn or any other connection.
//
// # The path of an append connection
//
// TakeOver hijacks the connection after MinAppends appends. From then on appendConn.run loops over
// awaitRequest (parseRequest, readMore) and handleRequest, which calls the http.Server's handler and
// writeResponse. A request that is not a plain append, and a connection that does not bring the rest
// of one, goes back to net/http byte for byte (returnToNetHTTP). So net/http remains the only judge
// of what it could refuse, and an append costs half of what it would cost beside the appending itself.
//
// # The files
//
// Each file refers to files of lower rows only. The exceptions: a Conn calls back the slotWriter that
// writes on it, AppendConns and appendConn know each other, and the files of one system (_linux,
// _other) hold methods of the types above them.
//
//	append_conn, write_slots
//	take_over, stall_writer
//	conn
//	append_parse, append_response, racehooks
//
// # Invariants
//
//  1. A Conn has one owner at any time; only the owner reads, writes and changes its fields (conn.go
//     lists the owners).
//  2. An append connection asks the handler exactly what net/http would ask, of the same bytes, or
//     does not ask it: FuzzWriter compares the two.
//  3. A writer that holds a slot never waits for a client.
//
// # Why the odd things are there
//
//   - RawSyscall for reads and writes (conn_linux.go): a call that the runtime knows of wakes its
//     monitor thread on a mostly idle node, and costs more than the call. Those calls must not block,
//     and copy at most 64 KiB (maxRawTransfer). Unsafe pointers are for these calls only.
//   - Duplicated descriptors (Detach): after Hijack only so the runtime's poller forgets a connection,
//     which would otherwise be woken for each event that a loop handles.
//   - A tls.Conn over buffers (TLSBuffers): crypto/tls has no non-blocking mode. Reading nothing looks
//     like a deadline to it, after which it continues where it was.
//   - A slotWriter is called back from beneath net/http (Conn.slots), because only there does a write
//     see that the connection accepts no more.
//   - TCP_USER_TIMEOUT (ConnContext): not every write has a deadline. TCP_NOTSENT_LOWAT (Detach): a
//     blocked reader would otherwise hold megabytes of kernel memory.
//   - racehooks_linux.go: the race detector does not see RawSyscall.
//
// # Bounds
//
// An append connection has a buffer of 4 KiB (AppendConns.MaxRequest; 8 KiB where requests carry
// tokens), as a connection of net/http has; a larger request goes back to net/http. There are as many
// write slots as the semaphore has room for; never more goroutines wait for one than there are
// connections.
//
// # Goroutines and locks
//
// One for each append connection, in place of net/http's, and one sweeper for all of them;
// AppendConns.Close ends these and waits. AppendConns.mu guards the set of connections.
// StallWriter.mu guards its deadline, and the slotWriter's fields; none of the two is locked while
// the other is.
//
// # Elsewhere than on Linux
//
// No request has a Conn (ownsDescriptors), so net/http keeps each connection, and answers are
// written in pieces.
package netconn
