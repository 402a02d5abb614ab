package transport

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// Link is the edge's half of a link: one incarnation of the connection to a member, with its
// control lane and, while anything is followed, its bulk lane. Nothing is queued for the control
// lane: what is to be sent is kept in the subscriptions, and each is in the outbox at most once.
type Link struct {
	// Set at construction, or by exchangeHello before the link is shared.
	peer               placement.PeerAddr
	incarnation        uint64
	conn               *grpc.ClientConn
	client             relaypb.RelayClient
	control            grpc.BidiStreamingClient[relaypb.ToOwner, relaypb.ToEdge]
	ctx                context.Context // ends with the link; its cause is the reason
	cancel             context.CancelCauseFunc
	metrics            *endMetrics
	panics             *shard.PanicHandler
	peerVersion        uint32 // newest contract version that the owner speaks
	subscriptionWindow int
	linkWindow         int
	wake               chan struct{} // cap 1, never closed
	wg                 sync.WaitGroup
	lastHeard          atomic.Int64           // when the owner was last heard, Unix ns
	peerStatus         atomic.Pointer[Status] // the owner's last Status; nil: none yet
	now                func() time.Time       // this node's clock; clockSkew is how many ms it is ahead of the owner's
	clockSkew          atomic.Int64

	mu         sync.Mutex
	closed     bool
	subs       map[uint64]*Subscription
	lastHandle uint64 // the last handle given out
	outbox     []*Subscription
	reports    []*Subscription // have readers to report with the next heartbeat
	creditDue  int             // bytes received and not yet returned as link credit
	idleSince  time.Time       // since when subs is empty

	// Owned by the goroutine of writeControl.
	lastBeat  uint64
	lastLane  uint64
	reporting bool               // since a heartbeat was due: not all reports are sent
	stopBulk  context.CancelFunc // nil: there is no bulk lane
}

// Subscriber receives what a subscription brings. Its methods are called from the goroutine of the link's
// bulk lane, and must not block.
type Subscriber interface {
	// OnSubscribed is the owner's answer, or its restart at a later position. Records follow from start on.
	OnSubscribed(sub *Subscription, info shard.Info, start shard.Pos)
	OnRecords(sub *Subscription, r shard.RecordBatch)
	// OnOwnerMoved says that another node owns the stream now.
	OnOwnerMoved(sub *Subscription, to placement.PeerAddr)
	// OnSubscriptionEnd says that the subscription is over, or was refused.
	OnSubscriptionEnd(sub *Subscription, why error)
	// OnLinkLost is called from the goroutine of the link's member.
	OnLinkLost(sub *Subscription)
}

// Subscription is the edge's half of a subscription.
type Subscription struct {
	// Tail is the subscriber's, which sets it in OnSubscribed. The goroutine of the link's bulk lane owns it.
	Tail *shard.TailBuffer

	subscriber Subscriber
	link       *Link
	handle     uint64

	// Guarded by link.mu.
	request   *subscribeRequest // nil once it is sent
	creditDue uint32
	listed    bool
	removed   bool // taken back
	report    readerReport

	// Owned by the goroutine of the link's bulk lane.
	partial *wire.BatchAssembler // nil: no batch is arriving in pieces
}

// subscribeRequest holds the content of a Subscribe that is still to be sent.
type subscribeRequest struct {
	id             shard.StreamID
	from           shard.Pos
	route          placement.Route
	awaitsCreation bool
}

// Peer returns the member at the other end of the link.
func (sub *Subscription) Peer() placement.PeerAddr { return sub.link.peer }

// Unsubscribe takes the subscription back. Its subscriber may still be called, by a call that has begun.
func (sub *Subscription) Unsubscribe() { sub.link.unsubscribe(sub) }

// Timing of links.
const (
	helloTimeout      = time.Second
	heartbeatInterval = time.Second
	bulkLinger        = time.Minute // after the last subscription
	pingTimeout       = 200 * time.Millisecond
)

// SilenceTimeout is the time without any message after which either side ends a link.
const SilenceTimeout = 3 * time.Second

var (
	errPeerSilent = errors.New("no sign of life")
	errLinkClosed = errors.New("link closed")
)

func (l *Link) exchangeHello(self placement.PeerAddr) (err error) {
	defer guard.ToError(l.panics, panicInLink, &err)
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

// close ends the link and returns the subscriptions that were on it.
func (l *Link) close() []*Subscription {
	l.cancel(errLinkClosed)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.closed = true
	subs := make([]*Subscription, 0, len(l.subs))
	for _, sub := range l.subs {
		subs = append(subs, sub)
	}
	l.metrics.subscriptions.Sub(float64(len(subs)))
	l.subs, l.outbox, l.reports = nil, nil, nil
	return subs
}

// Peer returns the member at the other end.
func (l *Link) Peer() placement.PeerAddr { return l.peer }

// ClockAhead returns how far this node's clock is ahead of the member's.
func (l *Link) ClockAhead() time.Duration {
	return time.Duration(l.clockSkew.Load()) * time.Millisecond
}

// Subscribe asks for a stream's records from a position on, on behalf of f; nil: the link is closed.
func (l *Link) Subscribe(f Subscriber, id shard.StreamID, from shard.Pos, r placement.Route) *Subscription {
	return l.subscribe(f, &subscribeRequest{id: id, from: from, route: r})
}

func (l *Link) subscribe(f Subscriber, request *subscribeRequest) *Subscription {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.closed {
		return nil
	}
	l.lastHandle++
	sub := &Subscription{subscriber: f, link: l, handle: l.lastHandle, request: request}
	l.subs[sub.handle] = sub
	l.metrics.subscriptions.Inc()
	l.enqueueLocked(sub)
	return sub
}

// unsubscribe takes a subscription back. Parts that still arrive for it are ignored.
func (l *Link) unsubscribe(sub *Subscription) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.forgetSubLocked(sub) && sub.request == nil {
		l.enqueueLocked(sub)
	}
	sub.request = nil
}

func (l *Link) forgetSubLocked(sub *Subscription) bool {
	if sub.removed || l.closed {
		return false
	}
	sub.removed = true
	delete(l.subs, sub.handle)
	l.metrics.subscriptions.Dec()
	if len(l.subs) == 0 {
		l.idleSince = time.Now()
	}
	return true
}

func (l *Link) enqueueLocked(sub *Subscription) {
	if !sub.listed {
		sub.listed = true
		l.outbox = append(l.outbox, sub)
		notify.Send(l.wake)
	}
}

// Ping reports whether the member answers within pingTimeout.
func (l *Link) Ping(ctx context.Context) bool {
	ctx, cancel := context.WithTimeout(ctx, pingTimeout)
	defer cancel()
	_, err := l.client.Ping(ctx, &relaypb.PingRequest{})
	return err == nil
}
