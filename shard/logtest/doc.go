// Package logtest checks implementations of shard.Log, and has one in memory.
//
// Test is the conformance suite: each sentence of the Log contract is a case. Memory is a Log
// without sockets, for tests in synctest bubbles and for measurements without storage. Client is
// one node's access to a Memory, with latency and faults.
//
// # The path of an append
//
// Client.Append sends its request (sendRequest applies the faults of the way there), and
// Memory.writeLocked compares the position with the tail, checks the limits of a batch and appends.
// deliverAnswer applies the faults of the way back. A late append is written by a timer.
// Memory.Append does the same with FaultOdds, and without latency of a network.
//
// # The path of a delivery
//
// Client.Follow runs one readSession after another. A session copies a page of the log, calls fn,
// and at the tail waits for the log's changed channel. A page of a fork is a Read; a takeover is a
// Last and a Replay, which Counts.TakeoverRecords counts; a handover reads nothing.
//
// # The path of a case
//
// Test gets a function that opens Logs on one storage. Each case uses a stream of its own, so that
// all cases run in parallel, on storage that others use, too. It compares the Log's answers with
// what it wrote. No case waits for time to pass.
//
// # Invariants
//
//  1. Memory and Client pass Test, without faults.
//  2. Every fault is a fault of networks: an answer lost, a request lost, a request that arrives
//     late. No fault breaks compare-and-swap.
//  3. Memory counts every call (Ops), and a Client counts its own (Counts), so that a test can measure costs.
//
// # Goroutines
//
// None, except the timers that write late appends.
package logtest
