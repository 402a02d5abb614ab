package shard

import (
	"sync/atomic"
	"time"
)

// streamTable is the table of a node's Streams by name, bounded by bytes and by count. Guarded by
// Manager.mu, but for what is atomic.
//
// Full: the least recently used that is idle goes (dropping one costs a read or two); a
// newcomer is refused only if none is. Names of streams that do not exist, or are not known
// to yet, are counted apart, in absentBytes, and only ever push out each other: a flood of
// invented names cannot have a stream forgotten.
type streamTable struct {
	byteBudget int64
	maxStreams int64

	byID   map[StreamID]*Stream
	idle   streamList // nobody uses them; the least recently used first
	absent streamList

	bytes, count             atomic.Int64 // of streams that exist
	absentBytes, absentCount atomic.Int64 // of other names
	retryAt                  atomic.Int64 // ns since 1970: when it is full and nothing was idle, the next look is not before
	evicted, evictedNames    atomic.Uint64
}

const (
	// absentBudget bounds the names of streams that do not exist.
	absentBudget = 64 << 20
	// maxEvictionLooks bounds the Streams that are looked at to make room once: those that cannot
	// go yet (a session that lingers) wait at the end of the list.
	maxEvictionLooks = 256
)

// updateCharge counts a Stream for what it costs now.
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

// addCharge counts a new Stream, and remove one that was let go of.
func (t *streamTable) addCharge(c *memoryCharge) {
	c.cost.Store(int64(streamBytes))
	t.bytesOf(c.exists.Load()).Add(int64(streamBytes))
	t.countOf(c.exists.Load()).Add(1)
}

func (t *streamTable) removeCharge(c *memoryCharge) {
	if cost := c.cost.Swap(0); cost != 0 {
		t.bytesOf(c.exists.Load()).Add(-cost)
		t.countOf(c.exists.Load()).Add(-1)
	}
}

func (t *streamTable) bytesOf(exists bool) *atomic.Int64 {
	if exists {
		return &t.bytes
	}
	return &t.absentBytes
}

func (t *streamTable) countOf(exists bool) *atomic.Int64 {
	if exists {
		return &t.count
	}
	return &t.absentCount
}

// isOverBudget reports whether streams that exist take more than they may.
func (t *streamTable) isOverBudget() bool {
	return t.bytes.Load() > t.byteBudget || t.count.Load() > t.maxStreams
}

// isFull reports whether they do although everything idle has gone: requests that would make
// it worse are refused.
func (t *streamTable) isFull() bool {
	return t.bytes.Load() > t.byteBudget+t.byteBudget/4 || t.count.Load() > t.maxStreams+t.maxStreams/16
}

// addStream adds a Stream, and take removes it.
func (t *streamTable) addStream(s *Stream) {
	t.byID[s.id] = s
	t.addCharge(&s.memory)
}

func (t *streamTable) removeStream(s *Stream) {
	if t.byID[s.id] == s {
		delete(t.byID, s.id)
	}
	s.listEntry.unlink()
}

// markIdle is for when nobody uses a Stream any more.
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

// evictFrom lets go of idle Streams, from the least recently used on, until enough returns true;
// the caller halts them once Manager.mu is free.
func (t *streamTable) evictFrom(from *streamList, now time.Time, enough func() bool) (out []*Stream) {
	for range maxEvictionLooks {
		p := from.front()
		if p == nil || enough() {
			break
		}
		s := p.stream
		p.unlink()
		switch exists := s.memory.exists.Load(); {
		case exists != (from == &t.idle): // it came into being, or ended, while nobody used it
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

// evictOverBudget evicts streams that exist while there are too many of them.
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
// not durable are within what the next owner grants. One that is busy this moment is not
// waited for.
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

// streamList is a list of Streams, and place the place of one in it.
type streamList struct{ head listEntry }

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

// pushBack puts a place at the end.
func (l *streamList) pushBack(p *listEntry) {
	if l.head.next == nil {
		l.head.next, l.head.prev = &l.head, &l.head
	}
	p.unlink()
	p.prev, p.next = l.head.prev, &l.head
	p.prev.next, p.next.prev = p, p
}

// unlink takes a place out of its list, if it is in one.
func (p *listEntry) unlink() {
	if p.next == nil {
		return
	}
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}
