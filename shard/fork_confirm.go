package shard

import (
	"context"
	"errors"
)

// A create record names the logs that a fork inherits from, and a client that may append to the
// fork's log in S2 can forge one. So its word is not enough: a chain is served only once the
// sources' logs say the same. Each fork on the way to the oldest source must be held by its
// source, under the reference in its create record, and a chain may name no other log. A create
// record that this process wrote is trusted (its source was held first), and so is the previous
// owner, at a handover.
//
// A confirmation costs up to two reads a source, once for each generation and owner. A fork that
// its sources do not hold is served without what it claims to have inherited.

// readsOtherLogs reports whether the generation reads other logs than its own.
func (s *State) readsOtherLogs() bool {
	return len(s.chain) > 1 || len(s.chain) == 1 && s.chain[0].Stream != ""
}

// servedChain returns the part of the chain that readers are served.
func (s *State) servedChain() []Ancestor {
	if s.confirmed || !s.readsOtherLogs() {
		return s.chain
	}
	if s.chain[0].Stream == "" {
		return s.chain[:1]
	}
	return nil
}

// isConfirmDue reports whether the sources are to be asked before the stream is described, under
// mu. After a refusal they are asked again only after a while.
func (s *Stream) isConfirmDue() bool {
	return s.state.exists && s.state.readsOtherLogs() && !s.state.confirmed &&
		(s.refusedGeneration != s.state.generation || !s.manager.cfg.Now().Before(s.nextConfirm))
}

// confirmErrorLocked returns the reason for which the stream cannot be described, under mu: its
// sources' logs are too long to be read, and are tried again only after a while.
func (s *Stream) confirmErrorLocked() error {
	if s.state.exists && s.state.readsOtherLogs() && !s.state.confirmed && s.refusedGeneration == s.state.generation {
		return s.confirmErr
	}
	return nil
}

// confirmChain has the sources of a fork confirm its chain, in one attempt for all callers. An
// error says that they cannot be asked now.
func (s *Stream) confirmChain(ctx context.Context) error {
	s.mu.Lock()
	if !s.opened || !s.isConfirmDue() {
		s.mu.Unlock()
		return nil
	}
	a := s.confirming
	if a == nil {
		a = &sharedCall{done: make(chan struct{})}
		fold, fork, chain := s.state, s.state.fork, s.state.chain
		if !s.manager.spawn(func(ctx context.Context) { s.askSources(ctx, a, fold, fork, chain) }) {
			s.mu.Unlock()
			return ErrStopped
		}
		s.confirming = a
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// askSources runs as the goroutine of confirmChain, for the generation of fold.
func (s *Stream) askSources(ctx context.Context, a *sharedCall, fold *State, fork *Fork, chain []Ancestor) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	life := chain[len(chain)-1].Generation // the last piece identifies the chain: it is the same in every chain of this State
	held, err := s.manager.sourcesConfirm(ctx, s.id, fork, chain)
	s.mu.Lock()
	s.confirming = nil
	same := s.state == fold && fold.readsOtherLogs() && fold.chain[len(fold.chain)-1].Generation == life
	switch {
	case errors.Is(err, errLongSource):
		a.err = err
		if same {
			s.refusedGeneration, s.nextConfirm, s.confirmErr = fold.generation, s.manager.cfg.Now().Add(sweepRefsEvery), err
		}
	case err != nil:
		a.err = storeErr(err)
	case !same:
	case held:
		fold.confirmed = true
		if s.buffer != nil {
			s.buffer.SetChain(fold.chain)
		}
	default:
		s.refusedGeneration, s.nextConfirm, s.confirmErr = fold.generation, s.manager.cfg.Now().Add(sweepRefsEvery), nil
		s.manager.metrics.chainsRefused.Inc()
	}
	s.mu.Unlock()
	if err == nil && !held {
		s.manager.cfg.Logger.Warn("no source holds this fork: what it claims to have inherited is not served", "stream", s.id)
	}
	close(a.done)
}

// sourcesConfirm reports whether the logs of a fork's sources hold it, and the chain names none
// but them.
func (m *Manager) sourcesConfirm(ctx context.Context, id StreamID, fork *Fork, chain []Ancestor) (bool, error) {
	left := map[StreamID]bool{}
	for _, a := range chain {
		left[a.Stream] = true
	}
	delete(left, "")
	for range MaxChain + 1 {
		if len(left) == 0 {
			return true, nil
		}
		if fork == nil || fork.Source.Project() != id.Project() { // no source holds a fork elsewhere
			return false, nil
		}
		src, err := m.sourceState(ctx, id, fork)
		switch {
		case errors.Is(err, ErrNoLog):
			return false, nil
		case err != nil:
			return false, err
		case src.forkRefs.rows[fork.Hold].fork != id || !src.coversChain(fork.Source, chain):
			return false, nil
		}
		delete(left, fork.Source)
		id, fork = fork.Source, src.fork
	}
	return len(left) == 0, nil
}

// coversChain reports whether the pieces of a chain that lie in this log belong to its generations.
// A State can tell only so much: of a generation that has ended only its hold is left.
func (s *State) coversChain(id StreamID, chain []Ancestor) bool {
	for _, a := range chain {
		if a.Stream != id || !s.exists {
			continue
		}
		own := a.Generation == s.generation || len(s.chain) > 0 && s.chain[0].Stream == "" && s.chain[0].Generation == a.Generation
		if !own || a.Start < s.start || a.Bound > s.tail {
			return false
		}
	}
	return true
}
