package edge

import (
	"cmp"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// sendBudget counts what is held while it is written to readers: SSE frames, or pages, each
// counted once however many readers hold it. While more than limit is held, readers blocked in one
// write for longer than blockedAfter are disconnected, longest-blocked first. So the bound may be
// exceeded as long as no reader is blocked: a reader that accepts data is not disconnected for
// what others hold. Accepting data means 16 KiB a second over HTTP/2, and any progress over TCP.
type sendBudget struct {
	limit       int64
	held        atomic.Int64
	evictionDue atomic.Bool // a call of evict is scheduled

	waiters atomic.Int32 // in waitForRoom

	mu      sync.Mutex
	readers map[evictable]struct{}
	freed   sync.Cond     // signalled when there may be room
	pages   map[*byte]int // by the address of their memory: how many answers hold each
}

func newSendBudget(limit int64) *sendBudget {
	p := &sendBudget{limit: limit, readers: map[evictable]struct{}{}, pages: map[*byte]int{}}
	p.freed.L = &p.mu
	return p
}

const (
	// blockedAfter is the age of a blocked write at which its reader may be disconnected, while the
	// budget is exceeded.
	blockedAfter = time.Second
	// evictInterval separates two rounds of disconnections meanwhile. Each disconnects 1/evictFraction
	// of the blocked readers: they may all hold the same memory.
	evictInterval = 100 * time.Millisecond
	evictFraction = 16
)

// charge adds n bytes to what is held; n may be negative.
func (p *sendBudget) charge(n int64) {
	switch held := p.held.Add(n); {
	case n < 0:
		if p.waiters.Load() > 0 {
			p.wakeWaiters()
		}
	case held > p.limit && p.evictionDue.CompareAndSwap(false, true):
		time.AfterFunc(evictInterval, p.evict)
	}
}

// pinFrame notes that one more reader holds the frame.
func (p *sendBudget) pinFrame(f *frame) {
	if f.pins.Add(1) == 1 {
		p.charge(int64(len(f.data)))
	}
}

func (p *sendBudget) unpinFrame(f *frame) {
	if f.pins.Add(-1) == 0 {
		p.charge(-int64(len(f.data)))
	}
}

// exceeded reports whether more is held than limit.
func (p *sendBudget) exceeded() bool { return p.held.Load() > p.limit }

// waitForRoom waits until no more than limit is held.
func (p *sendBudget) waitForRoom(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.wakeWaiters)()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiters.Add(1)
	defer p.waiters.Add(-1)
	for p.exceeded() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.freed.Wait()
	}
	return nil
}

func (p *sendBudget) wakeWaiters() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.freed.Broadcast()
}

// countPages adds more to the number of answers that hold each of the pages.
func (p *sendBudget) countPages(pages []pageRun, more int) {
	var n int64
	p.mu.Lock()
	for _, r := range pages {
		b := r.page.Payload()
		key := unsafe.SliceData(b)
		had := p.pages[key]
		if p.pages[key] += more; had == 0 {
			n += int64(len(b))
		} else if had+more == 0 {
			delete(p.pages, key)
			n -= int64(len(b))
		}
	}
	p.mu.Unlock()
	p.charge(n)
}

// evictable is a reader that may be disconnected to free memory. blockedFor returns how long it has
// been blocked in one write, 0 if it is not, or is disconnected already.
type evictable interface {
	blockedFor(now time.Time) time.Duration
	disconnect()
}

// addReader is called before a reader may block, and removeReader afterwards.
func (p *sendBudget) addReader(w evictable) {
	p.mu.Lock()
	p.readers[w] = struct{}{}
	p.mu.Unlock()
}

func (p *sendBudget) removeReader(w evictable) {
	p.mu.Lock()
	delete(p.readers, w)
	p.mu.Unlock()
}

// evict disconnects blocked readers, again and again while the budget is exceeded.
func (p *sendBudget) evict() {
	p.evictionDue.Store(false)
	if !p.exceeded() {
		return
	}
	type one struct {
		w  evictable
		at time.Duration
	}
	now := time.Now()
	p.mu.Lock()
	var stuck []one
	for w := range p.readers {
		if d := w.blockedFor(now); d > blockedAfter {
			stuck = append(stuck, one{w, d})
		}
	}
	slices.SortFunc(stuck, func(a, b one) int { return cmp.Compare(b.at, a.at) })
	for _, s := range stuck[:(len(stuck)+evictFraction-1)/evictFraction] {
		s.w.disconnect()
	}
	p.mu.Unlock()
	p.charge(0) // schedules the next call
}
