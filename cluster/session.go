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

// session is the owner's half of a link: the subscriptions of one peer. News of
// a stream only puts its subscription on the dirty list; the bulk lane's one
// goroutine takes them from there in turn and pulls what each may have from its
// Tail, by position. So nothing is queued for a slow peer: a subscription
// without credit is a position.
type session struct {
	// set at construction
	server      *server
	peer        string
	version     uint32 // of the contract, that the peer speaks
	incarnation uint64
	window      int64
	most        int             // subscriptions; see maxSubs
	ctx         context.Context // ends with the session
	cancel      context.CancelFunc
	wake        chan struct{} // cap 1, never closed
	bulk        chan struct{} // cap 1: the right to be the bulk lane
	lanes       atomic.Int32  // that have it, or wait for it
	heard       atomic.Int64  // when the edge was last heard, ns

	mu     sync.Mutex
	closed bool
	subs   map[uint64]*sub
	head   *sub // the dirty list
	last   *sub
	listed int // its length; removed subscriptions stay on it until the bulk lane comes by
	credit int64
	parked int    // subscriptions that wait for link credit
	lane   uint64 // the newest bulk lane that the edge spoke of
}

// sub is the owner's half of a subscription.
type sub struct {
	s      *session
	id     shard.StreamID
	handle uint64

	// guarded by s.mu
	next   *sub // on the dirty list
	credit int64
	flags  subFlags
	moved  *moved // nil: this node may serve it
	end    error  // to be said; then the subscription is gone
	tail   *shard.Tail
	feed   hostFeed

	// owned by the bulk lane
	pos     uint64   // everything below was sent
	sending *sending // nil: no Range under way
}

type subFlags uint8

const (
	subListed  subFlags = 1 << iota // on the dirty list
	subDead                         // removed
	subStarved                      // waits for credit of its own
	subParked                       // waits for link credit
	subOpened                       // Subscribed is to be said
	subMoved                        // Moved is to be said
	subAtEnd                        // closed and all sent: only watched for its end
)

// moved is where the stream's owner is now.
type moved struct {
	to    place
	since time.Time
}

// sending is a Range that is under way in pieces. Its whole size was charged
// when it began.
type sending struct {
	b   []byte
	to  uint64
	off int
}

// maxGrant bounds one grant of credit, so that sums cannot overflow.
const maxGrant = 1 << 40

// maxSubs bounds the subscriptions of one peer; ErrOverloaded beyond. A refusal waits for the
// bulk lane to say it, and so does what is left of a subscription that was taken back. A peer
// that asks on and on, and does not hear the answers, loses the link once there are twice as
// many subscriptions, refused ones among them, or three times as many that wait.
const maxSubs = 1 << 18

// movedGrace is how long a subscription is served after its owner moved.
const movedGrace = 10 * time.Second

// Wake says that the Tail has news. It is called by whoever brought them.
func (u *sub) Wake() {
	u.s.mu.Lock()
	u.s.listLocked(u)
	u.s.mu.Unlock()
}

func (s *session) listLocked(u *sub) {
	if u.flags&(subListed|subDead) != 0 {
		return
	}
	u.flags |= subListed
	s.listed++
	if s.last == nil {
		s.head = u
	} else {
		s.last.next = u
	}
	s.last = u
	poke(s.wake)
}

// pop takes the next subscription off the dirty list; nil: none, or the lane is
// no longer the newest.
func (s *session) pop(lane uint64) *sub {
	s.mu.Lock()
	defer s.mu.Unlock()
	u := s.head
	if u == nil || lane < s.lane {
		return nil
	}
	if s.head = u.next; s.head == nil {
		s.last = nil
	}
	u.next = nil
	u.flags &^= subListed
	s.listed--
	return u
}

// errDeaf ends a session whose peer asks for more than it hears the answers of.
var errDeaf = status.Error(codes.ResourceExhausted, "too many subscriptions wait for the bulk lane")

// take carries out what the edge says in the control lane. An error ends the session.
func (s *session) take(m *relaypb.ToOwner) error {
	s.heard.Store(time.Now().UnixNano())
	s.mu.Lock()
	s.lane = max(s.lane, m.GetLane())
	s.mu.Unlock()
	for _, q := range m.GetSubscribe() {
		if !s.subscribe(q) {
			return errDeaf
		}
	}
	for _, h := range m.GetUnsubscribe() {
		s.mu.Lock()
		u := s.subs[h]
		s.mu.Unlock()
		if u != nil {
			s.remove(u)
		}
	}
	if len(m.GetCredit()) > 0 || m.GetLinkCredit() > 0 {
		s.mu.Lock()
		for _, c := range m.GetCredit() {
			s.creditLocked(s.subs[c.GetHandle()], c.GetBytes())
		}
		s.linkCreditLocked(int64(min(m.GetLinkCredit(), maxGrant)))
		s.mu.Unlock()
	}
	return nil
}

func (s *session) creditLocked(u *sub, n uint64) {
	if u == nil {
		return
	}
	u.credit = min(u.credit+int64(min(n, maxGrant)), s.window)
	if u.credit > 0 && u.flags&subStarved != 0 {
		u.flags &^= subStarved
		s.listLocked(u)
	}
}

func (s *session) linkCreditLocked(n int64) {
	s.credit = min(s.credit+n, maxGrant)
	if s.credit <= 0 || s.parked == 0 {
		return
	}
	s.parked = 0
	for _, u := range s.subs {
		if u.flags&subParked != 0 {
			u.flags &^= subParked
			s.listLocked(u)
		}
	}
}

// subscribe makes a subscription and has it opened; false: far too many are there already.
func (s *session) subscribe(q *relaypb.Subscribe) bool {
	id, err := checkStream(q.GetStream())
	if err == nil {
		err = checkRoute(q.GetRoute())
	}
	u := &sub{s: s, id: id, handle: q.GetHandle(), credit: s.window}
	s.mu.Lock()
	switch {
	case len(s.subs) >= 2*s.most, s.listed >= 3*s.most:
		s.mu.Unlock()
		return false
	case s.closed, s.subs[u.handle] != nil:
		s.mu.Unlock()
		return true
	case len(s.subs) >= s.most:
		err = shard.ErrOverloaded
	}
	s.subs[u.handle] = u
	s.server.met.subscriptions[sideOwner].Inc()
	s.mu.Unlock()
	from, r := q.GetFrom(), routeFromWire(q.GetRoute())
	if err == nil && !s.server.openers.add(s.server.hosted.near(u.id), func() { s.open(u, from, r) }) {
		err = shard.ErrOverloaded
	}
	if err != nil {
		s.refuse(u, err)
	}
	return true
}

// openTimeout bounds the wait for a stream to be opened.
const openTimeout = 10 * time.Second

// open has the stream followed here, or refuses the subscription.
func (s *session) open(u *sub, from uint64, r route) {
	var broken error
	defer func() {
		if broken != nil {
			s.refuse(u, broken)
		}
	}()
	defer guard(s.server.panics, caughtSubscription, &broken)
	s.mu.Lock()
	dead := u.flags&subDead != 0
	s.mu.Unlock()
	if dead {
		return // it waited longer than whoever asked: a read session would be for nobody
	}
	ctx, cancel := context.WithTimeout(s.ctx, openTimeout)
	defer cancel()
	if err := s.server.judge(ctx, u.id, r); err != nil {
		s.refuse(u, err)
		return
	}
	t, fd, err := s.server.hosted.feed(ctx, u.id, from, r.hop == hopMust)
	if err != nil {
		s.refuse(u, err)
		return
	}
	s.mu.Lock()
	if u.flags&subDead != 0 {
		s.mu.Unlock()
		fd.release()
		return
	}
	u.tail, u.feed = t, fd
	u.pos = min(max(from, t.Floor()), t.Next())
	u.flags |= subOpened
	s.listLocked(u)
	s.mu.Unlock()
}

func (s *session) refuse(u *sub, err error) {
	s.mu.Lock()
	u.end = err
	s.listLocked(u)
	s.mu.Unlock()
}

// remove forgets a subscription.
func (s *session) remove(u *sub) {
	s.mu.Lock()
	gone := u.flags&subDead != 0
	if !gone {
		u.flags |= subDead
		delete(s.subs, u.handle)
		s.server.met.subscriptions[sideOwner].Dec()
	}
	s.mu.Unlock()
	if !gone {
		u.letGo()
	}
}

// letGo gives back what a dead subscription held.
func (u *sub) letGo() {
	if u.feed.release == nil {
		return // still being opened: whoever opens it sees that it is dead
	}
	u.tail.Unwatch(u)
	u.feed.release()
}

// close forgets every subscription.
func (s *session) close() {
	s.cancel()
	s.mu.Lock()
	s.closed = true
	subs := s.subs
	s.subs, s.head, s.last, s.listed = nil, nil, nil, 0
	for _, u := range subs {
		u.flags |= subDead
	}
	s.mu.Unlock()
	s.server.met.subscriptions[sideOwner].Sub(float64(len(subs)))
	for _, u := range subs {
		u.letGo()
	}
}

// examine looks whether this node is still right to serve each subscription, and
// reports how many it is not right to serve.
func (s *session) examine(now time.Time, right func(shard.StreamID) (place, bool)) (wrong int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, u := range s.subs {
		if u.tail == nil || u.end != nil {
			continue
		}
		if u.flags&subAtEnd != 0 && u.tail.Ended() != nil {
			s.listLocked(u) // nobody is woken by the end of a closed stream
		}
		to, ok := right(u.id)
		if ok {
			u.moved = nil
			continue
		}
		wrong++
		switch {
		case u.moved == nil:
			u.moved = &moved{to, now}
			u.flags |= subMoved
			s.listLocked(u)
		case now.Sub(u.moved.since) >= movedGrace:
			u.end = &redirect{owner: to}
			s.listLocked(u)
		}
	}
	return wrong
}
