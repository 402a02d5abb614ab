// Command fantail serves Durable Streams over S2.
//
// # What it owns
//
//   - The configuration: flags and FANTAIL_ variables (config.go), a file of settings (config_file.go),
//     and for traces OpenTelemetry's variables (trace_flags.go, package internal/otlp).
//   - How a node is built and stopped (node.go).
//   - The admin address of a node (admin.go), and what it refuses (admin_guard.go). What it tells of the
//     fleet is in admin_report.go, admin_fleet.go and admin_streams.go; package internal/page has the
//     page that shows it.
//   - The process's log and signals (log.go, signals.go), what systemd is told (service_manager.go), and
//     the codes that all commands end with (exit_codes.go).
//   - The commands, each in a file of its name (cmd_*.go).
//
// # The commands
//
// serve (one node), dev (a fleet on loopback, in one process, with a playground that kills and starts
// nodes: playground.go) and s2 (the embedded S2) are servers. token, sign and check make and explain
// what package edge/access judges by; they read secrets from files or standard input, never from
// arguments or variables, and print no part of a signature that they were given. ls, new, append,
// tail, info, rm and fork are clients of any server of Durable Streams (remote.go, and package
// internal/dsclient, which speaks the protocol). prove writes and reads with it while a rollout runs
// (prove_*.go). top, owner, drain and undrain ask the admin address of a node (admin_client.go);
// doctor checks what a node needs, with serve's flags. backup copies the folder of s2, by a socket in
// that folder while s2 runs (cmd_backup.go).
//
// # The life of a node
//
// startNode opens S2 (openStore), the tail buffers, the Manager, the cluster's Node (not for a lone
// node) and the edge, in the order in which a record meets them, and starts the servers. The first
// SIGTERM or interrupt, or the end of a server, calls stopWithinGrace, which stops the node in the
// reverse order (node.depart, then node.stop). Readiness goes off. Streams are handed over while
// requests for them are still relayed. The node lingers until balancers have noticed. Readers are
// ended, each after a complete event. Then the servers, gossip, streams and S2 are closed. When the
// grace runs out, or at a second signal (a second later or more), the process ends immediately.
//
// # The path of a record
//
// An append comes in at the public listener (limitedListener), which edge.Server serves. The edge
// calls its edge.Backend: the shard.Manager of a lone node, or the cluster.Node, which calls the
// Manager of the owner. The Manager writes to the store (s2.Log or s2.InProcess). A delivery goes
// the other way, from the store through tail buffers to the edge's readers. A handover begins in
// node.depart with cluster.Node.Leave. A page of a fork is read by the Manager. See the doc of each
// package.
//
// # Invariants
//
//  1. This is the only package that knows all the others. They meet in one interface,
//     edge.Backend, which shard.Manager and cluster.Node implement.
//  2. A setting that does not exist is an error, and so is an impossible value. All such errors
//     are reported together, before anything listens.
//  3. Metrics, health and profiles are never on the public address. The admin address serves no
//     page of another origin, and holds at most maxAdminConns connections.
//  4. What was opened before an error is closed again.
//  5. While few descriptors are free (open_files.go), readers are refused first, and then the
//     public address accepts no connection: the admin address, the other nodes and S2 always get theirs.
//  6. No log line is written faster than the limiter allows, and none blocks its caller for
//     longer than logWriteTimeout: the node outlives the reader of its log.
//
// # Goroutines
//
// A node has
//
//   - one for each of its two servers;
//   - in a fleet, one that rebalances readers;
//   - one that watches whether the node is ready;
//   - if S2 is not in this process, one that watches S2;
//   - with --s2-usage, one that asks S2 for its metrics;
//   - with traces, one that sends spans (package internal/otlp).
//
// node.stop waits for them. It runs in a goroutine of node.stopWithinGrace, which waits no longer than
// the grace: then the process ends. A process has
//
//   - one that waits for signals, for which the done of stopOnSignal waits;
//   - under systemd, one that tells it how the node is, for which serveUnderManager waits;
//   - for each log line, one until the line is written;
//   - in s2, one that serves the socket by which it is asked for backups, for which its end waits;
//   - in dev, one for the playground's server and one for each reader that was added. playground.close
//     waits for them.
package main
