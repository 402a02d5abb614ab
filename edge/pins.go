package edge

import (
	"context"
	"sync"
	"sync/atomic"
	"time"
	"unsafe"
)

// pins is what readers hold while it is written to them: frames of SSE, or pages, each
// counted once however many hold it. When that is more than limit, the reader is cut that
// has been at one write for the longest, and for longer than stuckFor: a reader that takes
// what it gets is never cut for what others hold, so the bound may be passed for a moment.
type pins struct {
	limit int64
	bytes atomic.Int64

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

// stuckFor is how long a reader may be at one write while there is too little room.
const stuckFor = time.Second

// pin notes that one more reader holds the frame.
func (p *pins) pin(f *frame) {
	if f.pinned.Add(1) == 1 {
		p.bytes.Add(int64(len(f.data)))
	}
}

func (p *pins) unpin(f *frame) {
	if f.pinned.Add(-1) == 0 {
		p.bytes.Add(-int64(len(f.data)))
	}
}

// full: more is held than limit.
func (p *pins) full() bool { return p.bytes.Load() > p.limit }

// written notes that pages are being written to w, until done.
func (p *pins) written(w pinner) (done func()) {
	p.add(w)
	p.relieve()
	return func() { p.remove(w) }
}

// await waits until what is held is not more than limit. Those who are stuck are cut
// meanwhile: see stint.
func (p *pins) await(ctx context.Context) error {
	if !p.full() {
		return nil
	}
	p.relieve()
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

// room counts what is held beside pages, until it is given back.
func (p *pins) room(n int64) (back func()) {
	p.bytes.Add(n)
	return func() {
		if p.bytes.Add(-n); p.waiting.Load() > 0 {
			p.wake()
		}
	}
}

func (p *pins) wake() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.less.Broadcast()
}

// count is how many more hold the pages.
func (p *pins) count(pages []run, more int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, r := range pages {
		b := r.page.Payload()
		key := unsafe.SliceData(b)
		had := p.pages[key]
		if p.pages[key] += more; had == 0 {
			p.bytes.Add(int64(len(b)))
		} else if had+more == 0 {
			delete(p.pages, key)
			p.bytes.Add(-int64(len(b)))
			p.less.Broadcast()
		}
	}
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

// relieve cuts a reader if there is too little room and one is stuck.
func (p *pins) relieve() {
	if !p.full() {
		return
	}
	now := time.Now()
	p.mu.Lock()
	defer p.mu.Unlock()
	var oldest pinner
	longest := stuckFor
	for w := range p.writers {
		if d := w.stuckFor(now); d > longest {
			oldest, longest = w, d
		}
	}
	if oldest != nil {
		oldest.cut()
	}
}
