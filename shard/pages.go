package shard

import (
	"context"
	"errors"
	"strconv"

	"github.com/maypok86/otter/v2"
	"golang.org/x/sync/singleflight"

	"github.com/fantail-dev/fantail/shard/tail"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// pages reads and caches history. A page begins where it is asked for, and ends at the next
// multiple of pageRecords or after about a batch's bytes. It never changes, so it can be cached for
// any time. Only the last part of a large append tells whether its parts are visible; so such an
// append is read to its end, and split into pages then.
//
// A page that ended early, at the tail, is reused while its end is still the caller's tail: of an
// idle stream, or of what a fork inherited. The cache is bounded in bytes, and the least useful
// pages are evicted first.
type pages struct {
	log    Log
	cache  *otter.Cache[pageKey, page]
	reads  singleflight.Group         // one read for all callers that want the same page
	starts *otter.Cache[pageKey, Pos] // where the append in parts begins whose part is at a position
	panics *PanicHandler
}

// page is a RecordBatch of history. complete: it ends by the rule above, and not at the tail.
type page struct {
	tail.RecordBatch
	complete bool
}

const pageRecords = MaxBatchRecords

// pageKey names a page. The generation is in it because a log that was wiped uses its positions
// again. json is in it because a JSON stream shows only those foreign records that are JSON, and a
// fork's create record, or a peer, may call a log JSON without its owner's word.
type pageKey struct {
	stream     StreamID
	generation Generation
	from       Pos
	json       bool
}

// pageKeyOf returns the key of the page at from of a stream that info describes.
func pageKeyOf(id StreamID, info *Info, from Pos) pageKey {
	return pageKey{id, info.Generation, from, IsJSON(info.Type)}
}

// sharedReadKey returns the key under which callers share one read of a page. way and to keep reads
// apart that may give different results.
func (k pageKey) sharedReadKey(way string, to Pos) string {
	return way + "\x00" + strconv.FormatBool(k.json) + "\x00" + string(k.stream) + "\x00" +
		uintKey(uint64(k.generation)) + uintKey(uint64(k.from)) + uintKey(uint64(to))
}

// newPages returns an empty cache of so many bytes.
func newPages(log Log, bytes int64, panics *PanicHandler) *pages {
	starts := otter.Must(&otter.Options[pageKey, Pos]{MaximumSize: maxKnownStarts})
	return &pages{log: log, panics: panics, starts: starts, cache: otter.Must(&otter.Options[pageKey, page]{
		MaximumWeight: uint64(bytes),
		Weigher:       func(k pageKey, p page) uint32 { return uint32(len(k.stream) + 128 + len(p.Bytes())) },
	})}
}

// readPage returns the page at from, which lies below info.Tail. ask, unless nil, is asked for it
// before the log is; the log is read if ask has no answer.
func (p *pages) readPage(ctx context.Context, id StreamID, info Info, from Pos, ask func(context.Context) (tail.RecordBatch, error)) (tail.RecordBatch, error) {
	if r, ok := p.cachedPage(id, info, from); ok {
		return r, nil
	}
	name := pageKeyOf(id, &info, from).sharedReadKey(strconv.FormatBool(ask != nil), info.Tail)
	traced, span := tracing.Start(ctx, "page", tracing.Internal)
	r, shared, err := shareRead(traced, p, name, func(ctx context.Context) (tail.RecordBatch, error) {
		return p.readOnce(ctx, id, info, from, ask)
	})
	if span != nil {
		span.Int(tracing.Position, int(from))
		span.Bool(tracing.Shared, shared)
		if err != nil {
			span.Fail(storageErrorKind(err))
		}
		span.End()
	}
	return r, err
}

// shareRead has all callers with one name share one read, which goes on when the first caller leaves. A
// read that asks a peer and one that does not (a peer's) must not share: two nodes might wait for each
// other. A panic fails the callers that wait.
func shareRead[T any](ctx context.Context, p *pages, name string, read func(context.Context) (T, error)) (got T, shared bool, _ error) {
	ch := p.reads.DoChan(name, func() (_ any, err error) {
		defer p.recoverPanic(&err)
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stallTimeout)
		defer cancel()
		return read(ctx)
	})
	select {
	case <-ctx.Done():
		return got, false, context.Cause(ctx)
	case res := <-ch:
		got, _ = res.Val.(T)
		return got, res.Shared, res.Err
	}
}

// readOnce reads a page and caches it.
func (p *pages) readOnce(ctx context.Context, id StreamID, info Info, from Pos, ask func(context.Context) (tail.RecordBatch, error)) (tail.RecordBatch, error) {
	r, whole, err := askPeer(ctx, info, from, ask)
	if errors.Is(err, errNotGiven) {
		r, whole, err = p.fetchPage(ctx, id, info, from)
	}
	if err != nil {
		return tail.RecordBatch{}, err
	}
	pieces := r.Split(pageRecords)
	for _, piece := range pieces {
		p.cache.Set(pageKeyOf(id, &info, piece.From()), page{piece, whole || piece.To() < r.To()})
	}
	return pieces[0], nil
}

// recoverPanic turns a panic into an error: singleflight would end the process with it.
func (p *pages) recoverPanic(err *error) {
	if v := recover(); v != nil {
		*err = p.panics.Handle("page", v)
	}
}

// cachedPage returns the cached page at from, or makes it of the page in which from lies: a reader
// in chunks comes back inside the page where its last chunk ended.
func (p *pages) cachedPage(id StreamID, info Info, from Pos) (tail.RecordBatch, bool) {
	key := pageKeyOf(id, &info, from)
	c, ok := p.cache.GetIfPresent(key)
	if !ok || !c.reachesTail(info.Tail) {
		around := pageKeyOf(id, &info, max(info.Start, from-from%pageRecords))
		c, ok = p.cache.GetIfPresent(around)
		if !ok || c.To() <= from || !c.reachesTail(info.Tail) {
			return tail.RecordBatch{}, false
		}
		c.RecordBatch = c.SliceFrom(from)
		p.cache.Set(key, c)
	}
	return c.ClipTo(info.Tail), true
}

// reachesTail reports whether the page holds everything that it can, up to a tail.
func (p page) reachesTail(tail Pos) bool { return p.complete || p.To() >= tail }

func uintKey(v uint64) string { return string(uvarints(v)) + "\x00" }

var errNotGiven = errors.New("no peer gave the page")

// askPeer returns the page that ask gives, or errNotGiven. whole: the page ends before the tail, so a
// page's own limit ended it.
func askPeer(ctx context.Context, info Info, from Pos, ask func(context.Context) (tail.RecordBatch, error)) (_ tail.RecordBatch, whole bool, _ error) {
	if ask == nil {
		return tail.RecordBatch{}, false, errNotGiven
	}
	r, err := ask(ctx)
	switch {
	case errors.Is(err, ErrTrimmed), errors.Is(err, ErrNotFound):
		return tail.RecordBatch{}, false, err
	case err != nil, r.IsZero(), r.From() > from, r.To() <= from:
		return tail.RecordBatch{}, false, errNotGiven
	case r.From() < from:
		r = r.SliceFrom(from)
	}
	return r, r.To() < info.Tail, nil
}

// fetchPage reads the page from the log. complete: it ends by its own rule and not at the tail.
func (p *pages) fetchPage(ctx context.Context, id StreamID, info Info, from Pos) (_ tail.RecordBatch, whole bool, _ error) {
	end := from - from%pageRecords + pageRecords
	state := newPageState(&info, from)
	assembler := assembler{from: from}
	// Only its last part tells whether an append in parts may be shown, and that part may lie above
	// the tail: the tail of a fork's source is where it was forked.
	insideAppend := func() bool { return state.run != nil && state.run.start < info.Tail }
	for first := true; ; first = false {
		max := pageRecords
		if first {
			max = int(end - from)
		}
		read, err := p.log.Read(ctx, id, state.Next, max)
		if err != nil {
			return tail.RecordBatch{}, false, pageErr(err)
		}
		if first && (len(read.Records) == 0 || read.Records[0].Pos > from) {
			return tail.RecordBatch{}, false, trimmedErr(read, info)
		}
		for _, r := range read.Records {
			if !insideAppend() && (r.Pos >= info.Tail || !first) {
				break
			}
			e, err := state.foldRecord(r)
			if err != nil {
				return tail.RecordBatch{}, false, err
			}
			assembler.addRecord(r, e)
		}
		if !insideAppend() || len(read.Records) == 0 {
			break
		}
	}
	// If the log has ended inside an append, the caller is wrong about the tail, and it is not
	// known yet whether the append may be shown.
	whole = state.Next < info.Tail && !insideAppend()
	state.run, state.tail = nil, info.Tail
	r := assembler.flushBatch(state).SliceBelow(info.Tail)
	if r.IsZero() {
		return tail.RecordBatch{}, false, errNoPage
	}
	if n := r.Len(); n > 0 && whole && r.To() < end {
		// It ends because S2 returned no more. An offset is the position after a message, so the
		// next page is asked for from there, and not from after the checkpoint that follows.
		r = r.SliceBelow(r.Message(n - 1).Next)
	}
	return r, whole, nil
}

// newPageState returns the State with which a page is folded that begins at from.
func newPageState(info *Info, from Pos) *State {
	return &State{
		Next: from, exists: true, generation: info.Generation, start: info.Start, tail: from,
		contentType: info.Type, pageOnly: true,
	}
}

// errNoPage reports that the position is not below the caller's tail.
var errNoPage = errors.New("no page there")

// trimmedErr returns the error for a page that was trimmed away.
func trimmedErr(pg Page, info Info) error {
	first := info.Tail
	if len(pg.Records) > 0 {
		first = min(first, pg.Records[0].Pos)
	}
	return &TrimmedError{First: first}
}

// pageErr maps a Log's error for readers of pages.
func pageErr(err error) error {
	var lost *TailError
	if errors.Is(err, ErrNoLog) || errors.As(err, &lost) {
		return ErrNotFound
	}
	return storeErr(err)
}

// joinedPage returns the page that RecordBatches of the tail.Buffer make. It is laid out once for
// all readers that catch up with a stream in memory: otherwise each would hold a copy for as long
// as it is written to.
func (p *pages) joinedPage(id StreamID, info Info, rs []tail.RecordBatch) tail.RecordBatch {
	if len(rs) == 1 {
		return rs[0]
	}
	key, to := pageKeyOf(id, &info, rs[0].From()), rs[len(rs)-1].To()
	if c, ok := p.cache.GetIfPresent(key); ok && c.To() == to {
		return c.RecordBatch
	}
	v, err, _ := p.reads.Do(key.sharedReadKey("join", to), func() (r any, err error) {
		defer p.recoverPanic(&err)
		joined := tail.Join(rs)
		p.cache.Set(key, page{joined, to < info.Tail})
		return joined, nil
	})
	if err != nil {
		return rs[0] // a shorter page
	}
	r, _ := v.(tail.RecordBatch)
	return r
}
