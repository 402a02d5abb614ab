package cluster

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// link is the edge's half of a link: one incarnation of the connection to a member, with its
// control lane and, while anything is followed, its bulk lane. Nothing is queued for the control
// lane: what is to be sent is kept in the subscriptions, and each is in the outbox at most once.
type link struct {
	// Set at construction, or by exchangeHello before the link is shared.
	peer               placement.PeerAddr
	incarnation        uint64
	conn               *grpc.ClientConn
	client             relaypb.RelayClient
	control            grpc.BidiStreamingClient[relaypb.ToOwner, relaypb.ToEdge]
	ctx                context.Context // ends with the link; its cause is the reason
	cancel             context.CancelCauseFunc
	metrics            *metrics
	panics             *shard.PanicHandler
	peerVersion        uint32 // newest contract version that the owner speaks
	subscriptionWindow int
	linkWindow         int
	wake               chan struct{} // cap 1, never closed
	wg                 sync.WaitGroup
	lastHeard          atomic.Int64                   // when the owner was last heard, Unix ns
	peerStatus         atomic.Pointer[relaypb.Status] // the owner's last Status; nil: none yet
	peerStoreAnswer    atomic.Int64                   // when S2 last answered the owner, in ns since 1970; 0: it does not say
	now                func() time.Time               // this node's clock; clockSkew is how many ms it is ahead of the owner's
	clockSkew          atomic.Int64

	mu         sync.Mutex
	closed     bool
	subs       map[uint64]*upstreamSub
	lastHandle uint64 // the last handle given out
	outbox     []*upstreamSub
	creditDue  int       // bytes received and not yet returned as link credit
	idleSince  time.Time // since when subs is empty

	// Owned by the goroutine of writeControl.
	lastBeat uint64
	lastLane uint64
	stopBulk context.CancelFunc // nil: there is no bulk lane
}

// subscriber receives what a subscription brings: *follower. Its methods are called from the
// goroutine of the link's bulk lane, and must not block.
type subscriber interface {
	streamID() shard.StreamID
	onSubscribed(u *upstreamSub, info shard.Info, start shard.Pos)
	onRecords(u *upstreamSub, r shard.RecordBatch)
	onOwnerMoved(u *upstreamSub, to placement.PeerAddr)
	onSubscriptionEnd(u *upstreamSub, why error)
	// onLinkLost is called from the peer's goroutine.
	onLinkLost(u *upstreamSub)
}

// upstreamSub is the edge's half of a subscription.
type upstreamSub struct {
	subscriber subscriber
	link       *link
	handle     uint64

	// Guarded by link.mu.
	request   *subscribeRequest // nil once it is sent
	creditDue uint32
	listed    bool
	removed   bool // taken back

	// Owned by the goroutine of the link's bulk lane.
	tail    *shard.TailBuffer
	partial *wire.BatchAssembler // nil: no batch is arriving in pieces
}

// subscribeRequest holds the content of a Subscribe that is still to be sent.
type subscribeRequest struct {
	from  shard.Pos
	route placement.Route
}

// Timing of links.
const (
	helloTimeout      = time.Second
	heartbeatInterval = time.Second
	silenceTimeout    = 3 * time.Second // without any message
	bulkLinger        = time.Minute     // after the last subscription
	pingTimeout       = 200 * time.Millisecond
)

// maxPeerClock bounds the clock that a peer may report, in milliseconds since 1970.
const maxPeerClock = 1 << 45

// maxControlBatch bounds the subscriptions in one control message, and maxControlBytes the size of
// its requests.
const (
	maxControlBatch = 512
	maxControlBytes = 256 << 10
)

var (
	errPeerSilent = errors.New("no sign of life")
	errLinkClosed = errors.New("link closed")
)

// openLink connects to a member and exchanges Hello.
func openLink(ctx context.Context, p *peer) (*link, error) {
	cfg := p.peers.cfg
	conn, err := p.newClientConn()
	if err != nil {
		return nil, err
	}
	l := &link{
		peer: p.addr, incarnation: rand.Uint64(), conn: conn, client: relaypb.NewRelayClient(conn),
		now: cfg.Now, metrics: p.peers.metrics, panics: p.peers.panics, subscriptionWindow: cfg.subscriptionWindow, linkWindow: p.peers.grantCredit(),
		wake: make(chan struct{}, 1), subs: map[uint64]*upstreamSub{}, idleSince: time.Now(),
	}
	l.ctx, l.cancel = context.WithCancelCause(ctx)
	err = l.exchangeHello(p.peers.self)
	if err != nil {
		l.cancel(err)
		p.peers.returnCredit(l.linkWindow)
		_ = conn.Close()
		return nil, fmt.Errorf("hello to %s: %w", p.addr.Name, err)
	}
	return l, nil
}

func (l *link) exchangeHello(self placement.PeerAddr) (err error) {
	defer recoverToError(l.panics, panicInLink, &err)
	late := time.AfterFunc(helloTimeout, func() { l.cancel(errPeerSilent) })
	defer late.Stop()
	control, err := l.client.Control(l.ctx)
	if err != nil {
		return err
	}
	l.control = control
	if err := control.Send(&relaypb.ToOwner{Hello: &relaypb.Hello{
		Version: placement.RelayVersionNewest, From: wire.EncodePeerAddr(self), To: wire.Bytes(l.peer.Name), Incarnation: l.incarnation,
		Window: uint64(l.subscriptionWindow), LinkWindow: uint64(l.linkWindow),
	}}); err != nil {
		return err
	}
	m, err := control.Recv()
	switch {
	case err != nil:
		return err
	case wire.Text(m.GetHello().GetFrom().GetName()) != l.peer.Name:
		return fmt.Errorf("reached %q", m.GetHello().GetFrom().GetName())
	}
	l.peerVersion = m.GetHello().GetVersion()
	l.lastHeard.Store(time.Now().UnixNano())
	return nil
}

// keepAlive keeps the link until it breaks, and returns why.
func (l *link) keepAlive() error {
	l.goGuarded(l.readControl)
	l.goGuarded(l.writeControl)
	watch := time.NewTicker(silenceTimeout / 6)
	defer watch.Stop()
	for l.ctx.Err() == nil {
		select {
		case <-l.ctx.Done():
		case <-watch.C:
			if time.Since(time.Unix(0, l.lastHeard.Load())) > silenceTimeout {
				l.cancel(errPeerSilent)
			}
		}
	}
	_ = l.conn.Close()
	l.wg.Wait()
	return context.Cause(l.ctx)
}

// goGuarded starts one of the link's goroutines. A panic in it ends the link.
func (l *link) goGuarded(fn func()) {
	l.wg.Go(func() {
		var err error
		defer func() {
			if err != nil {
				l.cancel(err)
			}
		}()
		defer recoverToError(l.panics, panicInLink, &err)
		fn()
	})
}

// close ends the link and returns the subscriptions that were on it.
func (l *link) close() []*upstreamSub {
	l.cancel(errLinkClosed)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	subs := make([]*upstreamSub, 0, len(l.subs))
	for _, u := range l.subs {
		subs = append(subs, u)
	}
	l.metrics.subscriptions[endEdge].Sub(float64(len(subs)))
	l.subs, l.outbox = nil, nil
	return subs
}

// subscribe asks for a stream on behalf of f; nil: the link is closed.
func (l *link) subscribe(f subscriber, a subscribeRequest) *upstreamSub {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.lastHandle++
	u := &upstreamSub{subscriber: f, link: l, handle: l.lastHandle, request: &a}
	l.subs[u.handle] = u
	l.metrics.subscriptions[endEdge].Inc()
	l.enqueueLocked(u)
	return u
}

// unsubscribe takes a subscription back. Parts that still arrive for it are ignored.
func (l *link) unsubscribe(u *upstreamSub) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgetSubLocked(u) && u.request == nil {
		l.enqueueLocked(u)
	}
	u.request = nil
}

func (l *link) forgetSubLocked(u *upstreamSub) bool {
	if u.removed || l.closed {
		return false
	}
	u.removed = true
	delete(l.subs, u.handle)
	l.metrics.subscriptions[endEdge].Dec()
	if len(l.subs) == 0 {
		l.idleSince = time.Now()
	}
	return true
}

func (l *link) enqueueLocked(u *upstreamSub) {
	if !u.listed {
		u.listed = true
		l.outbox = append(l.outbox, u)
		notify.Send(l.wake)
	}
}

// ping reports whether the member answers within pingTimeout.
func (l *link) ping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := l.client.Ping(ctx, &relaypb.PingRequest{})
	return err == nil
}

func (l *link) readControl() {
	for {
		m, err := l.control.Recv()
		if err != nil {
			l.cancel(err)
			return
		}
		l.lastHeard.Store(time.Now().UnixNano())
		if m.GetStatus() != nil {
			st := wire.CheckStatus(m.GetStatus())
			if st.StoreAnswerAgeMillis != nil {
				l.peerStoreAnswer.Store(time.Now().Add(-time.Duration(st.GetStoreAnswerAgeMillis()) * time.Millisecond).UnixNano())
			}
			l.peerStatus.Store(st)
			if at := m.GetStatus().GetClockMillis(); at != 0 && l.now != nil {
				l.clockSkew.Store(int64(shard.MillisOf(l.now())) - int64(min(at, maxPeerClock)))
			}
		}
	}
}

// writeControl sends what is in the outbox, one batch at a time, and a heartbeat each second.
func (l *link) writeControl() {
	tick := time.NewTicker(heartbeatInterval)
	defer tick.Stop()
	for beat := true; ; {
		m, more := l.nextControlMessage(beat)
		if m != nil {
			if err := l.control.Send(m); err != nil {
				l.cancel(err)
				return
			}
		}
		beat = false
		if more {
			continue
		}
		select {
		case <-l.ctx.Done():
			return
		case <-l.wake:
		case <-tick.C:
			beat = true
			l.closeBulk()
		}
	}
}

// nextControlMessage builds the next control message, or returns nil; more: the outbox is not
// empty.
func (l *link) nextControlMessage(beat bool) (m *relaypb.ToOwner, more bool) {
	m = &relaypb.ToOwner{}
	l.mu.Lock()
	taken, size := 0, 0
	for _, u := range l.outbox[:min(len(l.outbox), maxControlBatch)] {
		if size > maxControlBytes {
			break
		}
		taken++
		u.listed = false
		switch {
		case u.request != nil:
			q := &relaypb.Subscribe{
				Handle: u.handle, Stream: wire.Bytes(u.subscriber.streamID()), From: uint64(u.request.from),
				Route: wire.EncodeRoute(u.request.route),
			}
			size += proto.Size(q)
			m.Subscribe = append(m.Subscribe, q)
			u.request = nil
		case u.removed:
			m.Unsubscribe = append(m.Unsubscribe, u.handle)
		case u.creditDue > 0:
			m.Credit = append(m.Credit, &relaypb.Credit{Handle: u.handle, Bytes: uint64(u.creditDue)})
			u.creditDue = 0
		}
	}
	clear(l.outbox[:taken])
	l.outbox = l.outbox[taken:]
	if more = len(l.outbox) > 0; !more {
		l.outbox = nil
	}
	if l.creditDue >= l.linkWindow/8 {
		m.LinkCredit, l.creditDue = uint64(l.creditDue), 0
	}
	l.mu.Unlock()
	if len(m.Subscribe) > 0 {
		l.openBulk()
	}
	m.BulkLane = l.lastLane
	if beat {
		l.lastBeat++
		m.Heartbeat = l.lastBeat
	}
	if !beat && taken == 0 && m.LinkCredit == 0 {
		return nil, false
	}
	return m, more
}

// openBulk opens the bulk lane if there is none.
func (l *link) openBulk() {
	if l.stopBulk != nil {
		return
	}
	ctx, stop := context.WithCancel(l.ctx)
	l.lastLane++
	bulk, err := l.client.Bulk(ctx, &relaypb.BulkRequest{Incarnation: l.incarnation, BulkLane: l.lastLane})
	if err != nil {
		stop()
		l.cancel(err)
		return
	}
	l.stopBulk = stop
	l.goGuarded(func() { l.readBulk(ctx, bulk) })
}

// closeBulk closes a bulk lane that has not been needed for a while.
func (l *link) closeBulk() {
	l.mu.Lock()
	idle := len(l.subs) == 0 && len(l.outbox) == 0 && time.Since(l.idleSince) >= bulkLinger
	l.mu.Unlock()
	if idle && l.stopBulk != nil {
		l.stopBulk()
		l.stopBulk = nil
	}
}

func (l *link) readBulk(ctx context.Context, bulk grpc.ServerStreamingClient[relaypb.Frame]) {
	for {
		frame, err := bulk.Recv()
		if err != nil {
			if ctx.Err() == nil { // this side did not close it
				l.cancel(fmt.Errorf("bulk lane: %w", err))
			}
			return
		}
		l.lastHeard.Store(time.Now().UnixNano())
		for _, part := range frame.GetParts() {
			l.handlePart(part)
		}
	}
}

// handlePart passes a Part to its subscription; a malformed Part ends that. Credit is returned
// here, on receipt.
func (l *link) handlePart(p *relaypb.Part) {
	received := len(p.GetData())
	l.mu.Lock()
	sub := l.subs[p.GetHandle()]
	if received > 0 {
		if l.creditDue += received; l.creditDue >= l.linkWindow/8 {
			notify.Send(l.wake)
		}
		if sub != nil {
			if sub.creditDue += uint32(received); int(sub.creditDue) >= l.subscriptionWindow/2 {
				l.enqueueLocked(sub)
			}
		}
	}
	if sub != nil && p.GetKind() == relaypb.PartKind_PART_KIND_END {
		l.forgetSubLocked(sub) // the owner has removed it already
	}
	l.mu.Unlock()
	l.metrics.bytes[endEdge].Add(float64(received))
	if sub == nil {
		return
	}
	if err := wire.CheckPart(p); err != nil {
		l.failMalformed(sub, err)
		return
	}
	switch p.GetKind() {
	case relaypb.PartKind_PART_KIND_SUBSCRIBED:
		s := p.GetSubscribed()
		sub.subscriber.onSubscribed(sub, wire.DecodeInfo(s.GetInfo()), shard.Pos(s.GetStart()))
	case relaypb.PartKind_PART_KIND_BATCH:
		if err := l.handleBatch(sub, p); err != nil {
			l.failMalformed(sub, err)
		}
	case relaypb.PartKind_PART_KIND_MOVED:
		sub.subscriber.onOwnerMoved(sub, wire.DecodePeerAddr(p.GetMoved()))
	case relaypb.PartKind_PART_KIND_END:
		sub.subscriber.onSubscriptionEnd(sub, wire.DecodeRefusal(p.GetRefusal()))
	}
}

// failMalformed ends a subscription after a malformed Part.
func (l *link) failMalformed(u *upstreamSub, err error) {
	l.unsubscribe(u)
	u.subscriber.onSubscriptionEnd(u, fmt.Errorf("%w: from %s: %w", placement.ErrCallFailed, l.peer.Name, err))
}

func (l *link) handleBatch(u *upstreamSub, p *relaypb.Part) error {
	if u.partial == nil {
		u.partial = &wire.BatchAssembler{}
	}
	r, whole, err := u.partial.AddPiece(p.GetData(), p.GetTotal())
	if err != nil {
		return err
	}
	if whole {
		u.partial = nil
		u.subscriber.onRecords(u, r)
	}
	return nil
}
