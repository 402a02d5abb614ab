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
	id   StreamID
	host *Manager

	users  int   // guarded by host.mu: callers that hold this Stream
	place  place // guarded by host.mu: in a list of those that nobody holds
	charge charge

	mu sync.Mutex
	// Everything below is guarded by mu.
	opening *attempt // under way; nil: none
	opened  bool
	failed  error // the log cannot be folded (ErrNeedsLaterRelease); final for this Stream
	noLog   bool  // the log does not exist yet
	state   *State
	asm     assembler
	tail    *TailBuffer // this life's, with one reference; nil while no life
	touched time.Time   // the last use that may not be durable; zero: none
	grace   uint64      // ms since 1970 by storage's clock: until then the owner before may have known of reads
	clock   *clock      // of the place where the log is; nil: not looked up yet
	timing  timing
	// timingAsked is when storage was asked for it last.
	timingAsked time.Time
	begins      uint64    // where the first record stood that was folded from a log's start
	ours        bool      // a takeover met a record of ours
	synced      time.Time // when state.Next was last known to be the log's tail
	check       *attempt
	used        time.Time

	queue      []*call
	queueBytes int
	flying     bool
	idle       *sync.Cond // on mu: flying became false

	followers int
	session   *session
	inherited bool // it was handed over, and has had no session here yet
	asked     int  // freshness checks in this minute
	askedAt   time.Time

	confirming *attempt  // the sources of this fork are being asked (confirm.go)
	refused    uint64    // the life whose chain they did not confirm
	confirmAt  time.Time // when they are asked again
	unsure     error     // they could not be asked, for a reason that lasts until then

	busy     bool      // chores are under way
	crowded  bool      // a fork was refused because there are too many
	verifyAt time.Time // when a stream that is gone, or crowded, asks its forks again
	verified bool      // it has asked all of them, and may leave memory
	// How often that brought nothing, and the same of references that are to be given back.
	verifyTries, settleTries int
	settleAt                 time.Time

	stopped bool
}

// call is a caller that waits for a verdict.
type call struct {
	req    *Request
	touch  bool // a touch instead of a request
	size   int
	tries  int       // lost compare-and-swaps
	held   time.Time // of a fork: when its source was, by this process's monotonic clock
	timed  bool      // storage was asked whether the stream's time is over
	minted uint64    // of a request that is repeated: when, by storage's clock
	ctx    context.Context
	v      verdict       // set before done is told
	done   chan struct{} // capacity 1
}

type verdict struct {
	out Outcome
	err error
}

// newCall is a call for a request, or for a touch if that is nil.
func (h *Manager) newCall(req *Request) *call {
	c, ok := h.calls.Get().(*call)
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
	c.v = verdict{out, err}
	c.done <- struct{}{}
}

// free ends an answered call, which will serve again, and returns the answer.
func (h *Manager) free(c *call) (Outcome, error) {
	v := c.v
	*c = call{done: c.done}
	h.calls.Put(c)
	return v.out, v.err
}

func ms(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// attempt is one try at opening, or one check of the tail, shared by everybody who waits for it.
type attempt struct {
	done chan struct{}
	sent time.Time // when a check was
	err  error     // set before done is closed

	turn    *coldTurn // of an opening
	waiters int       // for an opening; guarded by Stream.mu
}

// ready returns once the log is folded up to a recent tail.
func (s *Stream) ready(ctx context.Context) error {
	s.mu.Lock()
	s.used = s.host.cfg.Now()
	switch {
	case s.stopped:
		s.mu.Unlock()
		return ErrNotOwner
	case s.failed != nil:
		s.mu.Unlock()
		return s.failed
	case s.opened:
		s.mu.Unlock()
		return nil
	}
	a, err := s.attempt(isPatient(ctx))
	s.mu.Unlock()
	if err != nil {
		return err
	}
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		s.giveUp(a)
		return context.Cause(ctx)
	}
}

// attempt joins the opening that is under way, or begins one, under mu. A patient one is
// for a follower, and waits for its turn; others are refused if it would take long.
func (s *Stream) attempt(patient bool) (*attempt, error) {
	followers := 0
	if patient {
		followers = max(s.followers, 1)
	}
	a := s.opening
	if a != nil {
		if err := s.host.cold.join(a.turn, followers); err != nil {
			return nil, err
		}
		a.waiters++
		return a, nil
	}
	turn, err := s.host.cold.begin(followers)
	if err != nil {
		return nil, err
	}
	a = &attempt{done: make(chan struct{}), turn: turn, waiters: 1}
	if !s.host.spawn(func(ctx context.Context) { s.open(ctx, a) }) {
		s.host.cold.withdraw(turn)
		return nil, ErrStopped
	}
	s.opening = a
	return a, nil
}

// giveUp is for a caller that does not wait for an opening any more. The last one takes its
// turn back.
func (s *Stream) giveUp(a *attempt) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if a.waiters--; a.waiters == 0 && s.opening == a && s.host.cold.withdraw(a.turn) {
		s.opening = nil
	}
}

// lockReady locks mu once the log is folded. A fold that is under way is not to
// be looked at: it is the stream as it was some time ago.
func (s *Stream) lockReady(ctx context.Context) error {
	for {
		if err := s.ready(ctx); err != nil {
			return err
		}
		s.mu.Lock()
		if s.opened {
			return nil
		}
		s.mu.Unlock() // reset meanwhile
	}
}

// open folds the log at its turn.
func (s *Stream) open(ctx context.Context, a *attempt) {
	var err error
	select {
	case <-a.turn.turn:
		if a.turn.withdrawn {
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
		s.failed = err
	}
	s.opening = nil
	s.weigh()
	s.mu.Unlock()
	s.host.reclaim()
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

// absorb is the one way in for records, from acks, the session and read-back: it
// folds what is new and extends the TailBuffer with it. The caller runs the wakers
// after it has released mu.
func (s *Stream) absorb(recs []Record) (wakers, error) {
	var wake wakers
	for _, r := range recs {
		if r.Pos < s.state.Next {
			continue
		}
		if r.Pos > s.state.Next {
			wake = append(wake, s.publish()...)
			s.state.hole(r.Pos)
			s.asm.skip(r.Pos)
			if s.tail != nil {
				wake = append(wake, s.tail.skip(r.Pos, s.state.tail, s.state.closed)...)
			}
		}
		if s.state.mayTurn(r) { // the old life's Tail gets what is its own first
			wake = append(wake, s.publish()...)
		}
		e, err := s.state.apply(r)
		if err != nil {
			return append(wake, s.decline(err)...), err
		}
		if e.begun || e.ended {
			wake = append(wake, s.turn(r, e)...)
		}
		s.asm.add(r, e)
	}
	return append(wake, s.publish()...), nil
}

// decline ends the stream here: its log cannot be folded any further.
func (s *Stream) decline(err error) wakers {
	wake := s.publish()
	s.failed = err
	if s.tail == nil {
		return wake
	}
	wake = append(wake, s.tail.end(err)...)
	s.tail.Release()
	s.tail = nil
	return wake
}

// turn ends the TailBuffer of a life that is over and begins the next one's.
func (s *Stream) turn(r Record, e effect) wakers {
	var wake wakers
	if s.tail != nil {
		wake = s.tail.end(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.grace, s.touched = 0, time.Time{}
	s.verifyAt, s.verified, s.crowded = time.Time{}, false, false
	s.verifyTries, s.settleTries, s.settleAt = 0, 0, time.Time{}
	if held := s.asm.held; e.commit { // the new life's first messages
		s.asm.skip(s.state.start)
		s.asm.held = held
	} else {
		s.asm.skip(r.Pos)
	}
	return wake
}

// attach gives a life its TailBuffer.
func (s *Stream) attach() wakers {
	if s.tail != nil || !s.state.exists || s.stopped { // nobody would let go of it
		return nil
	}
	s.tail = s.host.tails.Open(s.id, s.state.Info(), s.asm.from)
	// It may have been fed by a peer so far and lag behind; its readers then find
	// the rest in pages.
	return s.tail.skip(s.asm.from, s.state.tail, s.state.closed)
}

// publish extends the TailBuffer with what was folded since.
func (s *Stream) publish() wakers {
	wake := s.attach()
	r := s.asm.flush(s.state)
	if r.IsZero() || s.tail == nil {
		return wake
	}
	w, err := s.tail.extend(r)
	if err != nil {
		panic("shard: own feed left a hole: " + err.Error())
	}
	return append(wake, w...)
}

// take folds records that a Log gave us and wakes whom they concern. *TailError:
// the fold is not on any more, but one of another log.
func (s *Stream) take(on *State, recs []Record) error {
	s.mu.Lock()
	switch {
	case s.failed != nil:
		s.mu.Unlock()
		return s.failed
	case s.state != on:
		s.mu.Unlock()
		return &TailError{0}
	}
	wake, err := s.absorb(recs)
	s.grow(recs)
	s.chores()
	s.mu.Unlock()
	wake.run()
	s.host.tails.reclaim()
	s.host.reclaim()
	return err
}

// reset forgets everything, if on is still the fold: the log is not the one that
// was folded (it was wiped, or deleted in S2). Readers of the TailBuffer see their life
// end. ends is where it ends, 0 if it is not there.
func (s *Stream) reset(on *State, ends uint64) {
	s.mu.Lock()
	if s.state != on || !s.opened {
		s.mu.Unlock()
		return
	}
	if known := on.Next; ends < known {
		defer s.lostLog(ends, known)
	}
	var wake wakers
	if s.tail != nil {
		wake = s.tail.end(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.opened = false
	s.mu.Unlock()
	wake.run()
}

// catchUp folds what the log has beyond the fold on, up to tail. It fails once
// nothing came for stallTimeout.
func (s *Stream) catchUp(ctx context.Context, on *State, tail uint64) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stall := time.AfterFunc(stallTimeout, cancel)
	defer stall.Stop()
	fold := func(p Page) error {
		stall.Reset(stallTimeout)
		if err := on.root(p.Records); err != nil {
			return err
		}
		s.mu.Lock()
		if s.state == on && !s.opened {
			s.begin(p.Records)
		}
		s.mu.Unlock()
		return s.take(on, p.Records)
	}
	for {
		s.mu.Lock()
		next := on.Next
		s.mu.Unlock()
		if next >= tail {
			return nil
		}
		var err error
		if tail-next > MaxBatchRecords {
			err = s.host.log.Replay(ctx, s.id, next, tail, fold)
		} else {
			var p Page
			if p, err = s.host.log.Read(ctx, s.id, next, 0); err == nil {
				err = fold(p)
			}
		}
		if err != nil {
			return err
		}
		s.mu.Lock()
		var wake wakers
		if on.Next == next && s.state == on { // all trimmed away
			if next == 0 && !s.opened {
				s.begins = tail
			}
			on.hole(tail)
			on.beginUncreated()
			s.asm.skip(tail)
			wake = s.attach()
			if s.tail != nil {
				wake = append(wake, s.tail.skip(tail, on.tail, on.closed)...)
			}
		}
		s.mu.Unlock()
		wake.run()
	}
}

// stallTimeout bounds how long catching up may go without a record.
const stallTimeout = 30 * time.Second

// describe is State for this stream.
func (s *Stream) describe(ctx context.Context, ask InfoOptions) (Info, error) {
	if ask&InfoAllowCached == 0 {
		if err := s.fresh(ctx, ask&InfoRequireFresh != 0); err != nil {
			return Info{}, err
		}
	}
	if err := s.lockReady(ctx); err != nil {
		return Info{}, err
	}
	if s.confirmDue() {
		s.mu.Unlock()
		if err := s.confirmChain(ctx); err != nil {
			return Info{}, err
		}
		if err := s.lockReady(ctx); err != nil {
			return Info{}, err
		}
	}
	if err := s.unconfirmed(); err != nil {
		s.mu.Unlock()
		return Info{}, err
	}
	if s.doubt() {
		s.mu.Unlock()
		s.settleTime(ctx)
		if err := s.lockReady(ctx); err != nil {
			return Info{}, err
		}
	}
	m := s.moment()
	expired := s.state.expired(m.ends, m.used)
	info := s.state.Info()
	if ask&InfoTouch != 0 && !expired {
		s.touched = s.host.cfg.Now()
	}
	due := ask&InfoTouch != 0 && s.touchDue(s.host.cfg.Now())
	s.mu.Unlock()
	if due {
		// Before the reader is answered, so that its use counts for an heir as well. A
		// touch that fails is no reason not to answer; the sweeper tries again.
		_, _ = s.do(ctx, s.host.newCall(nil))
	}
	if !expired {
		return info, nil
	}
	// The sequencer buries an expired stream before it looks at the next caller, and
	// a touch of what is no more writes nothing.
	if _, err := s.do(ctx, s.host.newCall(nil)); err != nil {
		return Info{}, err
	}
	if err := s.lockReady(ctx); err != nil {
		return Info{}, err
	}
	defer s.mu.Unlock()
	return s.state.Info(), nil
}

// idleSince reports whether nothing happened here for so long. A stream that
// does not exist is kept only for seconds.
func (s *Stream) idleSince(now time.Time, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil || !s.state.exists {
		d = min(d, sweepEvery)
	}
	return now.Sub(s.used) > d && s.rests(now)
}

// rests reports whether nothing goes on here, nor is to be done, under mu.
func (s *Stream) rests(now time.Time) bool {
	return !s.flying && len(s.queue) == 0 && !s.busy && !s.owes() && s.followers == 0 && s.session == nil &&
		s.opening == nil && s.check == nil && !s.touchDue(now)
}

// tend has chores done that are due, and reports whether memory is too far ahead
// of the last durable use.
func (s *Stream) tend(now time.Time) (touch bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.chores()
	return s.touchDue(now)
}

func (s *Stream) touchDue(now time.Time) bool {
	if !s.opened || s.stopped || !s.state.exists || !s.state.hasTTL {
		return false
	}
	at, ok := s.site().read(now)
	if !ok {
		if s.seen(now, 1) > 0 {
			s.site().want()
		}
		return false
	}
	return s.seen(now, at) > s.state.touched+touchAhead(s.state.ttl) &&
		!s.state.expired(min(ms(now), at), s.lastUse(now, at))
}

// halt ends the Stream: callers that wait are refused, the batch in flight is
// waited for, the session ends, the TailBuffer is let go.
func (s *Stream) halt() {
	s.mu.Lock()
	s.stopped = true
	s.host.states.remove(&s.charge)
	queue := s.queue
	s.queue, s.queueBytes = nil, 0
	s.mu.Unlock()
	for _, c := range queue {
		c.answer(Outcome{}, ErrNotOwner)
	}
	s.mu.Lock()
	for s.flying {
		s.idle.Wait()
	}
	s.closeSession()
	t := s.tail
	s.tail = nil
	s.mu.Unlock()
	if t != nil {
		t.Release()
	}
}
