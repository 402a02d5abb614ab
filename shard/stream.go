package shard

import (
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// Stream is one stream at its owner: the fold of its log, its tail.Buffer, the sequencer of its
// appends and its read session. It exists in memory only; everything it knows can be read again
// from the log.
type Stream struct {
	id      StreamID // set at construction, as manager is
	manager *Manager

	users     int          // guarded by manager.mu: callers that hold this Stream
	listEntry listEntry    // guarded by manager.mu: in a list of Streams that no caller holds
	memory    memoryCharge // each field says its guard

	mu sync.Mutex
	// Everything below is guarded by mu. A fold that is not opened yet belongs to the goroutine that
	// opens it (runOpening) as far as State.rooted goes; all else of a State is changed under mu only.
	opening     *sharedCall // the opening that is under way; nil: none
	opened      bool
	foldErr     error // the log cannot be folded (ErrNeedsLaterRelease); final for this Stream
	noLog       bool  // the log does not exist yet
	needsCreate bool  // an append did not make it
	// logConfigured: this process has made the log since it was read, with the configuration that a
	// stream needs.
	logConfigured bool
	state         *State
	assembler     assembler
	absorbedTo    Pos           // the position after the last record that was folded here; 0: none was
	wrongBases    []wrongBase   // folded, and not reported yet
	buffer        *tail.Buffer  // this generation's, with one reference; nil: no generation
	unsavedUse    time.Time     // the last use that may not be durable; zero: none
	graceUntil    Millis        // ms since 1970 by storage's clock: uses up to here may be known to the previous owner only
	cachedClock   *storageClock // of the place where the log is; nil: not looked up yet
	timestamps    timestampMode
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
	pipeline     *pipeline  // sends the batches; nil: one is in flight at a time
	// flights are the batches of a pipeline that are decided and not answered, oldest first. They
	// stay here until what became of them is known. Only the goroutine in the write loop changes them.
	flights       []*appendBatch
	pipelineDepth int       // the most batches in flight; 0: not known yet
	pipelineAfter time.Time // no session is opened before, because one has ended by itself
	// foreignRecords counts the records that were folded and are not Fantail's.
	foreignRecords int

	followers       int
	session         *readSession
	guardSlot       int       // guarded by tailGuard.mu
	foreignAt       time.Time // when a record came that this process did not write; zero: none has
	rivalsUntil     time.Time // the owner before may still write until then
	handedOver      bool      // the stream came by a handover, and has had no session here yet
	tailChecks      int       // tail checks since tailChecksSince
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

	stopped   bool // final: the Stream was halted or evicted
	abandoned bool // it was halted before storage had answered for all batches in flight
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
	s.reviewSession()
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
	if s.pipeline != nil {
		s.pipeline.signal()
	}
	s.mu.Unlock()
	for _, c := range queue {
		c.answer(Outcome{}, ErrNotOwner)
	}
	s.mu.Lock()
	for s.writing {
		s.writingEnded.Wait()
	}
	s.closeSession()
	t := s.buffer
	s.buffer = nil
	s.mu.Unlock()
	if t != nil {
		t.Release()
	}
}
