// Package logtest proves a shard.Log, and offers one in memory.
//
// Test is the conformance suite: every sentence of the Log contract as a case.
// Memory is a Log without sockets, with faults, for tests in synctest bubbles
// and for measurements that leave storage out.
package logtest
