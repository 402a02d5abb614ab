package shard

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// Fleet reaches streams wherever they are owned: *cluster.Node, or on a lone node
// the Manager itself. See Manager.Do.
type Fleet interface {
	Do(ctx context.Context, req *Request) (Outcome, error)
}

// UseFleet has the Manager reach the sources and forks of its streams through fleet. To
// be called before the first request; without it they have to be here.
func (h *Manager) UseFleet(fleet Fleet) { h.fleet = fleet }

const (
	// forkTime is how long after it held the source an attempt may still decide to make
	// its fork.
	forkTime = 10 * time.Second
	// holdGrace is the age from which a reference is looked into, in S2's time alone: the
	// source's owner has to have seen an acknowledgement so much later than it. By then
	// forkTime is over, whatever any node's clock says.
	holdGrace = 30 * time.Second
	// verifyEvery is how often a stream that is gone looks whether its forks hold it, at
	// first. A round that brings nothing makes the next pause twice as long, up to
	// verifyMost doublings.
	verifyEvery = 10 * time.Minute
	verifyMost  = 5
	// asksPerSecond and asksAtOnce are a node's token bucket of questions to forks: one
	// request can have a stream ask all of its forks, and each answer is a write. The debts of
	// a stream draw from it, too, but for the first: a life leaves one, a forged record many.
	asksPerSecond = 20
	asksAtOnce    = 100
	// settleEvery is how soon a stream tries again to give references back, at first, and
	// settleMost how often that doubles.
	settleEvery = 10 * time.Second
	settleMost  = 6
	// peerTime bounds one request to another stream's owner.
	peerTime = 10 * time.Second
)

// fork carries out a create request that forks: once the stream would be made, its
// source is held, and then it is made. An attempt that did not make it gives its
// reference back; where nobody knows, the source finds out (verify).
func (s *Stream) fork(ctx context.Context, req *Request) (Outcome, error) {
	out, err := s.do(ctx, s.host.newCall(req))
	if err != nil || out.Code != codeUnheld {
		return out, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, forkTime, errForkTime)
	defer cancel()
	ref := NewAppendID()
	hold := s.host.about(req.Fork.Source, OpHold, ref)
	hold.Name, hold.Generation = req.Stream, req.Source.Generation
	held, err := s.host.fleet.Do(ctx, hold)
	switch {
	case err != nil:
		if !certain(err) { // it may be there
			s.giveBack(req.Fork.Source, ref)
		}
		// Not err itself: it is about another stream's owner.
		return Outcome{}, fmt.Errorf("%w: hold the source: %s", ErrUnavailable, err.Error())
	case !held.Code.Accepted():
		return Outcome{Code: held.Code, Why: held.Why, Info: out.Info}, nil
	}
	again, fork := *req, *req.Fork
	fork.Hold = ref
	again.Fork = &fork
	last := s.host.newCall(&again)
	last.held = hold.MintedAt
	out, err = s.do(ctx, last)
	switch {
	case err == nil && out.Info.Hold == ref: // made by this attempt
	case err == nil, certain(err):
		s.giveBack(fork.Source, ref)
	}
	if out.Code == codeHeldLong {
		return Outcome{}, errForkTime
	}
	return out, err
}

var errForkTime = fmt.Errorf("%w: it took too long to hold the source", ErrUnavailable)

// certain reports whether an error of do says that nothing was written.
func certain(err error) bool {
	for _, e := range []error{
		ErrContended, ErrOverloaded, ErrStoreDown, ErrNotOwner, ErrStopped, ErrNeedsLaterRelease, ErrLogDenied,
	} {
		if errors.Is(err, e) {
			return !errors.Is(err, ErrOutcomeUnknown)
		}
	}
	return false
}

// giveBack releases a reference in the background. If that fails the source finds
// out by itself.
func (s *Stream) giveBack(source StreamID, ref AppendID) {
	s.host.spawn(func(ctx context.Context) {
		if err := s.host.release(ctx, s.id, source, ref); err != nil {
			s.host.cfg.Logger.Warn("release", "stream", s.id, "source", source, "err", err)
		}
	})
}

func (h *Manager) release(ctx context.Context, fork, source StreamID, ref AppendID) error {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	req := h.about(source, OpRelease, ref)
	req.Name = fork
	_, err := h.fleet.Do(ctx, req)
	return err
}

// about is a request to a stream about a reference.
func (h *Manager) about(id StreamID, op Op, ref AppendID) *Request {
	return &Request{Stream: id, Op: op, ID: NewAppendID(), MintedAt: time.Now(), MintedMillis: ms(h.cfg.Now()), Ref: ref}
}

// chores has what a stream owes to others done in the background, one goroutine a
// stream: references of ended lives are given back, and a stream that is gone
// looks whether its forks still hold it. Under mu.
func (s *Stream) chores() {
	if s.busy || !s.opened || s.stopped || !s.settleDue() && !s.verifyDue() {
		return
	}
	s.busy = s.host.spawn(func(ctx context.Context) {
		s.settleDebts(ctx)
		s.verify(ctx)
		s.mu.Lock()
		s.busy = false
		s.mu.Unlock()
	})
}

// owes reports whether chores are to be done that nobody else would do: the Stream
// stays in memory for them. What a node leaves undone because it died is done once
// somebody asks for the stream again.
func (s *Stream) owes() bool {
	return s.opened && (len(s.state.debts) > 0 || s.state.gone && !s.verified)
}

func (s *Stream) verifyDue() bool {
	return (s.state.gone || s.crowded) && !s.host.cfg.Now().Before(s.verifyAt)
}

func (s *Stream) settleDue() bool {
	return len(s.state.debts) > 0 && !s.host.cfg.Now().Before(s.settleAt)
}

// crowd notes that a fork was refused for the many that there are: some may be
// references that were left behind, which nobody looks after while a stream lives.
func (s *Stream) crowd() {
	s.mu.Lock()
	s.crowded = true
	s.chores()
	s.mu.Unlock()
}

// settleDebts gives references of ended lives back and notes it in the log. What
// fails is tried again by the sweeper, less and less often.
func (s *Stream) settleDebts(ctx context.Context) {
	s.mu.Lock()
	var debts []debt
	if s.settleDue() {
		debts = s.state.debts
		s.settleAt = s.host.cfg.Now().Add(settleEvery << s.settleTries)
		s.settleTries = min(s.settleTries+1, settleMost)
	}
	s.mu.Unlock()
	for i, d := range debts {
		if i > 0 && s.host.asks.Wait(ctx) != nil {
			return
		}
		err := s.host.release(ctx, s.id, d.source, d.id)
		if err == nil {
			err = s.note(ctx, OpReleaseDone, d.id)
		}
		if err != nil {
			s.host.cfg.Logger.Warn("settle", "stream", s.id, "source", d.source, "err", err)
			return
		}
		s.mu.Lock()
		s.settleAt, s.settleTries = time.Time{}, 0
		s.mu.Unlock()
	}
}

// verify asks the forks of a stream that is gone, or that has too many of them,
// whether they hold it, and strikes out those that do not and never will: their makers
// died, or could not tell.
func (s *Stream) verify(ctx context.Context) {
	acked := s.ackedFor(ctx)
	s.mu.Lock()
	now := s.host.cfg.Now()
	due, next := s.verifyDue(), now.Add(verifyEvery<<s.verifyTries)
	held := map[AppendID]holder{}
	for id, f := range s.state.held.rows {
		if age := holdGrace - time.Duration(acked-min(f.time, acked))*time.Millisecond; age > 0 {
			if at := now.Add(age); at.Before(next) {
				next = at
			}
		} else {
			held[id] = f
		}
	}
	if due {
		all := len(held) == len(s.state.held.rows) // else some are too young
		s.verifyAt, s.verified, s.crowded = next, all, s.crowded && !all
		s.verifyTries = min(s.verifyTries+1, verifyMost)
	}
	s.mu.Unlock()
	if !due {
		return
	}
	for id, f := range held {
		if s.host.asks.Wait(ctx) != nil {
			return
		}
		if err := s.verifyOne(ctx, id, f); err != nil {
			s.host.cfg.Logger.Warn("verify", "stream", s.id, "fork", f.stream, "err", err)
			s.mu.Lock()
			s.verified = false
			s.mu.Unlock()
		}
	}
}

// ackedFor returns the time of the newest acknowledgement known, for holds to be compared
// with. If one of them seems old enough by now, and no acknowledgement says so yet, a new
// one is asked for. Not before: a node asks once a minute, and an answer that comes too
// early costs the one that would do.
func (s *Stream) ackedFor(ctx context.Context) uint64 {
	s.mu.Lock()
	clock := s.site()
	acked := clock.newest()
	shows, known := clock.read(s.host.cfg.Now())
	ask := false
	if s.verifyDue() {
		for _, f := range s.state.held.rows {
			old := f.time + uint64(holdGrace.Milliseconds())
			ask = ask || acked < old && (!known || old <= shows)
		}
	}
	s.mu.Unlock()
	if ask {
		clock.ask(ctx)
	}
	return clock.newest()
}

func (s *Stream) verifyOne(ctx context.Context, ref AppendID, f holder) error {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	out, err := s.host.fleet.Do(ctx, s.host.about(f.stream, OpCancelFork, ref))
	if err != nil || out.Code == CodeExists {
		return err
	}
	s.mu.Lock()
	s.verifyTries = 0
	s.mu.Unlock()
	return s.note(ctx, OpRelease, ref)
}

// note writes about a reference in the stream's own log.
func (s *Stream) note(ctx context.Context, op Op, ref AppendID) error {
	_, err := s.do(ctx, s.host.newCall(s.host.about(s.id, op, ref)))
	return err
}
