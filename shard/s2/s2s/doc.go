// Package s2s is a client for the sessions of S2: read sessions that follow a stream, and append
// sessions that pipeline batches. It speaks S2's session protocol (S2S) on the bare frames of HTTP/2,
// so that thousands of sessions share a few connections and goroutines. S2's SDK has the same with
// five goroutines and 50 KB for each.
//
//	Client         the connections to S2
//	ReadSession    Client.OpenRead: batches of records, and the tail
//	AppendSession  Client.OpenAppend: Submit batches, TakeAcks, learn how it ended
//	Error          an error that S2 answered
//	AppendEnd      what became of each batch of a session that ended
//
// A session never hands news to its user. It calls wake once, and the user takes what there is
// whenever it likes: with a goroutine that waits on a channel, or a goroutine that is started by
// wake.
//
// # The path of a read session
//
// OpenRead finds a connection that has room, or waits for a new one (origin.openStream), and writes
// the request. The connection's reader cuts what arrives into frames of HTTP/2 (conn.handle), of S2S
// (frameReader), looks whether a frame has records (ReadSession.takeFrame), queues it and wakes the
// user. TakeBatch decodes the queue on the user's goroutine. A heartbeat that tells no new tail calls no
// wake.
//
// # The path of an append
//
// Submit encodes a batch and queues it. conn.write takes from all sessions in turn what the windows
// allow, and writes. An acknowledgement belongs to the first batch in flight (AppendSession.takeFrame).
// It must confirm the position and the number of records, or else the session ends.
//
// # Ends
//
// A session ends with S2's refusal (*Error), a clean end (io.EOF), ErrClosed, or an ErrLost, which
// has kinds: ErrSilent, ErrGoAway, ErrNotTaken, ErrProtocol. Nothing is repeated here: a reader opens
// the next session at its own position. A GOAWAY ends read sessions immediately, and append sessions
// with their last acknowledgement.
//
// # Invariants
//
//  1. Records reach TakeBatch in order and once, and are dense within a frame. Anything else is ErrProtocol.
//  2. A session whose user takes nothing holds up no other session: what arrives is credited to the
//     connection immediately, and to its session when it was taken.
//  3. No caller and no reader waits for a write.
//  4. Of an append session, acknowledgements are a prefix of what was submitted, and each batch is
//     in exactly one class of AppendEnd. A batch counts as refused only if S2's answer says that
//     it had no effect. It counts as unsent only if S2 cannot have received any of it.
//
// # Bounds
//
// A read session holds at most its window and one frame of 2 MiB (a frame that is arriving is
// credited while its session holds nothing else). The window is Config.Window, and up to
// Config.MaxWindow as long as Config.WindowBytes allows: that bounds what the windows of all sessions
// have beyond Config.Window, and when it is used up sessions go on with what they have
// (receive_window.go). An append session holds MaxBatches
// batches and MaxBytes, further ones are refused with ErrFull. A connection's answers to the peer:
// maxOut, beyond that it ends. Connections of an endpoint: MaxConns, then sessions are refused
// (ErrNotTaken). Headers of an answer: maxHeaders; the body of an error: maxErrorBytes. The length
// that a frame claims is not allocated before its bytes come.
//
// # Goroutines
//
// One reader for each connection; one writer while there is something to write; one for each
// connection in the making. A timer for each connection (conn.sweep) notices silent sessions, silent
// connections (PING) and idle ones. None for a session. Close waits for all.
//
// # Locks
//
// origin.mu, then conn.mu, then Client.mu. A wake is called under conn.mu.
package s2s
