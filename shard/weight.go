package shard

import (
	"sync/atomic"
	"unsafe"
)

// What a stream costs in memory is estimated: what a Stream always has, and from its State
// what somebody's requests made of it, with the parts of an append that waits for its commit. The bytes of its TailBuffer and the bodies that wait are
// counted elsewhere (TailBuffers; the edge's budget for bodies).
const (
	// shardBytes is a Stream, its State, its place in the table and its empty Tail.
	shardBytes = int(unsafe.Sizeof(Stream{})+unsafe.Sizeof(State{})+unsafe.Sizeof(TailBuffer{})) + 512
	// rowBytes is an entry of a map beside what its strings hold.
	rowBytes = 96
	// callBytes is a caller that waits, beside the bodies.
	callBytes = int(unsafe.Sizeof(call{})+unsafe.Sizeof(Request{})) + 256
	// reweigh is how much a State may have grown by estimate before it is measured again,
	// or a quarter of it.
	reweigh = 4 << 10
)

// weight is what the State holds beside itself, in bytes.
func (s *State) weight() int {
	n := len(s.typ) + len(s.expiresRaw) + len(s.streamSeq) + len(s.kept) + 8*len(s.chainTimes)
	if s.run != nil && s.run.create != nil { // of an append that nobody has committed yet
		n += len(s.run.create.Type) + len(s.run.create.ExpiresRaw) + chainSize(s.run.create.Chain)
	}
	n += len(s.recent.ring)*int(unsafe.Sizeof(outcome{})) + len(s.recent.ids)*len(AppendID{})
	for _, a := range s.chain {
		n += int(unsafe.Sizeof(a)) + len(a.Stream)
	}
	if s.fork != nil {
		n += int(unsafe.Sizeof(*s.fork)) + len(s.fork.Source) + len(s.fork.Offset)
	}
	for id := range s.producers {
		n += rowBytes + len(id)
	}
	n += len(s.held.rows)*rowBytes + s.held.size
	for _, d := range s.debts {
		n += int(unsafe.Sizeof(d)) + len(d.source)
	}
	if s.closedBy != nil {
		n += int(unsafe.Sizeof(*s.closedBy)) + len(s.closedBy.ID)
	}
	return n
}

// growth is what folding a record adds to a State, from above.
func growth(r *Record) int {
	if r.Header == nil {
		return 0
	}
	return len(r.Header) + rowBytes + int(unsafe.Sizeof(outcome{})) + len(AppendID{})
}

// charge is what the table of Streams counts for one of them.
type charge struct {
	cost   atomic.Int64 // what is counted; 0: nothing (any more)
	exists atomic.Bool  // counted among the streams that exist, and not among the names
	exact  int          // guarded by Stream.mu: the State's weight when it was measured
	grown  int          // guarded by Stream.mu: by estimate, since
	parts  int          // guarded by Stream.mu: what is counted of parts without their commit
}

// grow notes what was folded, under mu.
func (s *Stream) grow(recs []Record) {
	for i := range recs {
		s.charge.grown += growth(&recs[i])
	}
	if s.charge.grown > max(reweigh, s.charge.exact/4) {
		s.weigh()
	} else if parts := s.asm.cost - s.charge.parts; parts > reweigh || parts < -reweigh || s.exists() != s.charge.exists.Load() {
		s.count()
	}
}

// exists reports whether there is more to the Stream than a name, under mu.
func (s *Stream) exists() bool {
	return s.failed != nil || s.opened && (s.state.exists || s.state.gone || len(s.state.debts) > 0)
}

// weigh measures the Stream anew and has the table know, under mu.
func (s *Stream) weigh() {
	s.charge.exact, s.charge.grown = 0, 0
	if s.state != nil {
		s.charge.exact = s.state.weight()
	}
	s.count()
}

// count has the table know what the Stream costs, under mu.
func (s *Stream) count() {
	if s.stopped {
		return
	}
	s.charge.parts = s.asm.cost
	s.host.states.change(&s.charge, int64(shardBytes+s.charge.exact+s.charge.grown+s.charge.parts+len(s.queue)*callBytes), s.exists())
}
