package shard

import (
	"sync/atomic"
	"time"
)

// states is the table of a node's Streams by name, bounded by bytes and by count. Guarded by
// Manager.mu, but for what is atomic.
//
// Full: the least recently used that is idle goes (dropping one costs a read or two); a
// newcomer is refused only if none is. Names of streams that do not exist, or are not known
// to yet, are counted apart, in absentBytes, and only ever push out each other: a flood of
// invented names cannot have a stream forgotten.
type states struct {
	budget int64
	most   int64

	m      map[StreamID]*Stream
	idle   lru // nobody uses them; the least recently used first
	absent lru

	bytes, count             atomic.Int64 // of streams that exist
	absentBytes, absentCount atomic.Int64 // of other names
	retry                    atomic.Int64 // ns since 1970: when it is full and nothing was idle, the next look is not before
	evicted, forgotten       atomic.Uint64
}

const (
	// absentBudget bounds the names of streams that do not exist.
	absentBudget = 64 << 20
	// evictLooks bounds the Streams that are looked at to make room once: those that cannot
	// go yet (a session that lingers) wait at the end of the list.
	evictLooks = 256
)

// change counts a Stream for what it costs now.
func (t *states) change(c *charge, cost int64, exists bool) {
	was := c.cost.Swap(cost)
	if did := c.exists.Swap(exists); did == exists {
		t.sum(exists).Add(cost - was)
		return
	}
	t.sum(!exists).Add(-was)
	t.sum(exists).Add(cost)
	t.number(!exists).Add(-1)
	t.number(exists).Add(1)
}

// add counts a new Stream, and remove one that was let go of.
func (t *states) add(c *charge) {
	c.cost.Store(int64(shardBytes))
	t.sum(c.exists.Load()).Add(int64(shardBytes))
	t.number(c.exists.Load()).Add(1)
}

func (t *states) remove(c *charge) {
	if cost := c.cost.Swap(0); cost != 0 {
		t.sum(c.exists.Load()).Add(-cost)
		t.number(c.exists.Load()).Add(-1)
	}
}

func (t *states) sum(exists bool) *atomic.Int64 {
	if exists {
		return &t.bytes
	}
	return &t.absentBytes
}

func (t *states) number(exists bool) *atomic.Int64 {
	if exists {
		return &t.count
	}
	return &t.absentCount
}

// over reports whether streams that exist take more than they may.
func (t *states) over() bool { return t.bytes.Load() > t.budget || t.count.Load() > t.most }

// full reports whether they do although everything idle has gone: requests that would make
// it worse are refused.
func (t *states) full() bool {
	return t.bytes.Load() > t.budget+t.budget/4 || t.count.Load() > t.most+t.most/16
}

// put adds a Stream, and take removes it.
func (t *states) put(s *Stream) {
	t.m[s.id] = s
	t.add(&s.charge)
}

func (t *states) take(s *Stream) {
	if t.m[s.id] == s {
		delete(t.m, s.id)
	}
	s.place.out()
}

// rest is for when nobody uses a Stream any more.
func (t *states) rest(s *Stream) {
	if t.m[s.id] != s {
		return
	}
	if s.charge.exists.Load() {
		t.idle.push(&s.place)
	} else {
		t.absent.push(&s.place)
	}
}

// evict lets go of idle Streams, from the least recently used on, until enough returns true;
// the caller halts them once Manager.mu is free.
func (t *states) evict(from *lru, now time.Time, enough func() bool) (out []*Stream) {
	for range evictLooks {
		p := from.first()
		if p == nil || enough() {
			break
		}
		s := p.shard
		p.out()
		switch exists := s.charge.exists.Load(); {
		case exists != (from == &t.idle): // it came into being, or ended, while nobody used it
			t.rest(s)
		case !s.retire(now):
			from.push(p)
		default:
			t.take(s)
			out = append(out, s)
		}
	}
	return out
}

// makeRoom evicts streams that exist while there are too many of them.
func (t *states) makeRoom(now time.Time) []*Stream {
	out := t.evict(&t.idle, now, func() bool { return !t.over() })
	t.evicted.Add(uint64(len(out)))
	return out
}

// makeRoomForName evicts names of streams that do not exist until one more fits; ok: it does.
func (t *states) makeRoomForName(now time.Time) (out []*Stream, ok bool) {
	fits := func() bool { return t.absentBytes.Load()+int64(shardBytes) <= absentBudget }
	if fits() {
		return nil, true
	}
	out = t.evict(&t.absent, now, fits)
	t.forgotten.Add(uint64(len(out)))
	return out, fits()
}

// retire stops an idle Stream if nothing is lost with it: uses of a stream with a TTL that are
// not durable are within what the next owner grants. One that is busy this moment is not
// waited for.
func (s *Stream) retire(now time.Time) bool {
	if !s.mu.TryLock() {
		return false
	}
	defer s.mu.Unlock()
	if !s.rests(now) {
		return false
	}
	s.stopped = true
	s.host.states.remove(&s.charge)
	return true
}

// lru is a list of Streams, and place the place of one in it.
type lru struct{ head place }

type place struct {
	shard      *Stream
	prev, next *place
}

func (l *lru) first() *place {
	if l.head.next == nil || l.head.next == &l.head {
		return nil
	}
	return l.head.next
}

// push puts a place at the end.
func (l *lru) push(p *place) {
	if l.head.next == nil {
		l.head.next, l.head.prev = &l.head, &l.head
	}
	p.out()
	p.prev, p.next = l.head.prev, &l.head
	p.prev.next, p.next.prev = p, p
}

// out takes a place out of its list, if it is in one.
func (p *place) out() {
	if p.next == nil {
		return
	}
	p.prev.next, p.next.prev = p.next, p.prev
	p.prev, p.next = nil, nil
}
