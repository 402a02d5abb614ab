package tail

import (
	"sync"
	"sync/atomic"
)

// Buffers is a node's set of Buffers, one per stream whatever the node's role, and their
// common budget. When the budget is full, old RecordBatches are dropped, of any Buffer. A
// Buffer with readers keeps its newest RecordBatch, which they still have to read. Readers find
// in pages what was dropped.
type Buffers struct {
	perStream    int   // bytes of one Buffer; set at construction
	budget       int64 // bytes of all; set at construction
	bytes        atomic.Int64
	reclaimAbove atomic.Int64 // Reclaim searches only above so many bytes: the budget, or more if that cannot be kept

	mu       sync.Mutex
	byStream map[StreamID]*Buffer
}

// NewBuffers returns an empty set with at most perTail bytes for one stream and budget bytes
// for all (0: 4 MiB and 512 MiB).
func NewBuffers(perTail int, budget int64) *Buffers {
	if perTail <= 0 {
		perTail = 4 << 20
	}
	if budget <= 0 {
		budget = 512 << 20
	}
	s := &Buffers{perStream: perTail, budget: budget, byStream: map[StreamID]*Buffer{}}
	s.reclaimAbove.Store(budget)
	return s
}

// Open returns the Buffer of the stream's generation info.Generation, with one reference for the
// caller: the Buffer that is there, or an empty Buffer that begins at next. A Buffer of another
// generation is ended with ErrNotFound first.
func (s *Buffers) Open(id StreamID, info Info, next Pos) *Buffer {
	s.mu.Lock()
	b := s.byStream[id]
	if b != nil && b.Generation() == info.Generation && b.retain() {
		s.mu.Unlock()
		return b
	}
	if info.Tail > next { // the feed tells of a higher tail when it brings the records
		info.Tail, info.Closed = next, false
	}
	fresh := &Buffer{stream: id, set: s, info: info, floor: next, next: next, refs: 1}
	s.byStream[id] = fresh
	s.mu.Unlock()
	if b != nil {
		b.End(ErrNotFound)
	}
	return fresh
}

// Lookup returns the stream's Buffer with one reference for the caller, or nil.
func (s *Buffers) Lookup(id StreamID) *Buffer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.byStream[id]; b != nil && b.retain() {
		return b
	}
	return nil
}

// Len returns the number of Buffers.
func (s *Buffers) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byStream)
}

// Bytes returns the bytes that all Buffers hold.
func (s *Buffers) Bytes() int64 { return s.bytes.Load() }

func (s *Buffers) isOverBudget() bool { return s.bytes.Load() > s.budget }

// Reclaim drops old RecordBatches until the set fits its budget. If the budget cannot be kept, it
// searches again once there is a sixteenth of the budget more, because every append calls it.
func (s *Buffers) Reclaim() {
	switch held := s.bytes.Load(); {
	case held <= s.budget:
		if s.reclaimAbove.Load() > s.budget {
			s.reclaimAbove.Store(s.budget)
		}
		return
	case held <= s.reclaimAbove.Load():
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.byStream {
		if !s.isOverBudget() {
			break
		}
		b.mu.Lock()
		keep := 1
		if b.refs == 1 { // only its feed holds it
			keep = 0
		}
		for len(b.batches) > keep {
			b.dropOldest()
		}
		b.mu.Unlock()
	}
	enough := s.budget
	if held := s.bytes.Load(); held > s.budget {
		enough = held + s.budget/16
	}
	s.reclaimAbove.Store(enough)
}

// retain adds a reference; false: the Buffer has ended, or its last reference was released.
func (b *Buffer) retain() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.endErr != nil || b.refs == 0 {
		return false
	}
	b.refs++
	return true
}

// Release gives one reference back. With the last one the Buffer leaves the set and its memory
// is free.
func (b *Buffer) Release() {
	b.set.mu.Lock()
	defer b.set.mu.Unlock()
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.refs--; b.refs > 0 {
		for b.refs == 1 && len(b.batches) > 0 && b.set.isOverBudget() {
			b.dropOldest() // kept for its last reader only
		}
		return
	}
	if b.set.byStream[b.stream] == b {
		delete(b.set.byStream, b.stream)
	}
	b.addBytes(-b.bytes)
	b.batches = nil
	if b.endErr == nil {
		b.endErr = ErrStopped
	}
}

// CountFollowed returns the number of Buffers that have references besides their feed's.
func (s *Buffers) CountFollowed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, b := range s.byStream {
		b.mu.Lock()
		if b.refs > 1 {
			n++
		}
		b.mu.Unlock()
	}
	return n
}

// FindTime asks the Buffer of a stream's generation; false: there is none, or it does not tell.
func (s *Buffers) FindTime(id StreamID, generation Generation, since Millis, start, tail Pos) (pos Pos, ok bool) {
	b := s.Lookup(id)
	if b == nil {
		return 0, false
	}
	defer b.Release()
	if b.Generation() != generation {
		return 0, false
	}
	return b.FindTime(since, start, tail)
}

// ReadAt returns what the Buffer of a stream's generation holds from position from on, up to about
// max bytes; none: there is no such Buffer, or it does not reach down to from.
func (s *Buffers) ReadAt(id StreamID, generation Generation, from Pos, max int) []RecordBatch {
	b := s.Lookup(id)
	if b == nil {
		return nil
	}
	defer b.Release()
	if b.Generation() != generation {
		return nil
	}
	rs, _ := b.ReadAt(from, max, nil)
	if len(rs) > 0 && rs[0].From() > from {
		return nil
	}
	return rs
}
