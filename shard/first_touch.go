package shard

import (
	"context"
	"errors"
	"time"

	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// LogMaker is a Log that makes a log while it is read for the first time, so that a new stream costs
// one round trip, or two where an append does not make its log.
type LogMaker interface {
	// CreatesByAppend reports whether an append at position 0 makes a log that does not exist, and with
	// the configuration that a stream needs. It makes no call, and may be wrong: Append then
	// returns ErrNoLog, and EnsureConfig mends the configuration.
	CreatesByAppend(id StreamID) bool

	// CreateNew makes the log of id, as Create does, and leaves one that exists as it is (made is false).
	// S2: POST /streams.
	CreateNew(ctx context.Context, id StreamID) (made bool, err error)

	// EnsureConfig gives the log of id the configuration that a stream needs; changed: it had another.
	// S2: GET and PUT /streams/{s}.
	EnsureConfig(ctx context.Context, id StreamID) (changed bool, err error)
}

// createAttempt is a create request for a stream that is not in memory. It goes to storage beside the
// reads of the stream's opening: its records to position 0, which is free only in a log that never held
// anything. Where an append does not make the log, the log is made beside the reads, and the request is
// decided after them.
//
// Only a create request goes this way. Whatever else is asked of a stream of which no log is known is
// decided after a read: a late append must not bring back a log that an operator deleted.
type createAttempt struct {
	batch *appendBatch // decided on an empty log

	// Set by the opening before it is done.
	ack     Ack
	written bool
	unknown bool // it may have been written, or may yet be
	exists  bool // the log is there by now
	made    bool // the log was made for this request
}

// newCreateAttempt returns an attempt for a call that is one to make; nil: it is not.
func (s *Stream) newCreateAttempt(c *call) *createAttempt {
	if c.req == nil || c.req.Op != OpCreate || c.req.Fork != nil || s.manager.log.maker == nil {
		return nil
	}
	s.mu.Lock()
	joins := s.mayCarryCreate()
	s.mu.Unlock()
	if !joins {
		return nil
	}
	b, _ := (&composer{now: clockReading{wall: MillisOf(s.manager.cfg.Now())}}).compose(&State{rooted: true}, []*call{c})
	if len(b.entries) == 0 || b.inParts {
		return nil
	}
	return &createAttempt{batch: b}
}

// mayCarryCreate reports whether an opening that reads the log from now on can carry a create request
// along, under mu.
func (s *Stream) mayCarryCreate() bool {
	return !s.opened && !s.stopped && !s.writing && s.foldErr == nil && !s.manager.log.isDown() &&
		(s.opening == nil || !s.opening.begun && s.opening.create == nil)
}

// submitWithOpening has the opening of a stream carry a create request out; over: out and err are what
// came of it. If it is not over the request was not written, except where t says that this is unknown,
// and the stream is open.
func (s *Stream) submitWithOpening(ctx context.Context, c *call, t *createAttempt) (over bool, out Outcome, err error) {
	s.mu.Lock()
	if !s.mayCarryCreate() {
		s.mu.Unlock()
		return false, Outcome{}, nil
	}
	s.lastUsed = s.manager.cfg.Now()
	ctx, span := tracing.Start(ctx, "open", tracing.Internal)
	a, err := s.joinOpening(isPatient(ctx), span)
	if err != nil {
		s.mu.Unlock()
		endOpenSpan(span, nil, err)
		return true, Outcome{}, err
	}
	a.create = t
	s.mu.Unlock()
	err = s.awaitOpening(ctx, a)
	endOpenSpan(span, a, err)
	select {
	case <-a.done:
	default: // ctx has ended: t is the opening's
		return true, Outcome{}, err
	}
	switch {
	case t.written:
		c.verdict = t.batch.verdicts[0]
		out, err = s.manager.finishCall(c)
		return true, out, err
	case err != nil && t.unknown:
		return true, Outcome{}, errors.Join(ErrOutcomeUnknown, err)
	}
	c.read = true
	return err != nil, Outcome{}, err
}

// sendCreate sends a create request to an empty log, once, and reports whether it was written.
func (s *Stream) sendCreate(ctx context.Context, t *createAttempt) bool {
	if t.batch.calls[0].ctx.Err() != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	log := s.manager.log
	if !log.maker.CreatesByAppend(s.id) {
		made, err := log.CreateNew(ctx, s.id)
		t.made, t.exists = made, err == nil
		return false
	}
	_, span := tracing.Start(ctx, "s2.append", tracing.Client)
	ack, err := log.Append(ctx, s.id, 0, t.batch.entries)
	endStorageSpan(span, len(t.batch.entries), err)
	t.ack, t.written, t.unknown = ack, err == nil, err != nil && !isCertain(err)
	if errors.Is(err, ErrNoLog) {
		s.noteLogMissing()
	}
	return t.written
}

// openCreated opens a stream whose create request was written to an empty log: there is nothing else in
// the log.
func (s *Stream) openCreated(t *createAttempt, sent time.Time) error {
	fold := s.beginFold(0, false)
	if err := s.foldFromLog(fold, t.batch.recordsAt(t.ack)); err != nil {
		return err
	}
	s.manager.pipelines.onCall.Add(1)
	s.noteLogMade()
	s.noteAckTime(t.ack, sent)
	s.finishTakeOver(fold, sent, 0)
	return nil
}

// makesLog reports whether the append of b makes the log.
func (s *Stream) makesLog(b *appendBatch) bool {
	if s.manager.log.maker == nil || b.pos != 0 || !b.hasCreate() {
		return false
	}
	s.mu.Lock()
	refused := s.needsCreate
	s.mu.Unlock()
	return !refused && s.manager.log.maker.CreatesByAppend(s.id)
}

// noteLogMissing notes that an append did not make the log.
func (s *Stream) noteLogMissing() {
	s.mu.Lock()
	s.needsCreate = true
	s.mu.Unlock()
}

// noteLogConfigured notes that the log is there, with the configuration that a stream needs.
func (s *Stream) noteLogConfigured() {
	s.mu.Lock()
	s.noLog, s.needsCreate, s.logConfigured, s.timestamps = false, false, true, timestampsCapped
	s.mu.Unlock()
}

// noteLogMade notes that an append has made the log, and has its configuration checked: it is the one
// that the place gives by default, which was right when CreatesByAppend said so.
func (s *Stream) noteLogMade() {
	s.mu.Lock()
	s.noLog, s.needsCreate, s.timestamps = false, false, timestampsCapped
	s.mu.Unlock()
	s.manager.spawn(s.ensureConfig)
}

const (
	// maxConfigChecks bounds the configurations that are checked together, and maxConfigTries how often
	// one is tried.
	maxConfigChecks = 16
	maxConfigTries  = 8
)

// configChecks bounds the checks of logs' configurations, and what is said of them.
type configChecks struct {
	slots    chan struct{}
	warnings rate.Sometimes
}

func newConfigChecks() *configChecks {
	return &configChecks{slots: make(chan struct{}, maxConfigChecks), warnings: rate.Sometimes{First: 10, Interval: 10 * time.Second}}
}

// ensureConfig gives the log the configuration that a stream needs.
func (s *Stream) ensureConfig(ctx context.Context) {
	checks, log := s.manager.configChecks, s.manager.cfg.Logger
	for try := range maxConfigTries {
		select {
		case checks.slots <- struct{}{}:
		case <-ctx.Done():
			return
		}
		changed, err := s.ensureConfigOnce(ctx)
		<-checks.slots
		switch {
		case errors.Is(err, ErrNoLog): // it was deleted meanwhile
			return
		case err == nil && changed:
			checks.warnings.Do(func() {
				log.Warn("a stream that was made by an append had another configuration in S2 than a stream needs, and has got that now: what does its basin give by default?", "stream", s.id)
			})
			return
		case err == nil:
			return
		case errors.Is(err, ErrLogDenied), try == maxConfigTries-1:
			checks.warnings.Do(func() {
				log.Warn("the configuration of a new stream in S2 cannot be checked; it is the one that its basin gives by default", "stream", s.id, "err", err)
			})
			return
		}
		PauseWithJitter(ctx, try, time.Second, 30*time.Second)
	}
}

func (s *Stream) ensureConfigOnce(ctx context.Context) (changed bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, appendTimeout)
	defer cancel()
	return s.manager.log.EnsureConfig(ctx, s.id)
}
