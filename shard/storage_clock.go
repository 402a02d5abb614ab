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

// MultiSiteLog is a Log that keeps streams in several places, each with a clock of its own. A Log
// that is no MultiSiteLog has one place.
type MultiSiteLog interface {
	// FleetLog returns the name of the fleet's own log in the place where a stream is kept.
	FleetLog(id StreamID) StreamID
}

// TimestampPolicy is a Log that may give its logs' records their times in several ways. A Log that
// is no TimestampPolicy gives every record its own time.
type TimestampPolicy interface {
	// Capped reports whether no record of the log can be later than storage's own clock.
	Capped(ctx context.Context, id StreamID) (bool, error)
}

// defaultFleetLog is the fleet's own log where there is one place only.
const defaultFleetLog StreamID = "__ds/fleet"

const (
	// clockValidFor bounds how long storage's time is known after an acknowledgement.
	clockValidFor = 10 * time.Minute
	// clockRecordEvery is the least time between two clock records of a node in one place.
	clockRecordEvery = time.Minute
	// ackSampleEvery is the least time between two acknowledgements that are noted.
	ackSampleEvery = 50 * time.Millisecond
	// maxClockAttempts bounds the attempts at one clock record: other nodes write to the same log.
	maxClockAttempts = 8
	// maxSilentSkew bounds how far a clock may be off before the log tells of it.
	maxSilentSkew = time.Second
)

// storageClocks holds the clocks of the places where streams are kept, as far as acknowledgements
// show them. A generation ends only when such a clock and the node's own both say so. All fields
// but byFleetLog are set at construction.
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
	byFleetLog map[StreamID]*storageClock // guarded by mu; bounded by the places with streams
}

// storageClock is the clock of one place.
type storageClock struct {
	clocks   *storageClocks
	fleetLog StreamID // the fleet's own log there

	lastNoted atomic.Int64 // ns since 1970: when an acknowledgement was last noted. Atomic, because every append reads it

	mu         sync.Mutex
	ackTime    Millis        // ms since 1970: the time of the newest acknowledgement
	ackArrived time.Time     // when that acknowledgement came; zero: none has
	skew       time.Duration // how far the node's clock is ahead, at least; below 0: behind
	lastTried  time.Time     // when a clock record was last tried
	learning   *sharedCall   // the clock record that is on its way; nil: none
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

// clockOf returns the clock of the place where a stream is kept.
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

// ClockSkew returns how far the node's clock is ahead of storage's, as far as acknowledgements have
// shown it; below 0: behind.
func (m *Manager) ClockSkew() time.Duration { return m.clocks.worstSkew() }

// worstSkew returns the largest difference between the node's clock and storage's.
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

// noteAck notes that an append sent at sent was acknowledged with the time at, unless another was
// noted a moment ago. always: note it in any case, because a generation's end is judged by it.
func (c *storageClock) noteAck(at Millis, sent time.Time, always bool) {
	if since := sent.UnixNano() - c.lastNoted.Load(); !always && since >= 0 && since < int64(ackSampleEvery) {
		return
	}
	now := c.clocks.now()
	c.lastNoted.Store(now.UnixNano())
	skew := time.Duration(0)
	switch {
	case at < MillisOf(sent):
		skew = time.Duration(MillisOf(sent)-at) * time.Millisecond
	case at > MillisOf(now):
		skew = -time.Duration(min(at-MillisOf(now), Millis(maxDuration.Milliseconds()))) * time.Millisecond
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

// maxDuration bounds durations that are computed from numbers of other nodes and of storage.
const maxDuration = 100 * 365 * 24 * time.Hour

// readTime returns what the clock shows, in ms since 1970; false: it is not known.
func (c *storageClock) readTime(now time.Time) (Millis, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	since := now.Sub(c.ackArrived)
	if c.ackArrived.IsZero() || since > clockValidFor {
		return 0, false
	}
	return c.ackTime + Millis(max(since, 0).Milliseconds()), true
}

// newestAck returns the time of the newest acknowledgement; 0: none has come.
func (c *storageClock) newestAck() Millis {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.ackTime
}

// requestRefresh has a clock record written, unless one was tried within clockRecordEvery. It
// returns the attempt that is under way, or nil.
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

// waitForRefresh does what requestRefresh does, for a caller that waits for the attempt.
func (c *storageClock) waitForRefresh(ctx context.Context) {
	if a := c.requestRefresh(); a != nil {
		select {
		case <-a.done:
		case <-ctx.Done():
		}
	}
}

// refresh writes a record that changes nothing, for the time of its acknowledgement.
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

// writeRecord appends a clock record, and tries again where another node was first.
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

// recordPosition returns the log and the position of the next clock record. The first record of the
// fleet's log is the fleet's record. Until that is there, clock records go to a log of their own
// beside it.
func (c *storageClock) recordPosition(ctx context.Context) (StreamID, Pos, error) {
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

// clockLog returns the log for clock records where there is no fleet's record.
func (c *storageClock) clockLog() StreamID {
	return StreamID(strings.TrimSuffix(string(c.fleetLog), "fleet") + "clock")
}

// clockBatch returns the batch with a clock record. In a log of their own the newest record is
// enough, so the batch trims the older ones.
func (c *storageClock) clockBatch(log StreamID, at Pos) (batch []Entry) {
	if log != c.fleetLog {
		batch = append(batch, Entry{Trim: true, TrimTo: at + 1})
		at++
	}
	h := Header{Kind: KindClock, Flags: FlagFirst | FlagLast, Append: NewAppendID()}
	return append(batch, Entry{Header: h.encode(at)})
}

// clockReading holds what the clocks say at one moment in the life of a stream.
type clockReading struct {
	wall       Millis // the node's clock, ms since 1970
	bothClocks Millis // the smaller time of both clocks; 0: nothing expires now
	lastUse    Millis // when the stream was last used, by storage's clock
}

// timestampMode is the degree to which the records' times in a log can be trusted.
type timestampMode uint8

const (
	timestampsUnknown  timestampMode = iota
	timestampsCapped                 // no time is later than storage's own clock
	timestampsUnusable               // times may be anything: the stream does not expire
)

// storageClockLocked returns the clock of the stream's place, under mu.
func (s *Stream) storageClockLocked() *storageClock {
	if s.cachedClock == nil {
		s.cachedClock = s.manager.clocks.clockOf(s.id)
	}
	return s.cachedClock
}

// timestampModeLocked returns the log's timestampMode as far as it is known, under mu.
func (s *Stream) timestampModeLocked() timestampMode {
	if s.manager.clocks.policy == nil {
		return timestampsCapped
	}
	return s.timestamps
}

// canExpire reports whether the generation ends by itself at some time.
func (s *State) canExpire() bool { return s.exists && (s.hasTTL || s.expiresAt != 0) }

// readClocks returns what the clocks say now, under mu.
func (s *Stream) readClocks() clockReading {
	now := s.manager.cfg.Now()
	m := clockReading{wall: MillisOf(now)}
	if !s.state.canExpire() || s.timestampModeLocked() != timestampsCapped {
		return m
	}
	if at, ok := s.storageClockLocked().readTime(now); ok {
		m.bothClocks, m.lastUse = min(m.wall, at), s.lastUse(now, at)
	}
	return m
}

// isExpiryUncertain reports whether the node's clock says that the stream has expired, and storage
// has yet to be asked what its clock says, under mu.
func (s *Stream) isExpiryUncertain() bool {
	if !s.opened || !s.state.canExpire() || s.timestampModeLocked() == timestampsUnusable {
		return false
	}
	now := s.manager.cfg.Now()
	if wall := MillisOf(now); !s.state.isExpired(wall, s.lastUse(now, wall)) {
		return false
	}
	at, ok := s.storageClockLocked().readTime(now)
	return !ok || s.timestampModeLocked() == timestampsUnknown && s.state.isExpired(at, s.lastUse(now, at))
}

// resolveExpiry asks storage what isExpiryUncertain leaves open: its time, and its timestampMode,
// each at most once a minute. If storage does not say, the stream lives on.
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
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	capped, err := s.manager.clocks.policy.Capped(ctx, s.id)
	if errors.Is(err, ErrLogDenied) {
		capped, err = true, nil // this node may not read the setting, so it trusts the setting of the log's creation
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

// lastUse returns the last use of the stream as far as memory knows, in ms by a clock that shows
// at. It includes the grace of a new owner. A stream with followers is in use.
func (s *Stream) lastUse(now time.Time, at Millis) Millis {
	return max(s.lastSeenUse(now, at), s.state.lastUsed, s.graceUntil)
}

// lastSeenUse returns the last use that this owner, or a previous one, saw, by a clock that shows
// at; 0: none.
func (s *Stream) lastSeenUse(now time.Time, at Millis) Millis {
	switch {
	case s.followers > 0:
		return at
	case s.unsavedUse.IsZero():
		return 0
	}
	return at - min(at, Millis(max(now.Sub(s.unsavedUse), 0).Milliseconds()))
}

// mintedAt returns the time at which a request's id was minted, by storage's clock and rather too
// early than too late, under mu. The sender says how long ago that was.
func (s *Stream) mintedAt(q *Request) Millis {
	if q.MintedAt.IsZero() { // the sender is of an earlier release
		return q.MintedMillis
	}
	at, ok := s.storageClockLocked().readTime(s.manager.cfg.Now())
	if !ok {
		at = s.state.Time
	}
	return at - min(at, Millis(max(time.Since(q.MintedAt), 0).Milliseconds()))
}

// noteAckTime notes the time of an acknowledgement of this log, if it is storage's own.
func (s *Stream) noteAckTime(ack Ack, sent time.Time) {
	s.mu.Lock()
	capped, clock, always := s.timestampModeLocked() == timestampsCapped, s.storageClockLocked(), s.state.canExpire()
	s.mu.Unlock()
	if capped {
		clock.noteAck(ack.EndTime, sent, always)
	}
}
