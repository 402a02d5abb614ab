package s2dev

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// Op names an operation of S2 for counts, prices and faults.
type Op string

// The operations. Of a session the opening alone is one; its minutes are counted separately.
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

// Prices holds US dollars for one operation, or for one minute of a session.
type Prices struct {
	Append              float64
	AppendSessionMinute float64
	Read                float64
	ReadSessionMinute   float64
	CheckTail           float64
	CreateStream        float64
}

// DefaultPrices is the managed S2's price list of 2026. Prices change.
var DefaultPrices = Prices{
	Append: 1e-7, AppendSessionMinute: 1e-7, Read: 1e-6, ReadSessionMinute: 1e-6,
	CheckTail: 1e-7, CreateStream: 1e-5,
}

// StreamUsage counts what one stream, or all together, asked of the server since it was opened.
type StreamUsage struct {
	Ops                  map[Op]int64 // calls that reached the operation, including refused ones
	RecordsAppended      int64
	RecordsRead          int64
	OpenReadSessions     int64
	OpenAppendSessions   int64
	ReadSessionMinutes   int64 // rounded up per session; open sessions count up to now
	AppendSessionMinutes int64
	Cost                 float64 // US dollars by DefaultPrices, without storage and transfer
}

// Usage is a snapshot. Streams has the existing streams by "basin/stream", listings by "basin/",
// and calls about basins by "". Total counts everything, including deleted streams and names that
// never existed.
type Usage struct {
	Total   StreamUsage
	Streams map[string]StreamUsage
}

func (u *StreamUsage) countOp(op Op) {
	if u.Ops == nil {
		u.Ops = map[Op]int64{}
	}
	u.Ops[op]++
}

// meter counts usage, in total and in the StreamUsage it is given; nil: in total only. A
// StreamUsage belongs to its stream or basin. A map by name in the meter would grow with every name
// that clients make up.
type meter struct {
	now        func() time.Time
	basinCalls StreamUsage // of calls about basins

	sessionsMu   sync.Mutex // before mu; separate, so that no append waits while all sessions are counted
	openSessions map[*meteredSession]struct{}

	mu    sync.Mutex // guards total and every StreamUsage; held for a few additions
	total StreamUsage
}

// meteredSession is an open read or append session.
type meteredSession struct {
	op       Op
	openedAt time.Time
	usage    *StreamUsage // of the stream
}

func newMeter(now func() time.Time) *meter {
	return &meter{now: now, openSessions: map[*meteredSession]struct{}{}}
}

func (m *meter) add(t *StreamUsage, f func(*StreamUsage)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.total)
	if t != nil {
		f(t)
	}
}

func (m *meter) countOp(t *StreamUsage, op Op) { m.add(t, func(u *StreamUsage) { u.countOp(op) }) }

func (m *meter) countAppended(t *StreamUsage, n int) {
	m.add(t, func(u *StreamUsage) { u.RecordsAppended += int64(n) })
}

func (m *meter) countRead(t *StreamUsage, n int) {
	m.add(t, func(u *StreamUsage) { u.RecordsRead += int64(n) })
}

// openSession counts a new session and returns the function that ends it.
func (m *meter) openSession(t *StreamUsage, op Op) (end func()) {
	s := &meteredSession{op: op, openedAt: m.now(), usage: t}
	m.sessionsMu.Lock()
	defer m.sessionsMu.Unlock()
	m.openSessions[s] = struct{}{}
	return func() {
		m.sessionsMu.Lock()
		defer m.sessionsMu.Unlock()
		delete(m.openSessions, s)
		d := m.now().Sub(s.openedAt)
		m.add(t, func(u *StreamUsage) { u.addMinutes(op, d) })
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

// setCost counts an ensure as a creation, and ignores that S2 waives the price of appends within a
// minute of each other: the cost is an upper bound.
func (u *StreamUsage) setCost(p Prices) {
	u.Cost = p.Append*float64(u.Ops[OpAppend]) +
		p.AppendSessionMinute*float64(u.AppendSessionMinutes) +
		p.Read*float64(u.Ops[OpRead]) +
		p.ReadSessionMinute*float64(u.ReadSessionMinutes) +
		p.CheckTail*float64(u.Ops[OpCheckTail]) +
		p.CreateStream*float64(u.Ops[OpCreateStream]+u.Ops[OpEnsureStream])
}

// addOpenSession counts a session that is open.
func (u *StreamUsage) addOpenSession(s *meteredSession, now time.Time) {
	u.addMinutes(s.op, now.Sub(s.openedAt))
	if s.op == OpReadSession {
		u.OpenReadSessions++
	} else {
		u.OpenAppendSessions++
	}
}

// read returns a copy of u, with the open sessions added. The caller holds sessionsMu.
func (m *meter) read(u *StreamUsage, open []*meteredSession) StreamUsage {
	m.mu.Lock()
	v := *u
	v.Ops = maps.Clone(u.Ops)
	m.mu.Unlock()
	now := m.now()
	for _, s := range open {
		v.addOpenSession(s, now)
	}
	v.setCost(DefaultPrices)
	return v
}

// readTotal returns the total. It does not take longer with more streams.
func (m *meter) readTotal() StreamUsage {
	m.sessionsMu.Lock()
	defer m.sessionsMu.Unlock()
	return m.read(&m.total, slices.Collect(maps.Keys(m.openSessions)))
}

// snapshot returns the total and each usage.
func (m *meter) snapshot(usages map[string]*StreamUsage) Usage {
	all := Usage{Total: m.readTotal(), Streams: map[string]StreamUsage{}}
	m.sessionsMu.Lock()
	defer m.sessionsMu.Unlock()
	open := map[*StreamUsage][]*meteredSession{}
	for s := range m.openSessions {
		open[s.usage] = append(open[s.usage], s)
	}
	for name, t := range usages {
		all.Streams[name] = m.read(t, open[t])
	}
	return all
}

// usageOf returns the usage of a stream, or with an empty name of a basin; nil: there is none.
func (c *catalogue) usageOf(basin, name string) *StreamUsage {
	c.mu.RLock()
	defer c.mu.RUnlock()
	b := c.basins[basin]
	if b == nil {
		return nil
	}
	if name == "" {
		return b.usage
	}
	if st := b.streams[name]; st != nil {
		return st.usage
	}
	return nil
}

// usages returns every usage by its key in Usage.
func (c *catalogue) usages() map[string]*StreamUsage {
	c.mu.RLock()
	defer c.mu.RUnlock()
	out := map[string]*StreamUsage{}
	for basin, b := range c.basins {
		out[basin+"/"] = b.usage
		for name, st := range b.streams {
			out[basin+"/"+name] = st.usage
		}
	}
	return out
}

// keepUsages takes over the usages of a catalogue that was closed and opened again. Neither is in
// use meanwhile.
func (c *catalogue) keepUsages(was *catalogue) {
	for basin, b := range c.basins {
		if t := was.usageOf(basin, ""); t != nil {
			b.usage = t
		}
		for name, st := range b.streams {
			if t := was.usageOf(basin, name); t != nil {
				st.usage = t
			}
		}
	}
}

// writeMetrics writes a total in the Prometheus text format. A stream's name is never a label.
func (u *StreamUsage) writeMetrics(w io.Writer) {
	p := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format+"\n", args...) }
	p("# TYPE s2dev_operations_total counter")
	for _, op := range slices.Sorted(maps.Keys(u.Ops)) {
		p("s2dev_operations_total{op=%q} %d", op, u.Ops[op])
	}
	p("# TYPE s2dev_records_appended_total counter\ns2dev_records_appended_total %d",
		u.RecordsAppended)
	p("# TYPE s2dev_records_read_total counter\ns2dev_records_read_total %d", u.RecordsRead)
	p("# TYPE s2dev_open_read_sessions gauge\ns2dev_open_read_sessions %d", u.OpenReadSessions)
	p("# TYPE s2dev_open_append_sessions gauge\ns2dev_open_append_sessions %d",
		u.OpenAppendSessions)
	p("# TYPE s2dev_read_session_minutes_total counter\ns2dev_read_session_minutes_total %d",
		u.ReadSessionMinutes)
	p("# TYPE s2dev_append_session_minutes_total counter\ns2dev_append_session_minutes_total %d",
		u.AppendSessionMinutes)
	p("# TYPE s2dev_cost_dollars gauge\ns2dev_cost_dollars %g", u.Cost)
}
