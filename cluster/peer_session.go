package cluster

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// peerSession is the owner's half of a link: the subscriptions of one peer. News of
// a stream only puts its subscription on the dirty list; the bulk lane's one
// goroutine takes them from there in turn and pulls what each may have from its
// Tail, by position. So nothing is queued for a slow peer: a subscription
// without credit is a position.
type peerSession struct {
	// set at construction
	server             *server
	peer               string
	peerVersion        uint32 // of the contract, that the peer speaks
	incarnation        uint64
	subscriptionWindow int64
	maxSubs            int             // subscriptions; see maxSubs
	ctx                context.Context // ends with the session
	cancel             context.CancelFunc
	wake               chan struct{} // cap 1, never closed
	bulkSlot           chan struct{} // cap 1: the right to be the bulk lane
	bulkLanes          atomic.Int32  // that have it, or wait for it
	lastHeard          atomic.Int64  // when the edge was last heard, ns

	mu         sync.Mutex
	closed     bool
	subs       map[uint64]*peerSub
	dirtyFirst *peerSub // the dirty list
	dirtyLast  *peerSub
	dirtyLen   int // its length; removed subscriptions stay on it until the bulk lane comes by
	credit     int64
	parkedSubs int    // subscriptions that wait for link credit
	newestLane uint64 // the newest bulk lane that the edge spoke of
}

// peerSub is the owner's half of a subscription.
type peerSub struct {
	session *peerSession
	id      shard.StreamID
	handle  uint64

	// guarded by s.mu
	next   *peerSub // on the dirty list
	credit int64
	flags  subFlags
	moved  *ownerMove // nil: this node may serve it
	endErr error      // to be said; then the subscription is gone
	tail   *shard.TailBuffer
	feed   localFeed

	// owned by the bulk lane
	pos      uint64         // everything below was sent
	outgoing *outgoingBatch // nil: no RecordBatch under way
}

type subFlags uint8

const (
	subDirty           subFlags = 1 << iota // on the dirty list
	subRemoved                              // removed
	subNeedsCredit                          // waits for credit of its own
	subNeedsLinkCredit                      // waits for link credit
	subSaySubscribed                        // Subscribed is to be said
	subSayMoved                             // Moved is to be said
	subAllSent                              // closed and all sent: only watched for its end
)

// ownerMove is where the stream's owner is now.
type ownerMove struct {
	to    peerAddr
	since time.Time
}

// outgoingBatch is a RecordBatch that is under way in pieces. Its whole size was charged
// when it began.
type outgoingBatch struct {
	data []byte
	end  uint64
	sent int
}

// maxCreditGrant bounds one grant of credit, so that sums cannot overflow.
const maxCreditGrant = 1 << 40

// maxSubs bounds the subscriptions of one peer; ErrOverloaded beyond. A refusal waits for the
// bulk lane to say it, and so does what is left of a subscription that was taken back. A peer
// that asks on and on, and does not hear the answers, loses the link once there are twice as
// many subscriptions, refused ones among them, or three times as many that wait.
const maxSubs = 1 << 18

// movedGrace is how long a subscription is served after its owner moved.
const movedGrace = 10 * time.Second

// Wake says that the TailBuffer has news. It is called by whoever brought them.
func (u *peerSub) Wake() {
	u.session.mu.Lock()
	u.session.markDirtyLocked(u)
	u.session.mu.Unlock()
}

func (s *peerSession) markDirtyLocked(u *peerSub) {
	if u.flags&(subDirty|subRemoved) != 0 {
		return
	}
	u.flags |= subDirty
	s.dirtyLen++
	if s.dirtyLast == nil {
		s.dirtyFirst = u
	} else {
		s.dirtyLast.next = u
	}
	s.dirtyLast = u
	notify(s.wake)
}

// popDirty takes the next subscription off the dirty list; nil: none, or the lane is
// no longer the newest.
func (s *peerSession) popDirty(lane uint64) *peerSub {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.dirtyFirst
	if u == nil || lane < s.newestLane {
		return nil
	}
	if s.dirtyFirst = u.next; s.dirtyFirst == nil {
		s.dirtyLast = nil
	}
	u.next = nil
	u.flags &^= subDirty
	s.dirtyLen--
	return u
}

// errPeerDeaf ends a session whose peer asks for more than it hears the answers of.
var errPeerDeaf = status.Error(codes.ResourceExhausted, "too many subscriptions wait for the bulk lane")

// handleControl carries out what the edge says in the control lane. An error ends the session.
func (s *peerSession) handleControl(m *relaypb.ToOwner) error {
	s.lastHeard.Store(time.Now().UnixNano())
	s.mu.Lock()
	s.newestLane = max(s.newestLane, m.GetLane())
	s.mu.Unlock()
	for _, q := range m.GetSubscribe() {
		if !s.addSubscription(q) {
			return errPeerDeaf
		}
	}
	for _, h := range m.GetUnsubscribe() {
		s.mu.Lock()
		u := s.subs[h]
		s.mu.Unlock()
		if u != nil {
			s.removeSub(u)
		}
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

func (s *peerSession) addCreditLocked(u *peerSub, n uint64) {
	if u == nil {
		return
	}
	u.credit = min(u.credit+int64(min(n, maxCreditGrant)), s.subscriptionWindow)
	if u.credit > 0 && u.flags&subNeedsCredit != 0 {
		u.flags &^= subNeedsCredit
		s.markDirtyLocked(u)
	}
}

func (s *peerSession) addLinkCreditLocked(n int64) {
	s.credit = min(s.credit+n, maxCreditGrant)
	if s.credit <= 0 || s.parkedSubs == 0 {
		return
	}
	s.parkedSubs = 0
	for _, u := range s.subs {
		if u.flags&subNeedsLinkCredit != 0 {
			u.flags &^= subNeedsLinkCredit
			s.markDirtyLocked(u)
		}
	}
}

// addSubscription makes a subscription and has it opened; false: far too many are there already.
func (s *peerSession) addSubscription(q *relaypb.Subscribe) bool {
	id, err := checkStream(q.GetStream())
	if err == nil {
		err = checkRoute(q.GetRoute())
	}
	u := &peerSub{session: s, id: id, handle: q.GetHandle(), credit: s.subscriptionWindow}
	s.mu.Lock()
	switch {
	case len(s.subs) >= 2*s.maxSubs, s.dirtyLen >= 3*s.maxSubs:
		s.mu.Unlock()
		return false
	case s.closed, s.subs[u.handle] != nil:
		s.mu.Unlock()
		return true
	case len(s.subs) >= s.maxSubs:
		err = shard.ErrOverloaded
	}
	s.subs[u.handle] = u
	s.server.metrics.subscriptions[sideOwner].Inc()
	s.mu.Unlock()
	from, r := q.GetFrom(), routeFromWire(q.GetRoute())
	if err == nil && !s.server.openPool.submit(s.server.local.answersLocally(u.id), func() { s.openSubscription(u, from, r) }) {
		err = shard.ErrOverloaded
	}
	if err != nil {
		s.endSub(u, err)
	}
	return true
}

// openTimeout bounds the wait for a stream to be opened.
const openTimeout = 10 * time.Second

// openSubscription has the stream followed here, or refuses the subscription.
func (s *peerSession) openSubscription(u *peerSub, from uint64, r route) {
	var broken error
	defer func() {
		if broken != nil {
			s.endSub(u, broken)
		}
	}()
	defer recoverToError(s.server.panics, panicInSubscription, &broken)
	s.mu.Lock()
	dead := u.flags&subRemoved != 0
	s.mu.Unlock()
	if dead {
		return // it waited longer than whoever asked: a read session would be for nobody
	}
	ctx, cancel := context.WithTimeout(s.ctx, openTimeout)
	defer cancel()
	if err := s.server.checkOwnership(ctx, u.id, r); err != nil {
		s.endSub(u, err)
		return
	}
	t, fd, err := s.server.local.startFeed(ctx, u.id, from, r.hop == hopForce)
	if err != nil {
		s.endSub(u, err)
		return
	}
	s.mu.Lock()
	if u.flags&subRemoved != 0 {
		s.mu.Unlock()
		fd.release()
		return
	}
	u.tail, u.feed = t, fd
	u.pos = min(max(from, t.Floor()), t.Next())
	u.flags |= subSaySubscribed
	s.markDirtyLocked(u)
	s.mu.Unlock()
}

func (s *peerSession) endSub(u *peerSub, err error) {
	s.mu.Lock()
	u.endErr = err
	s.markDirtyLocked(u)
	s.mu.Unlock()
}

// removeSub forgets a subscription.
func (s *peerSession) removeSub(u *peerSub) {
	s.mu.Lock()
	gone := u.flags&subRemoved != 0
	if !gone {
		u.flags |= subRemoved
		delete(s.subs, u.handle)
		s.server.metrics.subscriptions[sideOwner].Dec()
	}
	s.mu.Unlock()
	if !gone {
		u.releaseFeed()
	}
}

// releaseStream gives back what a dead subscription held.
func (u *peerSub) releaseFeed() {
	if u.feed.release == nil {
		return // still being opened: whoever opens it sees that it is dead
	}
	u.tail.Unwatch(u)
	u.feed.release()
}

// close forgets every subscription.
func (s *peerSession) close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	subs := s.subs
	s.subs, s.dirtyFirst, s.dirtyLast, s.dirtyLen = nil, nil, nil, 0
	for _, u := range subs {
		u.flags |= subRemoved
	}
	s.mu.Unlock()
	s.server.metrics.subscriptions[sideOwner].Sub(float64(len(subs)))
	for _, u := range subs {
		u.releaseFeed()
	}
}

// checkSubscriptions looks whether this node is still right to serve each subscription, and
// reports how many it is not right to serve.
func (s *peerSession) checkSubscriptions(now time.Time, mayServe func(shard.StreamID) (peerAddr, bool)) (wrong int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.subs {
		if u.tail == nil || u.endErr != nil {
			continue
		}
		if u.flags&subAllSent != 0 && u.tail.EndError() != nil {
			s.markDirtyLocked(u) // nobody is woken by the end of a closed stream
		}
		to, ok := mayServe(u.id)
		if ok {
			u.moved = nil
			continue
		}
		wrong++
		switch {
		case u.moved == nil:
			u.moved = &ownerMove{to, now}
			u.flags |= subSayMoved
			s.markDirtyLocked(u)
		case now.Sub(u.moved.since) >= movedGrace:
			u.endErr = &redirectError{owner: to}
			s.markDirtyLocked(u)
		}
	}
	return wrong
}
