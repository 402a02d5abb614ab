// Package placement says which node owns a stream, and which node to ask next. It is pure: it does no
// I/O and has no clock; callers pass the time.
//
// A Member is what a node tells of itself in gossip: its addresses, its ring key, and the dates
// between which it owns streams. A View is a set of Members. View.TableAt returns the OwnerTable of
// an instant, and OwnerTable.Owner a stream's owner. Two nodes with the same Members agree on every
// owner of every instant.
//
// A Routing finds the way of one request through nodes with Views that may differ:
// Routing.NextTarget returns the node to ask, Routing.HandleAnswer takes what that node answered, and
// CheckOwnership is the decision of a node that is asked.
//
// A History remembers the tables of the last seconds, and so the previous owners of a stream.
// View.IsSuccessor reports to which member a stream may be handed over.
//
// # Invariants
//
//  1. A View is immutable, and its table of an instant is a pure function. It filters by dates, and
//     of two members with one ring key it keeps the newer process. It leaves out the members that S2
//     does not answer, unless it answers none. Then it builds the ring from the sorted ring keys.
//  2. The ring is built from the set of keys, from scratch. A change of its shape, of its library's
//     major version or of its hash is a new ring generation; a member of another ring generation is
//     ignored.
//  3. A request ends: each answer raises its hop or excludes a member, and the node that asks is the
//     last one left, which serves.
//  4. A member's metadata has a layout to which later releases only add at the end.
//
// # What is bounded
//
// Rings that were built recently: 256, of 8 KiB each; the oldest is forgotten. Tables without some
// members: 32 for each table, then all of them are forgotten. Tables built ahead of their date: 4.
// Earlier tables in a History: those of the last 15 seconds.
//
// There are no goroutines. The cache of rings, an OwnerTable's cache and a History have a lock each,
// under which no other lock is taken.
package placement
