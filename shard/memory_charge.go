package shard

import (
	"sync/atomic"
	"unsafe"

	"github.com/fantail-dev/fantail/shard/tail"
)

// The memory of a stream is estimated: the size of a Stream, what requests have added to its State,
// its read session, and the parts of an append that wait for their commit. The bytes of its tail.Buffer and the bodies
// that wait are charged to other budgets (tail.Buffers; the edge's budget for bodies).
const (
	// streamBytes is the size of a Stream, its State, its place in the table and its empty
	// tail.Buffer.
	streamBytes = int(unsafe.Sizeof(Stream{})+unsafe.Sizeof(State{})+unsafe.Sizeof(tail.Buffer{})) + 512
	// rowBytes is the size of a map's entry without the bytes of its strings.
	rowBytes = 96
	// callBytes is the size of a caller that waits, without the bodies.
	callBytes = int(unsafe.Sizeof(call{})+unsafe.Sizeof(Request{})) + 256
	// remeasureAfter bounds the estimated growth of a State before it is measured again; a large
	// State may grow by a quarter.
	remeasureAfter = 4 << 10
)

// memorySize returns the bytes that the State holds outside its struct.
func (s *State) memorySize() int {
	n := len(s.contentType) + len(s.expiresRaw) + len(s.streamSeq) + len(s.unknownFields) + 8*len(s.chainTimes)
	if s.run != nil && s.run.create != nil { // of an append without its commit
		n += len(s.run.create.Type) + len(s.run.create.ExpiresRaw) + chainSize(s.run.create.Chain)
	}
	n += len(s.outcomes.ring)*int(unsafe.Sizeof(outcome{})) + len(s.outcomes.ids)*len(AppendID{})
	for _, a := range s.chain {
		n += int(unsafe.Sizeof(a)) + len(a.Stream)
	}
	if s.fork != nil {
		n += int(unsafe.Sizeof(*s.fork)) + len(s.fork.Source) + len(s.fork.Offset)
	}
	for id := range s.producers {
		n += rowBytes + len(id)
	}
	n += len(s.forkRefs.rows)*rowBytes + s.forkRefs.size
	for _, d := range s.pendingReleases {
		n += int(unsafe.Sizeof(d)) + len(d.source)
	}
	if s.closedBy != nil {
		n += int(unsafe.Sizeof(*s.closedBy)) + len(s.closedBy.ID)
	}
	return n
}

// maxGrowth returns an upper bound of what folding a record adds to a State.
func maxGrowth(r *Record) int {
	if r.Header == nil {
		return 0
	}
	return len(r.Header) + rowBytes + int(unsafe.Sizeof(outcome{})) + len(AppendID{})
}

// memoryCharge holds the cost of one Stream as the table of Streams counts it.
type memoryCharge struct {
	cost            atomic.Int64 // what is counted; 0: nothing, or nothing any more
	exists          atomic.Bool  // counted among the streams that exist, not among the names
	measured        int          // guarded by Stream.mu: memorySize when the State was last measured
	estimatedGrowth int          // guarded by Stream.mu: growth since, by estimate
	uncommitted     int          // guarded by Stream.mu: what is counted of parts without their commit
}

// noteGrowth charges what was folded, under mu.
func (s *Stream) noteGrowth(recs []Record) {
	for i := range recs {
		s.memory.estimatedGrowth += maxGrowth(&recs[i])
	}
	if s.memory.estimatedGrowth > max(remeasureAfter, s.memory.measured/4) {
		s.measureMemory()
	} else if parts := s.assembler.uncommittedCost - s.memory.uncommitted; parts > remeasureAfter || parts < -remeasureAfter || s.holdsMoreThanName() != s.memory.exists.Load() {
		s.updateCharge()
	}
}

// holdsMoreThanName reports whether there is, or was, a stream, and not only a name, under mu.
func (s *Stream) holdsMoreThanName() bool {
	return s.foldErr != nil || s.opened && (s.state.exists || s.state.gone || len(s.state.pendingReleases) > 0)
}

// measureMemory measures the State and updates the charge, under mu.
func (s *Stream) measureMemory() {
	s.memory.measured, s.memory.estimatedGrowth = 0, 0
	if s.state != nil {
		s.memory.measured = s.state.memorySize()
	}
	s.updateCharge()
}

// updateCharge tells the table what the Stream costs, under mu.
func (s *Stream) updateCharge() {
	if s.stopped {
		return
	}
	s.memory.uncommitted = s.assembler.uncommittedCost
	session := 0
	if s.session != nil && !s.session.guards {
		session = s.manager.log.feedBytes()
	}
	s.manager.streams.updateCharge(&s.memory, int64(streamBytes+s.memory.measured+s.memory.estimatedGrowth+s.memory.uncommitted+session+len(s.queue)*callBytes), s.holdsMoreThanName())
}
