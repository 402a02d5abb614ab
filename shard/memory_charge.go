package shard

import (
	"sync/atomic"
	"unsafe"
)

// What a stream costs in memory is estimated: what a Stream always has, and from its State
// what somebody's requests made of it, with the parts of an append that waits for its commit. The bytes of its TailBuffer and the bodies that wait are
// counted elsewhere (TailBuffers; the edge's budget for bodies).
const (
	// streamBytes is a Stream, its State, its place in the table and its empty Tail.
	streamBytes = int(unsafe.Sizeof(Stream{})+unsafe.Sizeof(State{})+unsafe.Sizeof(TailBuffer{})) + 512
	// rowBytes is an entry of a map beside what its strings hold.
	rowBytes = 96
	// callBytes is a caller that waits, beside the bodies.
	callBytes = int(unsafe.Sizeof(call{})+unsafe.Sizeof(Request{})) + 256
	// remeasureAfter is how much a State may have grown by estimate before it is measured again,
	// or a quarter of it.
	remeasureAfter = 4 << 10
)

// memorySize is what the State holds beside itself, in bytes.
func (s *State) memorySize() int {
	n := len(s.contentType) + len(s.expiresRaw) + len(s.streamSeq) + len(s.unknownFields) + 8*len(s.chainTimes)
	if s.run != nil && s.run.create != nil { // of an append that nobody has committed yet
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

// maxGrowth is what folding a record adds to a State, from above.
func maxGrowth(r *Record) int {
	if r.Header == nil {
		return 0
	}
	return len(r.Header) + rowBytes + int(unsafe.Sizeof(outcome{})) + len(AppendID{})
}

// memoryCharge is what the table of Streams counts for one of them.
type memoryCharge struct {
	cost            atomic.Int64 // what is counted; 0: nothing (any more)
	exists          atomic.Bool  // counted among the streams that exist, and not among the names
	measured        int          // guarded by Stream.mu: the State's weight when it was measured
	estimatedGrowth int          // guarded by Stream.mu: by estimate, since
	uncommitted     int          // guarded by Stream.mu: what is counted of parts without their commit
}

// noteGrowth notes what was folded, under mu.
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

// holdsMoreThanName reports whether there is more to the Stream than a name, under mu.
func (s *Stream) holdsMoreThanName() bool {
	return s.foldErr != nil || s.opened && (s.state.exists || s.state.gone || len(s.state.pendingReleases) > 0)
}

// measureMemory measures the Stream anew and has the table know, under mu.
func (s *Stream) measureMemory() {
	s.memory.measured, s.memory.estimatedGrowth = 0, 0
	if s.state != nil {
		s.memory.measured = s.state.memorySize()
	}
	s.updateCharge()
}

// updateCharge has the table know what the Stream costs, under mu.
func (s *Stream) updateCharge() {
	if s.stopped {
		return
	}
	s.memory.uncommitted = s.assembler.uncommittedCost
	s.manager.streams.updateCharge(&s.memory, int64(streamBytes+s.memory.measured+s.memory.estimatedGrowth+s.memory.uncommitted+len(s.queue)*callBytes), s.holdsMoreThanName())
}
