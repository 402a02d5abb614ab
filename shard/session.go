package shard

import (
	"context"
	"errors"
	"time"
)

// session is the shard's open read session (or, in exclusive mode, the guard
// that stands in for it).
type session struct {
	opened time.Time
	cancel context.CancelFunc
	linger *time.Timer // closes it at the end of a minute already paid for
	live   bool        // guarded by Stream.mu: connected and caught up
}

const (
	// freshFor is how old a tail check may be that an answer rests on.
	freshFor = 250 * time.Millisecond
	// followAfter so many checks a minute, a stream counts as followed.
	followAfter = 10
	// billed is the unit in which S2 counts an open session.
	billed = time.Minute
	// touchFloor is the least time between two touch records, in ms.
	touchFloor = 60_000
	// graceMargin, in ms, is how late the sweeper may be with a touch that is due: a
	// stream that is only followed is touched by nobody else.
	graceMargin = 60_000
	// guardEvery is how often exclusive mode checks the tail.
	guardEvery = 30 * time.Second
)

// touchAhead is how far, in ms, memory may be ahead of the last durable use of a
// stream with a TTL (in seconds).
func touchAhead(ttl uint64) uint64 { return max(ttl*1000/4, touchFloor) }

// follow counts one more follower and has a session open, until unfollow.
func (s *Stream) follow() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.followers++
	s.openSession()
}

// unfollow gives back what Manager.Follow took.
func (s *Stream) unfollow(t *TailBuffer) {
	s.mu.Lock()
	s.followers--
	s.used = s.host.cfg.Now()
	s.touched = s.used
	if s.followers == 0 {
		s.lingerLocked()
	}
	s.mu.Unlock()
	t.Release()
	s.host.leave(s)
}

// openSession starts the session if none is open.
func (s *Stream) openSession() {
	if s.session != nil && s.session.linger != nil {
		s.session.linger.Stop()
		s.session.linger = nil
	}
	if s.session != nil || s.stopped {
		return
	}
	ss := &session{opened: s.host.cfg.Now()}
	ok := s.host.spawn(func(ctx context.Context) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		s.mu.Lock()
		ss.cancel = cancel
		over := s.session != ss
		s.mu.Unlock()
		if !over {
			s.runSession(ctx, ss)
		}
	})
	if ok {
		s.session = ss
	}
}

// lingerLocked lets the session live to the end of the minute already paid for.
func (s *Stream) lingerLocked() {
	ss := s.session
	if ss == nil || ss.linger != nil {
		return
	}
	open := s.host.cfg.Now().Sub(ss.opened)
	ss.linger = time.AfterFunc(billed-open%billed, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		if s.session == ss && s.followers == 0 && ss.linger != nil {
			s.closeSession()
		}
	})
}

func (s *Stream) closeSession() {
	ss := s.session
	if ss == nil {
		return
	}
	s.session = nil
	if ss.linger != nil {
		ss.linger.Stop()
	}
	if ss.cancel != nil {
		ss.cancel()
	}
}

// runSession feeds the shard until its session is closed.
func (s *Stream) runSession(ctx context.Context, ss *session) {
	for try := 0; ctx.Err() == nil; try++ {
		if err := s.ready(patiently(ctx)); err != nil {
			if errors.Is(err, ErrNotOwner) || errors.Is(err, ErrNeedsLaterRelease) {
				return
			}
			pause(ctx, try, 100*time.Millisecond, 10*time.Second)
			continue
		}
		s.mu.Lock()
		followers, inherited := s.followers, s.inherited
		s.mu.Unlock()
		turns := s.host.opens
		if inherited {
			turns = s.host.takes
		}
		if s.host.cfg.Mode == ModeSession && turns.wait(ctx, followers) != nil {
			return
		}
		start := s.host.cfg.Now()
		s.mu.Lock()
		s.inherited = false
		on := s.state
		s.mu.Unlock()
		err := s.feed(ctx, ss, on)
		s.mu.Lock()
		ss.live = false
		s.mu.Unlock()
		if ctx.Err() != nil {
			return
		}
		var lost *TailError
		switch {
		case errors.As(err, &lost):
			s.reset(on, lost.Tail)
		case errors.Is(err, ErrNoLog):
			s.reset(on, 0)
		case errors.Is(err, ErrNeedsLaterRelease): // ready says so, too
		default:
			s.host.cfg.Logger.Warn("read session failed", "stream", s.id, "err", err)
		}
		if s.host.cfg.Now().Sub(start) > time.Minute {
			try = 0
		}
		pause(ctx, try, 100*time.Millisecond, 10*time.Second)
	}
}

// feed follows the log from the fold on; in exclusive mode it only guards.
func (s *Stream) feed(ctx context.Context, ss *session, on *State) error {
	if s.host.cfg.Mode == ModeExclusive {
		return s.guard(ctx, on)
	}
	return s.host.log.Follow(ctx, s.id, s.nextOf(on), func(p Page) error {
		if err := s.take(on, p.Records); err != nil {
			return err
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		if !s.opened {
			return &TailError{0} // reset meanwhile
		}
		ss.live = p.HasTail && p.Tail <= on.Next || ss.live && len(p.Records) > 0
		return nil
	})
}

// nextOf is where the next record of a fold will stand.
func (s *Stream) nextOf(on *State) uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	return on.Next
}

// guard checks in exclusive mode that really nobody else writes.
func (s *Stream) guard(ctx context.Context, on *State) error {
	tick := time.NewTicker(guardEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-tick.C:
		}
		before := s.nextOf(on)
		tail, err := s.askTail(ctx)
		if err != nil {
			return err
		}
		if tail > before {
			s.host.cfg.Logger.Warn("somebody else writes to an exclusive stream", "stream", s.id)
		}
		if err := s.resync(ctx, on, before, tail); err != nil {
			return err
		}
	}
}

func (s *Stream) askTail(ctx context.Context) (uint64, error) {
	ctx, cancel := context.WithTimeout(ctx, s.host.cfg.AppendTimeout)
	defer cancel()
	return s.host.log.Tail(ctx, s.id)
}

// freshLocked reports whether the fold may answer for the log's tail.
func (s *Stream) freshLocked() bool {
	if s.host.cfg.Mode == ModeExclusive || s.session != nil && s.session.live {
		return true
	}
	return s.host.cfg.Now().Sub(s.synced) < freshFor
}

// fresh returns once the fold is at most freshFor behind the log, or has what it
// held when the caller came. Callers share one tail check; one that finds a check
// under way that was sent before it came looks again afterwards. sure: only a check will
// do.
func (s *Stream) fresh(ctx context.Context, sure bool) error {
	came := s.host.cfg.Now()
	for {
		if err := s.lockReady(ctx); err != nil {
			return err
		}
		if !sure && s.freshLocked() {
			s.mu.Unlock()
			return nil
		}
		a := s.check
		if a == nil {
			a = &attempt{done: make(chan struct{}), sent: s.host.cfg.Now()}
			follows := isPatient(ctx)
			if !s.host.spawn(func(ctx context.Context) {
				if follows {
					ctx = patiently(ctx)
				}
				s.checkTail(ctx, a)
			}) {
				s.mu.Unlock()
				return ErrStopped
			}
			s.check = a
			s.countCheck()
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

// countCheck makes a stream that is asked for often count as followed for a
// minute: a session is cheaper than its checks.
func (s *Stream) countCheck() {
	now := s.host.cfg.Now()
	if now.Sub(s.askedAt) > time.Minute {
		s.asked, s.askedAt = 0, now
	}
	if s.asked++; s.asked > followAfter && s.session == nil && s.state != nil && s.state.exists {
		s.openSession()
		s.lingerLocked()
	}
}

// checkTail is one shared tail check.
func (s *Stream) checkTail(ctx context.Context, a *attempt) {
	if a.err = s.paceAbsent(ctx); a.err == nil {
		a.sent = s.host.cfg.Now()
		a.err = s.sync(ctx)
	}
	s.mu.Lock()
	s.check = nil
	s.mu.Unlock()
	close(a.done)
}

// sync brings the fold up to the log's tail as of now.
func (s *Stream) sync(ctx context.Context) error {
	if err := s.lockReady(ctx); err != nil {
		return err
	}
	sent := s.host.cfg.Now()
	noLog, on, before := s.noLog, s.state, s.state.Next
	s.mu.Unlock()
	tail, err := s.askTail(ctx)
	switch {
	case errors.Is(err, ErrNoLog) && noLog:
		tail, err = before, nil
	case errors.Is(err, ErrNoLog), err == nil && noLog: // or somebody made it
		s.reset(on, 0)
		return s.ready(ctx)
	}
	if err != nil {
		return storeErr(err)
	}
	if err := s.resync(ctx, on, before, tail); err != nil {
		return err
	}
	s.knownAt(on, sent)
	return s.ready(ctx) // after a reset
}
