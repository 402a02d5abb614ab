package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// server answers other nodes: it serves the streams that this node owns, and names the owner of
// others.
type server struct {
	relaypb.UnimplementedRelayServer

	// Set at construction.
	self        placement.PeerAddr
	log         *slog.Logger
	metrics     *metrics
	streams     servedStreams
	writeBudget *semaphore.Weighted // bytes that peers' writes hold, see shard.Cost
	bodyGrace   time.Duration       // see bodyGrace
	panics      *shard.PanicHandler
	grpc        *grpc.Server
	wg          sync.WaitGroup

	mu       sync.Mutex
	sessions map[uint64]*peerSession
}

// servedStreams serves the streams of a node to peers. It is a *Node. Its methods are called from the goroutines
// of gRPC's handlers, and may block.
type servedStreams interface {
	// checkOwnership returns nil if this node serves a peer's request for the stream, else a
	// *RedirectError.
	checkOwnership(ctx context.Context, id shard.StreamID, r placement.Route) error
	write(ctx context.Context, req *shard.Request, force bool) (shard.Outcome, error)
	info(ctx context.Context, id shard.StreamID, a shard.InfoOptions, force bool) (shard.Info, error)
	readPage(ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos) (shard.RecordBatch, error)
	// submitOpen runs fn soon, which calls startFeed; false: too many streams are being opened.
	submitOpen(id shard.StreamID, fn func()) bool
	startFeed(ctx context.Context, id shard.StreamID, from shard.Pos, force bool) (*shard.TailBuffer, localFeed, error)
	// takeOver fetches a stream that this node owns from its previous owner.
	takeOver(ctx context.Context, id shard.StreamID) error
	// handOver hands a stream to its next owner. A member that is not gets errNotSuccessor.
	handOver(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (shard.Handover, bool, error)
	isMember(name string) bool
	statusFor(peer string) *relaypb.Status
	// report answers a question about this node.
	report(ctx context.Context, question []byte) ([]byte, error)
}

// defaultBodyBytes is the default of Config.PeerWriteBytes, which bounds the bytes that peers' writes
// hold while they are carried out (shard.Cost). A write beyond it gets ErrOverloaded before its
// body is read.
const defaultBodyBytes = 64 << 20

// The body of a peer's write has to arrive within bodyGrace plus its size divided by bodyRate, in
// bytes a second. A later write gets ErrOverloaded, and its part of the budget is free again. The
// peer holds the whole body before it sends the head, so only a peer that hangs is slower.
const (
	bodyGrace = 10 * time.Second
	bodyRate  = 1 << 20
)

var errBodyLate = fmt.Errorf("%w: the body of a write did not arrive in time", shard.ErrOverloaded)

// Keepalive of the transport: it disconnects a peer that has stopped reading.
const (
	keepaliveTime    = 5 * time.Second
	keepaliveTimeout = 3 * time.Second
)

// maxPeerCalls bounds the concurrent calls of one peer, which waits before it sends another.
// maxHeaderBytes bounds the headers of each call.
const (
	maxPeerCalls   = 16384
	maxHeaderBytes = 16 << 10
)

func newServer(cfg *Config, self placement.PeerAddr, streams servedStreams, m *metrics, creds *peertls.Credentials) *server {
	opts := []grpc.ServerOption{
		grpc.InitialWindowSize(streamWindow),
		grpc.InitialConnWindowSize(connWindow),
		grpc.ReadBufferSize(peertls.BufferBytes),
		grpc.WriteBufferSize(peertls.BufferBytes),
		grpc.WaitForHandlers(true),
		// A client that connects and says nothing delays close by as much. A peer gives up sooner (helloTimeout).
		grpc.ConnectionTimeout(peertls.HandshakeTimeout),
		grpc.MaxRecvMsgSize(wire.MaxMessageBytes),
		grpc.MaxHeaderListSize(maxHeaderBytes),
		grpc.MaxConcurrentStreams(maxPeerCalls),
		grpc.KeepaliveParams(keepalive.ServerParameters{
			Time: keepaliveTime, Timeout: keepaliveTimeout,
		}),
	}
	if creds != nil {
		opts = append(opts, grpc.Creds(creds.ForListening()))
	}
	panics := shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	opts = append(opts, panicInterceptors(panics)...)
	s := &server{
		panics: panics, self: self, log: cfg.Logger, metrics: m, streams: streams,
		writeBudget: semaphore.NewWeighted(cfg.PeerWriteBytes), bodyGrace: cfg.bodyGrace, grpc: grpc.NewServer(opts...),
		sessions: map[uint64]*peerSession{},
	}
	relaypb.RegisterRelayServer(s.grpc, s)
	return s
}

// close disconnects every link and waits for every goroutine.
func (s *server) close() {
	s.grpc.Stop()
	s.wg.Wait()
}

// Control serves a link's control lane. The peer's session lasts as long as this call.
func (s *server) Control(
	lane grpc.BidiStreamingServer[relaypb.ToOwner, relaypb.ToEdge],
) error {
	m, err := lane.Recv()
	if err != nil {
		return err
	}
	session, err := s.openSession(lane.Context(), m.GetHello())
	if err != nil {
		return err
	}
	defer s.closeSession(session)
	hello := &relaypb.Hello{Version: placement.RelayVersionNewest, From: wire.EncodePeerAddr(s.self)}
	if err := lane.Send(&relaypb.ToEdge{Hello: hello}); err != nil {
		return err
	}
	read := make(chan error, 1)
	s.wg.Go(func() {
		var err error
		defer func() { read <- err }()
		defer recoverToError(s.panics, panicInLink, &err)
		err = session.readControl(lane, m)
	})
	watch := time.NewTicker(silenceTimeout / 6)
	defer watch.Stop()
	for {
		select {
		case err := <-read:
			return err
		case <-watch.C:
			if time.Since(time.Unix(0, session.lastHeard.Load())) > silenceTimeout {
				return status.Error(codes.DeadlineExceeded, errPeerSilent.Error())
			}
		}
	}
}

func (s *peerSession) readControl(
	lane grpc.BidiStreamingServer[relaypb.ToOwner, relaypb.ToEdge], m *relaypb.ToOwner,
) error {
	for {
		if err := wire.CheckToOwner(m); err != nil {
			return status.Error(codes.InvalidArgument, err.Error())
		}
		if err := s.handleControl(m); err != nil {
			return err
		}
		if b := m.GetHeartbeat(); b != 0 {
			if err := lane.Send(&relaypb.ToEdge{Heartbeat: b, Status: s.server.streams.statusFor(s.peer)}); err != nil {
				return err
			}
		}
		var err error
		if m, err = lane.Recv(); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
	}
}

// openSession begins the session that a Hello asks for.
func (s *server) openSession(ctx context.Context, h *relaypb.Hello) (*peerSession, error) {
	if err := wire.CheckHello(h); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	switch {
	case wire.Text(h.GetTo()) != s.self.Name:
		return nil, status.Errorf(codes.FailedPrecondition, "this is %s", s.self.Name)
	case h.GetVersion() < placement.RelayVersionOldest:
		return nil, status.Errorf(codes.Unimplemented, "version %d", h.GetVersion())
	}
	session := &peerSession{
		server: s, peer: wire.Text(h.GetFrom().GetName()), peerVersion: h.GetVersion(), incarnation: h.GetIncarnation(),
		subscriptionWindow: int64(min(h.GetWindow(), maxCreditGrant)), maxSubs: maxSubs,
		credit: int64(min(h.GetLinkWindow(), maxCreditGrant)),
		wake:   make(chan struct{}, 1), bulkSlot: make(chan struct{}, 1), subs: map[uint64]*peerSub{},
	}
	session.lastHeard.Store(time.Now().UnixNano())
	session.ctx, session.cancel = context.WithCancel(ctx)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sessions[session.incarnation] != nil {
		session.cancel()
		return nil, status.Error(codes.AlreadyExists, "link incarnation")
	}
	if s.atLinkLimitLocked(session.peer) {
		session.cancel()
		return nil, status.Error(codes.ResourceExhausted, "too many links")
	}
	s.sessions[session.incarnation] = session
	return session, nil
}

// A member has one link, and briefly a second one while it opens the link again. The peers that
// this node has not heard of by gossip share maxUnknownLinks.
const (
	maxLinksPerMember = 4
	maxUnknownLinks   = 16
)

// atLinkLimitLocked reports whether a peer has as many links as it may.
func (s *server) atLinkLimitLocked(peer string) bool {
	if s.streams.isMember(peer) {
		return s.countSessionsLocked(func(name string) bool { return name == peer }) >= maxLinksPerMember
	}
	return s.countSessionsLocked(func(name string) bool {
		return !s.streams.isMember(name)
	}) >= maxUnknownLinks
}

func (s *server) countSessionsLocked(of func(name string) bool) (n int) {
	for _, ses := range s.sessions {
		if of(ses.peer) {
			n++
		}
	}
	return n
}

func (s *server) closeSession(ses *peerSession) {
	s.mu.Lock()
	delete(s.sessions, ses.incarnation)
	s.mu.Unlock()
	ses.close()
}

// maxBulkLanes bounds the bulk lanes of a session that are open or wait for the previous one to
// end.
const maxBulkLanes = 4

// Bulk serves a link's bulk lane: it sends Frames of what the session's subscriptions are due.
func (s *server) Bulk(
	q *relaypb.BulkRequest, lane grpc.ServerStreamingServer[relaypb.Frame],
) error {
	s.mu.Lock()
	session := s.sessions[q.GetIncarnation()]
	s.mu.Unlock()
	if session == nil {
		return status.Error(codes.NotFound, "no such link")
	}
	if session.bulkLanes.Add(1) > maxBulkLanes {
		session.bulkLanes.Add(-1)
		return status.Error(codes.ResourceExhausted, "too many bulk lanes")
	}
	defer session.bulkLanes.Add(-1)
	select {
	case session.bulkSlot <- struct{}{}: // the previous lane has ended
	case <-lane.Context().Done():
		return nil
	case <-session.ctx.Done():
		return nil
	}
	defer func() {
		<-session.bulkSlot
		notify.Send(session.wake) // a wake-up that this lane consumed may be meant for the next one
	}()
	var f frameBuilder
	for {
		session.fillFrame(&f, q.GetBulkLane())
		if len(f.frame.Parts) > 0 {
			if err := lane.Send(&f.frame); err != nil {
				return err
			}
			continue
		}
		select {
		case <-session.wake:
		case <-lane.Context().Done():
			return nil
		case <-session.ctx.Done():
			return nil
		}
	}
}

// Do carries out a peer's write.
func (s *server) Do(in grpc.ClientStreamingServer[relaypb.WriteChunk, relaypb.WriteReply]) error {
	ctx := in.Context()
	first, err := in.Recv()
	if err != nil {
		return err
	}
	req, size, err := wire.DecodeRequest(first.GetHead())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	rt := wire.DecodeRoute(first.GetHead().GetRoute())
	if err := s.streams.checkOwnership(ctx, req.Stream, rt); err != nil {
		return wire.ErrorToStatus(err)
	}
	cost := int64(shard.RequestCost(size, len(first.GetHead().GetSizes())))
	if !s.writeBudget.TryAcquire(cost) {
		return wire.ErrorToStatus(shard.ErrOverloaded)
	}
	defer s.writeBudget.Release(cost)
	body, err := s.awaitBody(in, first.GetBody(), size)
	if err != nil {
		return err
	}
	if err := wire.SplitMessages(req, first.GetHead().GetSizes(), body); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	out, err := s.streams.write(ctx, req, rt.Hop == placement.HopForce)
	if err != nil {
		return wire.ErrorToStatus(err)
	}
	return in.SendAndClose(wire.EncodeOutcome(out))
}

// awaitBody returns a body of size bytes that arrives in chunks, or the status of errBodyLate. The
// goroutine that reads ends with the handler at the latest: only that ends a pending read in gRPC.
func (s *server) awaitBody(
	in grpc.ClientStreamingServer[relaypb.WriteChunk, relaypb.WriteReply], first []byte, size int,
) ([]byte, error) {
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	s.wg.Go(func() {
		var r result
		defer func() { done <- r }()
		defer recoverToError(s.panics, panicInCall, &r.err)
		r.body, r.err = readBody(in, first, size)
	})
	late := time.NewTimer(s.bodyGrace + time.Duration(size)*time.Second/bodyRate)
	defer late.Stop()
	select {
	case r := <-done:
		return r.body, r.err
	case <-late.C:
		return nil, wire.ErrorToStatus(errBodyLate)
	}
}

// readBody returns a body of size bytes that arrives in chunks.
func readBody(
	in grpc.ClientStreamingServer[relaypb.WriteChunk, relaypb.WriteReply], first []byte, size int,
) ([]byte, error) {
	body := first
	if len(first) < size {
		body = append(make([]byte, 0, size), first...)
	}
	for {
		chunk, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
		if len(body)+len(chunk.GetBody()) > size {
			return nil, status.Error(codes.InvalidArgument, wire.ErrMalformedRequest.Error())
		}
		body = append(body, chunk.GetBody()...)
	}
}

// State describes a stream to a peer.
func (s *server) State(
	ctx context.Context, q *relaypb.StateRequest,
) (*relaypb.StateReply, error) {
	id, ask, err := wire.CheckStateRequest(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	rt := wire.DecodeRoute(q.GetRoute())
	if err := s.streams.checkOwnership(ctx, id, rt); err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	info, err := s.streams.info(ctx, id, ask, rt.Hop == placement.HopForce)
	if err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	return &relaypb.StateReply{Info: wire.EncodeInfo(info)}, nil
}

// TakeOver has this node fetch a stream that it owns now from the peer that owned it, and serve it.
func (s *server) TakeOver(ctx context.Context, q *relaypb.TakeOverRequest) (*relaypb.TakeOverReply, error) {
	id, err := wire.CheckStream(q.GetStream())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.streams.checkOwnership(ctx, id, placement.Route{}); err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	if err := s.streams.takeOver(ctx, id); err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	return &relaypb.TakeOverReply{}, nil
}

// errNotSuccessor refuses to hand a stream to a member that is not its next owner.
var errNotSuccessor = errors.New("not the stream's owner")

// Hand hands a stream over to the caller, if the caller is its next owner.
func (s *server) Hand(ctx context.Context, q *relaypb.HandoverRequest) (*relaypb.HandoverReply, error) {
	id, err := wire.CheckHandoverRequest(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	h, found, err := s.streams.handOver(ctx, id, shard.Pos(q.GetFrom()), wire.DecodePeerAddr(q.GetCaller()))
	switch {
	case err != nil:
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case !found:
		return &relaypb.HandoverReply{}, nil
	}
	reply := &relaypb.HandoverReply{Found: true, State: h.State}
	for _, r := range h.Tail {
		reply.Tail = append(reply.Tail, r.Bytes())
	}
	return reply, nil
}

// ReadPage sends a peer a page of history.
func (s *server) ReadPage(
	q *relaypb.PageRequest, out grpc.ServerStreamingServer[relaypb.PageChunk],
) error {
	id, err := wire.CheckPageRequest(q)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	r, err := s.streams.readPage(out.Context(), id, wire.DecodeInfo(q.GetInfo()), shard.Pos(q.GetFrom()))
	if err != nil {
		return wire.ErrorToStatus(err)
	}
	b := r.Bytes()
	s.metrics.bytes[endOwner].Add(float64(len(b)))
	for total := uint32(len(b)); len(b) > 0; total = 0 {
		n := min(len(b), wire.MaxFrameBytes)
		if err := out.Send(&relaypb.PageChunk{Data: b[:n], Total: total}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// Ping tells a peer that this node answers.
func (s *server) Ping(context.Context, *relaypb.PingRequest) (*relaypb.PingReply, error) {
	return &relaypb.PingReply{}, nil
}

// checkSubscriptions checks the subscriptions of every session and returns how many of them another
// node should serve.
func (s *server) checkSubscriptions(now time.Time, mayServe func(shard.StreamID) (placement.PeerAddr, bool)) (wrong int) {
	s.mu.Lock()
	all := make([]*peerSession, 0, len(s.sessions))
	for _, ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	for _, ses := range all {
		wrong += ses.checkSubscriptions(now, mayServe)
	}
	return wrong
}
