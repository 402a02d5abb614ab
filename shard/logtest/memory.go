package logtest

import (
	"context"
	"errors"
	"math/rand/v2"
	"sort"
	"sync"
	"sync/atomic"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// Memory is a shard.Log in memory, with faults, for tests that must not use sockets, and for
// measurements without storage. Any number of owners may share one.
type Memory struct {
	// Now returns the time for the records' timestamps; nil: time.Now.
	Now func() time.Time
	// Latency is the time that an append takes.
	Latency time.Duration
	// AsksOrder: whether append sessions keep their promise is to be tried.
	AsksOrder bool
	// GoesOn: append sessions go on after a refusal, which breaks the promise of shard.AppendSession.
	GoesOn bool
	// Basin is the basin of the fleet's record; empty: there is none, and nothing is probed.
	Basin string
	// AppendsCreate has every append, a refused one too, make the log that it names, as S2 does where a
	// basin's configuration says so. Such a log has not the configuration that a stream needs.
	AppendsCreate bool

	sessions atomic.Int64

	mu        sync.Mutex
	logs      map[shard.StreamID]*memoryLog
	ops       Ops
	rnd       *rand.Rand
	faultOdds FaultOdds
}

// FaultOdds holds the probabilities of faults, each in [0, 1].
type FaultOdds struct {
	LoseRequest float64 // not written, and the outcome is unknown
	LoseAck     float64 // written, and the outcome is unknown
	LateAck     float64 // the outcome is unknown, and it is written after LateBy
	LateBy      time.Duration
}

// Ops counts calls, and how often each fault occurred.
type Ops struct {
	Creates, Appends, Reads, Replays, Tails, Follows, Lists int
	AppendSessions, ConfigChecks                            int
	TimeReads                                               int // of Reads
	LostRequests, LostAcks, LateAcks                        int
}

type memoryLog struct {
	ensured bool // it has the configuration that a stream needs
	first   shard.Pos
	recs    []shard.Record
	time    shard.Millis
	changed chan struct{} // closed and replaced by each append
}

// NewMemory returns an empty Memory without faults. seed makes later faults repeatable.
func NewMemory(seed uint64) *Memory {
	return &Memory{
		logs: map[shard.StreamID]*memoryLog{}, rnd: rand.New(rand.NewPCG(seed, 1)),
	}
}

// SetFaultOdds replaces the probabilities of faults.
func (m *Memory) SetFaultOdds(o FaultOdds) {
	m.mu.Lock()
	m.faultOdds = o
	m.mu.Unlock()
}

// Ops returns the counts so far.
func (m *Memory) Ops() Ops {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ops
}

// Wipe deletes every log, as the restart of an in-memory store does.
func (m *Memory) Wipe() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, l := range m.logs {
		close(l.changed)
	}
	m.logs = map[shard.StreamID]*memoryLog{}
}

// Create implements shard.Log.
func (m *Memory) Create(_ context.Context, id shard.StreamID) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Creates++
	m.makeLog(id).ensured = true
	return nil
}

// makeLog returns a log, which it makes if it is not there, under mu.
func (m *Memory) makeLog(id shard.StreamID) *memoryLog {
	if m.logs[id] == nil {
		m.logs[id] = &memoryLog{changed: make(chan struct{})}
	}
	return m.logs[id]
}

// CreatesByAppend implements shard.LogMaker.
func (m *Memory) CreatesByAppend(shard.StreamID) bool { return m.AppendsCreate }

// CreateNew implements shard.LogMaker.
func (m *Memory) CreateNew(_ context.Context, id shard.StreamID) (made bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Creates++
	if m.logs[id] != nil {
		return false, nil
	}
	m.makeLog(id).ensured = true
	return true, nil
}

// EnsureConfig implements shard.LogMaker.
func (m *Memory) EnsureConfig(_ context.Context, id shard.StreamID) (changed bool, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.ConfigChecks++
	l := m.logs[id]
	if l == nil {
		return false, shard.ErrNoLog
	}
	changed, l.ensured = !l.ensured, true
	return changed, nil
}

// HasConfig reports whether a log has the configuration that a stream needs.
func (m *Memory) HasConfig(id shard.StreamID) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.logs[id] != nil && m.logs[id].ensured
}

func (l *memoryLog) tail() shard.Pos { return l.first + shard.Pos(len(l.recs)) }

var errLost = errors.New("connection lost")

// Append implements shard.Log.
func (m *Memory) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	if m.Latency > 0 {
		select {
		case <-time.After(m.Latency):
		case <-ctx.Done():
			return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, ctx.Err())
		}
	}
	return m.attempt(id, at, batch, false)
}

// attempt carries out an append that has arrived, with its faults.
func (m *Memory) attempt(id shard.StreamID, at shard.Pos, batch []shard.Entry, onSession bool) (shard.Ack, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Appends++
	p := m.rnd.Float64()
	switch {
	case p < m.faultOdds.LoseRequest:
		m.ops.LostRequests++
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLost)
	case p < m.faultOdds.LoseRequest+m.faultOdds.LateAck:
		m.ops.LateAcks++
		if onSession {
			return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLate)
		}
		time.AfterFunc(m.faultOdds.LateBy, func() {
			m.mu.Lock()
			defer m.mu.Unlock()
			_, _ = m.writeLocked(id, at, batch)
		})
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errLost)
	}
	ack, err := m.writeLocked(id, at, batch)
	if err == nil && p > 1-m.faultOdds.LoseAck {
		m.ops.LostAcks++
		return shard.Ack{}, errors.Join(shard.ErrAppendUnknown, errAckLost)
	}
	return ack, err
}

func (m *Memory) now() shard.Millis {
	if m.Now != nil {
		return shard.MillisOf(m.Now())
	}
	return shard.MillisOf(time.Now())
}

func (m *Memory) writeLocked(id shard.StreamID, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	l := m.logs[id]
	if l == nil && m.AppendsCreate {
		l = m.makeLog(id)
	}
	if l == nil {
		return shard.Ack{}, shard.ErrNoLog
	}
	if at != l.tail() {
		return shard.Ack{}, &shard.TailError{Tail: l.tail()}
	}
	if err := checkBatch(batch); err != nil {
		return shard.Ack{}, err
	}
	return l.append(m.now(), batch), nil
}

func checkBatch(batch []shard.Entry) error {
	size := 0
	for _, e := range batch {
		size += e.MeteredSize()
	}
	if len(batch) == 0 || len(batch) > shard.MaxBatchRecords || size > shard.MaxBatchBytes {
		return errors.Join(shard.ErrLogDenied, errors.New("batch over the limits"))
	}
	return nil
}

// AppendForeign appends records that are not Fantail's, as a program that uses S2 directly would.
func (m *Memory) AppendForeign(id shard.StreamID, bodies ...string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	l := m.makeLog(id)
	for _, b := range bodies {
		l.append(m.now(), []shard.Entry{{Body: []byte(b)}})
	}
}

// DropBelow deletes the records below a position, as a retention age does.
func (m *Memory) DropBelow(id shard.StreamID, below shard.Pos) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.logs[id]; l != nil && below > l.first {
		below = min(below, l.tail())
		l.recs = append([]shard.Record(nil), l.recs[below-l.first:]...)
		l.first = below
	}
}

// RollBack deletes the records from a position on, as a restored backup does.
func (m *Memory) RollBack(id shard.StreamID, from shard.Pos) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.logs[id]; l != nil && from >= l.first && from < l.tail() {
		l.recs = l.recs[:from-l.first]
		close(l.changed)
		l.changed = make(chan struct{})
	}
}

func (l *memoryLog) append(now shard.Millis, batch []shard.Entry) shard.Ack {
	l.time = max(l.time, now)
	start := l.tail()
	for _, e := range batch {
		l.recs = append(l.recs, shard.Record{
			Pos: l.tail(), Time: l.time, Header: e.Header, Body: e.Body,
			Command: e.Trim, TrimTo: e.TrimTo, Size: e.MeteredSize(),
		})
	}
	for _, e := range batch {
		if to := min(e.TrimTo, l.tail()); e.Trim && to > l.first {
			l.recs = append([]shard.Record(nil), l.recs[to-l.first:]...)
			l.first = to
		}
	}
	close(l.changed)
	l.changed = make(chan struct{})
	return shard.Ack{Start: start, End: l.tail(), StartTime: l.time, EndTime: l.time}
}

// page returns a copy of the records from a position on, within S2's limits of a page.
func (l *memoryLog) page(from shard.Pos, limit int) shard.Page {
	p := shard.Page{Tail: l.tail(), HasTail: true}
	size := 0
	for _, r := range l.recs[max(from, l.first)-l.first:] {
		if size += r.Size; len(p.Records) == limit || size > shard.MaxBatchBytes && size > r.Size {
			break
		}
		p.Records = append(p.Records, r)
	}
	return p
}

func (m *Memory) logAt(id shard.StreamID, from shard.Pos) (*memoryLog, error) {
	l := m.logs[id]
	if l == nil {
		return nil, shard.ErrNoLog
	}
	if from > l.tail() {
		return nil, &shard.TailError{Tail: l.tail()}
	}
	return l, nil
}

// Read implements shard.Log.
func (m *Memory) Read(
	_ context.Context, id shard.StreamID, from shard.Pos, limit int,
) (shard.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Reads++
	if limit <= 0 || limit > shard.MaxBatchRecords {
		limit = shard.MaxBatchRecords
	}
	l, err := m.logAt(id, from)
	if err != nil {
		return shard.Page{}, err
	}
	return l.page(from, limit), nil
}

// Last implements shard.Log.
func (m *Memory) Last(_ context.Context, id shard.StreamID, n, maxBytes int) (shard.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Reads++
	l := m.logs[id]
	if l == nil {
		return shard.Page{}, shard.ErrNoLog
	}
	p := l.page(l.tail()-shard.Pos(min(uint64(n), uint64(len(l.recs)))), n)
	if maxBytes == 0 {
		return p, nil
	}
	p.HasTail = false // as S2's unary reads
	for i, r := range p.Records {
		if maxBytes -= r.Size; maxBytes < 0 {
			p.Records = p.Records[:i]
			break
		}
	}
	return p, nil
}

// FirstSince implements shard.Log.
func (m *Memory) FirstSince(_ context.Context, id shard.StreamID, since shard.Millis) (shard.Page, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Reads++
	m.ops.TimeReads++
	l := m.logs[id]
	if l == nil {
		return shard.Page{}, shard.ErrNoLog
	}
	n := sort.Search(len(l.recs), func(i int) bool { return l.recs[i].Time >= since })
	return l.page(l.first+shard.Pos(n), 1), nil
}

// Replay implements shard.Log.
func (m *Memory) Replay(
	ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error,
) error {
	m.mu.Lock()
	m.ops.Replays++
	m.mu.Unlock()
	m.sessions.Add(1)
	defer m.sessions.Add(-1)
	for from < to && ctx.Err() == nil {
		m.mu.Lock()
		l, err := m.logAt(id, from)
		var p shard.Page
		if err == nil {
			p = l.page(from, int(min(to-from, shard.MaxBatchRecords)))
		}
		m.mu.Unlock()
		for n := len(p.Records); n > 0 && p.Records[n-1].Pos >= to; n-- {
			p.Records = p.Records[:n-1]
		}
		if err != nil || len(p.Records) == 0 {
			return err
		}
		if err := fn(p); err != nil {
			return err
		}
		from = p.Records[len(p.Records)-1].Pos + 1
	}
	return ctx.Err()
}

// Tail implements shard.Log.
func (m *Memory) Tail(_ context.Context, id shard.StreamID) (shard.Pos, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.ops.Tails++
	l, err := m.logAt(id, 0)
	if err != nil {
		return 0, err
	}
	return l.tail(), nil
}

// Follow implements shard.Log.
func (m *Memory) Follow(
	ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error,
) error {
	m.mu.Lock()
	m.ops.Follows++
	m.mu.Unlock()
	m.sessions.Add(1)
	defer m.sessions.Add(-1)
	for {
		m.mu.Lock()
		l, err := m.logAt(id, from)
		if err != nil {
			m.mu.Unlock()
			return err
		}
		p, news := l.page(from, shard.MaxBatchRecords), l.changed
		m.mu.Unlock()
		if err := fn(p); err != nil {
			return err
		}
		if n := len(p.Records); n > 0 {
			from = p.Records[n-1].Pos + 1
			continue
		}
		select {
		case <-news:
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// OpenSessions implements shard.Log.
func (m *Memory) OpenSessions() int { return int(m.sessions.Load()) }

// Records returns a copy of the log's records.
func (m *Memory) Records(id shard.StreamID) []shard.Record {
	m.mu.Lock()
	defer m.mu.Unlock()
	if l := m.logs[id]; l != nil {
		return append([]shard.Record(nil), l.recs...)
	}
	return nil
}
