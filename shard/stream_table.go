package shard

import (
	"sync/atomic"
	"time"
)

// streamTable is the table of a node's Streams by name, bounded by bytes and by count. Its fields
// are guarded by Manager.mu, except the atomic ones.
//
// When it is full, the least recently used Stream that is idle is evicted (opening it again costs a
// read or two). A newcomer is refused only if none is idle. Names of streams that do not exist, or
// are not known to exist yet, have a budget of their own, absentBytes, and evict only each other: a
// flood of invented names evicts no stream.
type streamTable struct {
	byteBudget int64
	maxStreams int64

	byID   map[StreamID]*Stream
	idle   streamList // Streams that no caller holds, the least recently used first
	absent streamList // the same, of names without a stream

	bytes, count             atomic.Int64 // of streams that exist
	absentBytes, absentCount atomic.Int64 // of other names
	retryAt                  atomic.Int64 // ns since 1970: when the table was full and nothing was idle, the next search is not before
	evicted, evictedNames    atomic.Uint64
}

const (
	// absentBudget bounds the memory of names without a stream.
	absentBudget = 64 << 20
	// maxEvictionLooks bounds the Streams that one eviction looks at. Those that cannot be evicted
	// yet (a session that lingers) go to the end of the list.
	maxEvictionLooks = 256
)

// updateCharge counts a Stream with its cost of now.
func (t *streamTable) updateCharge(c *memoryCharge, cost int64, exists bool) {
	was := c.cost.Swap(cost)
	if did := c.exists.Swap(exists); did == exists {
		t.bytesOf(exists).Add(cost - was)
		return
	}
	t.bytesOf(!exists).Add(-was)
	t.bytesOf(exists).Add(cost)
	t.countOf(!exists).Add(-1)
	t.countOf(exists).Add(1)
}

// addCharge counts a new Stream.
func (t *streamTable) addCharge(c *memoryCharge) {
	c.cost.Store(int64(streamBytes))
	t.bytesOf(c.exists.Load()).Add(int64(streamBytes))
	t.countOf(c.exists.Load()).Add(1)
}

// removeCharge stops counting a Stream.
func (t *streamTable) removeCharge(c *memoryCharge) {
	if cost := c.cost.Swap(0); cost != 0 {
		t.bytesOf(c.exists.Load()).Add(-cost)
		t.countOf(c.exists.Load()).Add(-1)
	}
}

// bytesOf returns the total of bytes of the Streams that exist, or of those that do not.
func (t *streamTable) bytesOf(exists bool) *atomic.Int64 {
	if exists {
		return &t.bytes
	}
	return &t.absentBytes
}

// countOf returns the number that such a Stream is counted in.
func (t *streamTable) countOf(exists bool) *atomic.Int64 {
	if exists {
		return &t.count
	}
	return &t.absentCount
}

// isOverBudget reports whether streams that exist exceed their budget.
func (t *streamTable) isOverBudget() bool {
	return t.bytes.Load() > t.byteBudget || t.count.Load() > t.maxStreams
}

// isFull reports whether they exceed it by so much that requests that need more memory are refused:
// everything idle has been evicted.
func (t *streamTable) isFull() bool {
	return t.bytes.Load() > t.byteBudget+t.byteBudget/4 || t.count.Load() > t.maxStreams+t.maxStreams/16
}

// addStream adds a Stream.
func (t *streamTable) addStream(s *Stream) {
	t.byID[s.id] = s
	t.addCharge(&s.memory)
}

// removeStream removes a Stream.
func (t *streamTable) removeStream(s *Stream) {
	if t.byID[s.id] == s {
		delete(t.byID, s.id)
	}
	s.listEntry.unlink()
}

// markIdle puts a Stream that no caller holds any more at the end of its list.
func (t *streamTable) markIdle(s *Stream) {
	if t.byID[s.id] != s {
		return
	}
	if s.memory.exists.Load() {
		t.idle.pushBack(&s.listEntry)
	} else {
		t.absent.pushBack(&s.listEntry)
	}
}

// evictFrom removes idle Streams, from the least recently used on, until enough returns true. The
// caller halts them once Manager.mu is free.
func (t *streamTable) evictFrom(from *streamList, now time.Time, enough func() bool) (out []*Stream) {
	for range maxEvictionLooks {
		p := from.front()
		if p == nil || enough() {
			break
		}
		s := p.stream
		p.unlink()
		switch exists := s.memory.exists.Load(); {
		case exists != (from == &t.idle): // the stream was created, or ended, while no caller held it
			t.markIdle(s)
		case !s.stopIfQuiet(now):
			from.pushBack(p)
		default:
			t.removeStream(s)
			out = append(out, s)
		}
	}
	return out
}

// evictOverBudget evicts streams that exist while they exceed their budget.
func (t *streamTable) evictOverBudget(now time.Time) []*Stream {
	out := t.evictFrom(&t.idle, now, func() bool { return !t.isOverBudget() })
	t.evicted.Add(uint64(len(out)))
	return out
}

// makeRoomForName evicts names of streams that do not exist until one more fits; ok: it does.
func (t *streamTable) makeRoomForName(now time.Time) (out []*Stream, ok bool) {
	fits := func() bool { return t.absentBytes.Load()+int64(streamBytes) <= absentBudget }
	if fits() {
		return nil, true
	}
	out = t.evictFrom(&t.absent, now, fits)
	t.evictedNames.Add(uint64(len(out)))
	return out, fits()
}

// stopIfQuiet stops an idle Stream if nothing is lost with it: uses of a stream with a TTL that are
// not durable are within the next owner's grace. A Stream that is locked at this moment is left
// alone.
func (s *Stream) stopIfQuiet(now time.Time) bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if !s.isQuiet(now) {
		return false
	}
	s.stopped = true
	s.manager.streams.removeCharge(&s.memory)
	return true
}

// streamList is a doubly linked list of Streams.
type streamList struct{ head listEntry }

// listEntry is the place of a Stream in a streamList.
type listEntry struct {
	stream     *Stream
	prev, next *listEntry
}

func (l *streamList) front() *listEntry {
	if l.head.next == nil || l.head.next == &l.head {
		return nil
	}
	return l.head.next
}

// pushBack puts an entry at the end.
func (l *streamList) pushBack(p *listEntry) {
	if l.head.next == nil {
		l.head.next, l.head.prev = &l.head, &l.head
	}
	p.unlink()
	p.prev, p.next = l.head.prev, &l.head
	p.prev.next, p.next.prev = p, p
}

// unlink removes an entry from its list, if it is in one.
func (p *listEntry) unlink() {
	if p.next == nil {
		return
	}
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}
