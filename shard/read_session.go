package shard

import (
	"context"
	"errors"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// readSession is a followed stream's open read session, or the guard in its place (tail_guard.go). It
// is the Follower of one Feed after another. A goroutine exists only while a Feed is being opened.
// Its fields are guarded by Stream.mu.
type readSession struct {
	stream  *Stream
	guards  bool // it is a guard: there is no Feed, and the tail is checked
	opened  time.Time
	linger  *time.Timer // closes it at the end of a minute that is already billed
	live    bool        // connected and caught up
	limiter *turnLimiter
	turn    *turn              // it waits for its turn; nil: it does not
	cancel  context.CancelFunc // ends the goroutine that opens it; nil: there is none
	feed    Feed               // nil: none is open, or it is about to end
	feeds   int                // so far
	tries   int                // feeds since the last that lasted
	began   time.Time          // of the feed
	fold    *State             // that the feed's records are folded into; set before it begins
	slot    atomic.Bool        // it holds a slot of the limiter
}

const (
	// freshFor bounds the age of a tail check that an answer rests on.
	freshFor = 250 * time.Millisecond
	// followAfterChecks is the number of tail checks in a minute after which a stream counts as
	// followed.
	followAfterChecks = 10
	// billedUnit is the unit in which S2 counts an open session.
	billedUnit = time.Minute
	// minTouchInterval is the least time between two touch records, in ms.
	minTouchInterval = 60_000
	// graceMargin bounds, in ms, how late the sweeper is with a touch that is due. Only the sweeper
	// touches a stream that is only followed.
	graceMargin = 60_000
)

// touchAhead returns how far, in ms, memory may be ahead of the last durable use of a stream with a
// TTL (in seconds).
func touchAhead(ttl uint64) Millis { return Millis(max(ttl*1000/4, minTouchInterval)) }

// addFollower counts one more follower and opens a session, until removeFollower.
func (s *Stream) addFollower() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followers++
	s.openSession()
}

// removeFollower undoes addFollower, and releases the tail.Buffer and the Stream.
func (s *Stream) removeFollower(t *tail.Buffer) {
	s.mu.Lock()
	s.followers--
	s.lastUsed = s.manager.cfg.Now()
	s.unsavedUse = s.lastUsed
	if s.followers == 0 {
		s.startLingerLocked()
	}
	s.mu.Unlock()
	t.Release()
	s.manager.releaseStream(s)
}

// openSession starts the session if none is open, under mu. If it waits for its turn, one more
// follower brings it forward.
func (s *Stream) openSession() {
	if r := s.session; r != nil {
		if r.linger != nil {
			r.linger.Stop()
			r.linger = nil
		}
		if r.turn != nil {
			_ = r.limiter.addWaiter(r.turn, 1)
		}
		return
	}
	if s.stopped || s.manager.ctx.Err() != nil {
		return
	}
	s.session = &readSession{stream: s, opened: s.manager.cfg.Now(), guards: !s.wantsFeed()}
	s.updateCharge()
	if s.session.guards {
		s.manager.guard.add(s)
		return
	}
	s.session.requestTurn()
}

// requestTurn has a goroutine open a feed once it is the session's turn, under mu.
func (r *readSession) requestTurn() {
	s := r.stream
	if r.limiter = s.manager.sessions; s.handedOver {
		r.limiter = s.manager.handoverSessions
	}
	r.turn, _ = r.limiter.enqueueFunc(max(s.followers, 1), func() { // followers are not refused
		r.slot.Store(true)
		if !s.manager.spawn(r.takeTurn) {
			r.freeSlot()
		}
	})
}

// freeSlot notes that the session is open, or will not be.
func (r *readSession) freeSlot() {
	if r.slot.Swap(false) {
		r.limiter.freeSlot()
	}
}

// spawn starts a goroutine that ends with the session, under mu.
func (r *readSession) spawn(fn func(context.Context)) bool {
	ctx, cancel := context.WithCancel(r.stream.manager.ctx)
	r.cancel = cancel
	return r.stream.manager.spawn(func(context.Context) {
		defer cancel()
		fn(ctx)
	})
}

// takeTurn runs as the goroutine that opens a feed.
func (r *readSession) takeTurn(ctx context.Context) {
	s := r.stream
	expiry := time.AfterFunc(maxOpeningTime, r.freeSlot)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s.mu.Lock()
	wanted := s.session == r
	r.turn, r.cancel = nil, cancel
	s.mu.Unlock()
	if !wanted || !r.openFeed(ctx) {
		expiry.Stop()
		r.freeSlot()
	}
}

// openFeed opens a feed from the fold's position on; false: there is none, and none will be.
func (r *readSession) openFeed(ctx context.Context) bool {
	s := r.stream
	for try := 0; ; try++ {
		err := s.lockReady(withPatience(ctx))
		if err == nil {
			break
		}
		if ctx.Err() != nil || errors.Is(err, ErrNotOwner) || errors.Is(err, ErrNeedsLaterRelease) {
			return false
		}
		PauseWithJitter(ctx, try, 100*time.Millisecond, 10*time.Second)
	}
	if s.session != r {
		s.mu.Unlock()
		return false
	}
	s.handedOver = false
	r.fold, r.began, r.cancel = s.state, s.manager.cfg.Now(), nil
	r.feeds++
	nth := r.feeds
	s.mu.Unlock()

	feed, ok := s.manager.feed(s.id, r)
	if !ok {
		return false
	}
	s.mu.Lock()
	if r.feeds == nth {
		r.feed = feed
	}
	over := s.session != r
	s.mu.Unlock()
	if over {
		feed.Stop()
	}
	return true
}

// feed starts to follow a stream's log. Close waits until the feed has ended.
func (m *Manager) feed(id StreamID, f Follower) (Feed, bool) {
	m.wg.Add(1)
	feed, ok := m.log.feed(m.ctx, m.spawn, id, f)
	if !ok {
		m.wg.Done()
	}
	return feed, ok
}

// startLingerLocked lets the session live to the end of the minute that is already billed.
func (s *Stream) startLingerLocked() {
	session := s.session
	if session == nil || session.linger != nil {
		return
	}
	open := s.manager.cfg.Now().Sub(session.opened)
	session.linger = time.AfterFunc(billedUnit-open%billedUnit, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.session == session && s.followers == 0 && session.linger != nil {
			s.closeSession()
		}
	})
}

// closeSession ends the session, if there is one, under mu.
func (s *Stream) closeSession() {
	r := s.session
	if r == nil {
		return
	}
	s.session, r.live = nil, false
	s.updateCharge()
	if r.linger != nil {
		r.linger.Stop()
	}
	if r.guards {
		s.manager.guard.remove(s)
	}
	if r.turn != nil {
		r.limiter.withdraw(r.turn)
	}
	if r.cancel != nil {
		r.cancel()
	}
	if r.feed != nil {
		r.feed.Stop()
	}
}

// WantedPos implements Follower: what was acknowledged to this node need not come again. While a
// batch is in flight, its acknowledgement and its records in the session arrive together.
func (r *readSession) WantedPos() (pos Pos, soon bool) {
	s := r.stream
	s.mu.Lock()
	defer s.mu.Unlock()
	return r.fold.Next, s.writing
}

// TakePage implements Follower.
func (r *readSession) TakePage(p Page) error {
	s := r.stream
	if len(p.Records) > 0 || p.HasTail {
		r.freeSlot()
	}
	if len(p.Records) > 0 { // a page without them may tell what was known, or of an end
		s.manager.log.noteAnswer(nil)
		if err := s.foldRecords(r.fold, p.Records, true); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.foldErr != nil:
		return s.foldErr
	case s.state != r.fold, !s.opened:
		return &TailError{0} // reset meanwhile
	}
	r.live = s.session == r && (p.HasTail && p.Tail <= r.fold.Next || r.live && len(p.Records) > 0)
	return nil
}

// NoteEnd implements Follower.
func (r *readSession) NoteEnd(err error) {
	s := r.stream
	defer s.manager.wg.Done()
	r.freeSlot()
	s.mu.Lock()
	defer s.mu.Unlock()
	r.live, r.feed = false, nil
	r.feeds++
	if s.session == r {
		r.spawn(func(ctx context.Context) { r.resume(ctx, err) })
	}
}

// resume handles the end of a feed that is still wanted, and has the next one opened.
func (r *readSession) resume(ctx context.Context, err error) {
	s := r.stream
	s.handleFeedError(r.fold, err)
	if s.manager.cfg.Now().Sub(r.began) > time.Minute {
		r.tries = 0
	}
	PauseWithJitter(ctx, r.tries, 100*time.Millisecond, 10*time.Second)
	s.mu.Lock()
	defer s.mu.Unlock()
	r.tries++
	if r.cancel = nil; s.session == r {
		r.requestTurn()
	}
}

// handleFeedError handles the error with which a fold is no longer fed.
func (s *Stream) handleFeedError(fold *State, err error) {
	var tailErr *TailError
	switch {
	case errors.As(err, &tailErr):
		s.resetFold(fold, tailErr.Tail)
	case errors.Is(err, ErrNoLog):
		s.resetFold(fold, 0)
	case errors.Is(err, ErrNeedsLaterRelease): // lockReady says so, too
	default:
		s.manager.cfg.Logger.Warn("read session failed", "stream", s.id, "err", err)
	}
}

func (s *Stream) askTail(ctx context.Context) (Pos, error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	return s.manager.log.Tail(ctx, s.id)
}

// isFreshLocked reports whether the fold may answer for the log's tail, under mu.
func (s *Stream) isFreshLocked() bool {
	if s.manager.cfg.Mode == ModeExclusive || s.session != nil && s.session.live {
		return true
	}
	return s.manager.cfg.Now().Sub(s.syncedAt) < freshFor
}

// waitFresh returns once the fold is at most freshFor behind the log, or has everything that the
// log held when the caller came (checked). Callers share one tail check. A caller that finds a check
// which was sent before it came waits for that check and looks again. sure: only what was asked of
// the log since the caller came will do.
func (s *Stream) waitFresh(ctx context.Context, sure bool) (checked bool, err error) {
	came := s.manager.cfg.Now()
	for {
		read, err := s.lockFold(ctx)
		if err != nil {
			return false, err
		}
		if read || !sure && s.isFreshLocked() {
			s.mu.Unlock()
			return read, nil
		}
		a := s.tailCheck
		if a == nil {
			a = &sharedCall{done: make(chan struct{}), sent: s.manager.cfg.Now()}
			follows := isPatient(ctx)
			if !s.manager.spawn(func(ctx context.Context) {
				if follows {
					ctx = withPatience(ctx)
				}
				s.runTailCheck(ctx, a)
			}) {
				s.mu.Unlock()
				return false, ErrStopped
			}
			s.tailCheck = a
			s.noteTailCheck()
		}
		s.mu.Unlock()
		select {
		case <-a.done:
			if a.err != nil || !a.sent.Before(came) {
				return a.err == nil, a.err
			}
		case <-ctx.Done():
			return false, context.Cause(ctx)
		}
	}
}

// noteTailCheck counts a tail check, under mu. A stream with many of them counts as followed for a
// minute: a session costs less than its checks.
func (s *Stream) noteTailCheck() {
	now := s.manager.cfg.Now()
	if now.Sub(s.tailChecksSince) > time.Minute {
		s.tailChecks, s.tailChecksSince = 0, now
	}
	if s.manager.cfg.Mode != ModeSession {
		return
	}
	if s.tailChecks++; s.tailChecks > followAfterChecks && s.session == nil && s.state != nil && s.state.exists {
		s.openSession()
		s.startLingerLocked()
	}
}

// runTailCheck runs as the goroutine of one shared tail check.
func (s *Stream) runTailCheck(ctx context.Context, a *sharedCall) {
	if a.err = s.waitToAskAbsent(ctx); a.err == nil {
		a.sent = s.manager.cfg.Now()
		a.err = s.syncToTail(ctx)
	}
	s.mu.Lock()
	s.tailCheck = nil
	s.mu.Unlock()
	close(a.done)
}

// syncToTail folds everything up to the log's tail as of now.
func (s *Stream) syncToTail(ctx context.Context) error {
	if err := s.lockReady(ctx); err != nil {
		return err
	}
	sent := s.manager.cfg.Now()
	noLog, fold, before := s.noLog, s.state, s.state.Next
	s.mu.Unlock()
	tail, err := s.askTail(ctx)
	switch {
	case errors.Is(err, ErrNoLog) && noLog:
		tail, err = before, nil
	case errors.Is(err, ErrNoLog), err == nil && noLog: // or it was created meanwhile
		s.resetFold(fold, 0)
		return s.waitReady(ctx)
	}
	if err != nil {
		return storeErr(err)
	}
	s.mu.Lock()
	foreign := s.state == fold && s.opened && fold.Next < tail && !s.writing
	s.mu.Unlock()
	if err := s.catchUpOrReset(ctx, fold, before, tail); err != nil {
		return err
	}
	s.noteSynced(fold, sent)
	if foreign {
		s.mu.Lock()
		s.noteForeign(fold.Time)
		s.mu.Unlock()
	}
	return s.waitReady(ctx) // after a reset
}
