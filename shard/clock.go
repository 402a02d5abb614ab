package shard

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"
)

// MultiSiteLog is a Log that keeps streams in several places, each with a clock of its own. One that
// is not Sited has one.
type MultiSiteLog interface {
	// FleetLog names the log of the fleet's own in the place where a stream is kept.
	FleetLog(id StreamID) StreamID
}

// TimestampPolicy is a Log whose logs may get their records' times in several ways. One that is not
// Timed gives them its own.
type TimestampPolicy interface {
	// Capped reports whether no record of the log can be later than storage's own clock.
	Capped(ctx context.Context, id StreamID) (bool, error)
}

// fleetLog is the fleet's own log where there is one place only.
const fleetLog StreamID = "__ds/fleet"

const (
	// clockKnown is how long after an acknowledgement storage's time is known by it.
	clockKnown = 10 * time.Minute
	// clockEvery is how often a node writes a clock record to learn it, at the most.
	clockEvery = time.Minute
	// hearEvery is how often acknowledgements are looked at.
	hearEvery = 50 * time.Millisecond
	// clockTries bounds the attempts at one: other nodes write there, too.
	clockTries = 8
	// skewLimit is how far a clock may be off before somebody is told.
	skewLimit = time.Second
)

// clocks are the clocks of the places where streams are kept, as far as acknowledgements tell
// what they show. A life ends only when such a clock and the node's own both say so.
type clocks struct {
	log   *breaker
	sited MultiSiteLog    // nil: there is one place
	timed TimestampPolicy // nil: all times are storage's own
	now   func() time.Time
	spawn func(func(context.Context)) bool
	say   *slog.Logger
	warn  rate.Sometimes // of a clock that is off
	fails rate.Sometimes // of clock records that cannot be written

	mu sync.Mutex
	m  map[StreamID]*clock // by the fleet's own log; bounded by the places with streams
}

// clock is the clock of one place.
type clock struct {
	set *clocks
	log StreamID // the fleet's own there

	last atomic.Int64 // when an acknowledgement was noted, ns since 1970: each append comes by here

	mu       sync.Mutex
	at       uint64        // ms since 1970: the time of the newest acknowledgement
	heard    time.Time     // when that came; zero: none has
	skew     time.Duration // how far the node's clock is ahead, at least (below 0: behind)
	tried    time.Time     // when a clock record was last tried
	learning *attempt      // nil: none is on its way
}

func newClocks(log *breaker, cfg *Config, spawn func(func(context.Context)) bool) *clocks {
	c := &clocks{
		log: log, now: cfg.Now, spawn: spawn, say: cfg.Logger, warn: rate.Sometimes{Interval: time.Minute}, fails: rate.Sometimes{Interval: time.Minute},
		m: map[StreamID]*clock{},
	}
	c.sited, _ = log.Log.(MultiSiteLog)
	c.timed, _ = log.Log.(TimestampPolicy)
	return c
}

// of is the clock of the place where a stream is kept.
func (c *clocks) of(id StreamID) *clock {
	log := fleetLog
	if c.sited != nil {
		log = c.sited.FleetLog(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.m[log]
	if one == nil {
		one = &clock{set: c, log: log}
		c.m[log] = one
	}
	return one
}

// skew is how far the node's clock is from storage's, the worst of all.
func (c *clocks) skew() (worst time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.m {
		one.mu.Lock()
		if one.skew.Abs() > worst.Abs() {
			worst = one.skew
		}
		one.mu.Unlock()
	}
	return worst
}

// hear notes that an append sent at sent was acknowledged with the time at, unless another
// was a moment ago; always: it is of a stream whose life is judged by it.
func (c *clock) hear(at uint64, sent time.Time, always bool) {
	if since := sent.UnixNano() - c.last.Load(); !always && since >= 0 && since < int64(hearEvery) {
		return
	}
	now := c.set.now()
	c.last.Store(now.UnixNano())
	skew := time.Duration(0)
	switch {
	case at < ms(sent):
		skew = time.Duration(ms(sent)-at) * time.Millisecond
	case at > ms(now):
		skew = -time.Duration(min(at-ms(now), uint64(longAgo.Milliseconds()))) * time.Millisecond
	}
	c.mu.Lock()
	c.at, c.heard, c.skew = at, now, skew
	c.mu.Unlock()
	if skew.Abs() > skewLimit {
		c.set.warn.Do(func() {
			c.set.say.Warn("this node's clock differs from S2's; streams end when both say so", "ahead", skew)
		})
	}
}

// longAgo bounds durations that are made of numbers from elsewhere.
const longAgo = 100 * 365 * 24 * time.Hour

// read is what the clock shows, in ms since 1970; false: it is not known.
func (c *clock) read(now time.Time) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := now.Sub(c.heard)
	if c.heard.IsZero() || since > clockKnown {
		return 0, false
	}
	return c.at + uint64(max(since, 0).Milliseconds()), true
}

// newest is the time of the newest acknowledgement; 0: none has come.
func (c *clock) newest() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.at
}

// want has the clock read soon, by a clock record, unless that was tried of late. What it
// returns is the attempt that is under way, or nil.
func (c *clock) want() *attempt {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.set.now(); c.learning == nil && (c.tried.IsZero() || now.Sub(c.tried) >= clockEvery) {
		c.tried = now
		a := &attempt{done: make(chan struct{})}
		if c.set.spawn(func(ctx context.Context) { c.learn(ctx, a) }) {
			c.learning = a
		}
	}
	return c.learning
}

// ask is want for a caller that waits for what comes of it.
func (c *clock) ask(ctx context.Context) {
	if a := c.want(); a != nil {
		select {
		case <-a.done:
		case <-ctx.Done():
		}
	}
}

// learn writes a record that changes nothing, for its acknowledgement's time.
func (c *clock) learn(ctx context.Context, a *attempt) {
	ctx, cancel := context.WithTimeout(ctx, peerTime)
	defer cancel()
	if err := c.write(ctx); err != nil && ctx.Err() == nil {
		c.set.fails.Do(func() {
			c.set.say.Warn("S2's time cannot be learnt; streams with a TTL go on", "log", c.log, "err", err)
		})
	}
	c.mu.Lock()
	c.learning = nil
	c.mu.Unlock()
	close(a.done)
}

func (c *clock) write(ctx context.Context) error {
	log, at, err := c.place(ctx)
	for try := 0; err == nil; try++ {
		sent := c.set.now()
		var ack Ack
		ack, err = c.set.log.Append(ctx, log, at, c.record(log, at))
		var lost *TailError
		switch {
		case err == nil:
			c.hear(ack.EndTime, sent, true)
			return nil
		case errors.As(err, &lost) && try < clockTries:
			at, err = lost.Tail, nil
		}
	}
	return err
}

// place is where the next clock record stands. The first record of the fleet's log is the
// fleet's; until it is there, clock records have a log of their own, beside it.
func (c *clock) place(ctx context.Context) (StreamID, uint64, error) {
	tail, err := c.set.log.Tail(ctx, c.log)
	if err == nil && tail > 0 || err != nil && !errors.Is(err, ErrNoLog) {
		return c.log, tail, err
	}
	own := c.ownLog()
	tail, err = c.set.log.Tail(ctx, own)
	if errors.Is(err, ErrNoLog) {
		return own, 0, c.set.log.Create(ctx, own)
	}
	return own, tail, err
}

func (c *clock) ownLog() StreamID {
	return StreamID(strings.TrimSuffix(string(c.log), "fleet") + "clock")
}

// record is the batch with a clock record. In a log of their own the newest is enough.
func (c *clock) record(log StreamID, at uint64) (batch []Entry) {
	if log != c.log {
		batch = append(batch, Entry{Trim: true, TrimTo: at + 1})
		at++
	}
	h := Header{Kind: KindClock, Flags: FlagFirst | FlagLast, Append: NewAppendID()}
	return append(batch, Entry{Header: h.encode(at)})
}

// moment is what time it is in the life of a stream.
type moment struct {
	wall uint64 // the node's clock, ms since 1970
	ends uint64 // what both clocks say, the smaller; 0: nothing ends now
	used uint64 // when the stream was last used, by storage's clock
}

// timing is how the records of a log get their times.
type timing uint8

const (
	timingUnknown timing = iota
	timingCapped         // none is later than storage's own clock
	timingOther          // nothing can be made of them: the stream does not expire
)

// site is the clock of the stream's place, under mu.
func (s *Stream) site() *clock {
	if s.clock == nil {
		s.clock = s.host.clocks.of(s.id)
	}
	return s.clock
}

// timingNow is how the log's records get their times, as far as is known, under mu.
func (s *Stream) timingNow() timing {
	if s.host.clocks.timed == nil {
		return timingCapped
	}
	return s.timing
}

// mortal reports whether the life ends by itself some time.
func (s *State) mortal() bool { return s.exists && (s.hasTTL || s.expires != 0) }

// moment is what time it is, under mu.
func (s *Stream) moment() moment {
	now := s.host.cfg.Now()
	m := moment{wall: ms(now)}
	if !s.state.mortal() || s.timingNow() != timingCapped {
		return m
	}
	if at, ok := s.site().read(now); ok {
		m.ends, m.used = min(m.wall, at), s.lastUse(now, at)
	}
	return m
}

// doubt reports whether the node's clock says that the life is over, and storage has yet to
// be asked what it says, under mu.
func (s *Stream) doubt() bool {
	if !s.opened || !s.state.mortal() || s.timingNow() == timingOther {
		return false
	}
	now := s.host.cfg.Now()
	if wall := ms(now); !s.state.expired(wall, s.lastUse(now, wall)) {
		return false
	}
	at, ok := s.site().read(now)
	return !ok || s.timingNow() == timingUnknown && s.state.expired(at, s.lastUse(now, at))
}

// settleTime asks storage what doubt wants to know, each once a minute. If it does not say,
// the stream lives on.
func (s *Stream) settleTime(ctx context.Context) {
	s.mu.Lock()
	clock, known, asked := s.site(), s.timingNow() != timingUnknown, s.timingAsked
	if !known {
		s.timingAsked = s.host.cfg.Now()
	}
	s.mu.Unlock()
	if _, ok := clock.read(s.host.cfg.Now()); !ok {
		clock.ask(ctx)
	}
	if known || s.host.cfg.Now().Sub(asked) < clockEvery {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.host.cfg.AppendTimeout)
	defer cancel()
	capped, err := s.host.clocks.timed.Capped(ctx, s.id)
	if errors.Is(err, ErrLogDenied) {
		capped, err = true, nil // who may not see it has to believe that it is as it was made
	}
	if err != nil {
		return
	}
	s.mu.Lock()
	s.timing = timingCapped
	if !capped {
		s.timing = timingOther
	}
	s.mu.Unlock()
	if !capped {
		s.host.cfg.Logger.Warn("the stream's timestamps in S2 are not S2's own or capped by them: it does not expire", "stream", s.id)
	}
}

// lastUse is when the stream was last used as far as memory knows, in ms by a clock that
// shows at, the grace of a new owner included. A stream that somebody follows is in use.
func (s *Stream) lastUse(now time.Time, at uint64) uint64 {
	return max(s.seen(now, at), s.state.touched, s.grace)
}

// seen is the last use that this owner, or one before it, saw, by a clock that shows at.
func (s *Stream) seen(now time.Time, at uint64) uint64 {
	switch {
	case s.followers > 0:
		return at
	case s.touched.IsZero():
		return 0
	}
	return at - min(at, uint64(max(now.Sub(s.touched), 0).Milliseconds()))
}

// mintedAt is when a request's id was minted, by storage's clock and rather too early than
// too late, under mu: what its sender says is how long ago.
func (s *Stream) mintedAt(q *Request) uint64 {
	if q.MintedAt.IsZero() { // from a node of an earlier release
		return q.MintedMillis
	}
	at, ok := s.site().read(s.host.cfg.Now())
	if !ok {
		at = s.state.Time
	}
	return at - min(at, uint64(max(time.Since(q.MintedAt), 0).Milliseconds()))
}

// heardAck notes the time of an acknowledgement of this log, if it is storage's.
func (s *Stream) heardAck(ack Ack, sent time.Time) {
	s.mu.Lock()
	capped, clock, always := s.timingNow() == timingCapped, s.site(), s.state.mortal()
	s.mu.Unlock()
	if capped {
		clock.hear(ack.EndTime, sent, always)
	}
}
