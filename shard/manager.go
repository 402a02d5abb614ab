package shard

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/time/rate"

	"github.com/fantail-dev/fantail/shard/tail"
)

// Manager runs the streams that this node owns. Its fields are set at construction, except those
// below mu, which mu guards, and those that say otherwise.
type Manager struct {
	log              *breaker
	tails            *tail.Buffers
	cfg              Config
	owners           StreamOwners // reaches other streams; the Manager itself unless UseOwners, before the first request, sets another
	callPool         sync.Pool    // of answered *call
	pages            *pages
	coldOpens        *turnLimiter  // opens that read storage
	sessions         *turnLimiter  // read sessions
	handoverSessions *turnLimiter  // read sessions of streams that were handed over
	forkAskLimiter   *rate.Limiter // questions to forks
	clocks           *storageClocks
	expiryReports    expiryReports
	lossReports      lossReports
	pipelines        pipelines
	creationWaits    *creationWaits
	configChecks     *configChecks // of logs that an append has made
	metrics          *metrics

	sources         *sourceReader                   // reads the logs of forks' sources
	listing         listing                         // bounds what listings read of storage
	standingWatcher atomic.Pointer[standingWatcher] // nil: WatchStanding has not been called

	guard       *tailGuard
	rivalsSince atomic.Int64 // ns since 1970: the last time that an owner was lost; 0: never

	ctx  context.Context // ends when Close has waited for the batches in flight
	stop context.CancelFunc
	wg   sync.WaitGroup // every goroutine of the Manager and its Streams

	mu      sync.Mutex
	streams streamTable
	stopped bool
}

// NewManager returns a Manager on log. It keeps its streams' tail.Buffers in tails.
func NewManager(log Log, tails *tail.Buffers, cfg Config) *Manager {
	cfg.defaults()
	h := &Manager{log: &breaker{Log: log, now: cfg.Now}, tails: tails, cfg: cfg}
	h.log.maker, _ = log.(LogMaker)
	h.configChecks = newConfigChecks()
	h.streams = streamTable{byteBudget: cfg.StateBytes, maxStreams: int64(cfg.maxStreams), byID: map[StreamID]*Stream{}}
	h.owners = h
	h.pages = newPages(h.log, cfg.PageBytes, NewPanicHandler(cfg.Logger, cfg.Metrics))
	h.ctx, h.stop = context.WithCancel(context.Background())
	h.coldOpens = newTurnLimiter(h.spawn, cfg.ColdOpens, int(2*cfg.ColdOpens), errColdOpens)
	h.sessions = newTurnLimiter(h.spawn, sessionsPerSecond, sessionBurst, ErrOverloaded)
	h.handoverSessions = newTurnLimiter(h.spawn, handoverSessionsPerSecond, handoverSessionBurst, ErrOverloaded)
	h.sessions.slots, h.handoverSessions.slots = make(chan struct{}, openingSessions), make(chan struct{}, openingSessions)
	if h.guard = newTailGuard(h); cfg.Mode != ModeSession {
		h.runEvery(time.Second, h.guard.tick)
	}
	h.lossReports.logLimit = rate.Sometimes{First: 10, Interval: 10 * time.Second}
	h.clocks = newStorageClocks(h.log, &h.cfg, h.spawn)
	h.forkAskLimiter = rate.NewLimiter(forkAsksPerSecond, forkAskBurst)
	h.sources = newSourceReader(h.log, cfg.Now)
	h.listing = newListing()
	h.pipelines.init(log, &h.cfg)
	h.creationWaits = newCreationWaits(h)
	h.metrics = newMetrics(cfg.Metrics, h)
	h.runEvery(sweepEvery, h.sweep)
	h.runEvery(probeEvery, h.probeStorage)
	return h
}

// probeStorage asks storage for a sign of life where no other call does.
func (m *Manager) probeStorage(ctx context.Context) {
	m.log.probeIfDue(ctx, func() bool { return m.tails.CountFollowed() > 0 })
}

// StoreDown reports whether storage has answered nothing for downAfter or longer. Calls that need
// storage then fail immediately, with ErrStoreDown.
func (m *Manager) StoreDown() bool { return m.log.isDown() }

// StorageAnswered returns when storage last answered a call of this node, and since when a call
// has waited without any answer. Zero: it never has; none waits. Both are times of Config.Now.
func (m *Manager) StorageAnswered() (last, silentSince time.Time) { return m.log.answered() }

// spawn starts a goroutine that Close waits for; false: the Manager is closed.
func (m *Manager) spawn(fn func(context.Context)) bool {
	if m.ctx.Err() != nil {
		return false
	}
	m.wg.Go(func() { fn(m.ctx) })
	return true
}

// runEvery calls do every d, never concurrently, until Close.
func (m *Manager) runEvery(d time.Duration, do func(context.Context)) {
	m.spawn(func(ctx context.Context) {
		tick := time.NewTicker(d)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
				do(ctx)
			}
		}
	})
}

// isLone reports whether this node has no other nodes beside it.
func (m *Manager) isLone() bool { return m.owners == StreamOwners(m) }

// acquireStream finds the Stream, or makes it. The caller gives it back with releaseStream.
func (m *Manager) acquireStream(ctx context.Context, id StreamID) (*Stream, error) {
	m.mu.Lock()
	if m.stopped {
		m.mu.Unlock()
		return nil, ErrStopped
	}
	s := m.streams.byID[id]
	var evicted []*Stream
	if s == nil {
		var ok bool
		if evicted, ok = m.admitName(isPatient(ctx)); ok {
			s = m.newStream(id)
			m.streams.addStream(s)
		}
	}
	if s != nil {
		s.users++
		s.listEntry.unlink()
	}
	m.mu.Unlock()
	for _, old := range evicted {
		old.halt()
	}
	if s == nil {
		return nil, ErrOverloaded
	}
	return s, nil
}

// admitName makes room for one more name, under mu; ok: there is room. The caller halts the evicted
// Streams. A follower is not refused for the names that others invent: a node has only so many
// followers.
func (m *Manager) admitName(patient bool) (evicted []*Stream, ok bool) {
	now := m.cfg.Now()
	evicted, ok = m.streams.makeRoomForName(now)
	if patient && !ok {
		ok = m.streams.absentCount.Load() < m.streams.maxStreams
	}
	if ok && m.streams.isOverBudget() {
		evicted = append(evicted, m.streams.evictOverBudget(now)...)
		ok = !m.streams.isOverBudget()
	}
	return evicted, ok
}

// newStream returns a Stream that is not in the table.
func (m *Manager) newStream(id StreamID) *Stream {
	s := &Stream{id: id, manager: m, lastUsed: m.cfg.Now()}
	s.listEntry.stream = s
	s.writingEnded = sync.NewCond(&s.mu)
	return s
}

// addInstalled adds a Stream that came whole, by a handover, unless there is one already.
func (m *Manager) addInstalled(s *Stream) error {
	m.mu.Lock()
	var evicted []*Stream
	err := error(nil)
	switch {
	case m.stopped:
		err = ErrStopped
	case m.streams.byID[s.id] != nil:
		err = ErrOverloaded
	default:
		if evicted = m.streams.evictOverBudget(m.cfg.Now()); m.streams.isOverBudget() {
			err = ErrOverloaded
			break
		}
		m.streams.addStream(s)
		m.streams.markIdle(s)
	}
	m.mu.Unlock()
	for _, old := range evicted {
		old.halt()
	}
	return err
}

// HasStream reports whether the stream is in memory.
func (m *Manager) HasStream(id StreamID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.streams.byID[id] != nil
}

// releaseStream gives back a Stream of acquireStream.
func (m *Manager) releaseStream(s *Stream) {
	m.mu.Lock()
	if s.users--; s.users == 0 {
		m.streams.markIdle(s)
	}
	m.mu.Unlock()
}

// Do carries a write out and returns the verdict. Errors: ErrContended, ErrOverloaded,
// ErrStoreDown, ErrNotOwner, ErrStopped, ErrNeedsLaterRelease, ErrLogDenied (all: certainly not
// written) and ErrOutcomeUnknown. If ctx ends before the verdict is there, Do returns its cause,
// and the outcome is unknown.
func (m *Manager) Do(ctx context.Context, req *Request) (Outcome, error) {
	if m.streams.isFull() && req.mayGrowState() {
		if m.evictIdle(); m.streams.isFull() {
			return Outcome{}, ErrOverloaded
		}
	}
	s, err := m.acquireStream(ctx, req.Stream)
	if err != nil {
		return Outcome{}, err
	}
	defer m.releaseStream(s)
	var out Outcome
	if req.Op == OpCreate && req.Fork != nil {
		out, err = s.createFork(ctx, req)
	} else {
		out, err = s.submit(ctx, m.newCall(req))
	}
	if req.Op == OpHold && out.Code == CodeForkLimit {
		s.noteForkLimit()
	}
	m.metrics.countOutcome(out, err)
	return out, err
}

// Info describes a stream. A stream that does not exist has Info.Exists false. Errors: Do's.
func (m *Manager) Info(ctx context.Context, id StreamID, ask InfoOptions) (Info, error) {
	if ask&InfoWillFollow != 0 {
		ctx = withPatience(ctx)
	}
	s, err := m.acquireStream(ctx, id)
	if err != nil {
		return Info{}, err
	}
	defer m.releaseStream(s)
	return s.describe(ctx, ask)
}

// Follow returns the stream's tail.Buffer, and keeps it fed until release is called (once). from is
// where the caller will read from; it is only a hint. Errors: ErrNotFound, ErrGone, and Do's.
func (m *Manager) Follow(ctx context.Context, id StreamID, _ Pos) (*tail.Buffer, func(), error) {
	ctx = withPatience(ctx)
	s, err := m.acquireStream(ctx, id)
	if err != nil {
		return nil, nil, err
	}
	info, err := s.describe(ctx, InfoAllowCached|InfoTouch)
	if err == nil && !info.Exists {
		// Memory may be behind, and a refusal has to rest on the log.
		info, err = s.describe(ctx, InfoTouch)
	}
	if err == nil {
		err = info.Absent()
	}
	if err == nil {
		if t := m.tails.Lookup(id); t != nil {
			s.addFollower()
			return t, func() { s.removeFollower(t) }, nil
		}
		err = s.missingTailErr()
	}
	m.releaseStream(s)
	return nil, nil, err
}

// missingTailErr returns the reason for which a stream that existed a moment ago has no tail.Buffer:
// this node has released it, or it was deleted.
func (s *Stream) missingTailErr() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.stopped {
		return ErrNotOwner
	}
	return ErrNotFound
}

// ReadPage reads history: a RecordBatch that holds position from, and no message at or above
// info.Tail, of the generation that info describes. from lies below info.Tail. The RecordBatch may
// hold no message at all. Callers that ask for the same page share its memory.
//
// *TrimmedError: from is no longer kept. Other errors: Do's.
func (m *Manager) ReadPage(ctx context.Context, id StreamID, info Info, from Pos) (tail.RecordBatch, error) {
	return m.ReadPageVia(ctx, id, info, from, nil)
}

// ReadPageVia does what ReadPage does, for a node that knows a peer that may have the page in
// memory. ask, unless nil, is asked before storage is, once for all callers that want the page now,
// and its page is cached like any page. Its ErrTrimmed and ErrNotFound are final. After another
// error, or a RecordBatch without from, storage is read.
func (m *Manager) ReadPageVia(
	ctx context.Context, id StreamID, info Info, from Pos, ask func(context.Context) (tail.RecordBatch, error),
) (tail.RecordBatch, error) {
	if from >= info.Tail {
		return tail.RecordBatch{}, errNoPage
	}
	if rs := m.tails.ReadAt(id, info.Generation, from, MaxBatchBytes); len(rs) > 0 {
		return m.pages.joinedPage(id, info, rs).ClipTo(info.Tail), nil
	}
	r, err := m.pages.readPage(ctx, id, info, from, ask)
	if err != nil {
		m.reportMissingPage(id, info, from, err)
	}
	return r, err
}

// OwnedStreams lists the streams in memory.
func (m *Manager) OwnedStreams() []StreamID {
	m.mu.Lock()
	defer m.mu.Unlock()
	ids := make([]StreamID, 0, len(m.streams.byID))
	for id := range m.streams.byID {
		ids = append(ids, id)
	}
	return ids
}

// HotStreams lists the streams in memory that have followers or were used within d, most followed
// first.
func (m *Manager) HotStreams(d time.Duration) []StreamID {
	now := m.cfg.Now()
	m.mu.Lock()
	all := make([]*Stream, 0, len(m.streams.byID))
	for _, s := range m.streams.byID {
		all = append(all, s)
	}
	m.mu.Unlock()
	followers := make(map[StreamID]int, len(all))
	ids := make([]StreamID, 0, len(all))
	for _, s := range all {
		s.mu.Lock()
		n, used := s.followers, s.lastUsed
		s.mu.Unlock()
		if n > 0 || now.Sub(used) < d {
			followers[s.id] = n
			ids = append(ids, s.id)
		}
	}
	slices.SortFunc(ids, func(a, b StreamID) int {
		return cmp.Or(cmp.Compare(followers[b], followers[a]), cmp.Compare(a, b))
	})
	return ids
}

// EndSession ends the read session of a stream without followers here; otherwise the session would
// live to the end of its minute. The Stream stays in memory.
func (m *Manager) EndSession(id StreamID) {
	m.mu.Lock()
	s := m.streams.byID[id]
	m.mu.Unlock()
	if s == nil {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.followers == 0 {
		s.closeSession()
	}
}

// DropUnused releases a stream, unless a caller waits for an answer about it, or follows it: it waits
// for the batch in flight and ends the session. The tail.Buffer stays, unfed, for the readers that
// hold it. It reports whether the stream is gone from memory.
func (m *Manager) DropUnused(id StreamID) bool {
	m.mu.Lock()
	s := m.streams.byID[id]
	if s != nil && s.users > 0 {
		m.mu.Unlock()
		return false
	}
	if s != nil {
		m.streams.removeStream(s)
	}
	m.mu.Unlock()
	if s != nil {
		s.halt()
	}
	return true
}

// Close releases every stream, waits for the batches in flight, and then for every goroutine.
func (m *Manager) Close() error {
	m.mu.Lock()
	m.stopped = true
	streams := m.streams.byID
	m.streams.byID = map[StreamID]*Stream{}
	m.streams.idle, m.streams.absent = streamList{}, streamList{}
	m.mu.Unlock()
	for _, s := range streams {
		s.halt()
	}
	m.stop()
	m.wg.Wait()
	m.expiryReports.logDue(m.cfg.Logger, m.cfg.Now(), true)
	return nil
}

// TrimmedError reports that a position is no longer kept; First is. It is ErrTrimmed.
type TrimmedError struct{ First Pos }

func (e *TrimmedError) Error() string { return ErrTrimmed.Error() }

// Unwrap makes it ErrTrimmed.
func (e *TrimmedError) Unwrap() error { return ErrTrimmed }
