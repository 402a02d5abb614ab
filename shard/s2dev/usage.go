package s2dev

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// Op is an operation of S2, as it is counted, priced and failed.
type Op string

// The operations. A session counts once when it opens, and its minutes beside that.
const (
	OpAppend        Op = "append"
	OpAppendSession Op = "append-session"
	OpRead          Op = "read"
	OpReadSession   Op = "read-session"
	OpCheckTail     Op = "check-tail"
	OpCreateStream  Op = "create-stream"
	OpEnsureStream  Op = "ensure-stream"
	OpDeleteStream  Op = "delete-stream"
	OpStreamConfig  Op = "stream-config"
	OpListStreams   Op = "list-streams"
	OpBasin         Op = "basin"
)

// Prices are in US dollars for one operation, or for one minute of a session.
type Prices struct {
	Append              float64
	AppendSessionMinute float64
	Read                float64
	ReadSessionMinute   float64
	CheckTail           float64
	CreateStream        float64
}

// DefaultPrices is managed S2's table as of 2026; prices move.
var DefaultPrices = Prices{
	Append: 1e-7, AppendSessionMinute: 1e-7, Read: 1e-6, ReadSessionMinute: 1e-6,
	CheckTail: 1e-7, CreateStream: 1e-5,
}

// StreamUsage is what one stream, or all together, asked of the server since it was opened.
type StreamUsage struct {
	Ops                  map[Op]int64 // calls that reached the operation, refused ones included
	RecordsAppended      int64
	RecordsRead          int64
	OpenReadSessions     int64
	OpenAppendSessions   int64
	ReadSessionMinutes   int64 // rounded up per session; open ones count up to now
	AppendSessionMinutes int64
	Cost                 float64 // US dollars by Config.Prices, without storage and transfer
}

// Usage is a snapshot. Streams is keyed by "basin/stream"; listings are under "basin/", calls about
// basins under "".
type Usage struct {
	Total   StreamUsage
	Streams map[string]StreamUsage
}

// meter counts. Its memory is one small entry per stream name ever used.
type meter struct {
	now     func() time.Time
	prices  Prices
	mu      sync.Mutex
	streams map[meterKey]*tally
}

// meterKey is whose usage it is; the stream is empty for listings, both are for calls about basins.
type meterKey struct{ basin, stream string }

func (k meterKey) String() string {
	if k == (meterKey{}) {
		return ""
	}
	return k.basin + "/" + k.stream
}

type tally struct {
	used StreamUsage
	open map[*session]struct{}
}

// session is an open read or append session.
type session struct {
	op    Op
	since time.Time
}

func newMeter(now func() time.Time, prices Prices) *meter {
	return &meter{now: now, prices: prices, streams: map[meterKey]*tally{}}
}

func streamKey(basin, stream string) meterKey { return meterKey{basin, stream} }

func (m *meter) with(key meterKey, f func(*tally)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	t := m.streams[key]
	if t == nil {
		t = &tally{open: map[*session]struct{}{}, used: StreamUsage{Ops: map[Op]int64{}}}
		m.streams[key] = t
	}
	f(t)
}

func (m *meter) op(key meterKey, op Op) { m.with(key, func(t *tally) { t.used.Ops[op]++ }) }

func (m *meter) appended(key meterKey, n int) {
	m.with(key, func(t *tally) { t.used.RecordsAppended += int64(n) })
}

func (m *meter) read(key meterKey, n int) {
	m.with(key, func(t *tally) { t.used.RecordsRead += int64(n) })
}

// begin opens a session and returns its end.
func (m *meter) begin(key meterKey, op Op) (end func()) {
	s := &session{op: op, since: m.now()}
	m.with(key, func(t *tally) { t.open[s] = struct{}{} })
	return func() {
		m.with(key, func(t *tally) {
			delete(t.open, s)
			t.used.addMinutes(op, m.now().Sub(s.since))
		})
	}
}

func (u *StreamUsage) addMinutes(op Op, d time.Duration) {
	n := max(1, int64((d+time.Minute-1)/time.Minute))
	if op == OpReadSession {
		u.ReadSessionMinutes += n
	} else {
		u.AppendSessionMinutes += n
	}
}

// price counts an ensure as a creation, and leaves out S2's waiver for appends that follow one
// another within a minute: it is an upper bound.
func (u *StreamUsage) price(p Prices) {
	u.Cost = p.Append*float64(u.Ops[OpAppend]) +
		p.AppendSessionMinute*float64(u.AppendSessionMinutes) +
		p.Read*float64(u.Ops[OpRead]) +
		p.ReadSessionMinute*float64(u.ReadSessionMinutes) +
		p.CheckTail*float64(u.Ops[OpCheckTail]) +
		p.CreateStream*float64(u.Ops[OpCreateStream]+u.Ops[OpEnsureStream])
}

func (u *StreamUsage) add(v StreamUsage) {
	for op, n := range v.Ops {
		u.Ops[op] += n
	}
	u.RecordsAppended += v.RecordsAppended
	u.RecordsRead += v.RecordsRead
	u.OpenReadSessions += v.OpenReadSessions
	u.OpenAppendSessions += v.OpenAppendSessions
	u.ReadSessionMinutes += v.ReadSessionMinutes
	u.AppendSessionMinutes += v.AppendSessionMinutes
}

func (m *meter) snapshot() Usage {
	m.mu.Lock()
	defer m.mu.Unlock()
	all := Usage{Total: StreamUsage{Ops: map[Op]int64{}}, Streams: map[string]StreamUsage{}}
	now := m.now()
	for key, t := range m.streams {
		u := t.used
		u.Ops = maps.Clone(u.Ops)
		for s := range t.open {
			u.addMinutes(s.op, now.Sub(s.since))
			if s.op == OpReadSession {
				u.OpenReadSessions++
			} else {
				u.OpenAppendSessions++
			}
		}
		u.price(m.prices)
		all.Streams[key.String()] = u
		all.Total.add(u)
	}
	all.Total.price(m.prices)
	return all
}

// writeMetrics writes the totals as Prometheus text; a stream's name is never a label.
func (u Usage) writeMetrics(w io.Writer) {
	t := u.Total
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("# TYPE s2dev_operations_total counter")
	for _, op := range slices.Sorted(maps.Keys(t.Ops)) {
		p("s2dev_operations_total{op=%q} %d", op, t.Ops[op])
	}
	p("# TYPE s2dev_records_appended_total counter\ns2dev_records_appended_total %d",
		t.RecordsAppended)
	p("# TYPE s2dev_records_read_total counter\ns2dev_records_read_total %d", t.RecordsRead)
	p("# TYPE s2dev_open_read_sessions gauge\ns2dev_open_read_sessions %d", t.OpenReadSessions)
	p("# TYPE s2dev_open_append_sessions gauge\ns2dev_open_append_sessions %d",
		t.OpenAppendSessions)
	p("# TYPE s2dev_read_session_minutes_total counter\ns2dev_read_session_minutes_total %d",
		t.ReadSessionMinutes)
	p("# TYPE s2dev_append_session_minutes_total counter\ns2dev_append_session_minutes_total %d",
		t.AppendSessionMinutes)
	p("# TYPE s2dev_cost_dollars gauge\ns2dev_cost_dollars %g", t.Cost)
}
