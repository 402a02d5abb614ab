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

// pins is what readers hold while it is written to them: frames of SSE, or pages, each
// counted once however many hold it. While that is more than limit, readers are cut that have
// been at one write for longer than stuckAfter, those first that have been for longest. So the
// bound may be passed for as long as nobody is stuck: who takes what it gets is not cut for what
// others hold. Over HTTPAddr/2 that is 16 KiB a second; over TCP, anything.
type pins struct {
	limit  int64
	bytes  atomic.Int64
	easing atomic.Bool // ease will be called

	waiting atomic.Int32 // for room

	mu      sync.Mutex
	writers map[pinner]struct{}
	less    sync.Cond     // there may be room
	pages   map[*byte]int // by their memory: answers that hold each
}

func newPins(limit int64) *pins {
	p := &pins{limit: limit, writers: map[pinner]struct{}{}, pages: map[*byte]int{}}
	p.less.L = &p.mu
	return p
}

const (
	// stuckAfter is how long a reader may be at one write while there is too little room.
	stuckAfter = time.Second
	// easeEvery is how often readers are cut meanwhile, and easePart which part of those who
	// are stuck at once: they may all hold the same.
	easeEvery = 100 * time.Millisecond
	easePart  = 16
)

// hold counts n bytes more, or fewer.
func (p *pins) hold(n int64) {
	switch held := p.bytes.Add(n); {
	case n < 0:
		if p.waiting.Load() > 0 {
			p.wake()
		}
	case held > p.limit && p.easing.CompareAndSwap(false, true):
		time.AfterFunc(easeEvery, p.ease)
	}
}

// pin notes that one more reader holds the frame.
func (p *pins) pin(f *frame) {
	if f.pinned.Add(1) == 1 {
		p.hold(int64(len(f.data)))
	}
}

func (p *pins) unpin(f *frame) {
	if f.pinned.Add(-1) == 0 {
		p.hold(-int64(len(f.data)))
	}
}

// full: more is held than limit.
func (p *pins) full() bool { return p.bytes.Load() > p.limit }

// await waits until what is held is not more than limit.
func (p *pins) await(ctx context.Context) error {
	defer context.AfterFunc(ctx, p.wake)()
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting.Add(1)
	defer p.waiting.Add(-1)
	for p.full() {
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		p.less.Wait()
	}
	return nil
}

func (p *pins) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.less.Broadcast()
}

// count is how many more hold the pages.
func (p *pins) count(pages []run, more int) {
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
	p.hold(n)
}

// pinner is a reader that may be cut for room. stuckFor is how long it has been at one
// write, 0 if it is at none, or has been cut.
type pinner interface {
	stuckFor(now time.Time) time.Duration
	cut()
}

// add and remove are called before a reader may be stuck, and after.
func (p *pins) add(w pinner) {
	p.mu.Lock()
	p.writers[w] = struct{}{}
	p.mu.Unlock()
}

func (p *pins) remove(w pinner) {
	p.mu.Lock()
	delete(p.writers, w)
	p.mu.Unlock()
}

// ease cuts readers that are stuck, for as long as there is too little room.
func (p *pins) ease() {
	p.easing.Store(false)
	if !p.full() {
		return
	}
	type one struct {
		w  pinner
		at time.Duration
	}
	now := time.Now()
	p.mu.Lock()
	var stuck []one
	for w := range p.writers {
		if d := w.stuckFor(now); d > stuckAfter {
			stuck = append(stuck, one{w, d})
		}
	}
	slices.SortFunc(stuck, func(a, b one) int { return cmp.Compare(b.at, a.at) })
	for _, s := range stuck[:(len(stuck)+easePart-1)/easePart] {
		s.w.cut()
	}
	p.mu.Unlock()
	p.hold(0) // and again
}
