package shard

import (
	"context"
	"errors"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// readSession is a stream's open read session (or, in exclusive mode, the guard in its place). Its
// fields are guarded by Stream.mu.
type readSession struct {
	opened time.Time
	cancel context.CancelFunc
	linger *time.Timer // closes it at the end of a minute that is already billed
	live   bool        // connected and caught up
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
	// guardEvery is the pause between the tail checks of exclusive mode.
	guardEvery = 30 * time.Second
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

// openSession starts the session if none is open, under mu.
func (s *Stream) openSession() {
	if s.session != nil && s.session.linger != nil {
		s.session.linger.Stop()
		s.session.linger = nil
	}
	if s.session != nil || s.stopped {
		return
	}
	session := &readSession{opened: s.manager.cfg.Now()}
	ok := s.manager.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s.mu.Lock()
		session.cancel = cancel
		over := s.session != session
		s.mu.Unlock()
		if !over {
			s.runSession(ctx, session)
		}
	})
	if ok {
		s.session = session
	}
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
	session := s.session
	if session == nil {
		return
	}
	s.session = nil
	if session.linger != nil {
		session.linger.Stop()
	}
	if session.cancel != nil {
		session.cancel()
	}
}

// runSession feeds the stream from storage until its session is closed.
func (s *Stream) runSession(ctx context.Context, session *readSession) {
	for try := 0; ctx.Err() == nil; try++ {
		if err := s.waitReady(withPatience(ctx)); err != nil {
			if errors.Is(err, ErrNotOwner) || errors.Is(err, ErrNeedsLaterRelease) {
				return
			}
			PauseWithJitter(ctx, try, 100*time.Millisecond, 10*time.Second)
			continue
		}
		s.mu.Lock()
		followers, inherited := s.followers, s.handedOver
		s.mu.Unlock()
		limiter := s.manager.sessions
		if inherited {
			limiter = s.manager.handoverSessions
		}
		if s.manager.cfg.Mode == ModeSession && limiter.wait(ctx, max(followers, 1)) != nil {
			return
		}
		start := s.manager.cfg.Now()
		s.mu.Lock()
		s.handedOver = false
		fold := s.state
		s.mu.Unlock()
		err := s.feedTail(ctx, session, fold)
		s.mu.Lock()
		session.live = false
		s.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		var tailErr *TailError
		switch {
		case errors.As(err, &tailErr):
			s.resetFold(fold, tailErr.Tail)
		case errors.Is(err, ErrNoLog):
			s.resetFold(fold, 0)
		case errors.Is(err, ErrNeedsLaterRelease): // ready says so, too
		default:
			s.manager.cfg.Logger.Warn("read session failed", "stream", s.id, "err", err)
		}
		if s.manager.cfg.Now().Sub(start) > time.Minute {
			try = 0
		}
		PauseWithJitter(ctx, try, 100*time.Millisecond, 10*time.Second)
	}
}

// feedTail follows the log from the fold's position on. In exclusive mode it only guards.
func (s *Stream) feedTail(ctx context.Context, session *readSession, fold *State) error {
	if s.manager.cfg.Mode == ModeExclusive {
		return s.guardExclusive(ctx, fold)
	}
	return s.manager.log.Follow(ctx, s.id, s.nextPosition(fold), func(p Page) error {
		if err := s.foldFromLog(fold, p.Records); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.opened {
			return &TailError{0} // reset meanwhile
		}
		session.live = p.HasTail && p.Tail <= fold.Next || session.live && len(p.Records) > 0
		return nil
	})
}

// nextPosition returns where the next record of a fold will stand.
func (s *Stream) nextPosition(fold *State) Pos {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fold.Next
}

// guardExclusive checks in exclusive mode that no other writer appends.
func (s *Stream) guardExclusive(ctx context.Context, fold *State) error {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		before := s.nextPosition(fold)
		tail, err := s.askTail(ctx)
		if err != nil {
			return err
		}
		if tail > before {
			s.manager.cfg.Logger.Warn("another writer appends to a stream in exclusive mode", "stream", s.id)
		}
		if err := s.catchUpOrReset(ctx, fold, before, tail); err != nil {
			return err
		}
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
// log held when the caller came. Callers share one tail check. A caller that finds a check which
// was sent before it came waits for that check and looks again. sure: only a check will do.
func (s *Stream) waitFresh(ctx context.Context, sure bool) error {
	came := s.manager.cfg.Now()
	for {
		if err := s.lockReady(ctx); err != nil {
			return err
		}
		if !sure && s.isFreshLocked() {
			s.mu.Unlock()
			return nil
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
				return ErrStopped
			}
			s.tailCheck = a
			s.noteTailCheck()
		}
		s.mu.Unlock()
		select {
		case <-a.done:
			if a.err != nil || !a.sent.Before(came) {
				return a.err
			}
		case <-ctx.Done():
			return context.Cause(ctx)
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
	if s.tailChecks++; s.tailChecks > followAfterChecks && s.session == nil && s.state != nil && s.state.exists {
		s.openSession()
		s.startLingerLocked()
	}
}

// runTailCheck is the goroutine of one shared tail check.
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
	if err := s.catchUpOrReset(ctx, fold, before, tail); err != nil {
		return err
	}
	s.noteSynced(fold, sent)
	return s.waitReady(ctx) // after a reset
}
