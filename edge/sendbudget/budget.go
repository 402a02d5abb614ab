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
	p := &Budget{limit: limit, readers: map[Evictable]struct{}{}, shared: map[*byte]int{}}
	p.freed.L = &p.mu
	return p
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
func (p *Budget) Charge(n int64) {
	switch held := p.held.Add(n); {
	case n < 0:
		if p.waiters.Load() > 0 {
			p.wakeWaiters()
		}
	case held > p.limit && p.evictionDue.CompareAndSwap(false, true):
		time.AfterFunc(evictInterval, p.evict)
	}
}

// Exceeded reports whether more is held than limit.
func (p *Budget) Exceeded() bool { return p.held.Load() > p.limit }

// WaitForRoom waits until no more than limit is held.
func (p *Budget) WaitForRoom(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.wakeWaiters)()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters.Add(1)
	defer p.waiters.Add(-1)
	for p.Exceeded() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.freed.Wait()
	}
	return nil
}

func (p *Budget) wakeWaiters() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freed.Broadcast()
}

// CountShared adds more (negative: subtracts) to the holders of each payload. Payloads are the same if
// their memory is. Each is charged once, while it has holders.
func (p *Budget) CountShared(payloads iter.Seq[[]byte], more int) {
	var n int64
	p.mu.Lock()
	for b := range payloads {
		key := unsafe.SliceData(b)
		had := p.shared[key]
		if p.shared[key] += more; had == 0 {
			n += int64(len(b))
		} else if had+more == 0 {
			delete(p.shared, key)
			n -= int64(len(b))
		}
	}
	p.mu.Unlock()
	p.Charge(n)
}

// Held returns how much is held, in bytes.
func (p *Budget) Held() int64 { return p.held.Load() }

// Stats describes a Budget at one moment.
type Stats struct {
	Held     int64 // bytes
	Payloads int   // of CountShared that have holders
	Readers  int   // that may be blocked
	Blocked  int   // of these, are blocked in a write
	Waiting  int   // in WaitForRoom
}

// Stats returns what the budget counts.
func (p *Budget) Stats() Stats {
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	s := Stats{Held: p.held.Load(), Payloads: len(p.shared), Readers: len(p.readers), Waiting: int(p.waiters.Load())}
	for w := range p.readers {
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

// AddReader makes a reader one that may be disconnected. It is called before the reader may block.
func (p *Budget) AddReader(w Evictable) {
	p.mu.Lock()
	p.readers[w] = struct{}{}
	p.mu.Unlock()
}

// RemoveReader undoes AddReader; after it, the budget does not touch the reader.
func (p *Budget) RemoveReader(w Evictable) {
	p.mu.Lock()
	delete(p.readers, w)
	p.mu.Unlock()
}

// evict disconnects blocked readers, again and again while the budget is exceeded.
func (p *Budget) evict() {
	p.evictionDue.Store(false)
	if !p.Exceeded() {
		return
	}
	type one struct {
		w  Evictable
		at time.Duration
	}
	now := time.Now()
	p.mu.Lock()
	var stuck []one
	for w := range p.readers {
		if d := w.BlockedFor(now); d > BlockedAfter {
			stuck = append(stuck, one{w, d})
		}
	}
	slices.SortFunc(stuck, func(a, b one) int { return cmp.Compare(b.at, a.at) })
	for _, s := range stuck[:(len(stuck)+evictFraction-1)/evictFraction] {
		s.w.Disconnect()
	}
	p.mu.Unlock()
	p.Charge(0) // schedules the next call
}
