package shard

import (
	"errors"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// LaterRelease is the header of a record at pos that only a later release can read.
func LaterRelease(pos Pos) []byte {
	b := (&Header{Kind: KindMessage}).encode(pos)
	b = b[:len(b)-headerSum]
	b[1] = headerVersion + 1
	return resum(pos, b)
}

// ProbeEvery bounds how long storage counts as down after it is back.
const ProbeEvery = probeEvery + time.Millisecond

// MaxAwaitedNames bounds the names that are waited for.
const MaxAwaitedNames = maxAwaitedNames

// Drop releases a stream as DropUnused does, and while it is used, too.
func (m *Manager) Drop(id StreamID) {
	m.mu.Lock()
	s := m.streams.byID[id]
	if s != nil {
		m.streams.removeStream(s)
	}
	m.mu.Unlock()
	if s != nil {
		s.halt()
	}
}

// WithMaxStreams returns the Config of a Manager that holds at most n streams.
func (c Config) WithMaxStreams(n int) Config {
	c.maxStreams = n
	return c
}

// Pipelined returns the Config of a Manager that pipelines, however fast storage is.
func (c Config) Pipelined() Config {
	c.Pipelining, c.pipelineAlways, c.formatLevel = PipeliningOn, true, batchIDLevel
	return c
}

// BatchesOnSessions returns the number of batches that were acknowledged on append sessions, and the
// number of those that were acknowledged as calls.
func (m *Manager) BatchesOnSessions() (onSession, onCall int64) {
	return m.pipelines.onSession.Load(), m.pipelines.onCall.Load()
}

// Join calls tail.Join.
func Join(rs ...tail.RecordBatch) tail.RecordBatch { return tail.Join(rs) }

// AbsentBytes returns the bytes that names without a stream are counted for.
func AbsentBytes(h *Manager) int64 { return h.streams.absentBytes.Load() }

// IsColdOpens reports whether a request was refused because its stream would wait too long
// to be read.
func IsColdOpens(err error) bool { return errors.Is(err, errColdOpens) }

// Forgeries are headers that a stranger with access to S2 might forge for a record at pos.
var Forgeries = map[string]func(pos Pos) []byte{
	"a checkpoint beyond the log": func(pos Pos) []byte {
		s := State{Next: pos + 1, exists: true, generation: 5, tail: 1 << 40}
		return (&Header{Kind: KindCheckpoint, State: s.encode()}).encode(pos)
	},
	"a damaged checkpoint": func(pos Pos) []byte {
		return (&Header{Kind: KindCheckpoint, State: []byte{ckTail}, HasCheckpoint: true}).encode(pos)
	},
	"a damaged tombstone": func(pos Pos) []byte {
		return (&Header{Kind: KindTombstone, Reason: ReasonDeleted, State: []byte{ckFlags, 9}}).encode(pos)
	},
	"a checkpoint that is not there": func(pos Pos) []byte {
		return (&Header{Kind: KindTouch, HasCheckpoint: true, RecordsSinceCheckpoint: 2}).encode(pos)
	},
	"a checkpoint that it is itself": func(pos Pos) []byte {
		return (&Header{Kind: KindTouch, HasCheckpoint: true}).encode(pos)
	},
	"a create record of a life beyond all": func(pos Pos) []byte {
		return (&Header{Kind: KindCreate, Generation: MaxGeneration + 1}).encode(pos)
	},
}

// ForgeChain returns a create record that claims a past.
func ForgeChain(pos Pos, a Ancestor) []byte {
	h := Header{Kind: KindCreate, Flags: FlagFirst | FlagLast, Generation: 1 << 52, Type: "text/plain", Chain: []Ancestor{a}}
	return h.encode(pos)
}

// ForgeFork is ForgeChain for a fork with a reference that the source does not have.
func ForgeFork(pos Pos, a Ancestor) []byte {
	h := Header{
		Kind: KindCreate, Flags: FlagFirst | FlagLast, Generation: 1 << 52, Type: "text/plain", Chain: []Ancestor{a},
		Fork: &Fork{Source: a.Stream, Hold: NewAppendID()},
	}
	return h.encode(pos)
}

// ForgeForkState returns a checkpoint that claims what ForgeFork does.
func ForgeForkState(pos Pos, a Ancestor) []byte {
	s := State{
		Next: pos + 1, exists: true, generation: 1 << 52, contentType: "text/plain", chain: []Ancestor{a}, confirmed: true,
		fork: &Fork{Source: a.Stream, Hold: NewAppendID()},
	}
	return (&Header{Kind: KindCheckpoint, State: s.encodeHandover()}).encode(pos)
}

// ForgeHeldFork is ForgeFork for a fork that its source does hold.
func ForgeHeldFork(pos Pos, a Ancestor, hold AppendID) []byte {
	h := Header{
		Kind: KindCreate, Flags: FlagFirst | FlagLast, Generation: 1 << 52, Type: "text/plain", Chain: []Ancestor{a},
		Fork: &Fork{Source: a.Stream, Hold: hold},
	}
	return h.encode(pos)
}

// ForgedSize returns the size of a State that holds only what a forged record may leave in it:
// fields that this release does not know, or a create record without its commit.
func ForgedSize(kept, raw int) int {
	s := State{unknownFields: make([]byte, kept)}
	s.run = &run{create: &Header{ExpiresRaw: string(make([]byte, raw))}}
	return s.memorySize()
}

// ForgePart returns a record of an append in parts.
func ForgePart(pos Pos, id AppendID, first, last bool) []byte {
	h := Header{Kind: KindMessage, Flags: FlagPart, Append: id}
	if first {
		h.Flags |= FlagFirst
	}
	if last {
		h.Flags |= FlagLast | FlagCommit
	}
	return h.encode(pos)
}

const (
	// MaxPendingReleases bounds the references that a State may have to give back, and ForkAskBurst
	// those of all streams together that are given back without a wait.
	MaxPendingReleases = 2 * maxPendingReleases
	ForkAskBurst       = forkAskBurst
)

// ForgePendingReleases returns a tombstone of a stream with n references to give back.
func ForgePendingReleases(pos Pos, source StreamID, n int) []byte {
	s := State{Next: pos + 1, ended: true, generation: 1}
	for range n {
		s.pendingReleases = append(s.pendingReleases, pendingRelease{NewAppendID(), source})
	}
	return (&Header{Kind: KindTombstone, State: s.encode()}).encode(pos)
}

// ForgeForkRefs returns a tombstone of a stream that forks of such names hold.
func ForgeForkRefs(pos Pos, names ...StreamID) []byte {
	s := State{Next: pos + 1, ended: true, gone: true, generation: 1}
	for _, name := range names {
		s.addForkRef(NewAppendID(), forkRef{fork: name, time: 1})
	}
	return (&Header{Kind: KindTombstone, State: s.encode()}).encode(pos)
}

// MaxFoldRecords bounds the records that are read of a log for its State alone.
const MaxFoldRecords = maxFoldRecords

// MaxLongSources bounds the sources that are remembered as too long.
const MaxLongSources = maxLongSources

// RememberLongSources notes n sources as too long, and returns how many of them are remembered.
func RememberLongSources(n int) int {
	r := newSourceReader(nil, time.Now)
	for i := range n {
		r.noteLong(StreamID(strconv.Itoa(i)))
	}
	return len(r.long)
}

// AppendSessions returns the number of open append sessions.
func (m *Manager) AppendSessions() int { return m.pipelines.count() }

// WithBatchIDs returns the Config of a Manager whose fleet reads the ids of batches.
func (c Config) WithBatchIDs() Config {
	c.formatLevel = batchIDLevel
	return c
}

// BrokenLogs returns the number of batches that were found on another batch than they say.
func (m *Manager) BrokenLogs() int { return int(m.pipelines.brokenLogs.Load()) }

// BatchesInFlight returns the number of batches on append sessions.
func (m *Manager) BatchesInFlight() int { return int(m.pipelines.inFlight.Load()) }

// StopPipelining has the Manager pipeline no more, as a broken log does.
func (m *Manager) StopPipelining() { m.pipelines.brokenLogs.Add(1) }

// BatchIDs returns the ids of the record's batch, and of the batch that it expects below.
func BatchIDs(r Record) (id, base AppendID) {
	if h, err := headerOf(r); err == nil && h != nil {
		return h.Batch, h.Base
	}
	return id, base
}

// AppendOrder returns what is known of storage's append sessions, as the metric has it.
func (m *Manager) AppendOrder() int { return int(m.pipelines.order.Load()) }
