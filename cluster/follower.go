package cluster

import (
	"context"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/transport"
	"github.com/fantail-dev/fantail/shard"
)

// follower keeps one stream's tail buffer fed while this node has readers of the stream: from the
// stream manager if this node serves the stream, else from a peer. Readers do not notice when the
// source changes: the follower asks the next source for the position that the buffer needs, and
// keeps the old source until the next one answers. The package comment has its states.
type follower struct {
	loop *followLoop
	id   shard.StreamID

	mu            sync.Mutex
	tail          *shard.TailBuffer // holds one reference; nil until the first feed works
	opening       *firstFeed        // nil once the first feed works
	feed          feed
	move          *feedMove // nil: the current feed is the wanted one
	feedStartTail shard.Pos // the stream's tail when the current feed began
	idleSince     int64     // when the last reader left, Unix ns
	readers       int32
	bridges       int32    // how many of readers are none, but bridges
	watchers      int32    // readers that want to know how many there are on all nodes
	over          bool     // final: removed from the loop's set, not fed
	afterUnlock   []func() // run by unlockAndRun once mu is free
}

// firstFeed is the wait for the first feed, which all early readers share.
type firstFeed struct {
	ready chan struct{}
	err   error // set before ready is closed
	from  shard.Pos
	began time.Time
}

// followerState names what a follower is doing. The package comment has the transitions.
type followerState uint8

// The states. What holds in each is checked by checkFollower, in the tests.
const (
	// stateOpening: all early readers wait for firstFeed.ready.
	stateOpening followerState = iota
	// stateFed: the feed extends the tail buffer, and is the wanted one.
	stateFed
	// stateMoving: the feed extends the tail buffer, and another one is being prepared.
	stateMoving
	// stateUnfed: the tail buffer has no feed, and readers wait.
	stateUnfed
	// stateOver: final, no feed; readers keep the tail buffer that they have.
	stateOver
)

func (s followerState) String() string {
	return [...]string{"opening", "fed", "moving", "unfed", "over"}[s]
}

// stateLocked returns the follower's state. The caller holds mu.
func (f *follower) stateLocked() followerState {
	switch {
	case f.over:
		return stateOver
	case f.opening != nil:
		return stateOpening
	case f.feed.isMissing():
		return stateUnfed
	case f.move != nil:
		return stateMoving
	default:
		return stateFed
	}
}

// feed is the source that extends the tail buffer; the zero feed is none.
type feed struct {
	member   string
	upstream *transport.Subscription // a subscription at a peer; nil: local is the source
	local    localFeed
}

// isMissing reports whether no source feeds: there is none, or the stream manager has handed the
// stream over.
func (f feed) isMissing() bool {
	return f.upstream == nil && (f.local.ref == nil || f.local.ref.handedOver.Load())
}

// feedMove is a change to another feed.
type feedMove struct {
	routing        placement.Routing
	notBefore      time.Time // nothing is done before it
	awaitingAnswer bool      // target has been asked and has not answered
	targetName     string
	upstream       *transport.Subscription
	deadline       time.Time // of the answer
}

// Timing of a follower.
const (
	unfollowAfter    = time.Second            // after the last reader has left
	noOwnerTimeout   = 5 * time.Second        // for a member to own streams
	noOwnerPoll      = 50 * time.Millisecond  // how often that is checked
	moveJitter       = 500 * time.Millisecond // before a move while the old feed still works
	movePace         = 500 * time.Microsecond // between two such moves of a node
	lostFeedMinDelay = 300 * time.Millisecond // before a lost feed is replaced, random up to the next
	lostFeedMaxDelay = 800 * time.Millisecond
	retryMinDelay    = time.Second // before a failed move is tried again, random up to the next
	retryMaxDelay    = 2 * time.Second
	subscribeTimeout = transport.OpenTimeout + time.Second
)

// unlockAndRun frees mu, and then does what must not be done under it.
func (f *follower) unlockAndRun() {
	trash := f.afterUnlock
	f.afterUnlock = nil
	f.mu.Unlock()
	for _, fn := range trash {
		fn()
	}
}

// removeReader takes one reader away. It is the release function of follow.
func (f *follower) removeReader() {
	f.mu.Lock()
	defer f.unlockAndRun()
	f.removeReaderLocked()
}

// removeBridge undoes followForBridge.
func (f *follower) removeBridge() {
	f.mu.Lock()
	defer f.unlockAndRun()
	f.bridges--
	f.removeReaderLocked()
}

func (f *follower) removeReaderLocked() {
	f.readers--
	f.reportReadersLocked()
	if f.readers > 0 {
		return
	}
	if f.over {
		f.releaseTailLocked()
		return
	}
	f.idleSince = time.Now().UnixNano()
	f.loop.scheduleStep(f)
}

// isOver reports whether the follower has ended and nothing will feed its tail buffer.
func (f *follower) isOver() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.over
}

func (f *follower) releaseTailLocked() {
	if t := f.tail; t != nil {
		f.tail = nil
		f.afterUnlock = append(f.afterUnlock, t.Release)
	}
}

// step does what is due and returns when the next step is due; the zero time: only when an event
// schedules it.
func (f *follower) step(now time.Time) time.Time {
	f.mu.Lock()
	defer f.unlockAndRun()
	if f.stateLocked() == stateOver {
		return time.Time{}
	}
	if f.tail != nil && f.tail.EndError() != nil {
		f.finishLocked(f.tail.EndError())
		return time.Time{}
	}
	var due time.Time
	if f.readers == 0 {
		due = time.Unix(0, f.idleSince).Add(unfollowAfter)
		if !now.Before(due) {
			f.finishLocked(shard.ErrStopped)
			return time.Time{}
		}
	}
	if f.move == nil {
		f.planMoveLocked(now)
	}
	if f.move != nil {
		if at := f.advanceMoveLocked(now); due.IsZero() || !at.IsZero() && at.Before(due) {
			due = at
		}
	}
	return due
}

// finishLocked ends the follower. Readers keep its tail buffer.
func (f *follower) finishLocked(why error) {
	f.over = true
	f.resolveOpeningLocked(why)
	if f.move != nil && f.move.upstream != nil {
		f.move.upstream.Unsubscribe()
	}
	f.move = nil
	f.releaseFeedLocked(f.feed)
	f.feed = feed{}
	if f.readers == 0 {
		f.releaseTailLocked()
	}
	f.loop.scheduleStep(f) // so that the loop removes it
}

// endGenerationLocked ends the tail buffer for its readers: the stream is gone, or has a new
// generation.
func (f *follower) endGenerationLocked() {
	if f.tail != nil {
		f.tail.End(shard.ErrNotFound)
	}
	f.finishLocked(shard.ErrNotFound)
}

func (f *follower) resolveOpeningLocked(err error) {
	if o := f.opening; o != nil {
		o.err = err
		close(o.ready)
		f.opening = nil
	}
}

func (f *follower) releaseFeedLocked(old feed) {
	if old.upstream != nil {
		old.upstream.Unsubscribe()
	}
	if release := old.local.release; release != nil {
		f.afterUnlock = append(f.afterUnlock, func() {
			release()
			f.loop.node.onFeedReleased()
		})
	}
}

// planMoveLocked begins a move if another feed is wanted.
func (f *follower) planMoveLocked(now time.Time) {
	if f.readers == 0 {
		return
	}
	if f.feed.isMissing() {
		f.move = &feedMove{notBefore: now}
		return
	}
	want := f.loop.node.currentTable().Owner(f.id)
	if want == nil || want.Name == f.feed.member {
		return
	}
	if want.Name != f.loop.self && f.loop.peers.Link(want.Name) == nil {
		return // linksChanged schedules a step when it is back
	}
	f.move = &feedMove{notBefore: f.loop.nextMoveTime(now)}
}

// advanceMoveLocked continues the move and returns when the next step is due.
func (f *follower) advanceMoveLocked(now time.Time) time.Time {
	m := f.move
	switch {
	case m.awaitingAnswer && now.Before(m.deadline):
		return m.deadline
	case m.awaitingAnswer:
		if m.upstream != nil {
			m.upstream.Unsubscribe()
		}
		f.handleRefusalLocked(now, placement.ErrUnreachable)
		return f.nextStepLocked()
	case now.Before(m.notBefore):
		return m.notBefore
	}
	for f.move == m && !m.awaitingAnswer {
		if !f.tryNextTargetLocked(now, m) {
			break
		}
	}
	return f.nextStepLocked()
}

func (f *follower) nextStepLocked() time.Time {
	switch {
	case f.move == nil:
		return time.Time{}
	case f.move.awaitingAnswer:
		return f.move.deadline
	default:
		return f.move.notBefore
	}
}

// tryNextTargetLocked asks the next node for a feed; true: the node after it is to be asked
// immediately.
func (f *follower) tryNextTargetLocked(now time.Time, m *feedMove) bool {
	to, ok := m.routing.NextTarget(f.loop.node.View(), f.loop.node.currentTable(), f.id, f.loop.self)
	switch {
	case !ok && f.opening != nil && now.Sub(f.opening.began) >= noOwnerTimeout:
		f.finishLocked(shard.ErrUnavailable)
		return false
	case !ok:
		m.notBefore = now.Add(noOwnerPoll)
		return false
	case !f.feed.isMissing() && (to.Hop == placement.HopForce || f.isFedByLocked(to)):
		f.retryMoveLocked(now) // the current feed is good enough
		return false
	}
	if to.Hop == placement.HopForce {
		f.loop.metrics.forced.Inc()
	}
	m.awaitingAnswer, m.deadline = true, now.Add(subscribeTimeout)
	if to.Member == nil {
		m.targetName = f.loop.self
		f.openLocalFeedLocked(m)
		return false
	}
	m.targetName = to.Member.Name
	if l := f.loop.peers.Link(m.targetName); l != nil {
		m.upstream = l.Subscribe(f, f.id, f.nextPositionLocked(), m.routing.Route)
	}
	if m.upstream != nil {
		if f.feed.isMissing() { // else the present feed counts the readers until this one works
			m.upstream.SetReaders(f.countLocked(), f.watchers > 0)
		}
		return false
	}
	m.awaitingAnswer = false
	if f.opening != nil && f.loop.peers.IsDownBriefly(m.targetName) {
		m.routing.AskAgain(m.targetName)
		m.notBefore = now.Add(noOwnerPoll)
		return false
	}
	f.handleRefusalLocked(now, placement.ErrUnreachable)
	return f.move == m && m.notBefore.Equal(now)
}

// isFedByLocked reports whether the target is the current source.
func (f *follower) isFedByLocked(to placement.Target) bool {
	if to.Member == nil {
		return f.feed.local.ref != nil
	}
	return f.feed.upstream != nil && f.feed.member == to.Member.Name
}

// nextPositionLocked returns the position at which the next feed has to begin.
func (f *follower) nextPositionLocked() shard.Pos {
	if f.tail != nil {
		return f.tail.Next()
	}
	return f.opening.from
}

// openLocalFeedLocked has the stream manager feed the tail buffer.
func (f *follower) openLocalFeedLocked(m *feedMove) {
	from, must := f.nextPositionLocked(), m.routing.Hop == placement.HopForce
	ok := f.loop.openPool.submit(f.loop.local.answersLocally(f.id), func() {
		f.mu.Lock()
		wanted := f.awaitsLocalFeedLocked(m)
		f.mu.Unlock()
		if !wanted {
			return // the move was given up while this waited
		}
		ctx, cancel := context.WithTimeout(f.loop.ctx, transport.OpenTimeout)
		defer cancel()
		t, fd, err := f.loop.local.startFeed(ctx, f.id, from, must)
		f.onLocalFeed(m, t, fd, err)
	})
	if !ok {
		f.handleRefusalLocked(time.Now(), shard.ErrOverloaded)
	}
}

// awaitsLocalFeedLocked reports whether the move still waits for the stream manager's answer.
func (f *follower) awaitsLocalFeedLocked(m *feedMove) bool {
	return f.move == m && m.awaitingAnswer && m.targetName == f.loop.self
}

func (f *follower) onLocalFeed(m *feedMove, t *shard.TailBuffer, fd localFeed, err error) {
	f.mu.Lock()
	defer f.unlockAndRun()
	localFeed := feed{member: f.loop.self, local: fd}
	switch {
	case !f.awaitsLocalFeedLocked(m): // too late
		if err == nil {
			f.releaseFeedLocked(localFeed)
		}
	case err != nil:
		f.handleRefusalLocked(time.Now(), err)
	case localFeed.isMissing(): // handed over in this very moment
		f.releaseFeedLocked(localFeed)
		f.handleRefusalLocked(time.Now(), shard.ErrNotOwner)
	case f.tail == nil:
		if f.tail = f.loop.tails.Lookup(f.id); f.tail != t {
			f.releaseTailLocked() // the generation ended in this very moment
			f.releaseFeedLocked(localFeed)
			f.endGenerationLocked()
			return
		}
		f.adoptFeedLocked(localFeed, 0)
	case f.tail != t:
		f.releaseFeedLocked(localFeed)
		f.endGenerationLocked()
	default:
		f.adoptFeedLocked(localFeed, 0)
	}
	f.loop.scheduleStep(f)
}

// adoptFeedLocked makes fd the feed and releases the previous one.
func (f *follower) adoptFeedLocked(fd feed, goal shard.Pos) {
	old := f.feed
	total, known := f.totalLocked()
	f.feed, f.move, f.feedStartTail = fd, nil, goal
	f.reportReadersLocked()
	if known && fd.upstream != nil {
		fd.upstream.NoteTotal(total) // until the next owner says so
	}
	f.releaseFeedLocked(old)
	f.resolveOpeningLocked(nil)
	if fd.local.ref != nil && !f.loop.ownsStream(f.id) {
		f.loop.node.noteMisplaced()
	}
}

// handleRefusalLocked handles a target's refusal: it asks the next one, retries later, or ends the
// follower.
func (f *follower) handleRefusalLocked(now time.Time, err error) {
	m := f.move
	m.awaitingAnswer, m.upstream = false, nil
	switch {
	case shard.IsAbsent(err):
		f.endGenerationLocked()
	case m.routing.HandleAnswer(m.targetName, err):
		m.notBefore = now
	case f.opening != nil:
		f.finishLocked(publicError(err))
	default:
		f.retryMoveLocked(now)
	}
	f.loop.scheduleStep(f)
}

// retryMoveLocked begins the whole move again later.
func (f *follower) retryMoveLocked(now time.Time) {
	f.move = &feedMove{notBefore: now.Add(randomBetween(retryMinDelay, retryMaxDelay))}
}
