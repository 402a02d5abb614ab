package s2dev

import (
	"errors"
	"sync"
	"time"
)

// stream is one stream from its creation to its deletion. A stream that is created again under the
// same name is another stream.
type stream struct {
	log         recordLog // set at construction, as all above mu
	basin, name string
	cipher      *string
	usage       *StreamUsage

	mu         sync.Mutex
	meta       streamMeta // written under the catalogue's changeMu, too
	head       head       // as ordered: judges the next append
	tail       position   // durable, and visible to readers; never ahead of head
	trim       uint64     // durable
	deleted    bool
	storageErr error
	emptySince time.Time
	// changed is closed when tail or deleted change. Followers wait for it and read by position, so
	// a slow follower costs nothing. nil: no follower waits.
	changed chan struct{}
}

func newStream(meta streamMeta, log recordLog, h head, now time.Time) *stream {
	return &stream{
		log: log, basin: meta.Basin, name: meta.Name, cipher: meta.Cipher,
		usage: new(StreamUsage), meta: meta, head: h, tail: h.next, trim: h.trim,
		emptySince: now,
	}
}

// notify wakes the followers. The caller holds mu.
func (st *stream) notify() {
	if st.changed != nil {
		close(st.changed)
		st.changed = nil
	}
}

// changes returns the channel for the next change. The caller holds mu.
func (st *stream) changes() <-chan struct{} {
	if st.changed == nil {
		st.changed = make(chan struct{})
	}
	return st.changed
}

// pendingAppend is an append that is ordered and waits for its durability.
type pendingAppend struct {
	st          *stream
	waitSync    func() error
	start, end  position
	head        head
	refusal     *apiError // valid once everything before durableUpTo is durable
	durableUpTo uint64
}

// startAppend judges and orders an append. Its checks have S2's order: deletion, fencing token,
// match, timestamps.
func (st *stream) startAppend(in *checkedAppend, now time.Time) *pendingAppend {
	st.mu.Lock()
	defer st.mu.Unlock()
	refuse := func(e *apiError) *pendingAppend {
		return &pendingAppend{st: st, refusal: e, durableUpTo: st.head.next.Seq}
	}
	switch {
	case st.deleted:
		return refuse(streamDeleted())
	case st.storageErr != nil:
		return refuse(newError("storage", "%s", st.storageErr))
	case in.fence != nil && *in.fence != st.head.fence:
		return refuse(fenceMismatch(st.head.fence))
	case in.match != nil && *in.match != st.head.next.Seq:
		return refuse(seqMismatch(st.head.next.Seq))
	}
	recs, h, err := st.sequenceBatch(in, uint64(now.UnixMilli()))
	if err != nil {
		return refuse(err)
	}
	wait, failed := st.log.startAppend(recs, h, in.mayUseReserve)
	if errors.Is(failed, errMemoryFull) {
		return refuse(newError("quota_exhausted", "%s", failed))
	}
	if failed != nil {
		st.storageErr = failed
		return refuse(newError("storage", "%s", failed))
	}
	start := position{Seq: recs[0].seq, Time: recs[0].time}
	st.head = h
	return &pendingAppend{st: st, waitSync: wait, start: start, end: h.next, head: h}
}

func (st *stream) sequenceBatch(in *checkedAppend, now uint64) ([]record, head, *apiError) {
	h := st.head
	h.lastArrival = max(h.lastArrival, now)
	recs := make([]record, len(in.records))
	for i, r := range in.records {
		t := now
		mode := *st.meta.Config.Timestamping.Mode
		if mode != modeArrival && r.Timestamp != nil {
			t = r.GetTimestamp()
		}
		if mode == modeRequire && r.Timestamp == nil {
			return nil, h, invalidError("record timestamp was required but was missing")
		}
		if !*st.meta.Config.Timestamping.Uncapped {
			t = min(t, now)
		}
		t = max(t, h.next.Time)
		recs[i] = newRecord(r, h.next.Seq, t, h.lastArrival)
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

// complete waits until the outcome is durable, and makes the records visible.
func (p *pendingAppend) complete() (tail position, err *apiError) {
	if p.refusal != nil {
		p.st.awaitDurable(p.durableUpTo)
		return position{}, p.refusal
	}
	failed := p.waitSync()
	p.st.mu.Lock()
	defer p.st.mu.Unlock()
	if failed != nil {
		p.st.storageErr = failed
		p.st.notify()
		return position{}, newError("storage", "%s", failed)
	}
	if p.end.Seq > p.st.tail.Seq {
		p.st.tail = p.end
		p.st.notify()
	}
	p.st.applyTrim(p.head)
	return p.st.tail, nil
}

// applyTrim applies a durable head's trim point. The caller holds mu. The head in memory has the
// point already.
func (st *stream) applyTrim(h head) {
	if st.deleted || h.trim <= st.trim {
		return
	}
	st.trim = h.trim
	if err := st.log.trim(h.trim, st.head); err != nil {
		st.storageErr = err
	}
}

// awaitDurable returns when everything below seq is durable, or can no longer become durable.
func (st *stream) awaitDurable(seq uint64) {
	for {
		st.mu.Lock()
		done := st.tail.Seq >= seq || st.deleted || st.storageErr != nil
		var changed <-chan struct{}
		if !done {
			changed = st.changes()
		}
		st.mu.Unlock()
		if done {
			return
		}
		<-changed
	}
}

// page holds what a reader gets at a position: records, or a channel to wait for.
type page struct {
	recs    []record
	next    uint64 // the next position to read
	tail    position
	changed <-chan struct{}
}

// read returns the page at from: up to count records and 1 MiB.
func (st *stream) read(from uint64, count int) (page, *apiError) {
	st.mu.Lock()
	p := page{tail: st.tail, changed: st.changes()}
	from = max(from, st.trim)
	gone := st.deleted
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
		return page{}, newError("storage", "%s", err)
	}
	if st.isDeleted() {
		return page{}, streamDeleted()
	}
	p.recs = recs
	p.next = p.tail.Seq
	if len(recs) > 0 {
		p.next = recs[len(recs)-1].seq + 1
	}
	return p, nil
}

func (st *stream) setMeta(meta streamMeta) {
	st.mu.Lock()
	defer st.mu.Unlock()
	st.meta = meta
}

func (st *stream) isDeleted() bool {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.deleted
}

func (st *stream) durableState() (tail position, trim uint64, gone bool) {
	st.mu.Lock()
	defer st.mu.Unlock()
	return st.tail, st.trim, st.deleted
}

// search returns the first sequence number in [lo, hi) with a record that satisfies ok, or hi.
// Along the stream, ok must change from false to true at most once.
func (st *stream) search(lo, hi uint64, ok func(record) bool) (uint64, *apiError) {
	for lo < hi {
		mid := lo + (hi-lo)/2
		recs, err := st.log.read(mid, hi, 1, 1)
		if err != nil {
			return 0, newError("storage", "%s", err)
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

// markDeleted marks the stream as deleted: followers wake up, and every later call is refused.
func (st *stream) markDeleted() {
	st.mu.Lock()
	defer st.mu.Unlock()
	if !st.deleted {
		st.deleted = true
		st.notify()
	}
}
