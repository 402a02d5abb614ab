// Command fantail serves Durable Streams over S2.
//
// # What it owns
//
// Configuration (config.go: flags, FANTAIL_ variables, nothing else), how a node is put
// together and taken apart (node.go), its admin address (admin.go, and admin_guard.go for whom it
// refuses), the process's log and signals (log.go, signals.go), and the commands:
// serve (one node), dev (a fleet on loopback, in one process), s2 (the embedded S2).
//
// # The life of a node
//
// startNode opens S2, the tail buffers, the Manager, the Node (not for a lone node), the edge, in
// the order in which a record meets them, and lets it serve. The first SIGTERM or
// interrupt, or the end of one of its servers, stops it in the reverse order: readiness
// off; streams let go of while others are still relayed; a while for balancers to hear of
// it; readers ended, each after a complete event; servers, gossip, streams, S2. When the
// grace runs out, or a second signal comes (a second later or more), the process ends at once.
//
// # Invariants
//
//  1. This is the only package that knows all the others. They meet in one interface,
//     edge.Streams, which shard.Manager and cluster.Node both are.
//  2. A setting that does not exist is an error, and so is a value that cannot be; all of
//     them are told at once, before anything listens.
//  3. Metrics, health and profiles are never on the public address. The admin address serves no
//     page of another origin, and holds maxAdminConns connections at most.
//  4. Whatever was opened before an error is closed again.
//  5. While few descriptors are free (open_files.go) readers are refused, then nobody is accepted at the
//     public address: the admin address, the other nodes and S2 always get theirs.
//  6. No log line is written faster than the limiter lets it, and none holds anybody up for
//     longer than logWriteTimeout: the node outlives whatever reads its log.
//
// # Goroutines
//
// Per node one for each of its two servers and, in a fleet, the one that evens readers out,
// one that watches whether the node is
// ready, and where S2 is not in this process one that watches that;
// node.stop waits for them. node.halt has stop run in one that it does not wait for longer
// than the grace: then the process ends. A process has one that waits for signals, which
// stopping's done waits for, and for each log line one until the line is written.
package main
