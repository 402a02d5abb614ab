package shard

import (
	"context"
	"hash/maphash"
	"sync"
	"time"
)

// tailGuard checks the tails of the followed streams that have no read session (ModeExclusive,
// ModeAuto): each guardSlots seconds after its last acknowledgement or check, at the latest. It is a
// wheel with a slot for each second. A stream begins in the slot of its name's hash, so that the
// checks of streams that are followed in the same moment are spread.
type tailGuard struct {
	manager *Manager
	checks  chan struct{} // holds one for each check that is under way
	seed    maphash.Seed

	mu    sync.Mutex
	slots [guardSlots]map[*Stream]struct{}
	began time.Time // of slot 0
	done  int       // seconds since began that are done
}

const (
	// guardSlots is less than the thirty seconds that a foreign record may be late, by two seconds
	// in which a check that is due is made.
	guardSlots = 28
	// guardChecks bounds the checks that are under way together.
	guardChecks = 256
	// settlePause and settleTries bound how long a check that finds a longer log waits for the
	// acknowledgement of this node's own append.
	settlePause = 50 * time.Millisecond
	settleTries = 40
)

func newTailGuard(m *Manager) *tailGuard {
	g := &tailGuard{manager: m, checks: make(chan struct{}, guardChecks), seed: maphash.MakeSeed(), began: m.cfg.Now()}
	for i := range g.slots {
		g.slots[i] = map[*Stream]struct{}{}
	}
	return g
}

// add has a stream's tail checked, until remove.
func (g *tailGuard) add(s *Stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	s.guardSlot = int(maphash.String(g.seed, string(s.id)) % guardSlots)
	g.slots[s.guardSlot][s] = struct{}{}
}

func (g *tailGuard) remove(s *Stream) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.slots[s.guardSlot], s)
}

// tick checks the streams whose second has come since the last call.
func (g *tailGuard) tick(ctx context.Context) {
	for _, s := range g.takeDue(g.manager.cfg.Now()) {
		select {
		case g.checks <- struct{}{}:
		case <-ctx.Done():
			return
		}
		g.manager.spawn(func(ctx context.Context) {
			defer func() { <-g.checks }()
			s.guardTail(ctx)
		})
	}
}

// takeDue returns the streams to be checked now. Of the others in the same slots, where an
// acknowledgement has told the tail since, each moves to the slot in which it is due.
func (g *tailGuard) takeDue(now time.Time) (due []*Stream) {
	var met []*Stream
	g.mu.Lock()
	second := int(now.Sub(g.began) / time.Second)
	for g.done = max(g.done, second-guardSlots); g.done < second; {
		g.done++
		for s := range g.slots[g.done%guardSlots] {
			met = append(met, s)
		}
	}
	g.mu.Unlock()
	for _, s := range met {
		s.mu.Lock() // never within g.mu
		rest := guardSlots - int(now.Sub(s.syncedAt)/time.Second) - 1
		s.mu.Unlock()
		if rest < 1 || rest >= guardSlots {
			due = append(due, s)
			continue
		}
		g.move(s, (second+rest)%guardSlots)
	}
	return due
}

func (g *tailGuard) move(s *Stream, slot int) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if _, guarded := g.slots[s.guardSlot][s]; guarded {
		delete(g.slots[s.guardSlot], s)
		s.guardSlot = slot
		g.slots[slot][s] = struct{}{}
	}
}

// guardTail checks the tail of a followed stream without a read session, and folds what another
// writer has appended.
func (s *Stream) guardTail(ctx context.Context) {
	if err := s.lockReady(withPatience(ctx)); err != nil {
		return // the next check opens it, or a reader does
	}
	fold, before := s.state, s.state.Next
	s.mu.Unlock()
	sent := s.manager.cfg.Now()
	tail, err := s.askTail(ctx)
	foreign := false
	if err == nil {
		foreign = s.awaitOwnRecords(ctx, fold, tail)
		err = s.catchUpOrReset(ctx, fold, before, tail)
	}
	if err != nil {
		s.handleFeedError(fold, err)
		return
	}
	s.noteSynced(fold, sent)
	if !foreign {
		return
	}
	if s.manager.cfg.Mode == ModeExclusive {
		s.manager.cfg.Logger.Warn("another writer appends to a stream in exclusive mode", "stream", s.id)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.noteForeign(fold.Time)
}

// awaitOwnRecords waits until the fold reaches tail, while this node is writing: the records that
// the fold lacks may be its own. It reports whether another writer appended them.
func (s *Stream) awaitOwnRecords(ctx context.Context, fold *State, tail Pos) (foreign bool) {
	for range settleTries {
		s.mu.Lock()
		over, writing := s.state != fold || fold.Next >= tail, s.writing
		s.mu.Unlock()
		if over || !writing {
			return !over
		}
		PauseFor(ctx, settlePause)
	}
	return true
}

const (
	// foreignFor is the time after a foreign record for which a followed stream has a session in
	// ModeAuto.
	foreignFor = time.Hour
	// rivalsFor is the time for which a stream has a session, if it was taken over from an owner
	// that may not know.
	rivalsFor = 2 * time.Minute
)

// wantsFeed reports whether the stream is to have a read session while it is followed, under mu.
func (s *Stream) wantsFeed() bool {
	switch s.manager.cfg.Mode {
	case ModeSession:
		return true
	case ModeExclusive:
		return false
	}
	now := s.manager.cfg.Now()
	if s.foreignAt.IsZero() && s.opened && s.state.newestForeign != 0 {
		s.foreignAt = now.Add(-s.foreignAge(now)) // the owner before knew of it
	}
	return !s.foreignAt.IsZero() && now.Sub(s.foreignAt) < foreignFor || now.Before(s.rivalsUntil)
}

// foreignAge returns how long ago storage wrote the newest foreign record, under mu; at least, where
// storage's time is not known.
func (s *Stream) foreignAge(now time.Time) time.Duration {
	at, ok := s.storageClockLocked().readTime(now)
	if !ok {
		at = s.state.Time
	}
	return time.Duration(min(max(at, s.state.newestForeign)-s.state.newestForeign, Millis(foreignFor.Milliseconds()))) * time.Millisecond
}

// noteForeign notes that a record of that S2 time has come that this process did not write, under mu.
func (s *Stream) noteForeign(at Millis) {
	if s.manager.cfg.Mode != ModeAuto {
		return
	}
	s.foreignAt = s.manager.cfg.Now()
	if s.opened {
		s.state.newestForeign = max(s.state.newestForeign, min(at, maxNumber))
	}
	s.reviewSession()
}

// noteForeignIn notes what a session brought that this process did not write, under mu. While a
// batch is in flight, the session may bring the batch's records before the acknowledgement.
func (s *Stream) noteForeignIn(recs []Record) {
	if s.manager.cfg.Mode != ModeAuto {
		return
	}
	for i := range recs {
		if recs[i].Pos >= s.state.Next && (!s.writing || recs[i].Header == nil && !recs[i].Command) {
			s.noteForeign(recs[i].Time)
			return
		}
	}
}

// reviewSession replaces the guard of a followed stream by a read session if it wants one by now,
// and the session by the guard if it no longer does, under mu.
func (s *Stream) reviewSession() {
	if r := s.session; r != nil && s.followers > 0 && s.manager.cfg.Mode == ModeAuto && r.guards == s.wantsFeed() {
		s.closeSession()
		s.openSession()
	}
}

// ExpectRivals tells the Manager that an owner was lost that may still write: streams that are taken
// over from the log in the next two minutes have a read session for as long, in ModeAuto.
func (m *Manager) ExpectRivals() { m.rivalsSince.Store(m.cfg.Now().UnixNano()) }

// ExpectRival tells the Manager that another node may write to a stream that is here: the stream has a
// read session for two minutes while it is followed, in ModeAuto.
func (m *Manager) ExpectRival(id StreamID) {
	m.mu.Lock()
	s := m.streams.byID[id]
	m.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.rivalsUntil = m.cfg.Now().Add(rivalsFor)
	s.reviewSession()
}

// noteTakenOver notes that the fold was read from the log, under mu.
func (s *Stream) noteTakenOver() {
	now := s.manager.cfg.Now()
	if since := s.manager.rivalsSince.Load(); since != 0 && now.Sub(time.Unix(0, since)) < rivalsFor {
		s.rivalsUntil = now.Add(rivalsFor)
	}
}
