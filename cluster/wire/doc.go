// Package wire converts between the messages of the relay (package relaypb) and what they mean to a node,
// and judges what a peer sends. It is pure: it does no I/O, starts no goroutine and holds no state.
// Only package transport imports it.
//
// Encode… builds a message, and Decode… reads a message that was checked. Check… checks a message as if a
// stranger had sent it: there is one function for each message, and one bound for each part that has a size
// (sizes.go). A bad message costs the call or the subscription that it belongs to. A control message that no
// release sends costs the link.
//
// An error travels as a Refusal, which holds a reason (EncodeRefusal, DecodeRefusal). As the result
// of a call it is a status with the Refusal in it (ErrorToStatus, StatusToError). The reason decides, and the
// sentence beside it is for people.
//
// A BatchAssembler joins the pieces in which a record batch arrives.
//
// # Invariants
//
//  1. The contract has no strings: what a client, a log or a name contains is bytes. A release before
//     placement.RelayVersionBytes reads UTF-8 alone; CheckDescribable and CheckUTF8 say what it cannot read.
//  2. A node is unreachable only if it did not answer (isUnanswered). Any other failure ends its own call or
//     subscription.
//  3. What a peer announces is not allocated before it arrives (maxPreallocated).
//  4. Each error that package shard exports has a reason of its own, which a test checks.
//
// # Why it is odd
//
// Bytes and Text convert without a copy, so the text of a message shares its memory: a message is only written
// while it is built, and
// protobuf copies what it reads.
package wire
