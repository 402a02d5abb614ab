package shard

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Stream is one stream at its owner: the fold of its log, its TailBuffer, the sequencer
// of its appends and its read session. It exists in memory only; whatever it
// knows can be read again from the log.
type Stream struct {
	id      StreamID
	manager *Manager

	users     int       // guarded by host.mu: callers that hold this Stream
	listEntry listEntry // guarded by host.mu: in a list of those that nobody holds
	memory    memoryCharge

	mu sync.Mutex
	// Everything below is guarded by mu.
	opening     *sharedCall // under way; nil: none
	opened      bool
	foldErr     error // the log cannot be folded (ErrNeedsLaterRelease); final for this Stream
	noLog       bool  // the log does not exist yet
	state       *State
	assembler   assembler
	tail        *TailBuffer   // this life's, with one reference; nil while no life
	unsavedUse  time.Time     // the last use that may not be durable; zero: none
	graceUntil  uint64        // ms since 1970 by storage's clock: until then the owner before may have known of reads
	cachedClock *storageClock // of the place where the log is; nil: not looked up yet
	timestamps  timestampMode
	// timestampsAsked is when storage was asked for it last.
	timestampsAsked time.Time
	firstRecord     uint64    // where the first record stood that was folded from a log's start
	sawOwnRecord    bool      // a takeover met a record of ours
	syncedAt        time.Time // when state.Next was last known to be the log's tail
	tailCheck       *sharedCall
	lastUsed        time.Time

	queue      []*call
	queueBytes int
	flushing   bool
	flushEnded *sync.Cond // on mu: flying became false

	followers       int
	session         *readSession
	handedOver      bool // it was handed over, and has had no session here yet
	tailChecks      int  // freshness checks in this minute
	tailChecksSince time.Time

	confirming        *sharedCall // the sources of this fork are being asked (confirm.go)
	refusedGeneration uint64      // the life whose chain they did not confirm
	nextConfirm       time.Time   // when they are asked again
	confirmErr        error       // they could not be asked, for a reason that lasts until then

	refTasksRunning bool      // chores are under way
	forkLimitHit    bool      // a fork was refused because there are too many
	nextSweep       time.Time // when a stream that is gone, or crowded, asks its forks again
	sweptAll        bool      // it has asked all of them, and may leave memory
	// How often that brought nothing, and the same of references that are to be given back.
	sweepDoublings, releaseDoublings int
	nextRelease                      time.Time

	stopped bool
}

// call is a caller that waits for a verdict.
type call struct {
	req            *Request
	touch          bool // a touch instead of a request
	size           int
	losses         int       // lost compare-and-swaps
	heldSince      time.Time // of a fork: when its source was, by this process's monotonic clock
	expiryResolved bool      // storage was asked whether the stream's time is over
	mintedMillis   uint64    // of a request that is repeated: when, by storage's clock
	ctx            context.Context
	verdict        verdict       // set before done is told
	done           chan struct{} // capacity 1
}

type verdict struct {
	outcome Outcome
	err     error
}

// newCall is a call for a request, or for a touch if that is nil.
func (m *Manager) newCall(req *Request) *call {
	c, ok := m.callPool.Get().(*call)
	if !ok {
		c = &call{done: make(chan struct{}, 1)}
	}
	c.req, c.touch = req, req == nil
	if req != nil {
		c.size = req.WaitingCost()
	}
	return c
}

// answer is for whoever holds the call to say once, and then to forget it.
func (c *call) answer(out Outcome, err error) {
	c.verdict = verdict{out, err}
	c.done <- struct{}{}
}

// finishCall ends an answered call, which will serve again, and returns the answer.
func (m *Manager) finishCall(c *call) (Outcome, error) {
	v := c.verdict
	*c = call{done: c.done}
	m.callPool.Put(c)
	return v.outcome, v.err
}

func unixMillis(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// sharedCall is one try at opening, or one check of the tail, shared by everybody who waits for it.
type sharedCall struct {
	done chan struct{}
	sent time.Time // when a check was
	err  error     // set before done is closed

	coldOpen *coldOpen // of an opening
	waiters  int       // for an opening; guarded by Stream.mu
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

// joinOpening joins the opening that is under way, or begins one, under mu. A patient one is
// for a follower, and waits for its turn; others are refused if it would take long.
func (s *Stream) joinOpening(patient bool) (*sharedCall, error) {
	followers := 0
	if patient {
		followers = max(s.followers, 1)
	}
	a := s.opening
	if a != nil {
		if err := s.manager.coldOpens.addWaiter(a.coldOpen, followers); err != nil {
			return nil, err
		}
		a.waiters++
		return a, nil
	}
	turn, err := s.manager.coldOpens.enqueue(followers)
	if err != nil {
		return nil, err
	}
	a = &sharedCall{done: make(chan struct{}), coldOpen: turn, waiters: 1}
	if !s.manager.spawn(func(ctx context.Context) { s.runOpening(ctx, a) }) {
		s.manager.coldOpens.withdraw(turn)
		return nil, ErrStopped
	}
	s.opening = a
	return a, nil
}

// leaveOpening is for a caller that does not wait for an opening any more. The last one takes its
// turn back.
func (s *Stream) leaveOpening(a *sharedCall) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.waiters--; a.waiters == 0 && s.opening == a && s.manager.coldOpens.withdraw(a.coldOpen) {
		s.opening = nil
	}
}

// lockReady locks mu once the log is folded. A fold that is under way is not to
// be looked at: it is the stream as it was some time ago.
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

// runOpening folds the log at its turn.
func (s *Stream) runOpening(ctx context.Context, a *sharedCall) {
	var err error
	select {
	case <-a.coldOpen.granted:
		if a.coldOpen.withdrawn {
			close(a.done) // nobody waits for it
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

// absorbRecords is the one way in for records, from acks, the session and read-back: it
// folds what is new and extends the TailBuffer with it. The caller runs the wakers
// after it has released mu.
func (s *Stream) absorbRecords(recs []Record) (wakers, error) {
	var wake wakers
	for _, r := range recs {
		if r.Pos < s.state.Next {
			continue
		}
		if r.Pos > s.state.Next {
			wake = append(wake, s.publishBatch()...)
			s.state.skipTo(r.Pos)
			s.assembler.skipTo(r.Pos)
			if s.tail != nil {
				wake = append(wake, s.tail.skipLater(r.Pos, s.state.tail, s.state.closed)...)
			}
		}
		if s.state.mayChangeGeneration(r) { // the old life's Tail gets what is its own first
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
func (s *Stream) declineLog(err error) wakers {
	wake := s.publishBatch()
	s.foldErr = err
	if s.tail == nil {
		return wake
	}
	wake = append(wake, s.tail.endLater(err)...)
	s.tail.Release()
	s.tail = nil
	return wake
}

// changeGeneration ends the TailBuffer of a life that is over and begins the next one's.
func (s *Stream) changeGeneration(r Record, e effect) wakers {
	var wake wakers
	if s.tail != nil {
		wake = s.tail.endLater(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.graceUntil, s.unsavedUse = 0, time.Time{}
	s.nextSweep, s.sweptAll, s.forkLimitHit = time.Time{}, false, false
	s.sweepDoublings, s.releaseDoublings, s.nextRelease = 0, 0, time.Time{}
	if held := s.assembler.uncommitted; e.commitsRun { // the new life's first messages
		s.assembler.skipTo(s.state.start)
		s.assembler.uncommitted = held
	} else {
		s.assembler.skipTo(r.Pos)
	}
	return wake
}

// openTail gives a life its TailBuffer.
func (s *Stream) openTail() wakers {
	if s.tail != nil || !s.state.exists || s.stopped { // nobody would let go of it
		return nil
	}
	s.tail = s.manager.tails.Open(s.id, s.state.Info(), s.assembler.from)
	// It may have been fed by a peer so far and lag behind; its readers then find
	// the rest in pages.
	return s.tail.skipLater(s.assembler.from, s.state.tail, s.state.closed)
}

// publishBatch extends the TailBuffer with what was folded since.
func (s *Stream) publishBatch() wakers {
	wake := s.openTail()
	r := s.assembler.flushBatch(s.state)
	if r.IsZero() || s.tail == nil {
		return wake
	}
	w, err := s.tail.extendLater(r)
	if err != nil {
		panic("shard: own feed left a hole: " + err.Error())
	}
	return append(wake, w...)
}

// foldFromLog folds records that a Log gave us and wakes whom they concern. *TailError:
// the fold is not on any more, but one of another log.
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
	wake.wakeAll()
	s.manager.tails.reclaim()
	s.manager.evictIdle()
	return err
}

// resetFold forgets everything, if on is still the fold: the log is not the one that
// was folded (it was wiped, or deleted in S2). Readers of the TailBuffer see their life
// end. ends is where it ends, 0 if it is not there.
func (s *Stream) resetFold(fold *State, ends uint64) {
	s.mu.Lock()
	if s.state != fold || !s.opened {
		s.mu.Unlock()
		return
	}
	if known := fold.Next; ends < known {
		defer s.reportLostRecords(ends, known)
	}
	var wake wakers
	if s.tail != nil {
		wake = s.tail.endLater(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.opened = false
	s.mu.Unlock()
	wake.wakeAll()
}

// catchUp folds what the log has beyond the fold on, up to tail. It fails once
// nothing came for stallTimeout.
func (s *Stream) catchUp(ctx context.Context, fold *State, tail uint64) error {
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
		if next >= tail {
			return nil
		}
		var err error
		if tail-next > MaxBatchRecords {
			err = s.manager.log.Replay(ctx, s.id, next, tail, foldPage)
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
		var wake wakers
		if fold.Next == next && s.state == fold { // all trimmed away
			if next == 0 && !s.opened {
				s.firstRecord = tail
			}
			fold.skipTo(tail)
			fold.beginUncreated()
			s.assembler.skipTo(tail)
			wake = s.openTail()
			if s.tail != nil {
				wake = append(wake, s.tail.skipLater(tail, fold.tail, fold.closed)...)
			}
		}
		s.mu.Unlock()
		wake.wakeAll()
	}
}

// stallTimeout bounds how long catching up may go without a record.
const stallTimeout = 30 * time.Second

// describe is State for this stream.
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
		// Before the reader is answered, so that its use counts for an heir as well. A
		// touch that fails is no reason not to answer; the sweeper tries again.
		_, _ = s.submit(ctx, s.manager.newCall(nil))
	}
	if !expired {
		return info, nil
	}
	// The sequencer buries an expired stream before it looks at the next caller, and
	// a touch of what is no more writes nothing.
	if _, err := s.submit(ctx, s.manager.newCall(nil)); err != nil {
		return Info{}, err
	}
	if err := s.lockReady(ctx); err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	return s.state.Info(), nil
}

// isIdleSince reports whether nothing happened here for so long. A stream that
// does not exist is kept only for seconds.
func (s *Stream) isIdleSince(now time.Time, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil || !s.state.exists {
		d = min(d, sweepEvery)
	}
	return now.Sub(s.lastUsed) > d && s.isQuiet(now)
}

// isQuiet reports whether nothing goes on here, nor is to be done, under mu.
func (s *Stream) isQuiet(now time.Time) bool {
	return !s.flushing && len(s.queue) == 0 && !s.refTasksRunning && !s.hasRefTasks() && s.followers == 0 && s.session == nil &&
		s.opening == nil && s.tailCheck == nil && !s.isTouchDue(now)
}

// runDueTasks has chores done that are due, and reports whether memory is too far ahead
// of the last durable use.
func (s *Stream) runDueTasks(now time.Time) (touch bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.startRefTasks()
	return s.isTouchDue(now)
}

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
		!s.state.isExpired(min(unixMillis(now), at), s.lastUse(now, at))
}

// halt ends the Stream: callers that wait are refused, the batch in flight is
// waited for, the session ends, the TailBuffer is let go.
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
	for s.flushing {
		s.flushEnded.Wait()
	}
	s.closeSession()
	t := s.tail
	s.tail = nil
	s.mu.Unlock()
	if t != nil {
		t.Release()
	}
}
