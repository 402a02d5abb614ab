package s2dev

import (
	"errors"
	"sync"
	"time"
)

// stream is one stream's life, from its creation to its deletion. A stream made again under the
// same name is another one.
type stream struct {
	log         recordLog
	basin, name string
	cipher      *string
	used        *StreamUsage

	mu         sync.Mutex
	meta       streamMeta // changes under the store's changing, too
	head       head       // as sequenced: what the next append is judged by
	tail       position   // as durable: what readers see; never ahead of head
	trim       uint64     // as durable
	gone       bool
	broken     error
	emptySince time.Time
	// changed is closed when tail or gone change; followers wait on it and read by position, so a
	// slow one costs nothing. nil: nobody has looked since.
	changed chan struct{}
}

func newStream(meta streamMeta, log recordLog, h head, now time.Time) *stream {
	return &stream{
		log: log, basin: meta.Basin, name: meta.Name, cipher: meta.Cipher,
		used: new(StreamUsage), meta: meta, head: h, tail: h.next, trim: h.trim,
		emptySince: now,
	}
}

// wake must be called with mu held.
func (st *stream) wake() {
	if st.changed != nil {
		close(st.changed)
		st.changed = nil
	}
}

// watch must be called with mu held.
func (st *stream) watch() <-chan struct{} {
	if st.changed == nil {
		st.changed = make(chan struct{})
	}
	return st.changed
}

// pending is an append that has its place and waits for its durability.
type pending struct {
	st         *stream
	wait       func() error
	start, end position
	head       head
	refused    *apiError // a refusal, true once everything before upTo is durable
	upTo       uint64
}

// begin judges and orders an append. Checks run in S2's order: deletion, fencing token, match,
// timestamps.
func (st *stream) begin(in *input, now time.Time) *pending {
	st.mu.Lock()
	defer st.mu.Unlock()
	refuse := func(e *apiError) *pending {
		return &pending{st: st, refused: e, upTo: st.head.next.Seq}
	}
	switch {
	case st.gone:
		return refuse(streamDeleted())
	case st.broken != nil:
		return refuse(fail("storage", "%s", st.broken))
	case in.fence != nil && *in.fence != st.head.fence:
		return refuse(fenceMismatch(st.head.fence))
	case in.match != nil && *in.match != st.head.next.Seq:
		return refuse(seqMismatch(st.head.next.Seq))
	}
	recs, h, err := st.sequence(in, uint64(now.UnixMilli()))
	if err != nil {
		return refuse(err)
	}
	wait, failed := st.log.begin(recs, h, in.spare)
	if errors.Is(failed, errFull) {
		return refuse(fail("quota_exhausted", "%s", failed))
	}
	if failed != nil {
		st.broken = failed
		return refuse(fail("storage", "%s", failed))
	}
	start := position{Seq: recs[0].seq, Time: recs[0].time}
	st.head = h
	return &pending{st: st, wait: wait, start: start, end: h.next, head: h}
}

func (st *stream) sequence(in *input, now uint64) ([]record, head, *apiError) {
	h := st.head
	h.arrived = max(h.arrived, now)
	recs := make([]record, len(in.records))
	for i, r := range in.records {
		t := now
		mode := *st.meta.Config.Timestamping.Mode
		if mode != modeArrival && r.Timestamp != nil {
			t = r.GetTimestamp()
		}
		if mode == modeRequire && r.Timestamp == nil {
			return nil, h, invalid("record timestamp was required but was missing")
		}
		if !*st.meta.Config.Timestamping.Uncapped {
			t = min(t, now)
		}
		t = max(t, h.next.Time)
		recs[i] = sequence(r, h.next.Seq, t, h.arrived)
		if f := in.commands[i].fence; f != nil {
			h.fence = *f
		}
		if to := in.commands[i].trim; to != nil {
			h.trim = max(h.trim, min(*to, h.next.Seq+1))
		}
		h.next = position{Seq: h.next.Seq + 1, Time: t}
	}
	return recs, h, nil
}

// settle waits until the verdict is durable and publishes what was appended.
func (p *pending) settle() (tail position, err *apiError) {
	if p.refused != nil {
		p.st.await(p.upTo)
		return position{}, p.refused
	}
	failed := p.wait()
	p.st.mu.Lock()
	defer p.st.mu.Unlock()
	if failed != nil {
		p.st.broken = failed
		p.st.wake()
		return position{}, fail("storage", "%s", failed)
	}
	if p.end.Seq > p.st.tail.Seq {
		p.st.tail = p.end
		p.st.wake()
	}
	p.st.forget(p.head)
	return p.st.tail, nil
}

// forget takes over a durable head's trim point; mu is held. The head in memory has it already.
func (st *stream) forget(h head) {
	if st.gone || h.trim <= st.trim {
		return
	}
	st.trim = h.trim
	if err := st.log.trim(h.trim, st.head); err != nil {
		st.broken = err
	}
}

// await returns when everything below seq is durable, or never will be.
func (st *stream) await(seq uint64) {
	for {
		st.mu.Lock()
		done := st.tail.Seq >= seq || st.gone || st.broken != nil
		var changed <-chan struct{}
		if !done {
			changed = st.watch()
		}
		st.mu.Unlock()
		if done {
			return
		}
		<-changed
	}
}

// page is what a reader sees at a position: records, or the wait for them.
type page struct {
	recs    []record
	next    uint64 // where to read on
	tail    position
	changed <-chan struct{}
}

// read returns the page at from: up to count records and 1 MiB.
func (st *stream) read(from uint64, count int) (page, *apiError) {
	st.mu.Lock()
	p := page{tail: st.tail, changed: st.watch()}
	from = max(from, st.trim)
	gone := st.gone
	st.mu.Unlock()
	if gone {
		return page{}, streamDeleted()
	}
	p.next = from
	if from >= p.tail.Seq {
		return p, nil
	}
	recs, err := st.log.read(from, p.tail.Seq, count, maxBatchBytes)
	if err != nil {
		return page{}, fail("storage", "%s", err)
	}
	if st.isGone() {
		return page{}, streamDeleted()
	}
	p.recs = recs
	p.next = p.tail.Seq
	if len(recs) > 0 {
		p.next = recs[len(recs)-1].seq + 1
	}
	return p, nil
}

func (st *stream) set(meta streamMeta) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.meta = meta
}

func (st *stream) isGone() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.gone
}

func (st *stream) durable() (tail position, trim uint64, gone bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.tail, st.trim, st.gone
}

// search returns the first sequence number in [lo, hi) whose record satisfies ok, or hi. ok must
// be monotonic along the stream.
func (st *stream) search(lo, hi uint64, ok func(record) bool) (uint64, *apiError) {
	for lo < hi {
		mid := lo + (hi-lo)/2
		recs, err := st.log.read(mid, hi, 1, 1)
		if err != nil {
			return 0, fail("storage", "%s", err)
		}
		switch {
		case len(recs) == 0:
			hi = mid
		case ok(recs[0]):
			hi = mid
		default:
			lo = recs[0].seq + 1
		}
	}
	return lo, nil
}

// end makes the stream gone: followers wake and every later call is refused.
func (st *stream) end() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.gone {
		st.gone = true
		st.wake()
	}
}
