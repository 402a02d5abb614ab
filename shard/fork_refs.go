package shard

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// StreamOwners reaches streams at their owners: *cluster.Node, or on a lone node the Manager itself. See
// Manager.Do.
type StreamOwners interface {
	Do(ctx context.Context, req *Request) (Outcome, error)
}

// UseOwners has the Manager reach the sources and forks of its streams through owners. It must be
// called before the first request. Without it sources and forks have to be on this node.
func (m *Manager) UseOwners(owners StreamOwners) { m.owners = owners }

const (
	// maxForkTime bounds how long after holding the source an attempt may still decide to make its
	// fork.
	maxForkTime = 10 * time.Second
	// refGrace is the age from which a reference is swept, in S2's time alone: the source's owner
	// must have seen an acknowledgement that is later than the reference by so much. By then
	// maxForkTime is over, whatever any node's clock says.
	refGrace = 30 * time.Second
	// sweepRefsEvery is the first pause between the sweeps of a stream that is gone. A sweep
	// without a result doubles the next pause, up to maxSweepDoublings times.
	sweepRefsEvery    = 10 * time.Minute
	maxSweepDoublings = 5
	// forkAsksPerSecond and forkAskBurst are a node's token bucket of questions to forks: one
	// request can make a stream ask all of its forks, and each answer is a write. The pending
	// releases of a stream draw from it too, except the first: an ended generation leaves one, a
	// forged record many.
	forkAsksPerSecond = 20
	forkAskBurst      = 100
	// releaseEvery is the first pause before a stream tries again to give references back, and
	// maxReleaseDoublings how often it doubles.
	releaseEvery        = 10 * time.Second
	maxReleaseDoublings = 6
	// peerTimeout bounds one request to another stream's owner.
	peerTimeout = 10 * time.Second
)

// createFork carries out a create request that forks: if the stream would be made, its source is
// held first, and then the stream is made. An attempt that did not make it gives its reference
// back. Where that is not known, the source finds out (sweepRefs).
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
	holdOutcome, err := s.manager.owners.Do(ctx, hold)
	switch {
	case err != nil:
		if !isCertainlyUnwritten(err) { // the reference may be there
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

// isCertainlyUnwritten reports whether an error of submit or StreamOwners.Do says that nothing was
// written.
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

// releaseInBackground gives a reference back. If that fails the source finds out by itself.
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
	_, err := m.owners.Do(ctx, req)
	return err
}

// newRefRequest returns a request to a stream about a reference.
func (m *Manager) newRefRequest(id StreamID, op Op, ref AppendID) *Request {
	return &Request{Stream: id, Op: op, ID: NewAppendID(), MintedAt: time.Now(), MintedMillis: MillisOf(m.cfg.Now()), Ref: ref}
}

// startRefTasks starts the reference tasks that are due, in one goroutine a stream: it gives
// references of ended generations back, and a stream that is gone, or has too many forks, asks its
// forks whether they still hold it. Under mu.
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

// hasRefTasks reports whether there are reference tasks that no other node would do, under mu: the
// Stream stays in memory for them. The tasks of a node that died are done once a client asks for
// the stream again.
func (s *Stream) hasRefTasks() bool {
	return s.opened && (len(s.state.pendingReleases) > 0 || s.state.gone && !s.sweptAll)
}

func (s *Stream) isSweepDue() bool {
	return (s.state.gone || s.forkLimitHit) && !s.manager.cfg.Now().Before(s.nextSweep)
}

func (s *Stream) isReleaseDue() bool {
	return len(s.state.pendingReleases) > 0 && !s.manager.cfg.Now().Before(s.nextRelease)
}

// noteForkLimit notes that a fork was refused because there are too many forks. Some may be
// references that were left behind, and those are not swept otherwise while a stream lives.
func (s *Stream) noteForkLimit() {
	s.mu.Lock()
	s.forkLimitHit = true
	s.startRefTasks()
	s.mu.Unlock()
}

// releasePending gives references of ended generations back and notes that in the log. What fails
// is tried again by the sweeper, less and less often.
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

// sweepRefs asks the forks of a stream that is gone, or has too many forks, whether they hold it.
// It removes the references of those that do not and never will: the node that made them died, or
// did not learn the outcome.
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

// ackTimeForSweep returns the time of the newest acknowledgement known, to compare references with.
// If a reference seems old enough by now, and no acknowledgement proves it yet, it asks for a new
// one. It does not ask earlier: a node asks once a minute, and an answer that comes too early takes
// the place of an answer that would do.
func (s *Stream) ackTimeForSweep(ctx context.Context) Millis {
	s.mu.Lock()
	clock := s.storageClockLocked()
	acked := clock.newestAck()
	shows, known := clock.readTime(s.manager.cfg.Now())
	ask := false
	if s.isSweepDue() {
		for _, f := range s.state.forkRefs.rows {
			old := f.time + Millis(refGrace.Milliseconds())
			ask = ask || acked < old && (!known || old <= shows)
		}
	}
	s.mu.Unlock()
	if ask {
		clock.waitForRefresh(ctx)
	}
	return clock.newestAck()
}

// sweepRef asks one fork, and removes its reference if the fork does not hold it.
func (s *Stream) sweepRef(ctx context.Context, ref AppendID, f forkRef) error {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	out, err := s.manager.owners.Do(ctx, s.manager.newRefRequest(f.fork, OpCancelFork, ref))
	if err != nil || out.Code == CodeExists {
		return err
	}
	s.mu.Lock()
	s.sweepDoublings = 0
	s.mu.Unlock()
	return s.writeRefRecord(ctx, OpRelease, ref)
}

// writeRefRecord writes a record about a reference into the stream's own log.
func (s *Stream) writeRefRecord(ctx context.Context, op Op, ref AppendID) error {
	_, err := s.submit(ctx, s.manager.newCall(s.manager.newRefRequest(s.id, op, ref)))
	return err
}
