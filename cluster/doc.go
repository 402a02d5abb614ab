// Package cluster makes one of many nodes: who is here, who owns which stream, and
// how a request or a record gets from one node to another.
//
// # The life of a relayed record
//
// A node that has readers of a stream follows it (follow.go): it asks the ring who
// owns the stream and subscribes there, over the link that it keeps to every other
// member (link.go). The owner has its Manager follow the stream, which opens the one
// read session, and answers Subscribed with the stream's description and the
// position from which it will send (session.go). From then on news of the owner's
// Tail only puts the subscription on its link's dirty list. The bulk lane's one
// goroutine takes subscriptions from there in turn and pulls what each may have from
// the TailBuffer, by position, into frames of up to 64 KiB (lane.go). The other side puts
// the pieces together (wire.go) and extends its own TailBuffer. When the owner changes, the
// follower asks the next one for the position that its TailBuffer needs and keeps the old
// feed until that answers; what arrives twice is dropped by position.
//
// # The life of a request
//
// Relay (relay.go) has the methods of shard.Manager. course (course.go, pure) says whom
// to ask: the owner (hop 0), whom a refusal names or the heir of a lost owner (hop 1),
// and then somebody who must (hop 2). The receiver judges by its own table. A write
// that may have been carried out without an answer is repeated with its append id,
// by whatever node comes next: it is written once. A refusal changes no View; only
// gossip does (membership.go).
//
// # The life of a change of owners
//
// A node that joins or leaves says from which second on (membership.go); every node
// switches by its own clock. Only a node that has looked for all others, and found nobody
// who owns anything or has named a date, owns streams immediately: so a fleet begins. An address
// that answers, and does not speak this node's gossip, is not nobody (seek.go).
//
// # Trust
//
// Gossip is encrypted with the fleet's secret. The relay's port speaks TLS 1.3 with whoever
// proves that it is of the fleet, by the secret or by a certificate (trust.go, creds.go). A
// member that says in gossip that it speaks TLS is only ever spoken to over TLS; plaintext is
// taken from the addresses of members that do not say so, which a setting ends. A connection
// ends once what its peer proved is accepted no more.
//
// At the date the old owner of a stream nudges the new one, or somebody asks that one for
// the stream; it asks the old owner for all that it knows (Hand), installs it, and serves:
// S2 is not read (handover.go). The old owner refuses the stream from then on, whatever its
// own table says, and is fed by the new one for the sake of who still follows the stream
// there. They move one by one, keeping the old feed until the new one answers. Whatever is
// lost on the way costs a read.
//
// # How a node fares
//
// With each heartbeat a node tells its peers how many readers it has, whether S2 answers
// it, and which streams it owes them (status.go). So a newcomer knows when it has its
// share (Ready); a node that alone is cut off from S2 says so in its metadata and owns
// nothing until it is back; and readers can be evened out (Balance). A process that finds
// that it stood still joins anew (membership.go).
//
// # What S2 says to a node
//
// A node owns nothing before S2 has answered it with its own settings and it has found the
// fleet's record there (fleetrecord.go). Gossip carries a hash of what it found. Who owns
// streams is right: a node that found something else owns none, is not ready, and says which
// setting to look at; owners yield only to owners that began before them. Such a node writes
// nothing. One that its own probe finds refused, while S2 answers others, gives its streams away
// as one that is cut off does; when a member is refused the others ask for themselves
// immediately, so that where all are refused all keep what they have. While S2 answers nobody,
// a node that it has never answered waits a minute, and then does without it: it is ready and
// owns its share.
//
// # Invariants
//
//  1. A View is an immutable value behind one pointer, and At(t) a pure function of it:
//     two nodes with the same members and the same instant agree on every owner.
//  2. The ring is built from the sorted set of keys, from scratch (ring.go).
//  3. A request ends: each answer raises its hop or excludes a member, and this node
//     is the last one left, which serves.
//  4. Nothing is queued for a slow peer. A subscription without credit is a position;
//     credit returns when bytes are received, whatever readers do with them.
//  5. What must be ordered with records (Subscribed, RecordBatch, Moved, End) travels in the
//     bulk lane with them; nothing else does.
//  6. A handle is never used twice on a link, and a link that broke never comes back:
//     the next one has another incarnation.
//  7. A TailBuffer is extended only by what joins it; a hole is counted, logged, and the
//     stream is asked for again from the position that is needed.
//  8. A reader's Tail ends only with the stream's life. Owners may come and go.
//  9. A stream is let go of only while nobody here is fed by it, or once another node
//     feeds them; nobody uses it while it comes or goes (hosted.go).
//  10. What is handed over is a cache. Two owners at once, or none, lose nothing.
//  11. A node is unreachable only if it did not answer (wire.go, unanswered). Whatever else
//     fails ends its own call or subscription, and never the lane or the link.
//  12. The contract has no strings: what a client, a log or a name brought is bytes.
//
// # What is bounded, and what happens when it is full
//
// Subscriptions of one peer: 262,144, then refused as overloaded; the link of a peer that asks
// on and hears no answer ends. Credit: 256 KiB for
// a subscription, 8 MiB for a link, 256 MiB for all links (later ones get less);
// without it records wait in the TailBuffer, and what is evicted there is read from pages.
// Pages that an owner gave are kept with those that this node has read itself.
// Streams being opened for peers: 64 at once, mostly those first that need no fetching;
// 65,536 wait, then refused. What the writes of peers hold (shard.Cost): 64 MiB, then
// refused before the body is read; a body that does not arrive within 10 s and 1 s for each MiB
// gives its part back. Streams being let go of: 16 at once, the others next second. Streams
// being handed over: 8 at once to each heir; those that were are remembered for 5 s.
// Connections to gossip's port: 256 (gossipconns.go), and a newcomer takes the place of the oldest.
// Connections to the relay's port that have proved nothing: 128 from the addresses of members and
// 128 from elsewhere, each for 3 s; one more closes the oldest of them.
// Followers that move to a new owner while the one before feeds them: 2,000 a second, and all that are
// left within 5 s.
//
// # Goroutines
//
// For a node: one that tends ownership, one that steps all followers, one that reads secrets
// again where they are in a file, up to 9 for each
// heir after a change of owners that nudge, those of gossip and of joining. For each
// link: its keeper, a reader and a writer of the control lane, and a reader of the bulk
// lane while anything is followed; at the other end, those of gRPC's handlers, and one for a
// write while its body arrives. None for a stream. Close ends them all and waits.
//
// Locks: followers.mu, follower.mu, then followers.pmu, link.mu or hosted.mu; a TailBuffer's may
// be taken under session.mu, never the other way round. Nothing is done over the network under
// any of them.
//
// # Not here
//
// What a record means (shard), HTTP (edge), and any work of an owner's that failed:
// a node that cannot reach an owner sends the request to the heir and does not become
// a second writer by itself.
package cluster
