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
func (b *Buffer) Stream() StreamID { return b.stream }

// Generation returns the generation that this Buffer belongs to.
func (b *Buffer) Generation() Generation { return b.info.Generation } // needs no lock: it never changes

// Info describes the stream as far as this Buffer knows it; LogTail is Next.
func (b *Buffer) Info() Info {
	b.mu.Lock()
	defer b.mu.Unlock()
	info := b.info
	info.LogTail = b.next
	return info
}

// Next returns the position that the next RecordBatch has to cover.
func (b *Buffer) Next() Pos {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.next
}

// Floor returns the first position that memory holds.
func (b *Buffer) Floor() Pos {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.floor
}

// EndError returns why this generation has ended, or nil.
func (b *Buffer) EndError() error {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.endErr
}

// Extend appends the new part of r. *GapError: r begins above Next; nothing was appended. After End
// it appends nothing.
func (b *Buffer) Extend(r RecordBatch) error {
	wake, err := b.ExtendLater(r)
	wake.WakeAll()
	b.set.Reclaim()
	return err
}

// ExtendLater does what Extend does, and returns the wakers instead of waking them, for feeds that
// hold a lock of their own.
func (b *Buffer) ExtendLater(r RecordBatch) (Wakers, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.endErr != nil || r.To() <= b.next {
		return nil, nil
	}
	if r.From() > b.next {
		return nil, &GapError{b.next}
	}
	if r.From() < b.next {
		r = r.SliceFrom(b.next)
	}
	b.batches = append(b.batches, r)
	b.received.Messages += uint64(r.Len())
	b.received.Bytes += uint64(r.bodyStart(r.Len()))
	b.addBytes(len(r.b))
	// The visible tail stays within what the RecordBatch holds, and never falls.
	b.next, b.info.Closed = r.To(), r.Closed() && r.Tail() <= r.To()
	b.info.Tail = max(b.info.Tail, min(r.Tail(), r.To()))
	for len(b.batches) > 1 && (b.bytes > b.set.perStream || b.set.isOverBudget()) {
		b.dropOldest()
	}
	return b.disarmLocked(), nil
}

// SkipTo moves Next up to next without the records between, which a feed could not bring: readers
// below find them in pages. tail and closed are the state there. A Buffer that is already
// further ignores it.
func (b *Buffer) SkipTo(next, tail Pos, closed bool) {
	b.SkipLater(next, tail, closed).WakeAll()
}

// SkipLater does what SkipTo does, and returns the wakers instead of waking them.
func (b *Buffer) SkipLater(next, tail Pos, closed bool) Wakers {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.endErr != nil || next <= b.next {
		return nil
	}
	if tail > next { // the feed tells of a higher tail when it brings the records
		tail, closed = next, false
	}
	for len(b.batches) > 0 {
		b.dropOldest()
	}
	b.floor, b.next, b.info.Tail, b.info.Closed = next, next, tail, closed
	return b.disarmLocked()
}

// End ends this generation for all readers: the stream was deleted, expired or created again, or
// the node releases it for good. Later calls change nothing.
func (b *Buffer) End(why error) { b.EndLater(why).WakeAll() }

// EndLater does what End does, and returns the wakers instead of waking them.
func (b *Buffer) EndLater(why error) Wakers {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.endErr != nil {
		return nil
	}
	b.endErr = why
	return b.disarmLocked()
}

// ReadAt appends to into the RecordBatches that hold positions from pos on, up to about max bytes
// and at least one, and returns what follows after them. The first RecordBatch may begin below pos
// and may hold nothing at or above it. A pos beyond Next waits: StatusTip.
func (b *Buffer) ReadAt(pos Pos, max int, into []RecordBatch) ([]RecordBatch, Status) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch {
	case b.endErr != nil:
		return into, StatusGone
	case pos >= b.info.Tail && b.info.Closed:
		return into, StatusClosed
	case pos >= b.info.Tail:
		return into, StatusTip
	case pos < b.floor:
		return into, StatusBelow
	}
	lo, hi := 0, len(b.batches)
	for lo < hi { // the first RecordBatch that ends above pos
		if mid := int(uint(lo+hi) >> 1); b.batches[mid].To() <= pos {
			lo = mid + 1
		} else {
			hi = mid
		}
	}
	for size := 0; lo < len(b.batches) && (size == 0 || size < max); lo++ {
		into = append(into, b.batches[lo])
		size += len(b.batches[lo].b)
	}
	switch {
	case into[len(into)-1].To() < b.info.Tail:
		return into, StatusMore
	case b.info.Closed:
		return into, StatusClosed
	default:
		return into, StatusTip
	}
}

// FindTime returns a position from start on from which on messages have a time or a later one; tail if
// none has below that. It is above start only if an earlier record stands between. ok: what is held
// tells.
func (b *Buffer) FindTime(since Millis, start, tail Pos) (pos Pos, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.endErr != nil || b.next < tail {
		return 0, false
	}
	i := len(b.batches)
	for i > 0 && !b.batches[i-1].isBefore(since) {
		i--
	}
	if i == 0 && b.floor > start || i > 0 && b.batches[i-1].Time() == 0 {
		return 0, false
	}
	later := since == 0 // a record of that time or later lies below
	for _, r := range b.batches[i:] {
		switch {
		case r.Len() == 0:
			later = later || r.Time() >= since
		case !later && !r.HasOneTime():
			return 0, false
		case i == 0:
			return start, true
		default:
			return min(max(r.Message(0).Pos, start), tail), true
		}
	}
	return tail, true
}

// Watch arms w: the next news wakes it (a RecordBatch, a skip, the end). If there is something to
// read at pos already, Watch arms nothing and returns false: read again.
func (b *Buffer) Watch(w Waker, pos Pos) bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.endErr != nil || pos < b.info.Tail || b.info.Closed {
		return false
	}
	if b.watchers == nil {
		b.watchers = make(map[Waker]struct{}, 1)
	}
	b.watchers[w] = struct{}{}
	return true
}

// Unwatch disarms w. A Wake that is under way may still come.
func (b *Buffer) Unwatch(w Waker) {
	b.mu.Lock()
	delete(b.watchers, w)
	b.mu.Unlock()
}

// dropOldest drops the oldest RecordBatch, under mu.
func (b *Buffer) dropOldest() {
	b.addBytes(-len(b.batches[0].b))
	b.floor = b.batches[0].To()
	b.batches[0] = RecordBatch{} // a reader may hold it; this array must not
	b.batches = b.batches[1:]
}

// addBytes counts n more bytes, under mu.
func (b *Buffer) addBytes(n int) {
	b.bytes += n
	b.set.bytes.Add(int64(n))
}

// disarmLocked disarms and returns all wakers.
func (b *Buffer) disarmLocked() Wakers {
	if len(b.watchers) == 0 {
		return nil
	}
	ws := make(Wakers, 0, len(b.watchers))
	for w := range b.watchers {
		ws = append(ws, w)
	}
	clear(b.watchers)
	return ws
}

// Wakers holds readers to wake once no lock is held.
type Wakers []Waker

// WakeAll wakes each.
func (ws Wakers) WakeAll() {
	for _, w := range ws {
		w.Wake()
	}
}

// Newest returns the last RecordBatches that fit in atLeast bytes. If from is not 0 it returns more
// of them, as many as reach beyond position from and fit in atMost bytes.
func (b *Buffer) Newest(from Pos, atLeast, atMost int) []RecordBatch {
	b.mu.Lock()
	defer b.mu.Unlock()
	n, size := len(b.batches), 0
	for i := n; i > 0; i-- {
		r := b.batches[i-1]
		size += len(r.b)
		if size > atMost || size > atLeast && (from == 0 || r.To() <= from) {
			break
		}
		n = i - 1
	}
	return append([]RecordBatch(nil), b.batches[n:]...)
}

// SetChain sets what the generation inherited, once that is confirmed.
func (b *Buffer) SetChain(chain []Ancestor) {
	b.mu.Lock()
	b.info.Chain = chain
	b.mu.Unlock()
}

// Received counts what a Buffer was extended by since it was opened.
type Received struct{ Messages, Bytes uint64 }
