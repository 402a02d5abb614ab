package sse

import (
	"sync"
	"sync/atomic"

	"github.com/fantail-dev/fantail/edge/sendbudget"
	"github.com/fantail-dev/fantail/shard"
)

// FrameCache holds the frames that readers share, by tail buffer and framing. It is bounded
// twice: maxSetBytes for one tail buffer and framing, and limit for the node, in bytes
// of the RecordBatches that were rendered. When full, the oldest frames are dropped, each set's
// newest last. A reader that still needs a dropped frame holds it by pointer; for a reader
// that comes later it is rendered again.
type FrameCache struct {
	budget       *sendbudget.Budget
	limit        int64
	bytes        atomic.Int64
	countReaders func(shard.StreamID) (n int, known bool) // see CountReaders; nil: no number is known

	mu   sync.Mutex // locked before FrameSet.mu
	sets map[SetKey]*FrameSet
}

// maxSetBytes bounds the frames of one tail buffer in one framing that are not being written, in
// bytes of the RecordBatches. Readers further back find their RecordBatches in the tail buffer or
// in pages, as always.
const maxSetBytes = 1 << 20

// maxPinnedSkipped bounds how many of its oldest frames a ring keeps because they are being
// written to a reader: they are in memory anyway (see Budget), and when a crowd catches up
// the next reader may need them.
const maxPinnedSkipped = 64

// SetKey names what a FrameSet holds the frames of.
type SetKey struct {
	Tail    *shard.TailBuffer
	Framing Framing
}

// NewFrameCache returns a cache of limit bytes. The frames that are being written to readers are
// charged to budget.
func NewFrameCache(limit int64, budget *sendbudget.Budget) *FrameCache {
	return &FrameCache{limit: limit, sets: map[SetKey]*FrameSet{}, budget: budget}
}

// openSet returns the set of a tail buffer's frames for one more reader; close returns it.
// A set lives as long as it has readers.
func (c *FrameCache) openSet(t *shard.TailBuffer, form Framing) *FrameSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := SetKey{t, form}
	set := c.sets[k]
	if set == nil {
		set = &FrameSet{cache: c, key: k}
		c.sets[k] = set
	}
	set.readers++
	return set
}

func (s *FrameSet) close() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if s.readers--; s.readers > 0 {
		return
	}
	delete(s.cache.sets, s.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.bytes.Add(-int64(s.live.bytes + s.history.bytes))
}

// FrameSet is the shared frames of one tail buffer in one framing. Frames from pages are kept
// apart, so that a crowd that catches up does not push out the frames that all readers at the
// tip are about to need.
type FrameSet struct {
	cache   *FrameCache
	key     SetKey
	readers int // guarded by cache.mu

	readersSample atomic.Pointer[readersSample]
	lastCounted   atomic.Pointer[renderedControl]

	mu      sync.Mutex
	live    frameRing
	history frameRing
}

// frameFor returns the frame of a RecordBatch of one generation from its message first on; page:
// the batch comes from history. The first reader that asks renders it; others wait for that.
// A crowd that moves from pages into the middle of a RecordBatch of the tail buffer shares the
// rest of that batch, too.
func (s *FrameSet) frameFor(r shard.RecordBatch, first int, generation shard.Generation, page bool, interval uint64) *frame {
	next, from := r.Message(r.Len()-1).Next, r.From()
	ring := &s.live
	if page || first > 0 {
		ring = &s.history
	}
	if first > 0 {
		from = r.Message(first).Pos
	}
	s.mu.Lock()
	span := frameSpan{generation, from, next}
	f := ring.bySpan[span]
	if f == nil {
		f = &frame{
			generation: generation, nextPos: next, messages: r.Len() - first, cacheSize: len(r.Bytes()),
		}
		for i := range first {
			f.cacheSize -= len(r.Message(i).Body)
		}
		if !page {
			f.storedAt = r.Time()
		}
		ring.add(s.cache, span, f)
		ring.shrink(s.cache, maxSetBytes, 1)
	}
	s.mu.Unlock()
	f.once.Do(func() {
		bodies := make([][]byte, r.Len()-first)
		for i := range bodies {
			bodies[i] = r.Message(first + i).Body
		}
		f.render(s.key.Framing, interval, bodies)
	})
	s.cache.reclaim()
	return f
}

// reclaim shrinks sets to their newest frames until the node's bound is kept.
func (c *FrameCache) reclaim() {
	if c.bytes.Load() <= c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.sets {
		if c.bytes.Load() <= c.limit {
			return
		}
		s.mu.Lock()
		s.history.shrink(c, 0, 0)
		s.live.shrink(c, 0, 1)
		s.mu.Unlock()
	}
}

// frameRing holds frames by their span, and the order in which they came.
type frameRing struct {
	bySpan map[frameSpan]*frame
	order  []frameSpan
	bytes  int
}

// frameSpan names a frame: its generation, the first position of its RecordBatch, and the
// position after its last message. Readers of a fork share frames of several generations.
type frameSpan struct {
	generation shard.Generation
	from, next shard.Pos
}

func (r *frameRing) add(c *FrameCache, k frameSpan, f *frame) {
	if r.bySpan == nil {
		r.bySpan = map[frameSpan]*frame{}
	}
	r.bySpan[k] = f
	r.order = append(r.order, k)
	r.bytes += f.cacheSize
	c.bytes.Add(int64(f.cacheSize))
}

// shrink drops the oldest frames until at most limit bytes are left, or only keep frames and
// those that are being written.
func (r *frameRing) shrink(c *FrameCache, limit, keep int) {
	for r.bytes > limit {
		i := r.oldestUnpinned(len(r.order) - keep)
		if i < 0 {
			return
		}
		k := r.order[i]
		copy(r.order[1:i+1], r.order[:i])
		r.order = r.order[1:]
		size := r.bySpan[k].cacheSize
		delete(r.bySpan, k)
		r.bytes -= size
		c.bytes.Add(-int64(size))
	}
}

// oldestUnpinned returns the index of the oldest of the first n frames that is not being written;
// 0 if maxPinnedSkipped of them are; -1 if there is none.
func (r *frameRing) oldestUnpinned(n int) int {
	for i, k := range r.order[:min(n, maxPinnedSkipped)] {
		if r.bySpan[k].pins.Load() == 0 {
			return i
		}
	}
	if n > maxPinnedSkipped {
		return 0
	}
	return -1
}
