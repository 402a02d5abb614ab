// Package peertls has nodes prove to each other that they are of one fleet, over TLS 1.3, in both
// directions. Only package transport and the node import it, and those that set its Config.
//
// New returns a node's Credentials; ForDialing and ForListening are what gRPC needs of them. A Proof is what
// a node shows and accepts. ReplaceProof replaces it while the node runs.
//
// # What is proved
//
// By default each secret of the fleet stands for one Ed25519 key, which every holder of the secret can
// derive. A node shows the first key and accepts all, so a secret can be changed without a split:
// add the new one everywhere, make it the first everywhere, remove the old one everywhere. An
// Identity replaces the keys in as many steps: accept certificates everywhere, then show them, then
// accept nothing else. The name and the address of a peer do not matter for either.
//
// # The path of a connection
//
// serverCreds.ServerHandshake gives the connection a slot and reads its first byte, which distinguishes TLS
// from plaintext. After the handshake trackConn registers the connection, so that ReplaceProof can end it.
// What gRPC writes then goes through a provenConn and a batchedConn below TLS: TLS writes each of its
// records, of 16 KiB, separately, and batchedConn writes them together.
//
// # Invariants
//
//  1. A member that announces TLS in gossip is only ever dialled over TLS.
//  2. Plaintext is accepted from the addresses of members that do not announce TLS, unless the mode says
//     otherwise (PlaintextMode).
//  3. A connection ends once what its peer proved is no longer accepted.
//
// # What is bounded
//
// Connections that have proved nothing: 128 from the addresses of members and 128 from elsewhere, each for
// HandshakeTimeout; one more evicts the oldest of them. What a batchedConn holds back: two batches, until the
// write of gRPC ends.
//
// There are no goroutines. Credentials.mu and a batchedConn's lock are held without any other.
package peertls
