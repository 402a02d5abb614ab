// Package cluster connects the nodes of one fleet: it knows the members, it knows which of
// them owns each stream, and it carries requests and records from one node to another.
// DESIGN.md has the reasons; this page has the paths through the code. What can be read apart is in
// packages of its own:
//
//	placement   which node owns a stream, and which one to ask next; pure
//	gossip      finds the members, begins a fleet, announces from when until when a node owns streams
//	transport   the links between nodes, and what they carry
//	wire        the messages on the links
//	peertls     the proof that a peer is of the fleet
//
// The files here are the node: request routing, followers, handover, local streams. "The stream manager"
// is shard.Manager, which each node has one of.
//
// References between files point one way, from lifecycle.go down to node.go, config.go and metrics.go. Two pairs know
// each other: node.go holds the state that reports.go, storage_standing.go, heartbeat_status.go and handover.go declare, and
// followLoop holds the followers, which report to it.
//
// # The path of an append
//
// The edge calls Node.Do. Node.routeRequest asks one node after another. placement.Routing.NextTarget
// returns the owner by this node's table (hop 0), then the node that a refusal names or the successor
// of a lost owner (hop 1), then a node that must serve (hop 2); Routing.HandleAnswer decides whether
// to go on. Node.askTarget finds the link to that peer (transport.Peers.AwaitLink) and calls the
// attempt, a closure of Node.Do. Without a link, since this node is the target, the attempt serves
// the request here (localStreams.write); otherwise it sends it (Link.RequestWrite).
//
// At the peer, transport.Server.Do checks the head, compares the stream with its own
// table (Streams.CheckOwnership), reserves the request's cost, waits for the body
// and calls Streams.Write. Streams is the interface by which transport knows its node; here it is
// ownerSide, a Node as its peers see it, and ownerSide.Write calls localStreams.write. That acquires the
// stream (localStreams.acquire, which fetches it if another node has it) and calls the stream manager.
// The Outcome returns the same way.
//
// If no node says whether the write was carried out, Node.Do sends it again with its append
// id; S2 holds it once. A refusal changes no View: only gossip does.
//
// # The path of a delivery
//
// A reader's edge calls Node.Follow, which calls followLoop.follow. followLoop.addReader finds or creates
// the stream's follower, for whose first feed follow waits. The goroutine of followLoop.run steps the
// follower (follower.step). planMoveLocked
// decides that a feed is needed, advanceMoveLocked and tryNextTargetLocked choose the source
// by the same routing. The source is either the stream manager of this node
// (openLocalFeedLocked, localStreams.startFeed, then onLocalFeed) or a peer
// (transport.Link.Subscribe, whose Subscriber the follower is).
//
// At the owner, ownerSide.StartFeed has the stream manager follow the stream, which opens its one read session
// with S2. From then on each change of the stream's tail buffer is sent by the bulk lane, as
// package transport says. Back at the reader's node, Link.handlePart has handleBatch join the pieces, and
// follower.OnRecords extends this node's tail buffer, which wakes its readers (package edge). The tail
// buffers are one set (shard.TailBuffers) that the stream manager and the followLoop share: the follower
// extends them for streams of other nodes, the stream manager for its own.
//
// # The path of a wait for a creation
//
// The edge calls Node.AwaitCreation for a client that waits for a stream that does not exist
// (creation_waits.go). A name has one goroutine on the client's node, awaitName, which asks the owner by the
// same routing as a request: the stream manager of this node (awaitHere) or a peer
// (transport.Link.AwaitCreation, a subscription without records). At the owner localStreams.awaitCreation adds an
// entry to the stream manager, and then looks whether the stream exists, so no creation is missed. The
// creation ends the subscription, and wakeAll wakes the clients. Whatever else ends it, a change of owners or a
// lost link, has awaitName ask again.
//
// # The path of a number of readers
//
// addReader and removeReader have follower.reportReadersLocked tell the subscription at the node's upstream
// (transport.Subscription.SetReaders), which says so with its next heartbeat. At the owner ownerSide.AddReaders adds
// to fedReaders what peers feed from here; a node that feeds others and is fed itself, in a handover, reports
// both. Node.KnownReaders is the sum at the owner. Elsewhere it is what the owner answers to heartbeats while a
// reader watches (WatchReaders), and Node.CountReaders asks the owner.
//
// # The states of a follower
//
//	           addReader                      first feed works
//	(no follower) ──────► opening ───────────────────────────► fed ◄──────────────┐
//	                        │                                  │ ▲                │
//	        no node serves  │      planMoveLocked: another     │ │ retryMove-     │ adoptFeed-
//	        the stream      │      owner; OnOwnerMoved         │ │ Locked         │ Locked
//	                        │                                  ▼ │                │
//	                        │                                 moving ─────────────┤
//	                        │                                                     │
//	                        │      OnLinkLost, OnSubscriptionEnd                  │
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
// follower.step runs only in the loop's goroutine. The On… methods, and onLocalFeed, run in the goroutines of
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
//	│ offerBacklog → offerStream        │                            │
//	├─ TakeOver ───────────────────────►│ ServeOffered → acquire     │
//	│                                   │ fetchHandover              │
//	│◄──────────────────────────── Hand ┤                            │
//	│ ownerSide.HandOver: isSuccessor?  │                            │
//	│ localStreams.handOver             │                            │
//	│   shard.Manager.HandOver          │                            │
//	│ openBridge: follow at B           │                            │
//	├─ Hand reply: state, newest ──────►│ InstallHandover;           │
//	│  records                          │ no read of S2              │
//	│◄───────────────── TakeOver reply ─┤                            │
//	├─ Subscribe (bridge) ─────────────►│ startFeed: one feedRef     │
//	│◄──────────────────────── records ─┤                            │
//	├─ the same records ────────────────────────────────────────────►│
//	│ reconcileStreams                  │                            │
//	├─ Moved(B) ────────────────────────────────────────────────────►│ OnOwnerMoved
//	│                                   │◄───────────────── Subscribe┤ tryNextTargetLocked
//	│                                   ├─ Subscribed, records ─────►│ adoptFeedLocked
//	│◄────────────────────────────────────────────────── Unsubscribe ┤
//	│ closeBridges                      │                            │
//
// The calls have these names in Go, on the side that asks and on the side that answers:
//
//	call       asks                    answers
//	TakeOver   Link.OfferStream        Server.TakeOver → ownerSide.ServeOffered
//	Hand       Link.RequestHandover    Server.Hand → ownerSide.HandOver
//	Subscribe  Link.Subscribe          session.addSubscription → ownerSide.StartFeed
//	Moved      session.checkSubscriptions, which is the owner's; → follower.OnOwnerMoved
//
// What is waited for: acquire waits while the stream is arriving at B or leaving it, and then fetches it.
// shard.Manager.HandOver ends the stream at A (Stream.halt): it refuses the callers in the queue, waits
// for the batch in flight, and ends the read session. localStreams.handOver removes the feedRef that
// counts A's feeds from its table, and openBridge keeps the bridge under that feedRef until no subscriber
// is left. B counts the bridge, as any subscription, by a feedRef of its own; calls hold none.
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
// links changed, a stream was handed over or dropped, or its last feed ended. A stream that was not handed
// over is released by releaseStream once it feeds no subscriber.
// A process that finds that it stood still joins again (Membership.RejoinAfterPause).
//
// # A page of history
//
// Node.ReadPage, also for an ancestor of a fork: history is immutable, so any node may
// answer. Manager.ReadPageVia looks into this node's memory, asks the owner once
// (transport.Link.RequestPage, for which the owner calls Manager.ReadPage), and reads S2 if that does not
// answer within peerPageTimeout. Node.FindTime, the position of a time, goes the same way
// (transport.Link.RequestTime).
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
// how many streams it has still to hand over to them (heartbeat_status.go). From that a new node knows
// when it has its share (Node.Ready), a node that alone is cut off from S2 announces it and
// owns nothing until S2 answers again (reconcileStore), and readers are balanced
// (Node.ExchangeReaders).
//
// # What S2 answers to a node
//
// A node owns nothing before S2 has answered it with its own settings and it has found the fleet's
// record there (storage_standing.go). Gossip carries a hash of the record. Members that own streams
// are right: a node that found another record owns none, is not ready, and reports which setting to
// check. An owner yields only to owners that began before it. A node with a different record writes
// nothing. A node that its own probe finds refused, while S2 answers others, gives its streams away
// as a node that is cut off does. When a member is refused the others probe immediately, so that
// where all are refused all keep what they have. While S2 answers no node, a node that it has never
// answered waits a minute and then does without it: it is ready and owns its share.
//
// # Invariants
//
//  1. Views, tables and routings have the invariants of package placement. The newest View is behind
//     one pointer.
//  2. A tail buffer is extended only by what joins it. A gap is counted and logged, and the
//     stream is asked for again from the position that is needed.
//  3. A reader's tail buffer ends only with the stream's generation. Owners may come and go.
//  4. A stream is released only while no subscriber here is fed by it, or once another node
//     feeds them. No request uses it while it arrives or leaves (local_streams.go).
//  5. What is handed over is a cache. Two owners, or none, lose nothing.
//
// Links, credit and messages have theirs in packages transport and wire.
//
// # What is bounded, and what happens when it is full
//
// Pages that an owner sent are cached with those that this node has read itself. Streams being opened, for
// peers and for this node: 64 concurrently, and mostly those first that need no fetching; 65,536 wait, then
// refused. Streams being dropped: 16 concurrently, the others in the next second. Streams being handed over: 8
// concurrently to each new owner; finished handovers are remembered for 5 s. Followers that move to a new owner
// while the previous one feeds them: 2,000 a second, and all that are left within 5 s. What links hold is bounded
// in package transport. Names that clients wait for: as many as waiting clients, which the edge bounds.
//
// # Goroutines
//
// For a node: one reconciles ownership, one steps all followers, and one reads secrets again where
// they are in a file. After a change of owners up to 9 for each new owner offer streams. One for each peer
// that is asked for a report (AskReports waits for them, a second at most), and one for each name that clients
// of this node wait for. Packages gossip and transport have their own. None for a stream. Close ends them all
// and waits.
//
// creationWaits.mu is taken alone. Lock order: followLoop.mu, follower.mu, then any of followLoop.pendingMu, localStreams.mu and the locks of
// package transport. No lock is held during network I/O.
//
// # Not here
//
// What a record means (package shard), HTTP (package edge), and the work of an owner that
// failed: a node that cannot reach an owner sends the request to the successor, and does not
// become a second writer by itself.
package cluster
