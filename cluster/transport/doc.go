// Package transport carries calls and records between the nodes of a fleet. It knows links, and neither
// owners nor handovers: the node above it decides about those.
//
// Peers has a Link to each other member. Link.RequestWrite, RequestInfo, RequestPage, RequestHandover
// and OfferStream are calls; Link.Subscribe asks for a stream's records, which come to a Subscriber.
// Server answers the same of other nodes, from what Streams serves. What nodes tell each other with each
// heartbeat is a Status.
//
// References between files point one way, from peers.go and server.go down to link.go and session.go. Only
// peers.go and peer.go know each other: a set and its elements.
//
// # A link
//
// There is one connection for each ordered pair of nodes: a link has an edge, which dials (peers.go,
// link.go), and an owner, which listens (server.go, session.go). A node is both, to each of its peers.
// A link has a control lane for Hello, heartbeats, Subscribe and credit, and while anything is followed a
// bulk lane with the records of all its streams. Each other call is a call of gRPC.
//
// # The path of a subscription
//
// Link.Subscribe puts the Subscription into the outbox, and writeControl sends what is there
// (nextControlMessage). At the owner session.handleControl calls addSubscription; openSubscription has
// Streams feed the stream's tail buffer. From then on each change of the buffer calls sessionSub.Wake, which
// only puts the subscription on the session's dirty list. Server.Bulk, the bulk lane's goroutine, calls
// session.fillFrame: popDirty, serveSub, beginBatch (reads the tail buffer by position), addPiece.
//
// Back at the edge Link.readBulk calls handlePart for each Part, and that handleBatch for a piece of a
// batch. A wire.BatchAssembler joins the pieces, and Subscriber.OnRecords gets the batch. Credit is returned
// by handlePart, on receipt.
//
// Link.AwaitCreation is a Subscription as well, of a stream that does not exist (creation_waits.go). At the owner
// it has no feed but an entry with Streams.AwaitCreation, and its End says that the stream may exist, or which node
// to ask instead.
//
// A subscription also says how many readers it feeds, and gets the sum on all nodes if it asks for it, both with
// heartbeats (reader_counts.go).
//
// # The path of a write
//
// Link.RequestWrite sends the head and the body in chunks. Server.Do checks the head, asks Streams
// whether this node serves the stream, reserves the request's cost, waits for the body (awaitBody) and calls
// Streams.Write.
//
// # Traces
//
// A call of a traced request has a span at both ends (call_spans.go): the traceparent travels in gRPC's metadata.
//
// # Invariants
//
//  1. Nothing is queued for a slow peer. A subscription without credit is a position;
//     credit returns when bytes are received, whatever readers do with them.
//  2. What must be ordered with records (Subscribed, record batches, Moved, End) travels in the
//     bulk lane with them; nothing else does.
//  3. A handle is never used twice on a link, and a link that broke never comes back:
//     the next one has another incarnation.
//  4. A member that announces TLS in gossip is only ever dialled over TLS.
//  5. A panic of a handler costs its call, and one of a link's goroutines the link (panics.go).
//
// # What is bounded, and what happens when it is full
//
// Subscriptions of one peer: 262,144, then refused as overloaded; a peer that keeps asking
// without reading the answers loses its link. Credit: 256 KiB for a subscription, 8 MiB for a
// link, 256 MiB for all links (later ones get less); without it records wait in the tail buffer,
// and what is evicted there is read from pages.
// What the writes of peers hold (shard.RequestCost): 64 MiB, then refused before the body is read; a
// body that does not arrive within 10 s and 1 s for each MiB gives its part back. Links of one member: 4, and
// of all peers that are no members 16. Calls of one peer: 16,384, and it waits before it sends another.
//
// # Goroutines and locks
//
// For each link: its keeper, a reader and a writer of the control lane, and a reader of the bulk lane
// while anything is followed; at the other end, those of gRPC's handlers, and one for a write while its
// body arrives. None for a stream. Close ends them all and waits.
//
// Peers.mu, then a member's mu; Link.mu, session.mu and Server.mu are taken alone. A tail buffer's lock may be
// taken under session.mu, never the other way round. No lock is held during network I/O, nor while a
// Subscriber, the Observer or Streams is called: except Streams.IsMember, under Server.mu, and the rule that
// CheckSubscriptions is given, under session.mu.
package transport
