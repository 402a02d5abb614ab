package edge

import (
	"sync"
	"sync/atomic"

	"github.com/fantail-dev/fantail/shard"
)

// frameCache is the frames that readers share, by Tail and framing. It is bounded
// twice: tailFrameBytes for one Tail and framing, and limit for the node, in bytes
// of the RecordBatches that were rendered. When full the oldest frames go, each set's
// newest last of all; a reader that still needs one has it by pointer, and one
// that comes for it later has it rendered anew.
type frameCache struct {
	pins  *pins
	limit int64
	bytes atomic.Int64

	mu sync.Mutex // before frameSet.mu
	m  map[frameKey]*frameSet
}

// tailFrameBytes bounds the frames of one Tail in one framing that nobody is being written, in
// bytes of what was rendered.
// Readers further back than this find their RecordBatches in the TailBuffer or in pages all the same.
const tailFrameBytes = 1 << 20

// pinnedMost is how many of its oldest frames a ring passes over because they are being
// written to somebody: they are in memory anyhow (see pins), and of a crowd that catches up
// the next reader may need them.
const pinnedMost = 64

type frameKey struct {
	tail *shard.TailBuffer
	form framing
}

func newFrameCache(limit, pinned int64) *frameCache {
	return &frameCache{
		limit: limit, m: map[frameKey]*frameSet{}, pins: newPins(pinned),
	}
}

// open returns the set of a TailBuffer's frames for one more reader; close gives it
// back. A set lives as long as somebody reads.
func (c *frameCache) open(t *shard.TailBuffer, form framing) *frameSet {
	c.mu.Lock()
	defer c.mu.Unlock()
	k := frameKey{t, form}
	set := c.m[k]
	if set == nil {
		set = &frameSet{cache: c, key: k}
		c.m[k] = set
	}
	set.readers++
	return set
}

func (s *frameSet) close() {
	s.cache.mu.Lock()
	defer s.cache.mu.Unlock()
	if s.readers--; s.readers > 0 {
		return
	}
	delete(s.cache.m, s.key)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.cache.bytes.Add(-int64(s.live.bytes + s.past.bytes))
}

// frameSet is the shared frames of one Tail in one framing. Frames of pages stand
// apart, so that a crowd that catches up does not push out what everybody at the
// tip is about to read.
type frameSet struct {
	cache   *frameCache
	key     frameKey
	readers int // guarded by cache.mu

	mu   sync.Mutex
	live frameRing
	past frameRing
}

// of is the frame of a RecordBatch of one life from its message first on; page: of history. The
// first reader that asks renders it; whoever asks meanwhile waits for that. A crowd that
// comes from pages into the middle of a RecordBatch of the TailBuffer shares what is left of it, too.
func (s *frameSet) of(r shard.RecordBatch, first int, life uint64, page bool, interval uint64) *frame {
	next, from := r.Message(r.Len()-1).Next, r.From()
	ring := &s.live
	if page || first > 0 {
		ring = &s.past
	}
	if first > 0 {
		from = r.Message(first).Pos
	}
	s.mu.Lock()
	span := frameSpan{life, from, next}
	f := ring.by[span]
	if f == nil {
		f = &frame{
			life: life, next: next, messages: r.Len() - first, size: len(r.Bytes()),
		}
		for i := range first {
			f.size -= len(r.Message(i).Body)
		}
		if !page {
			f.time = r.Time()
		}
		ring.add(s.cache, span, f)
		ring.shrink(s.cache, tailFrameBytes, 1)
	}
	s.mu.Unlock()
	f.once.Do(func() {
		bodies := make([][]byte, r.Len()-first)
		for i := range bodies {
			bodies[i] = r.Message(first + i).Body
		}
		f.render(s.key.form, interval, bodies)
	})
	s.cache.reclaim()
	return f
}

// reclaim shrinks sets to their newest frames until the node's bound is kept.
func (c *frameCache) reclaim() {
	if c.bytes.Load() <= c.limit {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, s := range c.m {
		if c.bytes.Load() <= c.limit {
			return
		}
		s.mu.Lock()
		s.past.shrink(c, 0, 0)
		s.live.shrink(c, 0, 1)
		s.mu.Unlock()
	}
}

// frameRing is frames by what they span, and the order in which they came.
type frameRing struct {
	by    map[frameSpan]*frame
	order []frameSpan
	bytes int
}

// frameSpan names a frame: its life, the first position of its RecordBatch, and the
// position after its last message. A fork's readers share frames of several lives.
type frameSpan struct{ life, from, next uint64 }

func (r *frameRing) add(c *frameCache, k frameSpan, f *frame) {
	if r.by == nil {
		r.by = map[frameSpan]*frame{}
	}
	r.by[k] = f
	r.order = append(r.order, k)
	r.bytes += f.size
	c.bytes.Add(int64(f.size))
}

// shrink drops the oldest until at most limit bytes, or only keep frames and those that
// are being written, are left.
func (r *frameRing) shrink(c *frameCache, limit, keep int) {
	for r.bytes > limit {
		i := r.oldest(len(r.order) - keep)
		if i < 0 {
			return
		}
		k := r.order[i]
		copy(r.order[1:i+1], r.order[:i])
		r.order = r.order[1:]
		size := r.by[k].size
		delete(r.by, k)
		r.bytes -= size
		c.bytes.Add(-int64(size))
	}
}

// oldest is the oldest frame of the first n that nobody is being written; or the oldest of
// all, if pinnedMost are; or -1.
func (r *frameRing) oldest(n int) int {
	for i, k := range r.order[:min(n, pinnedMost)] {
		if r.by[k].pinned.Load() == 0 {
			return i
		}
	}
	if n > pinnedMost {
		return 0
	}
	return -1
}
