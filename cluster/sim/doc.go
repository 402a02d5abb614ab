// Package sim is the simulation: whole nodes in a testing/synctest bubble, under faults,
// judged by an oracle. All of it is tests; `make sim` runs it.
//
// # The life of a run
//
// A seed draws a fleet and a mix of faults (plan_test.go). Nodes are what cmd/fantail
// builds (node_test.go): a shard.Host, a cluster.Relay with memberlist and gRPC, an
// edge.Server behind net/http, each with a clock of its own. They reach each other over
// a network in memory (net_test.go, conn_test.go) and storage through a logtest.Client
// each. Clients (client_test.go) write, and read by SSE and long-poll as browsers behind
// a balancer do. For ninety seconds of virtual time the director (faults_test.go) does to
// them what was drawn; then all is healed and quiet, and the oracle (oracle_test.go)
// compares what clients saw with what the log holds.
//
// # Invariants
//
// Those of the notes, I1 to I14, each checked where its number stands. I10 (memory) needs
// processes. And one of the simulation's own: a fault that was asked for has met traffic,
// or the run fails.
//
// # What is not as in life
//
// A seed fixes the plan and the network's dice, not the interleaving of goroutines: a
// failure may need its seed more than once. A paused node's traffic and its calls of
// storage stand still in both directions; its timers go on, because a bubble cannot stop
// goroutines. A node that crashes is cut from everything first and closed then, so
// nothing that it does afterwards can be seen. A machine that is lost refuses nothing; a
// process that is killed resets its connections.
//
// # The bugs
//
// bugs/ keeps bugs of a line or so as patches. bugs/run applies each to a copy of the
// tree and requires that the simulation fails.
package sim
