// Package gossip keeps a node in its fleet and tells it, as a placement.View, which other nodes there
// are and from when until when each owns streams. It runs memberlist.
//
// New returns a Membership and Start lets it gossip. What it brings goes to the Observer; the newest
// View is Membership.View. AnnounceLeave, CancelLeave, SetStoreLost, RejoinAfterPause and
// ApplyStanding change what the node tells of itself.
//
// The files are the parts of one type, Membership, and know each other; those without it (config.go, join_addrs.go,
// log.go, metrics.go, transport.go) know none of them.
//
// # The path of a change
//
// memberlist calls the delegate, which only records the change and marks the View as stale. The
// goroutine of publishViews builds the newest View (buildView), publishes it and calls
// Observer.OnView, again whenever one of the View's dates has passed. What this node changes about
// itself gets a higher revision (announce.go) and is spread by gossipSelf. A change of owners has a
// date, a whole second ahead (nextChangeAt): all nodes switch by their own clocks.
//
// # Beginning a fleet
//
// joinLoop tries the addresses to join as long as the node lives. Only a node that has tried all of
// them, and has met no member that owns streams or has announced a date, owns streams immediately
// (endJoinRound). So a fleet begins. An address that answers, but not in this node's gossip, prevents
// it (join_results.go). What S2 has answered must allow it, too (ownership.go).
//
// # Invariants
//
//  1. Gossip only places streams. That a node died, links find out.
//  2. The Observer sees the newest View and never a backlog.
//  3. A member's dates change only with a higher revision of it.
//  4. A node owns nothing while it has found another fleet record than the members that own streams.
//
// # What is bounded
//
// Connections to gossip's port: 256, and one more evicts the oldest. Addresses that are dialled
// concurrently: 8. Attempts to join that are remembered: one for each address. Kinds of memberlist's
// log lines that are counted separately: 64.
//
// # Goroutines and locks
//
// One publishes Views, one joins, one spreads what changed, one accepts connections; memberlist has
// its own. Close ends them all and waits. Membership.mu is held only to read or change fields;
// memberlist's delegate takes it under memberlist's own lock, so no call to memberlist is made under
// it.
package gossip
