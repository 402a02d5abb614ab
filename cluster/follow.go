package cluster

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// follower keeps one stream's Tail fed on this node for as long as anybody here
// reads it: from the host where this node serves the stream, from a peer
// otherwise. Feeds are changed under the readers' feet: the next one is asked
// for the position that the Tail needs, and the old one stays until it answers.
type follower struct {
	fs *followers
	id shard.StreamID

	mu      sync.Mutex
	tail    *shard.Tail // with one reference; nil until the first feed stands
	opening *opening    // until then
	feed    feed
	move    *move  // nil: the feed is the one that is wanted
	goal    uint64 // where the stream stood when its feed began
	idle    int64  // when the last reader left, ns
	readers int32
	gone    bool     // over: out of the set, unfed
	trash   []func() // to be run once mu is free
}

// opening is the first feed on its way; all early readers wait for it.
type opening struct {
	ready chan struct{}
	err   error // set before ready is closed
	from  uint64
	began time.Time
}

// feed is what extends the Tail; zero: nothing does.
type feed struct {
	member string
	up     *upstream // a subscription at a peer, or
	host   hostFeed
}

// none reports that nothing feeds: also where the host has handed the stream over.
func (f feed) none() bool { return f.up == nil && (f.host.use == nil || f.host.use.gone.Load()) }

// move is the way to another feed.
type move struct {
	course   course
	at       time.Time // not before
	waiting  bool      // for an answer
	target   string
	up       *upstream
	deadline time.Time // of the answer
}

// Timing of follow.
const (
	unfollowAfter = time.Second            // after the last reader
	emptyWait     = 5 * time.Second        // for somebody to own anything
	emptyPoll     = 50 * time.Millisecond  // meanwhile
	flipJitter    = 500 * time.Millisecond // before a move that is not urgent
	flipPace      = 500 * time.Microsecond // between two of them
	lostMin       = 300 * time.Millisecond // before a lost feed is replaced
	lostMax       = 800 * time.Millisecond
	againMin      = time.Second // before a failed move is tried again
	againMax      = 2 * time.Second
	answerTimeout = openTimeout + time.Second
)

// unlock frees mu and then does what must not be done under it.
func (f *follower) unlock() {
	trash := f.trash
	f.trash = nil
	f.mu.Unlock()
	for _, fn := range trash {
		fn()
	}
}

// leave takes one reader back.
func (f *follower) leave() {
	f.mu.Lock()
	defer f.unlock()
	if f.readers--; f.readers > 0 {
		return
	}
	if f.gone {
		f.dropTail()
		return
	}
	f.idle = time.Now().UnixNano()
	f.fs.pend(f)
}

// stopped reports whether nothing feeds the Tail, or will.
func (f *follower) stopped() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.gone
}

func (f *follower) dropTail() {
	if t := f.tail; t != nil {
		f.tail = nil
		f.trash = append(f.trash, t.Release)
	}
}

// step does what is due and returns when to look again; zero: on news only.
func (f *follower) step(now time.Time) time.Time {
	f.mu.Lock()
	defer f.unlock()
	if f.gone {
		return time.Time{}
	}
	if f.tail != nil && f.tail.Ended() != nil {
		f.finish(f.tail.Ended())
		return time.Time{}
	}
	var due time.Time
	if f.readers == 0 {
		due = time.Unix(0, f.idle).Add(unfollowAfter)
		if !now.Before(due) {
			f.finish(shard.ErrStopped)
			return time.Time{}
		}
	}
	if f.move == nil {
		f.plan(now)
	}
	if f.move != nil {
		if at := f.advance(now); due.IsZero() || !at.IsZero() && at.Before(due) {
			due = at
		}
	}
	return due
}

// finish ends the follower. Its Tail stays with whoever still reads it.
func (f *follower) finish(why error) {
	f.gone = true
	f.opened(why)
	if f.move != nil && f.move.up != nil {
		f.move.up.link.unsubscribe(f.move.up)
	}
	f.move = nil
	f.drop(f.feed)
	f.feed = feed{}
	if f.readers == 0 {
		f.dropTail()
	}
	f.fs.pend(f) // to be forgotten
}

// end ends the Tail for its readers: the stream is gone, or has another life.
func (f *follower) end() {
	if f.tail != nil {
		f.tail.End(shard.ErrNotFound)
	}
	f.finish(shard.ErrNotFound)
}

func (f *follower) opened(err error) {
	if o := f.opening; o != nil {
		o.err = err
		close(o.ready)
		f.opening = nil
	}
}

func (f *follower) drop(old feed) {
	if old.up != nil {
		old.up.link.unsubscribe(old.up)
	}
	if release := old.host.release; release != nil {
		f.trash = append(f.trash, func() {
			release()
			f.fs.freed()
		})
	}
}

// plan begins a move if another feed is wanted.
func (f *follower) plan(now time.Time) {
	if f.readers == 0 {
		return
	}
	if f.feed.none() {
		f.move = &move{at: now}
		return
	}
	want := f.fs.table().Owner(f.id)
	if want == nil || want.Name == f.feed.member {
		return
	}
	if want.Name != f.fs.self && f.fs.peers.link(want.Name) == nil {
		return // its links will say when it is back
	}
	f.move = &move{at: f.fs.turn(now)}
}

// advance goes on with the move and returns when to look again.
func (f *follower) advance(now time.Time) time.Time {
	m := f.move
	switch {
	case m.waiting && now.Before(m.deadline):
		return m.deadline
	case m.waiting:
		if m.up != nil {
			m.up.link.unsubscribe(m.up)
		}
		f.refused(now, errUnreachable)
		return f.nextLook()
	case now.Before(m.at):
		return m.at
	}
	for f.move == m && !m.waiting {
		if !f.try(now, m) {
			break
		}
	}
	return f.nextLook()
}

func (f *follower) nextLook() time.Time {
	switch {
	case f.move == nil:
		return time.Time{}
	case f.move.waiting:
		return f.move.deadline
	default:
		return f.move.at
	}
}

// try asks the next node for a feed; true: ask the one after it at once.
func (f *follower) try(now time.Time, m *move) bool {
	to, ok := m.course.next(f.fs.view(), f.fs.table(), f.id, f.fs.self)
	switch {
	case !ok && f.opening != nil && now.Sub(f.opening.began) >= emptyWait:
		f.finish(shard.ErrUnavailable)
		return false
	case !ok:
		m.at = now.Add(emptyPoll)
		return false
	case !f.feed.none() && (to.hop == hopMust || f.feedsFrom(to)):
		f.again(now) // what feeds now will do
		return false
	}
	if to.hop == hopMust {
		f.fs.met.must.Inc()
	}
	m.waiting, m.deadline = true, now.Add(answerTimeout)
	if to.member == nil {
		m.target = f.fs.self
		f.openHere(m)
		return false
	}
	m.target = to.member.Name
	if l := f.fs.peers.link(m.target); l != nil {
		m.up = l.subscribe(f, ask{f.from(), m.course.route})
	}
	if m.up != nil {
		return false
	}
	m.waiting = false
	if f.opening != nil && f.fs.peers.hopeful(m.target) {
		m.course.hint, m.at = m.target, now.Add(emptyPoll)
		return false
	}
	f.refused(now, errUnreachable)
	return f.move == m && m.at.Equal(now)
}

// feedsFrom reports whether the target is what feeds already.
func (f *follower) feedsFrom(to target) bool {
	if to.member == nil {
		return f.feed.host.use != nil
	}
	return f.feed.up != nil && f.feed.member == to.member.Name
}

// from is the position that the next feed has to begin at.
func (f *follower) from() uint64 {
	if f.tail != nil {
		return f.tail.Next()
	}
	return f.opening.from
}

// openHere has the host feed the Tail.
func (f *follower) openHere(m *move) {
	from, must := f.from(), m.course.hop == hopMust
	ok := f.fs.openers.add(f.fs.hosted.near(f.id), func() {
		f.mu.Lock()
		wanted := f.wantsHere(m)
		f.mu.Unlock()
		if !wanted {
			return // it waited longer than the move
		}
		ctx, cancel := context.WithTimeout(f.fs.ctx, openTimeout)
		defer cancel()
		t, fd, err := f.fs.hosted.feed(ctx, f.id, from, must)
		f.openedHere(m, t, fd, err)
	})
	if !ok {
		f.refused(time.Now(), shard.ErrOverloaded)
	}
}

// wantsHere reports whether the host's answer to a move is still waited for.
func (f *follower) wantsHere(m *move) bool {
	return f.move == m && m.waiting && m.target == f.fs.self
}

func (f *follower) openedHere(m *move, t *shard.Tail, fd hostFeed, err error) {
	f.mu.Lock()
	defer f.unlock()
	here := feed{member: f.fs.self, host: fd}
	switch {
	case !f.wantsHere(m): // too late
		if err == nil {
			f.drop(here)
		}
	case err != nil:
		f.refused(time.Now(), err)
	case here.none(): // handed over this very moment
		f.drop(here)
		f.refused(time.Now(), shard.ErrNotOwner)
	case f.tail == nil:
		if f.tail = f.fs.tails.Lookup(f.id); f.tail != t {
			f.dropTail() // the life ended this very moment
			f.drop(here)
			f.end()
			return
		}
		f.adopt(here, 0)
	case f.tail != t:
		f.drop(here)
		f.end()
	default:
		f.adopt(here, 0)
	}
	f.fs.pend(f)
}

// adopt makes fd the feed and lets go of the one before.
func (f *follower) adopt(fd feed, goal uint64) {
	old := f.feed
	f.feed, f.move, f.goal = fd, nil, goal
	f.drop(old)
	f.opened(nil)
	if fd.host.use != nil && !f.fs.owns(f.id) {
		f.fs.foreign()
	}
}

// refused takes a target's no.
func (f *follower) refused(now time.Time, err error) {
	m := f.move
	m.waiting, m.up = false, nil
	switch {
	case shard.IsAbsent(err):
		f.end()
	case m.course.learn(m.target, err):
		m.at = now
	case f.opening != nil:
		f.finish(public(err))
	default:
		f.again(now)
	}
	f.fs.pend(f)
}

// again tries the whole move later.
func (f *follower) again(now time.Time) { f.move = &move{at: now.Add(jitter(againMin, againMax))} }

// subscribed is the first word of a subscription, or of a new beginning of one.
func (f *follower) subscribed(u *upstream, info shard.Info, start uint64) {
	f.mu.Lock()
	defer f.unlock()
	answered := f.move != nil && f.move.up == u
	if !answered && f.feed.up != u {
		u.link.unsubscribe(u)
		return
	}
	at := infoAt(info, start)
	if f.tail == nil {
		f.tail = f.fs.open(f.id, at, start)
	}
	switch {
	case f.tail == nil || info.Life < f.tail.Life(): // the peer is behind the times
		u.link.unsubscribe(u)
		if answered {
			f.refused(time.Now(), shard.ErrNotOwner)
		} else {
			f.unfed(time.Now(), 0)
		}
		return
	case info.Life > f.tail.Life():
		f.end()
		return
	}
	f.tail.Skip(start, at.Tail, at.Closed)
	u.tail = f.tail
	if answered {
		f.adopt(feed{member: f.move.target, up: u}, info.Tail)
	}
}

// unfed notes that the feed is gone and has it replaced.
func (f *follower) unfed(now time.Time, wait time.Duration) {
	f.feed = feed{}
	if f.move == nil || !f.move.waiting {
		f.move = &move{at: now.Add(wait)}
	}
	f.fs.pend(f)
}

// fed takes a Range. It runs in the goroutine of u's bulk lane alone, and needs
// no lock of ours.
func (f *follower) fed(u *upstream, r shard.Range) {
	if u.tail == nil {
		return
	}
	err := u.tail.Extend(r)
	if err == nil {
		return
	}
	f.fs.met.gaps.Inc()
	f.fs.log.Error("relayed records do not join", "peer", u.link.to.name, "stream", f.id, "err", err)
	f.mu.Lock()
	defer f.unlock()
	u.tail = nil
	u.link.unsubscribe(u)
	if f.feed.up == u {
		f.unfed(time.Now(), 0)
	}
}

// moved is the feed's word that another node owns the stream.
func (f *follower) moved(u *upstream, to place) {
	f.mu.Lock()
	defer f.unlock()
	if f.gone || f.feed.up != u || f.move != nil {
		return
	}
	if to.name != f.fs.self && f.fs.peers.link(to.name) == nil {
		return // the feed goes on for a while
	}
	f.move = &move{
		at:     f.fs.turn(time.Now()),
		course: course{hint: to.name, route: route{hop: hopSecond}},
	}
	f.fs.pend(f)
}

// over is the end of a subscription, or its refusal.
func (f *follower) over(u *upstream, why error) {
	f.mu.Lock()
	defer f.unlock()
	now := time.Now()
	switch {
	case f.gone:
	case f.move != nil && f.move.up == u:
		f.refused(now, why)
	case f.feed.up != u:
	case shard.IsAbsent(why):
		f.end()
	case errors.Is(why, errFailed): // it would fail again
		f.fs.log.Warn("feed failed", "stream", f.id, "err", why)
		f.unfed(now, jitter(againMin, againMax))
	default:
		f.unfed(now, jitter(0, lostMin))
		var r *redirect
		if errors.As(why, &r) && !f.move.waiting {
			f.move.course = course{hint: r.owner.name, route: route{hop: hopSecond}}
		}
	}
}

// lost is the end of a subscription with its link.
func (f *follower) lost(u *upstream) {
	f.mu.Lock()
	defer f.unlock()
	switch {
	case f.gone:
	case f.move != nil && f.move.up == u:
		f.refused(time.Now(), errUnreachable)
	case f.feed.up == u:
		f.unfed(time.Now(), jitter(lostMin, lostMax))
	}
}

// public is what a reader is told.
func public(err error) error {
	var r *redirect
	switch {
	case errors.Is(err, errUnreachable), errors.Is(err, errFailed), errors.As(err, &r),
		errors.Is(err, context.DeadlineExceeded):
		return fmt.Errorf("%w: %w", shard.ErrUnavailable, err)
	case errors.Is(err, context.Canceled):
		return shard.ErrStopped
	default:
		return err
	}
}
