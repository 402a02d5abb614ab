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

// defaultFleetLog is the fleet's own log where there is one place only.
const defaultFleetLog StreamID = "__ds/fleet"

const (
	// clockValidFor is how long after an acknowledgement storage's time is known by it.
	clockValidFor = 10 * time.Minute
	// clockRecordEvery is how often a node writes a clock record to learn it, at the most.
	clockRecordEvery = time.Minute
	// ackSampleEvery is how often acknowledgements are looked at.
	ackSampleEvery = 50 * time.Millisecond
	// maxClockAttempts bounds the attempts at one: other nodes write there, too.
	maxClockAttempts = 8
	// maxSilentSkew is how far a clock may be off before somebody is told.
	maxSilentSkew = time.Second
)

// storageClocks are the clocks of the places where streams are kept, as far as acknowledgements tell
// what they show. A life ends only when such a clock and the node's own both say so.
type storageClocks struct {
	log             *breaker
	multiSite       MultiSiteLog    // nil: there is one place
	policy          TimestampPolicy // nil: all times are storage's own
	now             func() time.Time
	spawn           func(func(context.Context)) bool
	logger          *slog.Logger
	skewWarnings    rate.Sometimes // of a clock that is off
	failureWarnings rate.Sometimes // of clock records that cannot be written

	mu         sync.Mutex
	byFleetLog map[StreamID]*storageClock // by the fleet's own log; bounded by the places with streams
}

// storageClock is the clock of one place.
type storageClock struct {
	clocks   *storageClocks
	fleetLog StreamID // the fleet's own there

	lastNoted atomic.Int64 // when an acknowledgement was noted, ns since 1970: each append comes by here

	mu         sync.Mutex
	ackTime    uint64        // ms since 1970: the time of the newest acknowledgement
	ackArrived time.Time     // when that came; zero: none has
	skew       time.Duration // how far the node's clock is ahead, at least (below 0: behind)
	lastTried  time.Time     // when a clock record was last tried
	learning   *sharedCall   // nil: none is on its way
}

func newStorageClocks(log *breaker, cfg *Config, spawn func(func(context.Context)) bool) *storageClocks {
	c := &storageClocks{
		log: log, now: cfg.Now, spawn: spawn, logger: cfg.Logger, skewWarnings: rate.Sometimes{Interval: time.Minute}, failureWarnings: rate.Sometimes{Interval: time.Minute},
		byFleetLog: map[StreamID]*storageClock{},
	}
	c.multiSite, _ = log.Log.(MultiSiteLog)
	c.policy, _ = log.Log.(TimestampPolicy)
	return c
}

// clockOf is the clock of the place where a stream is kept.
func (c *storageClocks) clockOf(id StreamID) *storageClock {
	log := defaultFleetLog
	if c.multiSite != nil {
		log = c.multiSite.FleetLog(id)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.byFleetLog[log]
	if one == nil {
		one = &storageClock{clocks: c, fleetLog: log}
		c.byFleetLog[log] = one
	}
	return one
}

// worstSkew is how far the node's clock is from storage's, the worst of all.
func (c *storageClocks) worstSkew() (worst time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, one := range c.byFleetLog {
		one.mu.Lock()
		if one.skew.Abs() > worst.Abs() {
			worst = one.skew
		}
		one.mu.Unlock()
	}
	return worst
}

// noteAck notes that an append sent at sent was acknowledged with the time at, unless another
// was a moment ago; always: it is of a stream whose life is judged by it.
func (c *storageClock) noteAck(at uint64, sent time.Time, always bool) {
	if since := sent.UnixNano() - c.lastNoted.Load(); !always && since >= 0 && since < int64(ackSampleEvery) {
		return
	}
	now := c.clocks.now()
	c.lastNoted.Store(now.UnixNano())
	skew := time.Duration(0)
	switch {
	case at < unixMillis(sent):
		skew = time.Duration(unixMillis(sent)-at) * time.Millisecond
	case at > unixMillis(now):
		skew = -time.Duration(min(at-unixMillis(now), uint64(maxDuration.Milliseconds()))) * time.Millisecond
	}
	c.mu.Lock()
	c.ackTime, c.ackArrived, c.skew = at, now, skew
	c.mu.Unlock()
	if skew.Abs() > maxSilentSkew {
		c.clocks.skewWarnings.Do(func() {
			c.clocks.logger.Warn("this node's clock differs from S2's; streams end when both say so", "ahead", skew)
		})
	}
}

// maxDuration bounds durations that are made of numbers from elsewhere.
const maxDuration = 100 * 365 * 24 * time.Hour

// readTime is what the clock shows, in ms since 1970; false: it is not known.
func (c *storageClock) readTime(now time.Time) (uint64, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := now.Sub(c.ackArrived)
	if c.ackArrived.IsZero() || since > clockValidFor {
		return 0, false
	}
	return c.ackTime + uint64(max(since, 0).Milliseconds()), true
}

// newestAck is the time of the newest acknowledgement; 0: none has come.
func (c *storageClock) newestAck() uint64 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ackTime
}

// requestRefresh has the clock read soon, by a clock record, unless that was tried of late. What it
// returns is the attempt that is under way, or nil.
func (c *storageClock) requestRefresh() *sharedCall {
	c.mu.Lock()
	defer c.mu.Unlock()
	if now := c.clocks.now(); c.learning == nil && (c.lastTried.IsZero() || now.Sub(c.lastTried) >= clockRecordEvery) {
		c.lastTried = now
		a := &sharedCall{done: make(chan struct{})}
		if c.clocks.spawn(func(ctx context.Context) { c.refresh(ctx, a) }) {
			c.learning = a
		}
	}
	return c.learning
}

// waitForRefresh is want for a caller that waits for what comes of it.
func (c *storageClock) waitForRefresh(ctx context.Context) {
	if a := c.requestRefresh(); a != nil {
		select {
		case <-a.done:
		case <-ctx.Done():
		}
	}
}

// refresh writes a record that changes nothing, for its acknowledgement's time.
func (c *storageClock) refresh(ctx context.Context, a *sharedCall) {
	ctx, cancel := context.WithTimeout(ctx, peerTimeout)
	defer cancel()
	if err := c.writeRecord(ctx); err != nil && ctx.Err() == nil {
		c.clocks.failureWarnings.Do(func() {
			c.clocks.logger.Warn("S2's time cannot be learnt; streams with a TTL go on", "log", c.fleetLog, "err", err)
		})
	}
	c.mu.Lock()
	c.learning = nil
	c.mu.Unlock()
	close(a.done)
}

func (c *storageClock) writeRecord(ctx context.Context) error {
	log, at, err := c.recordPosition(ctx)
	for try := 0; err == nil; try++ {
		sent := c.clocks.now()
		var ack Ack
		ack, err = c.clocks.log.Append(ctx, log, at, c.clockBatch(log, at))
		var lost *TailError
		switch {
		case err == nil:
			c.noteAck(ack.EndTime, sent, true)
			return nil
		case errors.As(err, &lost) && try < maxClockAttempts:
			at, err = lost.Tail, nil
		}
	}
	return err
}

// recordPosition is where the next clock record stands. The first record of the fleet's log is the
// fleet's; until it is there, clock records have a log of their own, beside it.
func (c *storageClock) recordPosition(ctx context.Context) (StreamID, uint64, error) {
	tail, err := c.clocks.log.Tail(ctx, c.fleetLog)
	if err == nil && tail > 0 || err != nil && !errors.Is(err, ErrNoLog) {
		return c.fleetLog, tail, err
	}
	own := c.clockLog()
	tail, err = c.clocks.log.Tail(ctx, own)
	if errors.Is(err, ErrNoLog) {
		return own, 0, c.clocks.log.Create(ctx, own)
	}
	return own, tail, err
}

func (c *storageClock) clockLog() StreamID {
	return StreamID(strings.TrimSuffix(string(c.fleetLog), "fleet") + "clock")
}

// clockBatch is the batch with a clock record. In a log of their own the newest is enough.
func (c *storageClock) clockBatch(log StreamID, at uint64) (batch []Entry) {
	if log != c.fleetLog {
		batch = append(batch, Entry{Trim: true, TrimTo: at + 1})
		at++
	}
	h := Header{Kind: KindClock, Flags: FlagFirst | FlagLast, Append: NewAppendID()}
	return append(batch, Entry{Header: h.encode(at)})
}

// clockReading is what time it is in the life of a stream.
type clockReading struct {
	wall       uint64 // the node's clock, ms since 1970
	bothClocks uint64 // what both clocks say, the smaller; 0: nothing ends now
	lastUse    uint64 // when the stream was last used, by storage's clock
}

// timestampMode is how the records of a log get their times.
type timestampMode uint8

const (
	timestampsUnknown  timestampMode = iota
	timestampsCapped                 // none is later than storage's own clock
	timestampsUnusable               // nothing can be made of them: the stream does not expire
)

// storageClockLocked is the clock of the stream's place, under mu.
func (s *Stream) storageClockLocked() *storageClock {
	if s.cachedClock == nil {
		s.cachedClock = s.manager.clocks.clockOf(s.id)
	}
	return s.cachedClock
}

// timestampModeLocked is how the log's records get their times, as far as is known, under mu.
func (s *Stream) timestampModeLocked() timestampMode {
	if s.manager.clocks.policy == nil {
		return timestampsCapped
	}
	return s.timestamps
}

// canExpire reports whether the life ends by itself some time.
func (s *State) canExpire() bool { return s.exists && (s.hasTTL || s.expiresAt != 0) }

// readClocks is what time it is, under mu.
func (s *Stream) readClocks() clockReading {
	now := s.manager.cfg.Now()
	m := clockReading{wall: unixMillis(now)}
	if !s.state.canExpire() || s.timestampModeLocked() != timestampsCapped {
		return m
	}
	if at, ok := s.storageClockLocked().readTime(now); ok {
		m.bothClocks, m.lastUse = min(m.wall, at), s.lastUse(now, at)
	}
	return m
}

// isExpiryUncertain reports whether the node's clock says that the life is over, and storage has yet to
// be asked what it says, under mu.
func (s *Stream) isExpiryUncertain() bool {
	if !s.opened || !s.state.canExpire() || s.timestampModeLocked() == timestampsUnusable {
		return false
	}
	now := s.manager.cfg.Now()
	if wall := unixMillis(now); !s.state.isExpired(wall, s.lastUse(now, wall)) {
		return false
	}
	at, ok := s.storageClockLocked().readTime(now)
	return !ok || s.timestampModeLocked() == timestampsUnknown && s.state.isExpired(at, s.lastUse(now, at))
}

// resolveExpiry asks storage what doubt wants to know, each once a minute. If it does not say,
// the stream lives on.
func (s *Stream) resolveExpiry(ctx context.Context) {
	s.mu.Lock()
	clock, known, asked := s.storageClockLocked(), s.timestampModeLocked() != timestampsUnknown, s.timestampsAsked
	if !known {
		s.timestampsAsked = s.manager.cfg.Now()
	}
	s.mu.Unlock()
	if _, ok := clock.readTime(s.manager.cfg.Now()); !ok {
		clock.waitForRefresh(ctx)
	}
	if known || s.manager.cfg.Now().Sub(asked) < clockRecordEvery {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, s.manager.cfg.AppendTimeout)
	defer cancel()
	capped, err := s.manager.clocks.policy.Capped(ctx, s.id)
	if errors.Is(err, ErrLogDenied) {
		capped, err = true, nil // who may not see it has to believe that it is as it was made
	}
	if err != nil {
		return
	}
	s.mu.Lock()
	s.timestamps = timestampsCapped
	if !capped {
		s.timestamps = timestampsUnusable
	}
	s.mu.Unlock()
	if !capped {
		s.manager.cfg.Logger.Warn("the stream's timestamps in S2 are not S2's own or capped by them: it does not expire", "stream", s.id)
	}
}

// lastUse is when the stream was last used as far as memory knows, in ms by a clock that
// shows at, the grace of a new owner included. A stream that somebody follows is in use.
func (s *Stream) lastUse(now time.Time, at uint64) uint64 {
	return max(s.lastSeenUse(now, at), s.state.lastUsed, s.graceUntil)
}

// lastSeenUse is the last use that this owner, or one before it, saw, by a clock that shows at.
func (s *Stream) lastSeenUse(now time.Time, at uint64) uint64 {
	switch {
	case s.followers > 0:
		return at
	case s.unsavedUse.IsZero():
		return 0
	}
	return at - min(at, uint64(max(now.Sub(s.unsavedUse), 0).Milliseconds()))
}

// mintedAt is when a request's id was minted, by storage's clock and rather too early than
// too late, under mu: what its sender says is how long ago.
func (s *Stream) mintedAt(q *Request) uint64 {
	if q.MintedAt.IsZero() { // from a node of an earlier release
		return q.MintedMillis
	}
	at, ok := s.storageClockLocked().readTime(s.manager.cfg.Now())
	if !ok {
		at = s.state.Time
	}
	return at - min(at, uint64(max(time.Since(q.MintedAt), 0).Milliseconds()))
}

// noteAckTime notes the time of an acknowledgement of this log, if it is storage's.
func (s *Stream) noteAckTime(ack Ack, sent time.Time) {
	s.mu.Lock()
	capped, clock, always := s.timestampModeLocked() == timestampsCapped, s.storageClockLocked(), s.state.canExpire()
	s.mu.Unlock()
	if capped {
		clock.noteAck(ack.EndTime, sent, always)
	}
}
