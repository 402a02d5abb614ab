package shard

import (
	"sync"
	"sync/atomic"
)

// TailBuffers is a node's set of TailBuffers, one per stream whatever the node's role, and
// their common budget. When it is full, old RecordBatches go, of any Tail; the newest
// RecordBatch of each TailBuffer stays that somebody reads, who must be able to take it. Readers of
// what went find it in pages.
type TailBuffers struct {
	perStream    int
	budget       int64
	bytes        atomic.Int64
	reclaimAbove atomic.Int64 // bytes up to which nothing is looked for: the budget, or more if that cannot be kept

	mu       sync.Mutex
	byStream map[StreamID]*TailBuffer
}

// NewTailBuffers makes an empty set: at most perStream bytes for one stream and budget
// bytes for all (0: 4 MiB and 512 MiB).
func NewTailBuffers(perTail int, budget int64) *TailBuffers {
	if perTail <= 0 {
		perTail = 4 << 20
	}
	if budget <= 0 {
		budget = 512 << 20
	}
	s := &TailBuffers{perStream: perTail, budget: budget, byStream: map[StreamID]*TailBuffer{}}
	s.reclaimAbove.Store(budget)
	return s
}

// Open returns the TailBuffer of the stream's life info.Life, with one reference for
// the caller: the one that is there, or an empty one that begins at next. A TailBuffer
// of another life is ended with ErrNotFound first.
func (s *TailBuffers) Open(id StreamID, info Info, next uint64) *TailBuffer {
	s.mu.Lock()
	t := s.byStream[id]
	if t != nil && t.Generation() == info.Generation && t.retain() {
		s.mu.Unlock()
		return t
	}
	if info.Tail > next { // whoever feeds it tells of more when it brings it
		info.Tail, info.Closed = next, false
	}
	fresh := &TailBuffer{stream: id, set: s, info: info, floor: next, next: next, refs: 1}
	s.byStream[id] = fresh
	s.mu.Unlock()
	if t != nil {
		t.End(ErrNotFound)
	}
	return fresh
}

// Lookup returns the stream's TailBuffer with one reference for the caller, or nil.
func (s *TailBuffers) Lookup(id StreamID) *TailBuffer {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.byStream[id]; t != nil && t.retain() {
		return t
	}
	return nil
}

// Len is the number of TailBuffers.
func (s *TailBuffers) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.byStream)
}

// Bytes is what all TailBuffers hold.
func (s *TailBuffers) Bytes() int64 { return s.bytes.Load() }

func (s *TailBuffers) isOverBudget() bool { return s.bytes.Load() > s.budget }

// reclaim shrinks TailBuffers until the set fits its budget. If that cannot be, it looks again
// once there is a sixteenth of the budget more: each append comes by here.
func (s *TailBuffers) reclaim() {
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
	for _, t := range s.byStream {
		if !s.isOverBudget() {
			break
		}
		t.mu.Lock()
		keep := 1
		if t.refs == 1 { // its feed's
			keep = 0
		}
		for len(t.batches) > keep {
			t.dropOldest()
		}
		t.mu.Unlock()
	}
	enough := s.budget
	if held := s.bytes.Load(); held > s.budget {
		enough = held + s.budget/16
	}
	s.reclaimAbove.Store(enough)
}

// retain adds a reference; false: the TailBuffer has ended or was let go.
func (t *TailBuffer) retain() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr != nil || t.refs == 0 {
		return false
	}
	t.refs++
	return true
}

// Release gives one reference back. With the last one the TailBuffer leaves the set
// and its memory is free.
func (t *TailBuffer) Release() {
	t.set.mu.Lock()
	defer t.set.mu.Unlock()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.refs--; t.refs > 0 {
		for t.refs == 1 && len(t.batches) > 0 && t.set.isOverBudget() {
			t.dropOldest() // what only its last reader kept
		}
		return
	}
	if t.set.byStream[t.stream] == t {
		delete(t.set.byStream, t.stream)
	}
	t.addBytes(-t.bytes)
	t.batches = nil
	if t.endErr == nil {
		t.endErr = ErrStopped
	}
}

// countFollowed is the number of TailBuffers that somebody beside their feed holds.
func (s *TailBuffers) countFollowed() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	n := 0
	for _, t := range s.byStream {
		t.mu.Lock()
		if t.refs > 1 {
			n++
		}
		t.mu.Unlock()
	}
	return n
}
