// Package sim is the simulation: whole nodes in a testing/synctest bubble, under faults,
// judged by an oracle. All of it is tests; `make sim` runs it.
//
// # The life of a run
//
// A seed draws a fleet and a mix of faults (plan_test.go). Nodes are what cmd/fantail
// builds (node_test.go): a shard.Manager, a cluster.Node with memberlist and gRPC, an
// edge.Server behind net/http, each with clocks of its own: in half of the runs the one by
// which changes of owners are dated is up to two seconds off, and the one that streams see
// up to an hour. They reach each other over a network in memory (net_test.go, conn_test.go)
// and storage through a logtest.Client each. Once the fleet stands, by every clock,
// clients (client_test.go) write, and read by SSE and long-poll as browsers behind a
// balancer do. From the eighth second to the eighty-eighth the director (faults_test.go)
// does to them what was drawn; then all is healed and quiet, and at the end of the second
// minute the oracle (oracle_test.go) compares what clients saw with what the log holds.
// Then clients leave, nodes are asked what is left of them, and stop.
//
// # Invariants
//
// Those of the notes, I1 to I14, each checked where its number stands. I10 (memory) needs
// processes, and I12's bucket never overflows with as few streams as there are here: it is
// only seen not to be exceeded. What planned changes may cost (I4, I5, I6, I8, I9) is
// judged in runs that have nothing else, and I6 and I8 where clocks agree: a node whose
// clock is ahead by more than a change is announced takes streams that nobody gives away
// yet, and reads them. I9 of a death is judged where nothing else was wrong from its
// beginning to ten seconds after its end. And three of the simulation's own: a fault that
// was asked for has met traffic, what is relayed joins, and no stream ends before its time
// (E1), whatever the clocks: most have a TTL, which uses extend or which is not over.
//
// # Goroutines
//
// A run starts its clients, the balancer, the lookout and what each fault needs, and
// waits for all of them before it ends; the bubble reports what a node leaves behind.
//
// # What is not as in life
//
// A seed fixes the plan and the network's dice, not the interleaving of goroutines: a
// failure may need its seed more than once. A paused node's traffic and its calls of
// storage stand still in both directions; its timers and goroutines go on, because a
// bubble cannot stop them: it does not notice that it stood still. A node that crashes is
// cut from everything first and closed then, so nothing that it does afterwards can be
// seen. A machine that is lost refuses nothing; a process that is killed resets its
// connections. A request that is computed takes no time, so nothing here is ever short of
// a CPU. Event streams run on edge's handlers: its reactor needs real sockets.
//
// # The bugs
//
// bugs/ keeps bugs of a line or so as patches, each with the invariants that notice it.
// bugs/run (`make sim-bugs`) applies each to a copy of the tree and requires that the
// simulation fails by one of those.
package sim
