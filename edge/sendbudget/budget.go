package sendbudget

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// Budget counts what is held while it is written to readers: SSE frames, or pages, each
// counted once however many readers hold it. While more than limit is held, readers blocked in one
// write for longer than BlockedAfter are disconnected, longest-blocked first. So the bound may be
// exceeded as long as no reader is blocked: a reader that accepts data is not disconnected for
// what others hold. Accepting data means 16 KiB a second over HTTP/2, and any progress over TCP.
type Budget struct {
	limit       int64
	held        atomic.Int64
	evictionDue atomic.Bool // a call of evict is scheduled

	waiters atomic.Int32 // in WaitForRoom

	mu      sync.Mutex
	readers map[Evictable]struct{}
	freed   sync.Cond     // signalled when there may be room
	shared  map[*byte]int // payloads by the address of their memory: how many hold each
}

// New returns a Budget of limit bytes.
func New(limit int64) *Budget {
	b := &Budget{limit: limit, readers: map[Evictable]struct{}{}, shared: map[*byte]int{}}
	b.freed.L = &b.mu
	return b
}

// BlockedAfter is the age of a blocked write at which its reader may be disconnected, while the
// budget is exceeded.
const BlockedAfter = time.Second

const (
	// evictInterval separates two rounds of disconnections meanwhile. Each disconnects 1/evictFraction
	// of the blocked readers: they may all hold the same memory.
	evictInterval = 100 * time.Millisecond
	evictFraction = 16
)

// Charge adds n bytes to what is held; n may be negative.
func (b *Budget) Charge(n int64) {
	switch held := b.held.Add(n); {
	case n < 0:
		if b.waiters.Load() > 0 {
			b.wakeWaiters()
		}
	case held > b.limit && b.evictionDue.CompareAndSwap(false, true):
		time.AfterFunc(evictInterval, b.evict)
	}
}

// Exceeded reports whether more is held than limit.
func (b *Budget) Exceeded() bool { return b.held.Load() > b.limit }

// WaitForRoom waits until no more than limit is held.
func (b *Budget) WaitForRoom(ctx context.Context) error {
	defer context.AfterFunc(ctx, b.wakeWaiters)()
	b.mu.Lock()
	defer b.mu.Unlock()
	b.waiters.Add(1)
	defer b.waiters.Add(-1)
	for b.Exceeded() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		b.freed.Wait()
	}
	return nil
}

func (b *Budget) wakeWaiters() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.freed.Broadcast()
}

// CountShared adds more (negative: subtracts) to the holders of each payload. Payloads are the same if
// their memory is. Each is charged once, while it has holders.
func (b *Budget) CountShared(payloads iter.Seq[[]byte], more int) {
	var n int64
	b.mu.Lock()
	for payload := range payloads {
		key := unsafe.SliceData(payload)
		had := b.shared[key]
		if b.shared[key] += more; had == 0 {
			n += int64(len(payload))
		} else if had+more == 0 {
			delete(b.shared, key)
			n -= int64(len(payload))
		}
	}
	b.mu.Unlock()
	b.Charge(n)
}

// Held returns how much is held, in bytes.
func (b *Budget) Held() int64 { return b.held.Load() }

// Stats describes a Budget at one moment.
type Stats struct {
	Held     int64 // bytes
	Payloads int   // of CountShared that have holders
	Readers  int   // that may be blocked
	Blocked  int   // of these, are blocked in a write
	Waiting  int   // in WaitForRoom
}

// Stats returns what the budget counts.
func (b *Budget) Stats() Stats {
	now := time.Now()
	b.mu.Lock()
	defer b.mu.Unlock()
	s := Stats{Held: b.held.Load(), Payloads: len(b.shared), Readers: len(b.readers), Waiting: int(b.waiters.Load())}
	for w := range b.readers {
		if w.BlockedFor(now) > 0 {
			s.Blocked++
		}
	}
	return s
}

// Evictable is a reader that may be disconnected to free memory. Its methods are called with the
// budget locked and must not block.
type Evictable interface {
	// BlockedFor returns how long the reader has been blocked in one write; 0 if it is not, or is
	// disconnected already.
	BlockedFor(now time.Time) time.Duration
	Disconnect()
}

// AddReader adds a reader that may be disconnected. It is called before the reader may block.
func (b *Budget) AddReader(w Evictable) {
	b.mu.Lock()
	b.readers[w] = struct{}{}
	b.mu.Unlock()
}

// RemoveReader undoes AddReader; after it, the budget does not touch the reader.
func (b *Budget) RemoveReader(w Evictable) {
	b.mu.Lock()
	delete(b.readers, w)
	b.mu.Unlock()
}

// evict disconnects blocked readers, again and again while the budget is exceeded.
func (b *Budget) evict() {
	b.evictionDue.Store(false)
	if !b.Exceeded() {
		return
	}
	type one struct {
		w  Evictable
		at time.Duration
	}
	now := time.Now()
	b.mu.Lock()
	var stuck []one
	for w := range b.readers {
		if d := w.BlockedFor(now); d > BlockedAfter {
			stuck = append(stuck, one{w, d})
		}
	}
	slices.SortFunc(stuck, func(x, y one) int { return cmp.Compare(y.at, x.at) })
	for _, s := range stuck[:(len(stuck)+evictFraction-1)/evictFraction] {
		s.w.Disconnect()
	}
	b.mu.Unlock()
	b.Charge(0) // schedules the next call
}
