package shard

import (
	"context"
	"errors"
	"strconv"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"
)

// pages reads and remembers history. A page begins where it is asked for and
// ends at the next multiple of pageRecords or after about a batch's bytes. It never
// changes, so it can be cached for ever. Whether a part of a large append is
// visible only its last part tells: such appends are read to their ends, and cut
// into pages then. A page that the tail ended
// before that serves for as long as its end is the tail of who asks: of an idle
// stream, or of what a fork inherited. Bounded in bytes; the least useful pages go
// first.
type pages struct {
	log    Log
	cache  *otter.Cache[pageKey, page]
	reads  singleflight.Group
	panics *PanicHandler
}

// page is a RecordBatch of history; whole: it ends by its own rule and not at the tail.
type page struct {
	RecordBatch
	complete bool
}

const pageRecords = MaxBatchRecords

// pageKey names a page. The life is in it because a log that was wiped uses its positions
// again, and whether the stream is JSON because of what others wrote such a stream shows only
// what is JSON: a fork's create record and a peer say that of a log without its owner's word.
type pageKey struct {
	stream     StreamID
	generation uint64
	from       uint64
	json       bool
}

// pageKeyOf names the page at from of a stream that info describes.
func pageKeyOf(id StreamID, info *Info, from uint64) pageKey {
	return pageKey{id, info.Generation, from, IsJSON(info.Type)}
}

// sharedReadKey is the key for those who want the same page at the same time.
func (k pageKey) sharedReadKey(way string, to uint64) string {
	return way + "\x00" + strconv.FormatBool(k.json) + "\x00" + string(k.stream) + "\x00" +
		uintKey(k.generation) + uintKey(k.from) + uintKey(to)
}

func newPages(log Log, bytes int64, panics *PanicHandler) *pages {
	return &pages{log: log, panics: panics, cache: otter.Must(&otter.Options[pageKey, page]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(k pageKey, p page) uint32 { return uint32(len(k.stream) + 128 + len(p.b)) },
	})}
}

// readPage returns the page at from, which lies below info.Tail. Unless nil, ask is asked for it
// before the log is: what it cannot tell, the log does.
func (p *pages) readPage(ctx context.Context, id StreamID, info Info, from uint64, ask func(context.Context) (RecordBatch, error)) (RecordBatch, error) {
	if r, ok := p.cachedPage(id, info, from); ok {
		return r, nil
	}
	// One read for all who ask; it is not given up when the first of them leaves. Another node
	// that asks this one, which asks others itself, is not one of them: they might wait for
	// each other.
	name := pageKeyOf(id, &info, from).sharedReadKey(strconv.FormatBool(ask != nil), info.Tail)
	ch := p.reads.DoChan(name, func() (any, error) {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stallTimeout)
		defer cancel()
		return p.readOnce(ctx, id, info, from, ask)
	})
	select {
	case <-ctx.Done():
		return RecordBatch{}, context.Cause(ctx)
	case res := <-ch:
		r, _ := res.Val.(RecordBatch)
		return r, res.Err
	}
}

// readOnce reads a page and remembers it. A panic costs those who wait for it.
func (p *pages) readOnce(ctx context.Context, id StreamID, info Info, from uint64, ask func(context.Context) (RecordBatch, error)) (_ RecordBatch, err error) {
	defer p.recoverPanic(&err)
	r, whole, err := askPeer(ctx, info, from, ask)
	if errors.Is(err, errNotGiven) {
		r, whole, err = p.fetchPage(ctx, id, info, from)
	}
	if err != nil {
		return RecordBatch{}, err
	}
	pieces := splitPages(r)
	for _, piece := range pieces {
		p.cache.Set(pageKeyOf(id, &info, piece.From()), page{piece, whole || piece.To() < r.To()})
	}
	return pieces[0], nil
}

// recoverPanic makes an error of a panic: singleflight would end the process with it.
func (p *pages) recoverPanic(err *error) {
	if v := recover(); v != nil {
		*err = p.panics.Handle("page", v)
	}
}

// cachedPage finds a page at from; or makes one of that in which from lies: a reader
// in chunks comes back inside the page where its last chunk ended.
func (p *pages) cachedPage(id StreamID, info Info, from uint64) (RecordBatch, bool) {
	key := pageKeyOf(id, &info, from)
	c, ok := p.cache.GetIfPresent(key)
	if !ok || !c.reachesTail(info.Tail) {
		around := pageKeyOf(id, &info, max(info.Start, from-from%pageRecords))
		c, ok = p.cache.GetIfPresent(around)
		if !ok || c.To() <= from || !c.reachesTail(info.Tail) {
			return RecordBatch{}, false
		}
		c.RecordBatch = c.sliceFrom(from)
		p.cache.Set(key, c)
	}
	return c.clipTo(info.Tail), true
}

// reachesTail reports whether the page is what there is up to a tail.
func (p page) reachesTail(tail uint64) bool { return p.complete || p.To() >= tail }

func uintKey(v uint64) string { return string(uvarints(v)) + "\x00" }

// splitPages cuts what was read to the end of a large append into pages. No message is
// cut.
func splitPages(r RecordBatch) []RecordBatch {
	if r.To() <= r.From()-r.From()%pageRecords+pageRecords {
		return []RecordBatch{r}
	}
	var out []RecordBatch
	firstMessage, from, end := 0, r.From(), r.From()
	for i := range r.Len() {
		m := r.Message(i)
		if boundary := m.Pos - m.Pos%pageRecords; boundary > from {
			cut := max(boundary, end)
			out = append(out, r.copyMessages(firstMessage, i, from).build(cut, r.Tail(), r.Time(), false))
			firstMessage, from = i, cut
		}
		end = m.Next
	}
	return append(out, r.copyMessages(firstMessage, r.Len(), from).build(r.To(), r.Tail(), r.Time(), r.Closed()))
}

var errNotGiven = errors.New("nobody gave the page")

// askPeer is the page that ask gives, or errNotGiven. What ends below the tail ends by a
// page's rule.
func askPeer(ctx context.Context, info Info, from uint64, ask func(context.Context) (RecordBatch, error)) (_ RecordBatch, whole bool, _ error) {
	if ask == nil {
		return RecordBatch{}, false, errNotGiven
	}
	r, err := ask(ctx)
	switch {
	case errors.Is(err, ErrTrimmed), errors.Is(err, ErrNotFound):
		return RecordBatch{}, false, err
	case err != nil, r.IsZero(), r.From() > from, r.To() <= from:
		return RecordBatch{}, false, errNotGiven
	case r.From() < from:
		r = r.sliceFrom(from)
	}
	return r, r.To() < info.Tail, nil
}

// fetchPage reads the page from the log; whole: it ends by its own rule and not at
// the tail.
func (p *pages) fetchPage(ctx context.Context, id StreamID, info Info, from uint64) (_ RecordBatch, whole bool, _ error) {
	end := from - from%pageRecords + pageRecords
	state := &State{
		Next: from, exists: true, generation: info.Generation, start: info.Start, tail: from,
		contentType: info.Type, pageOnly: true,
	}
	assembler := assembler{from: from}
	// Whether an append in parts may be shown is in its last one, which may lie above
	// the tail: that of a fork's source is where it was forked.
	insideAppend := func() bool { return state.run != nil && state.run.start < info.Tail }
	for first := true; ; first = false {
		max := pageRecords
		if first {
			max = int(end - from)
		}
		read, err := p.log.Read(ctx, id, state.Next, max)
		if err != nil {
			return RecordBatch{}, false, pageErr(err)
		}
		if first && (len(read.Records) == 0 || read.Records[0].Pos > from) {
			return RecordBatch{}, false, trimmedErr(read, info)
		}
		for _, r := range read.Records {
			if !insideAppend() && (r.Pos >= info.Tail || !first) {
				break
			}
			e, err := state.foldRecord(r)
			if err != nil {
				return RecordBatch{}, false, err
			}
			assembler.addRecord(r, e)
		}
		if !insideAppend() || len(read.Records) == 0 {
			break
		}
	}
	// Inside an append the log has ended: whoever asks is wrong about the tail, and what may be
	// shown of the append is not known yet.
	whole = state.Next < info.Tail && !insideAppend()
	state.run, state.tail = nil, info.Tail
	r := assembler.flushBatch(state).sliceBelow(info.Tail)
	if r.IsZero() {
		return RecordBatch{}, false, errNoPage
	}
	if n := r.Len(); n > 0 && whole && r.To() < end {
		// It ends because S2 gives no more at once. An offset is the place after a message, so
		// that is where the next page is asked for: not after the checkpoint that follows.
		r = r.sliceBelow(r.Message(n - 1).Next)
	}
	return r, whole, nil
}

// errNoPage: the position is not below the tail of who asks.
var errNoPage = errors.New("no page there")

func trimmedErr(pg Page, info Info) error {
	first := info.Tail
	if len(pg.Records) > 0 {
		first = min(first, pg.Records[0].Pos)
	}
	return &TrimmedError{First: first}
}

func pageErr(err error) error {
	var lost *TailError
	if errors.Is(err, ErrNoLog) || errors.As(err, &lost) {
		return ErrNotFound
	}
	return storeErr(err)
}

// readBatches is what the stream's TailBuffer holds from from on, up to about a page.
func (s *TailBuffers) readBatches(id StreamID, life, from uint64) []RecordBatch {
	t := s.Lookup(id)
	if t == nil {
		return nil
	}
	defer t.Release()
	if t.Generation() != life {
		return nil
	}
	rs, _ := t.ReadAt(from, MaxBatchBytes, nil)
	if len(rs) > 0 && rs[0].From() > from {
		return nil
	}
	return rs
}

// joinedPage is the page that RecordBatches of the TailBuffer make. It is laid out once for all who catch up
// with a stream in memory: each would hold a copy for as long as it is written to.
func (p *pages) joinedPage(id StreamID, info Info, rs []RecordBatch) RecordBatch {
	if len(rs) == 1 {
		return rs[0]
	}
	key, to := pageKeyOf(id, &info, rs[0].From()), rs[len(rs)-1].To()
	if c, ok := p.cache.GetIfPresent(key); ok && c.To() == to {
		return c.RecordBatch
	}
	v, err, _ := p.reads.Do(key.sharedReadKey("join", to), func() (r any, err error) {
		defer p.recoverPanic(&err)
		joined := joinBatches(rs)
		p.cache.Set(key, page{joined, to < info.Tail})
		return joined, nil
	})
	if err != nil {
		return rs[0] // a shorter page
	}
	r, _ := v.(RecordBatch)
	return r
}

// joinBatches lays several adjoining RecordBatches out as one.
func joinBatches(rs []RecordBatch) RecordBatch {
	n, size := 0, 0
	for _, r := range rs {
		n, size = n+r.Len(), size+len(r.Payload())
	}
	b := newBatchBuilder(rs[0].From(), n, size)
	for _, r := range rs {
		for i := range r.Len() {
			m := r.Message(i)
			b.addMessage(m.Pos, m.Next, m.Body)
		}
	}
	last := rs[len(rs)-1]
	return b.build(last.To(), last.Tail(), last.Time(), last.Closed())
}
