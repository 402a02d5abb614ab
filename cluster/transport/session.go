package transport

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/internal/notify"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// session is the owner's half of a link: the subscriptions of one peer. A change of a stream
// only puts its subscription on the dirty list. The bulk lane's one goroutine takes subscriptions
// from that list in turn and reads what each may have from its tail buffer, by position. Nothing is
// queued for a slow peer: of a subscription without credit only its position is kept.
type session struct {
	// Set at construction.
	streams            Streams
	metrics            *endMetrics
	panics             *shard.PanicHandler
	peer               string
	peerVersion        uint32 // newest contract version that the peer speaks
	incarnation        uint64
	subscriptionWindow int64
	maxSubs            int             // the constant; smaller in tests
	ctx                context.Context // ends with the session
	cancel             context.CancelFunc
	wake               chan struct{} // cap 1, never closed
	bulkSlot           chan struct{} // cap 1: a bulk lane holds it while it sends
	bulkLanes          atomic.Int32  // lanes that hold bulkSlot or wait for it
	lastHeard          atomic.Int64  // when the edge was last heard, Unix ns

	mu         sync.Mutex
	closed     bool
	subs       map[uint64]*sessionSub
	dirtyFirst *sessionSub // of the dirty list
	dirtyLast  *sessionSub
	dirtyCount int // length of the dirty list; removed subscriptions stay on it until the bulk lane reaches them
	credit     int64
	parkedSubs int                    // how many subscriptions have subNeedsLinkCredit
	watched    map[uint64]*sessionSub // those whose edge wants the number of their stream's readers
	newestLane uint64                 // the newest bulk lane that the edge has announced
}

// sessionSub is the owner's half of a subscription.
type sessionSub struct {
	session *session
	id      shard.StreamID
	handle  uint64

	// Guarded by session.mu. tail and release are written once, by openSubscription before it lists
	// the subscription, so the bulk lane, which takes it from the list under session.mu, reads them
	// without the lock. So does a removal: it sees subRemoved or release.
	next    *sessionSub // on the dirty list
	credit  int64
	flags   subFlags
	moved   *ownerMove // nil: this node may serve it
	endErr  error      // to be sent as End; after that the subscription is removed
	tail    *shard.TailBuffer
	release func() // ends the feed of tail
	readers int64  // that the edge has reported
	told    int64  // the number on all nodes that the edge was told last; -1: none

	// Written by openSubscription before it lists the subscription, then owned by the bulk lane.
	pos      shard.Pos      // everything below it was sent
	outgoing *outgoingBatch // nil: no batch is being sent
}

type subFlags uint8

const (
	subDirty           subFlags = 1 << iota // on the dirty list
	subRemoved                              // removed
	subNeedsCredit                          // has no credit of its own
	subNeedsLinkCredit                      // has no link credit
	subSaySubscribed                        // Subscribed is to be sent
	subSayMoved                             // Moved is to be sent
	subAllSent                              // closed and all sent: only the end of its generation is still awaited
	subAwaits                               // awaits the stream's creation, and has no feed
)

// ownerMove is the stream's new owner, and since when this node has known of it.
type ownerMove struct {
	to    placement.PeerAddr
	since time.Time
}

// outgoingBatch is a record batch that is sent in pieces. Its whole size was charged to the credit
// when it began.
type outgoingBatch struct {
	data []byte
	end  shard.Pos
	sent int
}

// maxCreditGrant bounds one grant of credit, in bytes, so that sums cannot overflow.
const maxCreditGrant = 1 << 40

// maxSubs bounds the subscriptions of one peer. One more gets ErrOverloaded. A refusal, and a
// subscription that was taken back, stay in the list until the bulk lane sends the answer. A peer
// that keeps asking without reading the answers loses its link once it has twice as many
// subscriptions, refused ones included, or three times as many on the dirty list.
const maxSubs = 1 << 18

// MovedGrace bounds how long a subscription is still served after its stream got another owner.
const MovedGrace = 10 * time.Second

// Wake puts the subscription on the dirty list: its tail buffer has changed. The goroutine that
// changed the buffer calls it.
func (sub *sessionSub) Wake() {
	sub.session.mu.Lock()
	sub.session.markDirtyLocked(sub)
	sub.session.mu.Unlock()
}

func (s *session) markDirtyLocked(sub *sessionSub) {
	if sub.flags&(subDirty|subRemoved) != 0 {
		return
	}
	sub.flags |= subDirty
	s.dirtyCount++
	if s.dirtyLast == nil {
		s.dirtyFirst = sub
	} else {
		s.dirtyLast.next = sub
	}
	s.dirtyLast = sub
	notify.Send(s.wake)
}

// popDirty removes the next subscription from the dirty list and returns it; nil: the list is
// empty, or a newer bulk lane has been announced.
func (s *session) popDirty(lane uint64) *sessionSub {
	s.mu.Lock()
	defer s.mu.Unlock()
	sub := s.dirtyFirst
	if sub == nil || lane < s.newestLane {
		return nil
	}
	if s.dirtyFirst = sub.next; s.dirtyFirst == nil {
		s.dirtyLast = nil
	}
	sub.next = nil
	sub.flags &^= subDirty
	s.dirtyCount--
	return sub
}

// errPeerDeaf ends the session of a peer that asks for more than it reads the answers to.
var errPeerDeaf = status.Error(codes.ResourceExhausted, "too many subscriptions wait for the bulk lane")

// handleControl carries out a control message of the edge. An error ends the session.
func (s *session) handleControl(m *relaypb.ToOwner) error {
	s.lastHeard.Store(time.Now().UnixNano())
	s.mu.Lock()
	s.newestLane = max(s.newestLane, m.GetBulkLane())
	s.mu.Unlock()
	for _, q := range m.GetSubscribe() {
		if !s.addSubscription(q) {
			return errPeerDeaf
		}
	}
	for _, h := range m.GetUnsubscribe() {
		s.mu.Lock()
		sub := s.subs[h]
		s.mu.Unlock()
		if sub != nil {
			s.removeSub(sub)
		}
	}
	if len(m.GetReaders()) > 0 {
		s.addReports(m.GetReaders())
	}
	if len(m.GetCredit()) > 0 || m.GetLinkCredit() > 0 {
		s.mu.Lock()
		for _, c := range m.GetCredit() {
			s.addCreditLocked(s.subs[c.GetHandle()], c.GetBytes())
		}
		s.addLinkCreditLocked(int64(min(m.GetLinkCredit(), maxCreditGrant)))
		s.mu.Unlock()
	}
	return nil
}

func (s *session) addCreditLocked(sub *sessionSub, n uint64) {
	if sub == nil {
		return
	}
	sub.credit = min(sub.credit+int64(min(n, maxCreditGrant)), s.subscriptionWindow)
	if sub.credit > 0 && sub.flags&subNeedsCredit != 0 {
		sub.flags &^= subNeedsCredit
		s.markDirtyLocked(sub)
	}
}

func (s *session) addLinkCreditLocked(n int64) {
	s.credit = min(s.credit+n, maxCreditGrant)
	if s.credit <= 0 || s.parkedSubs == 0 {
		return
	}
	s.parkedSubs = 0
	for _, sub := range s.subs {
		if sub.flags&subNeedsLinkCredit != 0 {
			sub.flags &^= subNeedsLinkCredit
			s.markDirtyLocked(sub)
		}
	}
}

// addSubscription adds a subscription and has it opened; false: the peer is beyond all limits, and
// its session must end.
func (s *session) addSubscription(q *relaypb.Subscribe) bool {
	id, err := wire.CheckStream(q.GetStream())
	if err == nil {
		err = wire.CheckRoute(q.GetRoute())
	}
	sub := &sessionSub{session: s, id: id, handle: q.GetHandle(), credit: s.subscriptionWindow}
	s.mu.Lock()
	switch {
	case len(s.subs) >= 2*s.maxSubs, s.dirtyCount >= 3*s.maxSubs:
		s.mu.Unlock()
		return false
	case s.closed, s.subs[sub.handle] != nil:
		s.mu.Unlock()
		return true
	case len(s.subs) >= s.maxSubs:
		err = shard.ErrOverloaded
	}
	s.subs[sub.handle] = sub
	readers := int64(0)
	if err == nil {
		readers = wire.ReaderCount(q.GetReaders())
		sub.readers = readers
		s.watchLocked(sub, q.GetWatchReaders())
	}
	s.metrics.subscriptions.Inc()
	s.mu.Unlock()
	if readers > 0 {
		s.streams.AddReaders(sub.id, int(readers))
	}
	from, r := q.GetFrom(), wire.DecodeRoute(q.GetRoute())
	open := func(ctx context.Context) error { return s.startFeed(ctx, sub, shard.Pos(from), r) }
	if q.GetAwaitCreation() {
		open = func(ctx context.Context) error { return s.awaitCreation(ctx, sub, r) }
	}
	if err == nil && !s.streams.SubmitOpen(sub.id, func() { s.openSubscription(sub, r, open) }) {
		err = shard.ErrOverloaded
	}
	if err != nil {
		s.endSub(sub, err)
	}
	return true
}

// OpenTimeout bounds the wait for a stream to be opened.
const OpenTimeout = 10 * time.Second

// openSubscription has open serve the subscription if this node serves its stream, or refuses it.
func (s *session) openSubscription(sub *sessionSub, r placement.Route, open func(context.Context) error) {
	var err error
	defer func() {
		if err != nil {
			s.endSub(sub, err)
		}
	}()
	defer guard.ToError(s.panics, panicInSubscription, &err)
	s.mu.Lock()
	dead := sub.flags&subRemoved != 0
	s.mu.Unlock()
	if dead {
		return // removed while it waited: a read session would have no reader
	}
	ctx, cancel := context.WithTimeout(s.ctx, OpenTimeout)
	defer cancel()
	if err = s.streams.CheckOwnership(ctx, sub.id, r); err == nil {
		err = open(ctx)
	}
}

// startFeed has the stream followed here.
func (s *session) startFeed(ctx context.Context, sub *sessionSub, from shard.Pos, r placement.Route) error {
	t, release, err := s.streams.StartFeed(ctx, sub.id, from, r.Hop == placement.HopForce)
	if err != nil {
		return err
	}
	s.mu.Lock()
	if sub.flags&subRemoved != 0 {
		s.mu.Unlock()
		release()
		return nil
	}
	sub.tail, sub.release = t, release
	sub.pos = min(max(from, t.Floor()), t.Next())
	sub.flags |= subSaySubscribed
	s.markDirtyLocked(sub)
	s.mu.Unlock()
	return nil
}

func (s *session) endSub(sub *sessionSub, err error) {
	s.mu.Lock()
	sub.endErr = err
	s.markDirtyLocked(sub)
	s.mu.Unlock()
}

// removeSub removes a subscription and releases its feed.
func (s *session) removeSub(sub *sessionSub) {
	s.mu.Lock()
	gone := sub.flags&subRemoved != 0
	var left readerChange
	if !gone {
		sub.flags |= subRemoved
		delete(s.subs, sub.handle)
		left = s.forgetReadersLocked(sub)
		s.metrics.subscriptions.Dec()
	}
	s.mu.Unlock()
	if !gone {
		sub.releaseFeed()
	}
	if left.delta != 0 {
		s.streams.AddReaders(left.id, left.delta)
	}
}

// releaseFeed releases what a removed subscription held.
func (sub *sessionSub) releaseFeed() {
	if sub.release == nil {
		return // still being opened: openSubscription sees that it was removed
	}
	if sub.tail != nil {
		sub.tail.Unwatch(sub)
	}
	sub.release()
}

// close removes every subscription.
func (s *session) close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	subs := s.subs
	s.subs, s.dirtyFirst, s.dirtyLast, s.dirtyCount = nil, nil, nil, 0
	var left []readerChange
	for _, sub := range subs {
		sub.flags |= subRemoved
		if c := s.forgetReadersLocked(sub); c.delta != 0 {
			left = append(left, c)
		}
	}
	s.mu.Unlock()
	s.metrics.subscriptions.Sub(float64(len(subs)))
	for _, sub := range subs {
		sub.releaseFeed()
	}
	for _, c := range left {
		s.streams.AddReaders(c.id, c.delta)
	}
}

// checkSubscriptions checks whether this node should still serve each subscription, tells the peer
// where it should not, and returns how many it should not serve.
func (s *session) checkSubscriptions(now time.Time, mayServe func(shard.StreamID) (placement.PeerAddr, bool)) (wrong int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, sub := range s.subs {
		if sub.flags&subAwaits != 0 {
			s.redirectWaitLocked(sub, mayServe)
			continue
		}
		if sub.tail == nil || sub.endErr != nil {
			continue
		}
		if sub.flags&subAllSent != 0 && sub.tail.EndError() != nil {
			s.markDirtyLocked(sub) // the end of a closed stream wakes no watcher
		}
		to, ok := mayServe(sub.id)
		if ok {
			sub.moved = nil
			continue
		}
		wrong++
		switch {
		case sub.moved == nil:
			sub.moved = &ownerMove{to, now}
			sub.flags |= subSayMoved
			s.markDirtyLocked(sub)
		case now.Sub(sub.moved.since) >= MovedGrace:
			sub.endErr = &placement.RedirectError{Owner: to}
			s.markDirtyLocked(sub)
		}
	}
	return wrong
}
