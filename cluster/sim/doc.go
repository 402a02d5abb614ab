// Package sim is the simulation: whole nodes in a testing/synctest bubble, under faults,
// judged by an oracle. All of it is tests; `make sim` runs it.
//
// # The path of a run
//
// A seed draws a fleet and a mix of faults (newPlan). Nodes are built as cmd/fantail builds them
// (node.start): a stream manager of package shard, a cluster.Node with memberlist and gRPC, and an
// edge.Server behind net/http. Each has clocks of its own: in half of the runs the clock that dates
// changes of owners is up to two seconds off, and the clock that streams see up to an hour. Nodes
// reach each other over a network in memory (network_test.go, conn_test.go), and storage through a
// logtest.Client each. Once the fleet stands, by every clock, clients (client_test.go) write, and
// read by SSE and long-poll as browsers behind a balancer do. From the eighth second to the
// eighty-eighth runFaults does to the fleet what was drawn. Then all is healed and quiet, and at the
// end of the second minute the oracle (checkAll) compares what clients saw with what the log holds.
// Then clients leave, nodes are asked what is left of them (checkNothingLeft), and stop.
//
// # Invariants
//
// Failures name an invariant, I1 to I14 or E1: cluster/DESIGN.md, "Invariants", has them. Three
// are limited here. I10 (memory) needs processes. I12's token bucket never overflows with so few
// streams, so the check only sees that it is not exceeded. What planned changes may cost (I4, I5,
// I6, I8, I9) is judged in runs with nothing else, and I6 and I8 where clocks agree. A node with a
// clock that is ahead by more than the notice of a change takes streams that no node gives away
// yet, and reads them. I9 of a death is judged where nothing else was wrong from its beginning to
// ten seconds after its end. The simulation adds two checks of its own: each fault that was asked
// for has met traffic, and relayed batches join.
//
// # Goroutines
//
// A run starts its clients, the balancer, the sampler of costs and what each fault needs, and waits
// for all of them before it ends. The bubble reports what a node leaves behind.
//
// # What differs from reality
//
// A seed fixes the plan and the network's dice, not the interleaving of goroutines, so a failure may
// need its seed more than once. A paused node's traffic and its calls of storage stand still in both
// directions. Its timers and goroutines go on, because a bubble cannot stop them, so the node does
// not notice that it stood still. A node that crashes is first cut off from everything and then
// closed, so that nothing it does afterwards can be seen. A machine that is lost refuses nothing; a
// process that is killed resets its connections. Computing takes no time, so nothing is ever short
// of a CPU. Event streams run on the edge's handlers: its reactor needs real sockets.
//
// # The bugs
//
// bugs/ keeps bugs of a line or so as patches, each with the invariants that notice it. bugs/run
// (`make sim-bugs`) applies each to a copy of the tree and requires that the simulation fails by one
// of those.
package sim
