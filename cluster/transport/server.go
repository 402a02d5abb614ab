package transport

import (
	"context"
	"log/slog"
	"net"
	"sync"
	"time"

	"golang.org/x/sync/semaphore"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/keepalive"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/peertls"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Server answers other nodes: it serves the streams that this node owns, and names the owner of
// others.
type Server struct {
	relaypb.UnimplementedRelayServer

	// Set at construction.
	self        placement.PeerAddr
	log         *slog.Logger
	metrics     *endMetrics
	streams     Streams
	writeBudget *semaphore.Weighted // bytes that peers' writes hold, see shard.RequestCost
	bodyGrace   time.Duration       // Config.BodyGrace
	panics      *shard.PanicHandler
	grpc        *grpc.Server
	wg          sync.WaitGroup

	mu       sync.Mutex
	sessions map[uint64]*session
}

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

// NewServer returns the server of a node.
func NewServer(cfg Config, streams Streams) *Server {
	cfg.setDefaults()
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
	if cfg.Creds != nil {
		opts = append(opts, grpc.Creds(cfg.Creds.ForListening()))
	}
	panics := shard.NewPanicHandler(cfg.Logger, cfg.Metrics)
	opts = append(opts, panicInterceptors(panics)...)
	if cfg.Tracer != nil {
		opts = append(opts, traceInterceptors(cfg.Tracer)...)
	}
	s := &Server{
		panics: panics, self: cfg.Self, log: cfg.Logger, metrics: newEndMetrics(cfg.Metrics, endOwner), streams: streams,
		writeBudget: semaphore.NewWeighted(cfg.PeerWriteBytes), bodyGrace: cfg.BodyGrace, grpc: grpc.NewServer(opts...),
		sessions: map[uint64]*session{},
	}
	relaypb.RegisterRelayServer(s.grpc, s)
	return s
}

// Serve answers peers until Close, or until ln fails.
func (s *Server) Serve(ln net.Listener) error { return s.grpc.Serve(ln) }

// Close disconnects every link and waits for every goroutine.
func (s *Server) Close() {
	s.grpc.Stop()
	s.wg.Wait()
}

// openSession begins the session that a Hello asks for.
func (s *Server) openSession(ctx context.Context, h *relaypb.Hello) (*session, error) {
	if err := wire.CheckHello(h); err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	switch {
	case wire.Text(h.GetTo()) != s.self.Name:
		return nil, status.Errorf(codes.FailedPrecondition, "this is %s", s.self.Name)
	case h.GetVersion() < placement.RelayVersionOldest:
		return nil, status.Errorf(codes.Unimplemented, "version %d", h.GetVersion())
	}
	session := &session{
		streams: s.streams, metrics: s.metrics, panics: s.panics, peer: wire.Text(h.GetFrom().GetName()), peerVersion: h.GetVersion(), incarnation: h.GetIncarnation(),
		subscriptionWindow: int64(min(h.GetWindow(), maxCreditGrant)), maxSubs: maxSubs,
		credit: int64(min(h.GetLinkWindow(), maxCreditGrant)),
		wake:   make(chan struct{}, 1), bulkSlot: make(chan struct{}, 1), subs: map[uint64]*sessionSub{},
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
func (s *Server) atLinkLimitLocked(peer string) bool {
	if s.streams.IsMember(peer) {
		return s.countSessionsLocked(func(name string) bool { return name == peer }) >= maxLinksPerMember
	}
	return s.countSessionsLocked(func(name string) bool {
		return !s.streams.IsMember(name)
	}) >= maxUnknownLinks
}

func (s *Server) countSessionsLocked(of func(name string) bool) (n int) {
	for _, ses := range s.sessions {
		if of(ses.peer) {
			n++
		}
	}
	return n
}

func (s *Server) closeSession(ses *session) {
	s.mu.Lock()
	delete(s.sessions, ses.incarnation)
	s.mu.Unlock()
	ses.close()
}

// CheckSubscriptions checks the subscriptions of every session and returns how many of them another
// node should serve.
func (s *Server) CheckSubscriptions(now time.Time, mayServe func(shard.StreamID) (placement.PeerAddr, bool)) (wrong int) {
	s.mu.Lock()
	all := make([]*session, 0, len(s.sessions))
	for _, ses := range s.sessions {
		all = append(all, ses)
	}
	s.mu.Unlock()
	for _, ses := range all {
		wrong += ses.checkSubscriptions(now, mayServe)
	}
	return wrong
}
