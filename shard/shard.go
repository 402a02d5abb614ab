package shard

import (
	"context"
	"errors"
	"sync"
	"time"
)

// Shard is one stream at its owner: the fold of its log, its Tail, the sequencer
// of its appends and its read session. It exists in memory only; whatever it
// knows can be read again from the log.
type Shard struct {
	id   StreamID
	host *Host

	users int // guarded by host.mu: callers that hold this Shard

	mu sync.Mutex
	// Everything below is guarded by mu.
	opening *attempt // under way; nil: none
	opened  bool
	failed  error // the log cannot be folded (ErrDeclined); final for this Shard
	noLog   bool  // the log does not exist yet
	state   *State
	asm     assembler
	tail    *Tail // this life's, with one reference; nil while no life
	touched uint64
	grace   uint64    // ms added to a TTL: reads that the owner before may have known of
	synced  time.Time // when state.Next was last known to be the log's tail
	check   *attempt
	used    time.Time

	queue      []*call
	queueBytes int
	flying     bool
	idle       *sync.Cond // on mu: flying became false

	followers int
	session   *session
	asked     int // freshness checks in this minute
	askedAt   time.Time

	stopped bool
}

// call is a caller that waits for a verdict.
type call struct {
	req   *Request
	touch bool // a touch instead of a request
	size  int
	tries int // lost compare-and-swaps
	ctx   context.Context
	done  chan verdict // capacity 1
}

type verdict struct {
	out Outcome
	err error
}

func (c *call) answer(out Outcome, err error) { c.done <- verdict{out, err} }

func ms(t time.Time) uint64 { return uint64(max(t.UnixMilli(), 0)) }

// attempt is one try at opening, shared by everybody who waits for it.
type attempt struct {
	done chan struct{}
	err  error // set before done is closed
}

// ready returns once the log is folded up to a recent tail.
func (s *Shard) ready(ctx context.Context) error {
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
	a := s.opening
	if a == nil {
		a = &attempt{done: make(chan struct{})}
		if !s.host.spawn(func(ctx context.Context) { s.open(ctx, a) }) {
			s.mu.Unlock()
			return ErrStopped
		}
		s.opening = a
	}
	s.mu.Unlock()
	select {
	case <-a.done:
		return a.err
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// open folds the log.
func (s *Shard) open(ctx context.Context, a *attempt) {
	ctx, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	t, err := takeOver(ctx, s.host.log, s.id)
	var wake wakers
	s.mu.Lock()
	if err == nil {
		wake, err = s.adopt(t)
	}
	switch {
	case err == nil:
		s.opened, s.synced = true, s.host.cfg.Now()
	case errors.Is(err, ErrDeclined):
		s.failed = err
	}
	s.opening = nil
	s.mu.Unlock()
	wake.run()
	if err != nil {
		a.err = storeErr(err)
	}
	close(a.done)
}

// openTimeout bounds one attempt to take a stream over.
const openTimeout = 30 * time.Second

// storeErr maps a Log's error that is not about an append's outcome.
func storeErr(err error) error {
	switch {
	case errors.Is(err, ErrLogDenied), errors.Is(err, ErrDeclined), errors.Is(err, ErrStopped):
		return err
	default:
		return errors.Join(ErrStoreDown, err)
	}
}

// adopt makes what takeOver found this Shard's state.
func (s *Shard) adopt(t takeover) (wakers, error) {
	s.noLog = t.noLog
	s.state = &State{Next: t.from}
	s.asm = assembler{from: t.from}
	var wake wakers
	for _, p := range t.pages {
		w, err := s.absorb(p.Records)
		wake = append(wake, w...)
		if err != nil {
			return wake, err
		}
	}
	if s.state.Next < t.tail { // everything there was is trimmed away
		s.state.hole(t.tail)
		s.state.beginUncreated()
		s.asm.skip(t.tail)
	}
	wake = append(wake, s.attach()...)
	s.grace = 0
	if s.state.hasTTL {
		s.grace = touchAhead(s.state.ttl) + graceMargin
	}
	return wake, nil
}

// absorb is the one way in for records, from acks, the session and read-back: it
// folds what is new and extends the Tail with it. The caller runs the wakers
// after it has released mu.
func (s *Shard) absorb(recs []Record) (wakers, error) {
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
			s.failed = err
			return wake, err
		}
		if e.begun || e.ended {
			wake = append(wake, s.turn(r, e)...)
		}
		s.asm.add(r, e)
	}
	return append(wake, s.publish()...), nil
}

// turn ends the Tail of a life that is over and begins the next one's.
func (s *Shard) turn(r Record, e effect) wakers {
	var wake wakers
	if s.tail != nil {
		wake = s.tail.end(ErrNotFound)
		s.tail.Release()
		s.tail = nil
	}
	s.grace, s.touched = 0, 0
	if held := s.asm.held; e.commit { // the new life's first messages
		s.asm.skip(s.state.start)
		s.asm.held = held
	} else {
		s.asm.skip(r.Pos)
	}
	return wake
}

// attach gives a life its Tail.
func (s *Shard) attach() wakers {
	if s.tail != nil || !s.state.exists || s.stopped { // nobody would let go of it
		return nil
	}
	s.tail = s.host.tails.Open(s.id, s.state.Info(), s.asm.from)
	// It may have been fed by a peer so far and lag behind; its readers then find
	// the rest in pages.
	return s.tail.skip(s.asm.from, s.state.tail, s.state.closed)
}

// publish extends the Tail with what was folded since.
func (s *Shard) publish() wakers {
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

// take folds records that a Log gave us and wakes whom they concern.
func (s *Shard) take(recs []Record) error {
	s.mu.Lock()
	wake, err := s.absorb(recs)
	s.mu.Unlock()
	wake.run()
	s.host.tails.reclaim()
	return err
}

// reset forgets everything: the log is not the one that was folded (it was
// wiped, or deleted in S2). Readers of the Tail see their life end.
func (s *Shard) reset() {
	s.mu.Lock()
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

// catchUp reads what the log has beyond the fold, up to tail.
func (s *Shard) catchUp(ctx context.Context, tail uint64) error {
	for {
		s.mu.Lock()
		next := s.state.Next
		s.mu.Unlock()
		if next >= tail {
			return nil
		}
		if tail-next > MaxBatchRecords {
			err := s.host.log.Replay(ctx, s.id, next, tail, func(p Page) error {
				return s.take(p.Records)
			})
			if err != nil {
				return err
			}
		} else {
			p, err := s.host.log.Read(ctx, s.id, next, 0)
			if err != nil {
				return err
			}
			if err := s.take(p.Records); err != nil {
				return err
			}
		}
		s.mu.Lock()
		var wake wakers
		if s.state.Next == next { // all trimmed away
			s.state.hole(tail)
			s.asm.skip(tail)
			if s.tail != nil {
				wake = s.tail.skip(tail, s.state.tail, s.state.closed)
			}
		}
		s.mu.Unlock()
		wake.run()
	}
}

// describe is State for this stream.
func (s *Shard) describe(ctx context.Context, ask Ask) (Info, error) {
	if err := s.ready(ctx); err != nil {
		return Info{}, err
	}
	if ask&AskLocal == 0 {
		if err := s.fresh(ctx); err != nil {
			return Info{}, err
		}
	}
	s.mu.Lock()
	now := ms(s.host.cfg.Now())
	expired := s.state.expired(now, s.lastUse(now))
	info := s.state.Info()
	if ask&AskTouch != 0 && !expired {
		s.touched = max(s.touched, now)
	}
	due := ask&AskTouch != 0 && s.touchDue(s.host.cfg.Now())
	s.mu.Unlock()
	if due {
		// Before the reader is answered, so that its use counts for an heir as well. A
		// touch that fails is no reason not to answer; the sweeper tries again.
		_, _ = s.do(ctx, &call{touch: true})
	}
	if !expired {
		return info, nil
	}
	// The sequencer buries an expired stream before it looks at the next caller, and
	// a touch of what is no more writes nothing.
	if _, err := s.do(ctx, &call{touch: true}); err != nil {
		return Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.state.Info(), nil
}

// idleSince reports whether nothing happened here for so long. A stream that
// does not exist is kept only for seconds.
func (s *Shard) idleSince(now time.Time, d time.Duration) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.state == nil || !s.state.exists {
		d = min(d, sweepEvery)
	}
	return !s.flying && s.followers == 0 && s.session == nil && s.opening == nil &&
		s.check == nil && now.Sub(s.used) > d && !s.touchDue(now)
}

// wantsTouch reports whether memory is too far ahead of the last durable use.
func (s *Shard) wantsTouch(now time.Time) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.touchDue(now)
}

func (s *Shard) touchDue(now time.Time) bool {
	if !s.opened || s.stopped || !s.state.exists || !s.state.hasTTL {
		return false
	}
	t := ms(now)
	used := s.touched
	if s.followers > 0 {
		used = t
	}
	return used > s.state.touched+touchAhead(s.state.ttl) && !s.state.expired(t, s.lastUse(t))
}

// halt ends the Shard: callers that wait are refused, the batch in flight is
// waited for, the session ends, the Tail is let go.
func (s *Shard) halt() {
	s.mu.Lock()
	s.stopped = true
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
