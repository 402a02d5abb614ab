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
func (m *Manager) UseFleet(fleet Fleet) { m.fleet = fleet }

const (
	// maxForkTime is how long after it held the source an attempt may still decide to make
	// its fork.
	maxForkTime = 10 * time.Second
	// refGrace is the age from which a reference is looked into, in S2's time alone: the
	// source's owner has to have seen an acknowledgement so much later than it. By then
	// maxForkTime is over, whatever any node's clock says.
	refGrace = 30 * time.Second
	// sweepRefsEvery is how often a stream that is gone looks whether its forks hold it, at
	// first. A round that brings nothing makes the next pause twice as long, up to
	// maxSweepDoublings doublings.
	sweepRefsEvery    = 10 * time.Minute
	maxSweepDoublings = 5
	// forkAsksPerSecond and forkAskBurst are a node's token bucket of questions to forks: one
	// request can have a stream ask all of its forks, and each answer is a write. The debts of
	// a stream draw from it, too, but for the first: a life leaves one, a forged record many.
	forkAsksPerSecond = 20
	forkAskBurst      = 100
	// releaseEvery is how soon a stream tries again to give references back, at first, and
	// maxReleaseDoublings how often that doubles.
	releaseEvery        = 10 * time.Second
	maxReleaseDoublings = 6
	// peerTimeout bounds one request to another stream's owner.
	peerTimeout = 10 * time.Second
)

// createFork carries out a create request that forks: once the stream would be made, its
// source is held, and then it is made. An attempt that did not make it gives its
// reference back; where nobody knows, the source finds out (verify).
func (s *Stream) createFork(ctx context.Context, req *Request) (Outcome, error) {
	out, err := s.submit(ctx, s.manager.newCall(req))
	if err != nil || out.Code != codeNeedsHold {
		return out, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, maxForkTime, errForkTooSlow)
	defer cancel()
	ref := NewAppendID()
	hold := s.manager.newRefRequest(req.Fork.Source, OpHold, ref)
	hold.Name, hold.Generation = req.Stream, req.Source.Generation
	holdOutcome, err := s.manager.fleet.Do(ctx, hold)
	switch {
	case err != nil:
		if !isCertainlyUnwritten(err) { // it may be there
			s.releaseInBackground(req.Fork.Source, ref)
		}
		// Not err itself: it is about another stream's owner.
		return Outcome{}, fmt.Errorf("%w: hold the source: %s", ErrUnavailable, err.Error())
	case !holdOutcome.Code.Accepted():
		return Outcome{Code: holdOutcome.Code, Why: holdOutcome.Why, Info: out.Info}, nil
	}
	withRef, fork := *req, *req.Fork
	fork.Hold = ref
	withRef.Fork = &fork
	create := s.manager.newCall(&withRef)
	create.heldSince = hold.MintedAt
	out, err = s.submit(ctx, create)
	switch {
	case err == nil && out.Info.Hold == ref: // made by this attempt
	case err == nil, isCertainlyUnwritten(err):
		s.releaseInBackground(fork.Source, ref)
	}
	if out.Code == codeHoldExpired {
		return Outcome{}, errForkTooSlow
	}
	return out, err
}

var errForkTooSlow = fmt.Errorf("%w: it took too long to hold the source", ErrUnavailable)

// isCertainlyUnwritten reports whether an error of do says that nothing was written.
func isCertainlyUnwritten(err error) bool {
	for _, e := range []error{
		ErrContended, ErrOverloaded, ErrStoreDown, ErrNotOwner, ErrStopped, ErrNeedsLaterRelease, ErrLogDenied,
	} {
		if errors.Is(err, e) {
			return !errors.Is(err, ErrOutcomeUnknown)
		}
	}
	return false
}

// releaseInBackground releases a reference in the background. If that fails the source finds
// out by itself.
func (s *Stream) releaseInBackground(source StreamID, ref AppendID) {
	s.manager.spawn(func(ctx context.Context) {
		if err := s.manager.releaseForkRef(ctx, s.id, source, ref); err != nil {
			s.manager.cfg.Logger.Warn("release", "stream", s.id, "source", source, "err", err)
		}
	})
}

func (m *Manager) releaseForkRef(ctx context.Context, fork, source StreamID, ref AppendID) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	req := m.newRefRequest(source, OpRelease, ref)
	req.Name = fork
	_, err := m.fleet.Do(ctx, req)
	return err
}

// newRefRequest is a request to a stream about a reference.
func (m *Manager) newRefRequest(id StreamID, op Op, ref AppendID) *Request {
	return &Request{Stream: id, Op: op, ID: NewAppendID(), MintedAt: time.Now(), MintedMillis: unixMillis(m.cfg.Now()), Ref: ref}
}

// startRefTasks has what a stream owes to others done in the background, one goroutine a
// stream: references of ended lives are given back, and a stream that is gone
// looks whether its forks still hold it. Under mu.
func (s *Stream) startRefTasks() {
	if s.refTasksRunning || !s.opened || s.stopped || !s.isReleaseDue() && !s.isSweepDue() {
		return
	}
	s.refTasksRunning = s.manager.spawn(func(ctx context.Context) {
		s.releasePending(ctx)
		s.sweepRefs(ctx)
		s.mu.Lock()
		s.refTasksRunning = false
		s.mu.Unlock()
	})
}

// hasRefTasks reports whether chores are to be done that nobody else would do: the Stream
// stays in memory for them. What a node leaves undone because it died is done once
// somebody asks for the stream again.
func (s *Stream) hasRefTasks() bool {
	return s.opened && (len(s.state.pendingReleases) > 0 || s.state.gone && !s.sweptAll)
}

func (s *Stream) isSweepDue() bool {
	return (s.state.gone || s.forkLimitHit) && !s.manager.cfg.Now().Before(s.nextSweep)
}

func (s *Stream) isReleaseDue() bool {
	return len(s.state.pendingReleases) > 0 && !s.manager.cfg.Now().Before(s.nextRelease)
}

// noteForkLimit notes that a fork was refused for the many that there are: some may be
// references that were left behind, which nobody looks after while a stream lives.
func (s *Stream) noteForkLimit() {
	s.mu.Lock()
	s.forkLimitHit = true
	s.startRefTasks()
	s.mu.Unlock()
}

// releasePending gives references of ended lives back and notes it in the log. What
// fails is tried again by the sweeper, less and less often.
func (s *Stream) releasePending(ctx context.Context) {
	s.mu.Lock()
	var debts []pendingRelease
	if s.isReleaseDue() {
		debts = s.state.pendingReleases
		s.nextRelease = s.manager.cfg.Now().Add(releaseEvery << s.releaseDoublings)
		s.releaseDoublings = min(s.releaseDoublings+1, maxReleaseDoublings)
	}
	s.mu.Unlock()
	for i, d := range debts {
		if i > 0 && s.manager.forkAskLimiter.Wait(ctx) != nil {
			return
		}
		err := s.manager.releaseForkRef(ctx, s.id, d.source, d.ref)
		if err == nil {
			err = s.writeRefRecord(ctx, OpReleaseDone, d.ref)
		}
		if err != nil {
			s.manager.cfg.Logger.Warn("settle", "stream", s.id, "source", d.source, "err", err)
			return
		}
		s.mu.Lock()
		s.nextRelease, s.releaseDoublings = time.Time{}, 0
		s.mu.Unlock()
	}
}

// sweepRefs asks the forks of a stream that is gone, or that has too many of them,
// whether they hold it, and strikes out those that do not and never will: their makers
// died, or could not tell.
func (s *Stream) sweepRefs(ctx context.Context) {
	acked := s.ackTimeForSweep(ctx)
	s.mu.Lock()
	now := s.manager.cfg.Now()
	due, nextSweep := s.isSweepDue(), now.Add(sweepRefsEvery<<s.sweepDoublings)
	dueRefs := map[AppendID]forkRef{}
	for id, f := range s.state.forkRefs.rows {
		if age := refGrace - time.Duration(acked-min(f.time, acked))*time.Millisecond; age > 0 {
			if at := now.Add(age); at.Before(nextSweep) {
				nextSweep = at
			}
		} else {
			dueRefs[id] = f
		}
	}
	if due {
		all := len(dueRefs) == len(s.state.forkRefs.rows) // else some are too young
		s.nextSweep, s.sweptAll, s.forkLimitHit = nextSweep, all, s.forkLimitHit && !all
		s.sweepDoublings = min(s.sweepDoublings+1, maxSweepDoublings)
	}
	s.mu.Unlock()
	if !due {
		return
	}
	for id, f := range dueRefs {
		if s.manager.forkAskLimiter.Wait(ctx) != nil {
			return
		}
		if err := s.sweepRef(ctx, id, f); err != nil {
			s.manager.cfg.Logger.Warn("verify", "stream", s.id, "fork", f.fork, "err", err)
			s.mu.Lock()
			s.sweptAll = false
			s.mu.Unlock()
		}
	}
}

// ackTimeForSweep returns the time of the newest acknowledgement known, for holds to be compared
// with. If one of them seems old enough by now, and no acknowledgement says so yet, a new
// one is asked for. Not before: a node asks once a minute, and an answer that comes too
// early costs the one that would do.
func (s *Stream) ackTimeForSweep(ctx context.Context) uint64 {
	s.mu.Lock()
	clock := s.storageClockLocked()
	acked := clock.newestAck()
	shows, known := clock.readTime(s.manager.cfg.Now())
	ask := false
	if s.isSweepDue() {
		for _, f := range s.state.forkRefs.rows {
			old := f.time + uint64(refGrace.Milliseconds())
			ask = ask || acked < old && (!known || old <= shows)
		}
	}
	s.mu.Unlock()
	if ask {
		clock.waitForRefresh(ctx)
	}
	return clock.newestAck()
}

func (s *Stream) sweepRef(ctx context.Context, ref AppendID, f forkRef) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	out, err := s.manager.fleet.Do(ctx, s.manager.newRefRequest(f.fork, OpCancelFork, ref))
	if err != nil || out.Code == CodeExists {
		return err
	}
	s.mu.Lock()
	s.sweepDoublings = 0
	s.mu.Unlock()
	return s.writeRefRecord(ctx, OpRelease, ref)
}

// writeRefRecord writes about a reference in the stream's own log.
func (s *Stream) writeRefRecord(ctx context.Context, op Op, ref AppendID) error {
	_, err := s.submit(ctx, s.manager.newCall(s.manager.newRefRequest(s.id, op, ref)))
	return err
}
