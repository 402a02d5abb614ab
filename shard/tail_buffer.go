package shard

import (
	"fmt"
	"sync"
)

// TailBuffer holds the newest part of one stream on one node, in one generation: a run of
// RecordBatches without a hole, bounded in bytes. Every reader of the stream on this node, and
// every peer that this node feeds, reads the same TailBuffer by position; no reader has a queue.
// Feeds (own acknowledgements, the S2 session, the link to another node) extend it, several at the
// same time. It drops records that it has, appends those that join, and reports a hole (GapError).
// It does not know its feeds.
type TailBuffer struct {
	stream StreamID
	set    *TailBuffers

	mu       sync.Mutex
	info     Info          // Tail and Closed move with each RecordBatch; the rest is set at construction
	floor    uint64        // first position held
	next     uint64        // position after the last one held
	batches  []RecordBatch // [floor, next), in order
	bytes    int
	endErr   error // why the generation has ended; nil: it has not
	refs     int   // readers and feeds
	watchers map[Waker]struct{}
}

// Waker is a reader that waits for news of a TailBuffer. Wake is called at most once for each
// Watch, never under the TailBuffer's lock, from the goroutine that brought the news: it must not
// block.
type Waker interface{ Wake() }

// TailStatus is the result of ReadAt: what follows after the RecordBatches.
type TailStatus uint8

// The statuses of ReadAt.
const (
	StatusTip    TailStatus = iota + 1 // nothing above what was returned, yet
	StatusMore                         // read again, above what was returned
	StatusBelow                        // below what is held: ask for pages
	StatusClosed                       // closed, and nothing above what was returned
	StatusGone                         // this generation has ended; see TailBuffer.EndError
)

// GapError reports that a RecordBatch did not join: the TailBuffer continues at Next.
type GapError struct{ Next uint64 }

func (e *GapError) Error() string { return fmt.Sprintf("gap: tail continues at %d", e.Next) }

// Stream returns the stream's name.
func (t *TailBuffer) Stream() StreamID { return t.stream }

// Generation returns the generation that this TailBuffer belongs to.
func (t *TailBuffer) Generation() uint64 { return t.info.Generation } // set at construction

// Info describes the stream as far as this TailBuffer knows it; LogTail is Next.
func (t *TailBuffer) Info() Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := t.info
	info.LogTail = t.next
	return info
}

// Next returns the position that the next RecordBatch has to cover.
func (t *TailBuffer) Next() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// Floor returns the first position that memory holds.
func (t *TailBuffer) Floor() uint64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.floor
}

// EndError returns why this generation has ended, or nil.
func (t *TailBuffer) EndError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endErr
}

// Extend appends the new part of r. *GapError: r begins above Next; nothing was appended. After End
// it appends nothing.
func (t *TailBuffer) Extend(r RecordBatch) error {
	wake, err := t.extendLater(r)
	wake.wakeAll()
	t.set.reclaim()
	return err
}

// extendLater is Extend that returns the wakers instead of waking them, for feeds that hold a lock
// of their own.
func (t *TailBuffer) extendLater(r RecordBatch) (wakers, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr != nil || r.To() <= t.next {
		return nil, nil
	}
	if r.From() > t.next {
		return nil, &GapError{t.next}
	}
	if r.From() < t.next {
		r = r.sliceFrom(t.next)
	}
	t.batches = append(t.batches, r)
	t.addBytes(len(r.b))
	// The visible tail stays within what the RecordBatch holds, and never falls.
	t.next, t.info.Closed = r.To(), r.Closed() && r.Tail() <= r.To()
	t.info.Tail = max(t.info.Tail, min(r.Tail(), r.To()))
	for len(t.batches) > 1 && (t.bytes > t.set.perStream || t.set.isOverBudget()) {
		t.dropOldest()
	}
	return t.disarmLocked(), nil
}

// SkipTo moves Next up to next without the records between, which a feed could not bring: readers
// below find them in pages. tail and closed are the state there. A TailBuffer that is already
// further ignores it.
func (t *TailBuffer) SkipTo(next, tail uint64, closed bool) {
	t.skipLater(next, tail, closed).wakeAll()
}

// skipLater is SkipTo that returns the wakers instead of waking them.
func (t *TailBuffer) skipLater(next, tail uint64, closed bool) wakers {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr != nil || next <= t.next {
		return nil
	}
	if tail > next { // the feed tells of a higher tail when it brings the records
		tail, closed = next, false
	}
	for len(t.batches) > 0 {
		t.dropOldest()
	}
	t.floor, t.next, t.info.Tail, t.info.Closed = next, next, tail, closed
	return t.disarmLocked()
}

// End ends this generation for all readers: the stream was deleted, expired or created again, or
// the node releases it for good. Later calls change nothing.
func (t *TailBuffer) End(why error) { t.endLater(why).wakeAll() }

// endLater is End that returns the wakers instead of waking them.
func (t *TailBuffer) endLater(why error) wakers {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr != nil {
		return nil
	}
	t.endErr = why
	return t.disarmLocked()
}

// ReadAt appends to into the RecordBatches that hold positions from pos on, up to about max bytes
// and at least one, and returns what follows after them. The first RecordBatch may begin below pos
// and may hold nothing at or above it. A pos beyond Next waits: StatusTip.
func (t *TailBuffer) ReadAt(pos uint64, max int, into []RecordBatch) ([]RecordBatch, TailStatus) {
	t.mu.Lock()
	defer t.mu.Unlock()
	switch {
	case t.endErr != nil:
		return into, StatusGone
	case pos >= t.info.Tail && t.info.Closed:
		return into, StatusClosed
	case pos >= t.info.Tail:
		return into, StatusTip
	case pos < t.floor:
		return into, StatusBelow
	}
	lo, hi := 0, len(t.batches)
	for lo < hi { // the first RecordBatch that ends above pos
		if mid := int(uint(lo+hi) >> 1); t.batches[mid].To() <= pos {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for size := 0; lo < len(t.batches) && (size == 0 || size < max); lo++ {
		into = append(into, t.batches[lo])
		size += len(t.batches[lo].b)
	}
	switch {
	case into[len(into)-1].To() < t.info.Tail:
		return into, StatusMore
	case t.info.Closed:
		return into, StatusClosed
	default:
		return into, StatusTip
	}
}

// Watch arms w: the next news wakes it (a RecordBatch, a skip, the end). If there is something to
// read at pos already, Watch arms nothing and returns false: read again.
func (t *TailBuffer) Watch(w Waker, pos uint64) bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr != nil || pos < t.info.Tail || t.info.Closed {
		return false
	}
	if t.watchers == nil {
		t.watchers = make(map[Waker]struct{}, 1)
	}
	t.watchers[w] = struct{}{}
	return true
}

// Unwatch disarms w. A Wake that is under way may still come.
func (t *TailBuffer) Unwatch(w Waker) {
	t.mu.Lock()
	delete(t.watchers, w)
	t.mu.Unlock()
}

// dropOldest drops the oldest RecordBatch, under mu.
func (t *TailBuffer) dropOldest() {
	t.addBytes(-len(t.batches[0].b))
	t.floor = t.batches[0].To()
	t.batches[0] = RecordBatch{} // a reader may hold it; this array must not
	t.batches = t.batches[1:]
}

// addBytes counts n more bytes, under mu.
func (t *TailBuffer) addBytes(n int) {
	t.bytes += n
	t.set.bytes.Add(int64(n))
}

// disarmLocked disarms and returns all wakers.
func (t *TailBuffer) disarmLocked() wakers {
	if len(t.watchers) == 0 {
		return nil
	}
	ws := make(wakers, 0, len(t.watchers))
	for w := range t.watchers {
		ws = append(ws, w)
	}
	clear(t.watchers)
	return ws
}

// wakers are to be woken once no lock is held.
type wakers []Waker

func (ws wakers) wakeAll() {
	for _, w := range ws {
		w.Wake()
	}
}
