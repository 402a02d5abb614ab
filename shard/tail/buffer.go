package tail

import (
	"fmt"
	"sync"
)

// Buffer holds the newest part of one stream on one node, in one generation: a run of
// RecordBatches without a hole, bounded in bytes. Every reader of the stream on this node, and
// every peer that this node feeds, reads the same Buffer by position; no reader has a queue.
// Feeds (own acknowledgements, the S2 session, the link to another node) extend it, several at the
// same time. It drops records that it has, appends those that join, and reports a hole (GapError).
// It does not know its feeds.
type Buffer struct {
	stream StreamID
	set    *Buffers

	mu       sync.Mutex
	info     Info          // Tail and Closed move with each RecordBatch, Chain with SetChain; Generation never changes
	floor    Pos           // first position held
	next     Pos           // position after the last one held
	batches  []RecordBatch // [floor, next), in order
	bytes    int
	endErr   error // why the generation has ended; nil: it has not
	refs     int   // readers and feeds
	received Received
	watchers map[Waker]struct{}
}

// Waker is a reader that waits for news of a Buffer. Wake is called at most once for each
// Watch, never under the Buffer's lock, from the goroutine that brought the news: it must not
// block.
type Waker interface{ Wake() }

// Status is the result of ReadAt: what follows after the RecordBatches.
type Status uint8

// The statuses of ReadAt.
const (
	StatusTip    Status = iota + 1 // nothing above what was returned, yet
	StatusMore                     // read again, above what was returned
	StatusBelow                    // below what is held: ask for pages
	StatusClosed                   // closed, and nothing above what was returned
	StatusGone                     // this generation has ended; see Buffer.EndError
)

// GapError reports that a RecordBatch did not join: the Buffer continues at Next.
type GapError struct{ Next Pos }

func (e *GapError) Error() string { return fmt.Sprintf("gap: tail continues at %d", e.Next) }

// Stream returns the stream's name.
func (t *Buffer) Stream() StreamID { return t.stream }

// Generation returns the generation that this Buffer belongs to.
func (t *Buffer) Generation() Generation { return t.info.Generation } // needs no lock: it never changes

// Info describes the stream as far as this Buffer knows it; LogTail is Next.
func (t *Buffer) Info() Info {
	t.mu.Lock()
	defer t.mu.Unlock()
	info := t.info
	info.LogTail = t.next
	return info
}

// Next returns the position that the next RecordBatch has to cover.
func (t *Buffer) Next() Pos {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.next
}

// Floor returns the first position that memory holds.
func (t *Buffer) Floor() Pos {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.floor
}

// EndError returns why this generation has ended, or nil.
func (t *Buffer) EndError() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.endErr
}

// Extend appends the new part of r. *GapError: r begins above Next; nothing was appended. After End
// it appends nothing.
func (t *Buffer) Extend(r RecordBatch) error {
	wake, err := t.ExtendLater(r)
	wake.WakeAll()
	t.set.Reclaim()
	return err
}

// ExtendLater is Extend that returns the wakers instead of waking them, for feeds that hold a lock
// of their own.
func (t *Buffer) ExtendLater(r RecordBatch) (Wakers, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.endErr != nil || r.To() <= t.next {
		return nil, nil
	}
	if r.From() > t.next {
		return nil, &GapError{t.next}
	}
	if r.From() < t.next {
		r = r.SliceFrom(t.next)
	}
	t.batches = append(t.batches, r)
	t.received.Messages += uint64(r.Len())
	t.received.Bytes += uint64(len(r.Payload()))
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
// below find them in pages. tail and closed are the state there. A Buffer that is already
// further ignores it.
func (t *Buffer) SkipTo(next, tail Pos, closed bool) {
	t.SkipLater(next, tail, closed).WakeAll()
}

// SkipLater is SkipTo that returns the wakers instead of waking them.
func (t *Buffer) SkipLater(next, tail Pos, closed bool) Wakers {
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
func (t *Buffer) End(why error) { t.EndLater(why).WakeAll() }

// EndLater is End that returns the wakers instead of waking them.
func (t *Buffer) EndLater(why error) Wakers {
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
func (t *Buffer) ReadAt(pos Pos, max int, into []RecordBatch) ([]RecordBatch, Status) {
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
func (t *Buffer) Watch(w Waker, pos Pos) bool {
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
func (t *Buffer) Unwatch(w Waker) {
	t.mu.Lock()
	delete(t.watchers, w)
	t.mu.Unlock()
}

// dropOldest drops the oldest RecordBatch, under mu.
func (t *Buffer) dropOldest() {
	t.addBytes(-len(t.batches[0].b))
	t.floor = t.batches[0].To()
	t.batches[0] = RecordBatch{} // a reader may hold it; this array must not
	t.batches = t.batches[1:]
}

// addBytes counts n more bytes, under mu.
func (t *Buffer) addBytes(n int) {
	t.bytes += n
	t.set.bytes.Add(int64(n))
}

// disarmLocked disarms and returns all wakers.
func (t *Buffer) disarmLocked() Wakers {
	if len(t.watchers) == 0 {
		return nil
	}
	ws := make(Wakers, 0, len(t.watchers))
	for w := range t.watchers {
		ws = append(ws, w)
	}
	clear(t.watchers)
	return ws
}

// Wakers are to be woken once no lock is held.
type Wakers []Waker

// WakeAll wakes each.
func (ws Wakers) WakeAll() {
	for _, w := range ws {
		w.Wake()
	}
}

// Newest returns the last RecordBatches: those that fit in atLeast bytes, and from position from on
// those that fit in atMost. from is 0: none of the latter.
func (t *Buffer) Newest(from Pos, atLeast, atMost int) []RecordBatch {
	t.mu.Lock()
	defer t.mu.Unlock()
	n, size := len(t.batches), 0
	for i := n; i > 0; i-- {
		r := t.batches[i-1]
		size += len(r.b)
		if size > atMost || size > atLeast && (from == 0 || r.To() <= from) {
			break
		}
		n = i - 1
	}
	return append([]RecordBatch(nil), t.batches[n:]...)
}

// SetChain sets what the generation inherited, once that is confirmed.
func (t *Buffer) SetChain(chain []Ancestor) {
	t.mu.Lock()
	t.info.Chain = chain
	t.mu.Unlock()
}
