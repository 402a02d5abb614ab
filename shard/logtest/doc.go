// Package logtest proves a shard.Log, and offers one in memory.
//
// Test is the conformance suite: every sentence of the Log contract as a case.
// Memory is a Log without sockets, with faults, for tests in synctest bubbles
// and for measurements that leave storage out.
//
// # The life of a case
//
// Test is given a way to open Logs on one storage. Each case takes a stream name of its
// own, so that all run at once on storage that others use too, and compares what a Log
// answers with what the case wrote. No case waits for time to pass.
//
// # Invariants
//
//  1. Memory passes Test, without its faults.
//  2. A fault of Memory is one that a network has: an answer lost, a request lost, a
//     request that lands late. It never breaks compare-and-swap.
//  3. Memory counts every call (Ops), so that a test can tell what something cost.
//
// # Goroutines
//
// None of its own but for appends that land late.
package logtest
