package shard

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// Stream is one stream at its owner: the fold of its log, its tail.Buffer, the sequencer of its
// appends and its read session. It exists in memory only; everything it knows can be read again
// from the log.
type Stream struct {
	id      StreamID
	manager *Manager

	users     int          // guarded by manager.mu: callers that hold this Stream
	listEntry listEntry    // guarded by manager.mu: in a list of Streams that no caller holds
	memory    memoryCharge // each field says its guard

	mu sync.Mutex
	// Everything below is guarded by mu.
	opening     *sharedCall // the opening that is under way; nil: none
	opened      bool
	foldErr     error // the log cannot be folded (ErrNeedsLaterRelease); final for this Stream
	noLog       bool  // the log does not exist yet
	state       *State
	assembler   assembler
	tail        *tail.Buffer  // this generation's, with one reference; nil: no generation
	unsavedUse  time.Time     // the last use that may not be durable; zero: none
	graceUntil  Millis        // ms since 1970 by storage's clock: uses up to here may be known to the previous owner only
	cachedClock *storageClock // of the place where the log is; nil: not looked up yet
	timestamps  timestampMode
	// timestampsAsked holds the last time that storage was asked for timestamps.
	timestampsAsked time.Time
	firstRecord     Pos         // position of the first record, of a log that was folded from its start
	sawOwnRecord    bool        // a takeover met a record of ours
	syncedAt        time.Time   // when state.Next was last known to be the log's tail
	tailCheck       *sharedCall // the tail check that is under way; nil: none
	lastUsed        time.Time   // by the node's clock

	queue        []*call // callers that wait for a batch
	queueBytes   int
	writing      bool       // a batch is in flight, or is about to be
	writingEnded *sync.Cond // on mu: writing became false

	followers       int
	session         *readSession
	handedOver      bool // the stream came by a handover, and has had no session here yet
	tailChecks      int  // tail checks since tailChecksSince
	tailChecksSince time.Time

	confirming        *sharedCall // the sources of this fork are being asked (fork_confirm.go); nil: they are not
	refusedGeneration Generation  // the sources did not confirm the chain of this generation
	nextConfirm       time.Time   // when the sources are asked again
	confirmErr        error       // the sources could not be asked, for a reason that lasts until nextConfirm

	refTasksRunning bool      // a goroutine runs the reference tasks (fork_refs.go)
	forkLimitHit    bool      // a fork was refused because there are too many
	nextSweep       time.Time // when a stream that is gone, or has too many forks, asks its forks again
	sweptAll        bool      // every fork was asked, so the Stream may leave memory
	// How often the pause before the next sweep, and before the next release, was doubled.
	sweepDoublings, releaseDoublings int
	nextRelease                      time.Time

	stopped bool // final: the Stream was halted or evicted
}

// sharedCall is one attempt to open a stream, one tail check, or one round of questions. All
// callers that want its result share it.
type sharedCall struct {
	done chan struct{}
	sent time.Time // when a tail check was sent
	err  error     // set before done is closed

	turn    *turn // of an opening
	waiters int   // of an opening; guarded by Stream.mu
}

// waitReady returns once the log is folded up to a recent tail.
func (s *Stream) waitReady(ctx context.Context) error {
	s.mu.Lock()
	s.lastUsed = s.manager.cfg.Now()
	switch {
	case s.stopped:
		s.mu.Unlock()
		return ErrNotOwner
	case s.foldErr != nil:
		s.mu.Unlock()
		return s.foldErr
	case s.opened:
		s.mu.Unlock()
		return nil
	}
	a, err := s.joinOpening(isPatient(ctx))
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		s.leaveOpening(a)
		return context.Cause(ctx)
	}
}

// joinOpening joins the opening that is under way, or begins one, under mu. A patient caller is a
// follower and waits for its turn; other callers are refused if they would wait for too long.
func (s *Stream) joinOpening(patient bool) (*sharedCall, error) {
	followers := 0
	if patient {
		followers = max(s.followers, 1)
	}
	a := s.opening
	if a != nil {
		if err := s.manager.coldOpens.addWaiter(a.turn, followers); err != nil {
			return nil, err
		}
		a.waiters++
		return a, nil
	}
	turn, err := s.manager.coldOpens.enqueue(followers)
	if err != nil {
		return nil, err
	}
	a = &sharedCall{done: make(chan struct{}), turn: turn, waiters: 1}
	if !s.manager.spawn(func(ctx context.Context) { s.runOpening(ctx, a) }) {
		s.manager.coldOpens.withdraw(turn)
		return nil, ErrStopped
	}
	s.opening = a
	return a, nil
}

// leaveOpening is called when a caller stops waiting for an opening. The last caller withdraws the
// opening.
func (s *Stream) leaveOpening(a *sharedCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.waiters--; a.waiters == 0 && s.opening == a && s.manager.coldOpens.withdraw(a.turn) {
		s.opening = nil
	}
}

// lockReady locks mu once the log is folded. A fold that is still under way must not be read: it is
// the stream of some time ago.
func (s *Stream) lockReady(ctx context.Context) error {
	for {
		if err := s.waitReady(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		if s.opened {
			return nil
		}
		s.mu.Unlock() // reset meanwhile
	}
}

// runOpening waits for its turn and folds the log.
func (s *Stream) runOpening(ctx context.Context, a *sharedCall) {
	var err error
	select {
	case <-a.turn.granted:
		if a.turn.withdrawn {
			close(a.done) // every caller has left
			return
		}
		err = s.takeOver(ctx)
	case <-ctx.Done():
		err = ErrStopped
	}
	s.mu.Lock()
	if err != nil && s.tail != nil { // for its other feeds, and for the next attempt
		defer s.tail.Release()
		s.tail = nil
	}
	if errors.Is(err, ErrNeedsLaterRelease) {
		s.foldErr = err
	}
	s.opening = nil
	s.measureMemory()
	s.mu.Unlock()
	s.manager.evictIdle()
	if err != nil {
		a.err = storeErr(err)
	}
	close(a.done)
}

// storeErr maps a Log's error that is not about an append's outcome.
func storeErr(err error) error {
	switch {
	case errors.Is(err, ErrLogDenied), errors.Is(err, ErrNeedsLaterRelease), errors.Is(err, ErrStopped):
		return err
	default:
		return errors.Join(ErrStoreDown, err)
	}
}

// absorbRecords is the only way in for records: from acknowledgements, the read session and
// read-back. It folds the records that are new and extends the tail.Buffer with them. The caller
// runs the wakers after it has released mu.
func (s *Stream) absorbRecords(recs []Record) (tail.Wakers, error) {
	var wake tail.Wakers
	for _, r := range recs {
		if r.Pos < s.state.Next {
			continue
		}
		if r.Pos > s.state.Next {
			wake = append(wake, s.publishBatch()...)
			s.state.skipTo(r.Pos)
			s.assembler.skipTo(r.Pos)
			if s.tail != nil {
				wake = append(wake, s.tail.SkipLater(r.Pos, s.state.tail, s.state.closed)...)
			}
		}
		if s.state.mayChangeGeneration(r) { // the old generation's tail.Buffer gets its own records first
			wake = append(wake, s.publishBatch()...)
		}
		e, err := s.state.foldRecord(r)
		if err != nil {
			return append(wake, s.declineLog(err)...), err
		}
		if e.begins || e.ends {
			wake = append(wake, s.changeGeneration(r, e)...)
		}
		s.assembler.addRecord(r, e)
	}
	return append(wake, s.publishBatch()...), nil
}

// declineLog ends the stream here: its log cannot be folded any further.
func (s *Stream) declineLog(err error) tail.Wakers {
	wake := s.publishBatch()
	s.foldErr = err
	if s.tail == nil {
		return wake
	}
	wake = append(wake, s.tail.EndLater(err)...)
	s.tail.Release()
	s.tail = nil
	return wake
}

// changeGeneration ends the tail.Buffer of the generation that is over, and prepares for the next
// generation.
func (s *Stream) changeGeneration(r Record, e effect) tail.Wakers {
	var wake tail.Wakers
	if s.tail != nil {
		wake = s.tail.EndLater(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.graceUntil, s.unsavedUse = 0, time.Time{}
	s.nextSweep, s.sweptAll, s.forkLimitHit = time.Time{}, false, false
	s.sweepDoublings, s.releaseDoublings, s.nextRelease = 0, 0, time.Time{}
	if held := s.assembler.uncommitted; e.commitsRun { // the new generation's first messages
		s.assembler.skipTo(s.state.start)
		s.assembler.uncommitted = held
	} else {
		s.assembler.skipTo(r.Pos)
	}
	return wake
}

// openTail opens the tail.Buffer of the current generation, if there is none yet.
func (s *Stream) openTail() tail.Wakers {
	if s.tail != nil || !s.state.exists || s.stopped { // no later call would release it
		return nil
	}
	s.tail = s.manager.tails.Open(s.id, s.state.Info(), s.assembler.from)
	// A peer may have fed it so far, and it may lag behind; its readers then find the rest in
	// pages.
	return s.tail.SkipLater(s.assembler.from, s.state.tail, s.state.closed)
}

// publishBatch extends the tail.Buffer with the records that were folded since the last call.
func (s *Stream) publishBatch() tail.Wakers {
	wake := s.openTail()
	r := s.assembler.flushBatch(s.state)
	if r.IsZero() || s.tail == nil {
		return wake
	}
	w, err := s.tail.ExtendLater(r)
	if err != nil {
		panic("shard: own feed left a hole: " + err.Error())
	}
	return append(wake, w...)
}

// foldFromLog folds records that a Log returned, and wakes the readers they concern. *TailError:
// fold is no longer the stream's fold, but the fold of another log.
func (s *Stream) foldFromLog(fold *State, recs []Record) error {
	s.mu.Lock()
	switch {
	case s.foldErr != nil:
		s.mu.Unlock()
		return s.foldErr
	case s.state != fold:
		s.mu.Unlock()
		return &TailError{0}
	}
	wake, err := s.absorbRecords(recs)
	s.noteGrowth(recs)
	s.startRefTasks()
	s.mu.Unlock()
	wake.WakeAll()
	s.manager.tails.Reclaim()
	s.manager.evictIdle()
	return err
}

// resetFold forgets everything, if fold is still the stream's: the log is not the one that was
// folded (it was wiped, or deleted in S2). Readers of the tail.Buffer see their generation end. ends
// is where the new log ends, 0 if there is none.
func (s *Stream) resetFold(fold *State, ends Pos) {
	s.mu.Lock()
	if s.state != fold || !s.opened {
		s.mu.Unlock()
		return
	}
	if known := fold.Next; ends < known {
		defer s.reportLostRecords(ends, known)
	}
	var wake tail.Wakers
	if s.tail != nil {
		wake = s.tail.EndLater(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.opened = false
	s.mu.Unlock()
	wake.WakeAll()
}

// catchUp folds the log's records from fold.Next up to end. It fails once no record has come for
// stallTimeout.
func (s *Stream) catchUp(ctx context.Context, fold *State, end Pos) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(stallTimeout, cancel)
	defer stall.Stop()
	foldPage := func(p Page) error {
		stall.Reset(stallTimeout)
		if err := fold.checkRoot(p.Records); err != nil {
			return err
		}
		s.mu.Lock()
		if s.state == fold && !s.opened {
			s.noteFirstRecord(p.Records)
		}
		s.mu.Unlock()
		return s.foldFromLog(fold, p.Records)
	}
	for {
		s.mu.Lock()
		next := fold.Next
		s.mu.Unlock()
		if next >= end {
			return nil
		}
		var err error
		if end-next > MaxBatchRecords {
			err = s.manager.log.Replay(ctx, s.id, next, end, foldPage)
		} else {
			var p Page
			if p, err = s.manager.log.Read(ctx, s.id, next, 0); err == nil {
				err = foldPage(p)
			}
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		var wake tail.Wakers
		if fold.Next == next && s.state == fold { // everything was trimmed away
			if next == 0 && !s.opened {
				s.firstRecord = end
			}
			fold.skipTo(end)
			fold.beginUncreated()
			s.assembler.skipTo(end)
			wake = s.openTail()
			if s.tail != nil {
				wake = append(wake, s.tail.SkipLater(end, fold.tail, fold.closed)...)
			}
		}
		s.mu.Unlock()
		wake.WakeAll()
	}
}

// stallTimeout bounds how long catching up may go on without a record.
const stallTimeout = 30 * time.Second

// describe is Manager.Info for this stream.
func (s *Stream) describe(ctx context.Context, ask InfoOptions) (Info, error) {
	if ask&InfoAllowCached == 0 {
		if err := s.waitFresh(ctx, ask&InfoRequireFresh != 0); err != nil {
			return Info{}, err
		}
	}
	if err := s.lockReady(ctx); err != nil {
		return Info{}, err
	}
	if s.isConfirmDue() {
		s.mu.Unlock()
		if err := s.confirmChain(ctx); err != nil {
			return Info{}, err
		}
		if err := s.lockReady(ctx); err != nil {
			return Info{}, err
		}
	}
	if err := s.confirmErrorLocked(); err != nil {
		s.mu.Unlock()
		return Info{}, err
	}
	if s.isExpiryUncertain() {
		s.mu.Unlock()
		s.resolveExpiry(ctx)
		if err := s.lockReady(ctx); err != nil {
			return Info{}, err
		}
	}
	m := s.readClocks()
	expired := s.state.isExpired(m.bothClocks, m.lastUse)
	info := s.state.Info()
	if ask&InfoTouch != 0 && !expired {
		s.unsavedUse = s.manager.cfg.Now()
	}
	due := ask&InfoTouch != 0 && s.isTouchDue(s.manager.cfg.Now())
	s.mu.Unlock()
	if due {
		// The touch is written before the reader is answered, so that the use counts for the next
		// owner too. The reader is answered even if the touch fails; the sweeper tries again.
		_, _ = s.submit(ctx, s.manager.newCall(nil))
	}
	if !expired {
		return info, nil
	}
	// The sequencer ends an expired generation before it decides the next caller, and a touch of a
	// stream that has ended writes nothing.
	if _, err := s.submit(ctx, s.manager.newCall(nil)); err != nil {
		return Info{}, err
	}
	if err := s.lockReady(ctx); err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	return s.state.Info(), nil
}

// isIdleSince reports whether the stream was not used for d and is quiet. A stream that does not
// exist is kept for seconds only.
func (s *Stream) isIdleSince(now time.Time, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil || !s.state.exists {
		d = min(d, sweepEvery)
	}
	return now.Sub(s.lastUsed) > d && s.isQuiet(now)
}

// isQuiet reports whether nothing is under way here and nothing is to be done, under mu.
func (s *Stream) isQuiet(now time.Time) bool {
	return !s.writing && len(s.queue) == 0 && !s.refTasksRunning && !s.hasRefTasks() && s.followers == 0 && s.session == nil &&
		s.opening == nil && s.tailCheck == nil && !s.isTouchDue(now)
}

// runDueTasks starts the reference tasks that are due, and reports whether memory is too far ahead
// of the last durable use.
func (s *Stream) runDueTasks(now time.Time) (touch bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startRefTasks()
	return s.isTouchDue(now)
}

// isTouchDue reports whether a touch record is to be written, under mu.
func (s *Stream) isTouchDue(now time.Time) bool {
	if !s.opened || s.stopped || !s.state.exists || !s.state.hasTTL {
		return false
	}
	at, ok := s.storageClockLocked().readTime(now)
	if !ok {
		if s.lastSeenUse(now, 1) > 0 {
			s.storageClockLocked().requestRefresh()
		}
		return false
	}
	return s.lastSeenUse(now, at) > s.state.lastUsed+touchAhead(s.state.ttl) &&
		!s.state.isExpired(min(MillisOf(now), at), s.lastUse(now, at))
}

// halt ends the Stream: it refuses the callers that wait, waits for the batch in flight, ends the
// session and releases the tail.Buffer.
func (s *Stream) halt() {
	s.mu.Lock()
	s.stopped = true
	s.manager.streams.removeCharge(&s.memory)
	queue := s.queue
	s.queue, s.queueBytes = nil, 0
	s.mu.Unlock()
	for _, c := range queue {
		c.answer(Outcome{}, ErrNotOwner)
	}
	s.mu.Lock()
	for s.writing {
		s.writingEnded.Wait()
	}
	s.closeSession()
	t := s.tail
	s.tail = nil
	s.mu.Unlock()
	if t != nil {
		t.Release()
	}
}
