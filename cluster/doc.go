// Package cluster connects the nodes of one fleet: it knows the members, it knows which of
// them owns each stream, and it carries requests and records from one node to another.
// DESIGN.md has the reasons; this page has the paths through the code. Package placement has the
// pure part: which node owns a stream, and which one to ask next. Package gossip finds the members, begins
// a fleet, and announces from when until when a node owns streams. Package wire has the messages between nodes,
// and judges what a peer sends.
//
// # The path of an append
//
// The edge calls Node.Do. Node.routeRequest asks one node after another:
// placement.Routing.NextTarget returns the owner by this node's table (hop 0), then the node that a
// refusal names or the successor of a lost owner (hop 1), then a node that must serve
// (hop 2); Routing.HandleAnswer decides whether to go on. Node.askTarget serves the request
// here (localStreams.write) or sends it over the link of that peer: peers.awaitLink,
// link.requestWrite, sendWriteChunks.
//
// At the peer, server.Do checks the head (checkWriteHead), compares the stream with its own
// table (Node.checkOwnership), reserves the request's cost, waits for the body
// (server.awaitBody) and calls localStreams.write. That acquires the stream
// (localStreams.acquire, which fetches it if another node has it) and calls the stream manager
// (package shard). The Outcome returns the same way.
//
// If no node says whether the write was carried out, Node.Do sends it again with its append
// id; S2 holds it once. A refusal changes no View: only gossip does.
//
// # The path of a delivery
//
// A reader's edge calls Node.Follow. followLoop.addReader finds or creates the stream's
// follower, and the goroutine of followLoop.run steps it (follower.step). planMoveLocked
// decides that a feed is needed, advanceMoveLocked and tryNextTargetLocked choose the source
// by the same routing. The source is either the stream manager of this node
// (openLocalFeedLocked, localStreams.startFeed, then onLocalFeed) or a peer (link.subscribe;
// link.writeControl sends Subscribe).
//
// At the owner, peerSession.handleControl calls addSubscription, and openSubscription has the
// stream manager follow the stream, which opens its one read session with S2. From then on
// each change of the stream's tail buffer calls peerSub.Wake, which only puts the subscription
// on the session's dirty list. server.Bulk, the bulk lane's goroutine, calls
// peerSession.fillFrame: popDirty, serveSub, beginBatch (reads the tail buffer by position),
// addPiece. Frames have up to 64 KiB.
//
// Back at the reader's node, link.readBulk calls link.handlePart for each Part.
// wire.BatchAssembler.AddPiece joins the pieces, and follower.onRecords extends this node's tail
// buffer, which wakes its readers (package edge). Credit is returned by handlePart, on receipt.
//
// # The states of a follower
//
//	           addReader                      first feed works
//	(no follower) ──────► opening ───────────────────────────► fed ◄──────────────┐
//	                        │                                  │ ▲                │
//	        no node serves  │      planMoveLocked: another     │ │ retryMove-     │ adoptFeed-
//	        the stream      │      owner; onOwnerMoved         │ │ Locked         │ Locked
//	                        │                                  ▼ │                │
//	                        │                                 moving ─────────────┤
//	                        │                                                     │
//	                        │      onLinkLost, onSubscriptionEnd                  │
//	                        │      (from fed or moving) ────► unfed ──────────────┘
//	                        ▼
//	                      over ◄── from any state: the last reader has left for a second, the
//	                               generation has ended, or the loop closes
//
// The type followerState names them, and follower.stateLocked returns the state.
//
//	opening  opening != nil, feed.isMissing, move != nil: all early readers wait for
//	         firstFeed.ready; the tail buffer does not exist until Subscribed or onLocalFeed
//	fed      move == nil, and the feed extends the tail buffer
//	moving   move != nil, and the old feed still extends the tail buffer; adoptFeedLocked
//	         releases it once the new one has answered. What arrives twice is dropped by
//	         position. The move does nothing until notBefore, so that not all followers of a
//	         node move together; while awaitingAnswer, target has been asked
//	unfed    tail buffer without a feed, move != nil: readers wait, and the move begins after
//	         a random pause
//	over     final: not in the loop's set, no feed; readers keep the tail buffer they have
//
// follower.step runs only in the loop's goroutine. The on… methods run in the goroutines of
// links and of the openPool, under follower.mu; they change the state and schedule a step.
//
// # The path of a handover
//
// A node that joins or leaves announces the second from which it does
// (gossip.Membership.AnnounceLeave). Every node switches by its own clock: package gossip calls
// nodeObserver.OnView at that date. A is the owner until then, B the next one, E a node with readers
// of the stream:
//
//	A (previous owner)                  B (new owner)                E (edge)
//	│ OnView: History.NoteTable         │ OnView                     │ OnView: followers
//	│ newBacklog                        │                            │ move one by one
//	│ requestTakeovers                  │                            │
//	├─ TakeOver(stream) ───────────────►│ takeOver: wait             │
//	│                                   │ fetchHandover              │
//	│◄──────────────────── Hand(stream)─┤                            │
//	│ handOver: isSuccessor?            │                            │
//	│ localStreams.handOver: seal,      │                            │
//	│   wait for the batch in flight    │                            │
//	│ openBridge: follow at B           │                            │
//	├─ state, newest records ──────────►│ install; no read of S2     │
//	│◄───────────────── TakeOver reply ─┤ add a reference            │
//	│◄─ Subscribe (bridge) ─────────────┤                            │
//	│ records from B, also for E ───────────────────────────────────► │
//	│ reconcileStreams: Moved(B) ──────────────────────────────────► │ onOwnerMoved
//	│                                   │◄───────────── Subscribe ───┤ tryNextTargetLocked
//	│                                   ├─ Subscribed, records ─────►│ adoptFeedLocked
//	│◄────────────────────────────────────────────── Unsubscribe ────┤
//	│ closeBridges                      │                            │
//
// The Subscribe of the bridge goes from A to B: A is the edge on that link. Any request for the
// stream at B has the same effect as A's TakeOver: it acquires the stream (localStreams.acquire). A
// release without TakeOver sends State instead, and is sent it. From the moment of
// localStreams.handOver A refuses the stream and names B, whatever its own table says
// (handedOver). If A cannot be reached, or answers nothing within handoverTimeout, B reads S2:
// what is handed over is a cache.
//
// Node.Leave (lifecycle.go) announces the date and returns once reconcileStreams finds nothing left
// here. It looks again after each event that may bring that nearer (noteLeaveProgress): owners or
// links changed, a stream was handed over or dropped, or its last feed ended. A stream that was not handed over is released by releaseStream once it feeds no subscriber.
// A process that finds that it stood still joins again (Membership.RejoinAfterPause).
//
// # A page of history
//
// Node.ReadPage, also for an ancestor of a fork: history is immutable, so any node may
// answer. The stream manager looks into this node's memory, asks the owner once
// (link.requestPage, server.ReadPage), and reads S2 if that does not answer within
// peerPageTimeout.
//
// # Trust
//
// Gossip is encrypted with the fleet's secret. The relay's port speaks TLS 1.3 with every peer
// that proves that it is of the fleet, by the secret or by a certificate (package peertls). Plaintext
// is accepted from the addresses of members that do not announce TLS, unless a setting forbids that.
//
// # Health
//
// With each heartbeat a node tells its peers its number of readers, whether S2 answers it, and
// how many streams it has still to hand over to them (health.go). From that a new node knows
// when it has its share (Node.Ready), a node that alone is cut off from S2 announces it and
// owns nothing until S2 answers again (reconcileStore), and readers are balanced
// (Node.ExchangeReaders).
//
// # What S2 answers to a node
//
// A node owns nothing before S2 has answered it with its own settings and it has found the
// fleet's record there (standing.go). Gossip carries a hash of the record. Members that own
// streams are right: a node that found another record owns none, is not ready, and reports which
// setting to check. An owner yields only to owners that began before it. A node with a different
// record writes nothing. A node that its own probe finds refused, while S2 answers others, gives
// its streams away as one that is cut off does. When a member is refused the others probe
// immediately, so that where all are refused all keep what they have. While S2 answers no node, a
// node that it has never answered waits a minute and then does without it: it is ready and owns
// its share.
//
// # Invariants
//
//  1. Views, tables and routings have the invariants of package placement. The newest View is behind
//     one pointer.
//  2. Nothing is queued for a slow peer. A subscription without credit is a position;
//     credit returns when bytes are received, whatever readers do with them.
//  3. What must be ordered with records (Subscribed, record batches, Moved, End) travels in the
//     bulk lane with them; nothing else does.
//  4. A handle is never used twice on a link, and a link that broke never comes back:
//     the next one has another incarnation.
//  5. A tail buffer is extended only by what joins it. A gap is counted and logged, and the
//     stream is asked for again from the position that is needed.
//  6. A reader's tail buffer ends only with the stream's generation. Owners may come and go.
//  7. A stream is released only while no subscriber here is fed by it, or once another node
//     feeds them. No request uses it while it arrives or leaves (local_streams.go).
//  8. What is handed over is a cache. Two owners, or none, lose nothing.
//  9. A node is unreachable only if it did not answer (package wire). Any other
//     failure ends its own call or subscription, and never the lane or the link.
//  10. The contract has no strings: what a client, a log or a name contains is bytes.
//
// # What is bounded, and what happens when it is full
//
// Subscriptions of one peer: 262,144, then refused as overloaded; a peer that keeps asking
// without reading the answers loses its link. Credit: 256 KiB for a subscription, 8 MiB for a
// link, 256 MiB for all links (later ones get less); without it records wait in the tail buffer,
// and what is evicted there is read from pages. Pages that an owner sent are cached with those
// that this node has read itself. Streams being opened for peers: 64 concurrently, and mostly
// those first that need no fetching; 65,536 wait, then refused. What the writes of peers hold
// (shard.Cost): 64 MiB, then refused before the body is read; a body that does not arrive within
// 10 s and 1 s for each MiB gives its part back. Streams being dropped: 16 concurrently, the
// others in the next second. Streams being handed over: 8 concurrently to each new owner;
// finished handovers are remembered for 5 s. Connections to the relay's port that
// have proved nothing (package peertls). Followers that move to a new owner while the previous one
// feeds them: 2,000 a second, and all that are left within 5 s.
//
// # Goroutines
//
// For a node: one reconciles ownership, one steps all followers, one reads secrets again where
// they are in a file, up to 9 for each new owner request takeovers after a change of owners, one for each peer that
// is asked for a report (AskReports waits for them, a second at most), and package gossip has its
// own. For each link: its keeper, a reader and a writer of the control
// lane, and a reader of the bulk lane while anything is followed; at the other end, those of
// gRPC's handlers, and one for a write while its body arrives. None for a stream. Close ends them
// all and waits.
//
// Lock order: followLoop.mu, follower.mu, then any of followLoop.pendingMu, link.mu and
// localStreams.mu. A tail buffer's lock may be taken under peerSession.mu, never the other way
// round. No lock is held during network I/O.
//
// # Not here
//
// What a record means (package shard), HTTP (package edge), and the work of an owner that
// failed: a node that cannot reach an owner sends the request to the successor, and does not
// become a second writer by itself.
package cluster
