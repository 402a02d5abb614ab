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

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// link is the edge's half of a link: one incarnation of the connection to a
// member, with its control lane and, while anything is followed, its bulk lane.
// Nothing is queued for the control lane: what there is to say stands in the
// subscriptions, which are listed at most once each.
type link struct {
	// set at construction
	peer               peerAddr
	incarnation        uint64
	conn               *grpc.ClientConn
	client             relaypb.RelayClient
	control            grpc.BidiStreamingClient[relaypb.ToOwner, relaypb.ToEdge]
	ctx                context.Context // ends with the link; its cause says why
	cancel             context.CancelCauseFunc
	metrics            *metrics
	panics             *shard.PanicHandler
	peerVersion        uint32 // of the contract, that the owner speaks
	subscriptionWindow int
	linkWindow         int
	wake               chan struct{} // cap 1, never closed
	wg                 sync.WaitGroup
	lastHeard          atomic.Int64                   // when the owner was last heard, ns
	peerStatus         atomic.Pointer[relaypb.Status] // its last one; nil: none yet
	now                func() time.Time               // this node's clock, and skew how far it is ahead of the owner's, ms
	clockSkew          atomic.Int64

	mu         sync.Mutex
	closed     bool
	subs       map[uint64]*upstreamSub
	lastHandle uint64 // the last one given
	outbox     []*upstreamSub
	creditDue  int       // bytes received and not yet returned as link credit
	idleSince  time.Time // since when subs is empty

	// owned by the writer
	lastBeat uint64
	lastLane uint64
	stopBulk context.CancelFunc // nil: no bulk lane
}

// upstreamSub is the edge's half of a subscription.
type upstreamSub struct {
	follower *follower
	link     *link
	handle   uint64

	// guarded by link.mu
	request   *subscribeRequest // until it is said
	creditDue uint32
	listed    bool
	removed   bool // taken back

	// owned by the link's bulk reader
	tail    *shard.TailBuffer
	partial *batchAssembler // nil: no RecordBatch in pieces under way
}

// subscribeRequest is what a subscription asks for.
type subscribeRequest struct {
	from  uint64
	route route
}

// Timing of links.
const (
	helloTimeout      = time.Second
	heartbeatInterval = time.Second
	silenceTimeout    = 3 * time.Second // without a sign of life
	bulkLinger        = time.Minute     // after the last subscription
	pingTimeout       = 200 * time.Millisecond
)

// maxPeerClock bounds what a peer may say of its clock, in milliseconds since 1970.
const maxPeerClock = 1 << 45

// maxControlBatch bounds the subscriptions that one control message speaks of, and maxControlBytes what it
// asks for.
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
	err = l.exchangeHello(peerAddr{p.peers.self, p.peers.addr})
	if err != nil {
		l.cancel(err)
		p.peers.returnCredit(l.linkWindow)
		_ = conn.Close()
		return nil, fmt.Errorf("hello to %s: %w", p.addr.name, err)
	}
	return l, nil
}

func (l *link) exchangeHello(self peerAddr) (err error) {
	defer recoverToError(l.panics, panicInLink, &err)
	late := time.AfterFunc(helloTimeout, func() { l.cancel(errPeerSilent) })
	defer late.Stop()
	control, err := l.client.Control(l.ctx)
	if err != nil {
		return err
	}
	l.control = control
	if err := control.Send(&relaypb.ToOwner{Hello: &relaypb.Hello{
		Version: relayVersionNewest, From: placeToWire(self), To: wireBytes(l.peer.name), Link: l.incarnation,
		Window: uint64(l.subscriptionWindow), LinkWindow: uint64(l.linkWindow),
	}}); err != nil {
		return err
	}
	m, err := control.Recv()
	switch {
	case err != nil:
		return err
	case wireText(m.GetHello().GetFrom().GetName()) != l.peer.name:
		return fmt.Errorf("reached %q", m.GetHello().GetFrom().GetName())
	}
	l.peerVersion = m.GetHello().GetVersion()
	l.lastHeard.Store(time.Now().UnixNano())
	return nil
}

// run keeps the link until it breaks and says why.
func (l *link) run() error {
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

// goGuarded starts one of the link's goroutines. A panic of it costs the link.
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

// close takes the subscriptions that were on the link.
func (l *link) close() []*upstreamSub {
	l.cancel(errLinkClosed)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	subs := make([]*upstreamSub, 0, len(l.subs))
	for _, u := range l.subs {
		subs = append(subs, u)
	}
	l.metrics.subscriptions[sideEdge].Sub(float64(len(subs)))
	l.subs, l.outbox = nil, nil
	return subs
}

// subscribe asks for a stream on behalf of f; nil if the link is gone.
func (l *link) subscribe(f *follower, a subscribeRequest) *upstreamSub {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.lastHandle++
	u := &upstreamSub{follower: f, link: l, handle: l.lastHandle, request: &a}
	l.subs[u.handle] = u
	l.metrics.subscriptions[sideEdge].Inc()
	l.enqueueLocked(u)
	return u
}

// unsubscribe takes a subscription back. What still comes for it is ignored.
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
	l.metrics.subscriptions[sideEdge].Dec()
	if len(l.subs) == 0 {
		l.idleSince = time.Now()
	}
	return true
}

func (l *link) enqueueLocked(u *upstreamSub) {
	if !u.listed {
		u.listed = true
		l.outbox = append(l.outbox, u)
		notify(l.wake)
	}
}

// ping reports whether the member answers at once.
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
			l.peerStatus.Store(checkStatus(m.GetStatus()))
			if at := m.GetStatus().GetNow(); at != 0 && l.now != nil {
				l.clockSkew.Store(int64(unixMillis(l.now())) - int64(min(at, maxPeerClock)))
			}
		}
	}
}

// writeControl says what there is to say, a batch at a time, and a heartbeat
// each second.
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

// nextControlMessage makes the next control message, or nil; more: there is another.
func (l *link) nextControlMessage(beat bool) (m *relaypb.ToOwner, more bool) {
	m = &relaypb.ToOwner{}
	l.mu.Lock()
	n, size := 0, 0
	for _, u := range l.outbox[:min(len(l.outbox), maxControlBatch)] {
		if size > maxControlBytes {
			break
		}
		n++
		u.listed = false
		switch {
		case u.request != nil:
			q := &relaypb.Subscribe{
				Handle: u.handle, Stream: wireBytes(u.follower.id), From: u.request.from,
				Route: routeToWire(u.request.route),
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
	clear(l.outbox[:n])
	l.outbox = l.outbox[n:]
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
	m.Lane = l.lastLane
	if beat {
		l.lastBeat++
		m.Beat = l.lastBeat
	}
	if !beat && n == 0 && m.LinkCredit == 0 {
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
	bulk, err := l.client.Bulk(ctx, &relaypb.BulkRequest{Link: l.incarnation, Lane: l.lastLane})
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
			if ctx.Err() == nil { // not closed by this side
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

// handlePart gives a Part to its subscription, which a malformed one ends. Credit is returned
// here, on receipt.
func (l *link) handlePart(p *relaypb.Part) {
	n := len(p.GetData())
	l.mu.Lock()
	u := l.subs[p.GetHandle()]
	if n > 0 {
		if l.creditDue += n; l.creditDue >= l.linkWindow/8 {
			notify(l.wake)
		}
		if u != nil {
			if u.creditDue += uint32(n); int(u.creditDue) >= l.subscriptionWindow/2 {
				l.enqueueLocked(u)
			}
		}
	}
	if u != nil && p.GetKind() == relaypb.Kind_KIND_END {
		l.forgetSubLocked(u) // the owner has forgotten it already
	}
	l.mu.Unlock()
	l.metrics.bytes[sideEdge].Add(float64(n))
	if u == nil {
		return
	}
	if err := checkPart(p); err != nil {
		l.failMalformed(u, err)
		return
	}
	switch p.GetKind() {
	case relaypb.Kind_KIND_SUBSCRIBED:
		s := p.GetSubscribed()
		u.follower.onSubscribed(u, infoFromWire(s.GetInfo()), s.GetStart())
	case relaypb.Kind_KIND_RANGE:
		if err := l.handleRange(u, p); err != nil {
			l.failMalformed(u, err)
		}
	case relaypb.Kind_KIND_MOVED:
		u.follower.onOwnerMoved(u, placeFromWire(p.GetMoved()))
	case relaypb.Kind_KIND_END:
		u.follower.onSubscriptionEnd(u, refusalToError(p.GetRefusal()))
	}
}

// failMalformed ends a subscription for which something came that is nothing.
func (l *link) failMalformed(u *upstreamSub, err error) {
	l.unsubscribe(u)
	u.follower.onSubscriptionEnd(u, fmt.Errorf("%w: from %s: %w", errCallFailed, l.peer.name, err))
}

func (l *link) handleRange(u *upstreamSub, p *relaypb.Part) error {
	if u.partial == nil {
		u.partial = &batchAssembler{}
	}
	r, whole, err := u.partial.addPiece(p.GetData(), p.GetTotal())
	if err != nil {
		return err
	}
	if whole {
		u.partial = nil
		u.follower.onRecords(u, r)
	}
	return nil
}
