package shard

import "slices"

// batch is what goes to S2 in one append, with the verdicts that rest on it.
type batch struct {
	on       *State // what it was decided on
	at       uint64 // match_seq_num of what is left of it
	entries  []Entry
	bytes    int // metered
	calls    []*call
	verdicts []verdict // of calls[i], given once the batch is acknowledged
	// settled: no verdict rests on anything that a newer log could reverse.
	settled bool
	// parts is set for a large append: its batches, in order; entries is empty.
	parts [][]Entry

	// How far it was carried out.
	written int   // parts acknowledged; without parts, 1: all
	sent    bool  // err is the outcome of sending it
	err     error // the last try's
	unknown bool  // a try may have written it
}

// composer fills one batch: it decides each caller against the state plus what
// the batch already holds.
type composer struct {
	spec State // the time of each entry is not known before the ack: 0
	b    batch
	now  uint64 // ms
	used uint64 // when the stream was last used, as memory knows, ms

	// What one caller needs, in the same piece of memory: most batches have no other.
	calls    [1]*call
	verdicts [1]verdict
	entries  [2]Entry
	ring     [1]outcome
	ids      [1]AppendID
}

// compose takes callers from the front of queue as long as their records fit,
// and returns the batch and how many it took (at least one, unless the batch is
// a lone checkpoint). s is not changed.
func compose(s *State, queue []*call, now, used uint64) (*batch, int) {
	c := &composer{now: now, used: used}
	c.spec.speculate(s)
	c.b = batch{on: s, at: s.Next, settled: true, calls: c.calls[:0], verdicts: c.verdicts[:0], entries: c.entries[:0]}
	c.spec.recent.ring, c.spec.recent.ids = c.ring[:0], c.ids[:0]
	if n := min(len(queue), MaxBatchRecords); n > 1 { // what such a batch will hold, as a rule
		c.b.calls, c.b.verdicts, c.b.entries = make([]*call, 0, n), make([]verdict, 0, n), make([]Entry, 0, n+1)
		c.spec.recent.ring, c.spec.recent.ids = make([]outcome, 0, n), make([]AppendID, 0, n)
	}
	if (s.exists || s.gone) && (s.sinceBytes >= overdueBytes || s.sinceRecords >= overdueRecords) {
		if c.checkpoint(); len(c.b.entries) > 0 { // or there is more of it than a batch takes
			return &c.b, 0
		}
	}
	for i, call := range queue {
		if !c.take(call, i == 0) {
			return c.finish(), i
		}
	}
	return c.finish(), len(queue)
}

// So far after the last checkpoint, the next one is written alone: callers that
// fill a batch each leave no room for it beside them.
const (
	overdueBytes   = 2 << 20
	overdueRecords = 4 * MaxBatchRecords
)

// take decides one caller and adds its records; false: they do not fit.
func (c *composer) take(call *call, alone bool) bool {
	if c.b.parts != nil {
		return false
	}
	if c.spec.expired(c.now, c.used) {
		// The state below is the one that decide has to see, so it is folded now; a
		// caller that then does not fit finds the stream expired again.
		grave := bury(&c.spec, NewAppendID(), ReasonExpired)
		if len(c.b.entries) > 0 && !c.fits(grave) {
			return false
		}
		c.place(grave)
	}
	switch {
	case call.touch && c.spec.exists:
		return c.add(call, touch(), Outcome{Code: CodeAppended}, alone)
	case call.touch:
		return c.add(call, nil, Outcome{Code: CodeAppended}, alone)
	case call.req.Repeat && c.spec.lost(call.req):
		c.answer(call, verdict{err: ErrOutcomeUnknown})
		return true
	}
	drafts, out := decide(&c.spec, call.req, c.now)
	return c.add(call, drafts, out, alone)
}

func (c *composer) answer(call *call, v verdict) {
	c.b.calls = append(c.b.calls, call)
	c.b.verdicts = append(c.b.verdicts, v)
}

func (c *composer) add(call *call, drafts []draft, out Outcome, alone bool) bool {
	switch {
	case len(drafts) == 0:
		c.b.settled = c.b.settled && out.Code.Accepted() && out.Code != CodeExists
	case !fragmented(drafts) && c.fits(drafts):
		c.place(drafts)
		out.Info = c.spec.Info()
	case !alone || len(c.b.entries) > 0:
		return false
	default:
		c.split(drafts)
		out.Info = c.spec.Info()
	}
	c.answer(call, verdict{out: out})
	return true
}

// fragmented reports whether a message of drafts is in several records. Such an
// append goes in parts even if one batch has room for it: a read may end between
// two records, and of a run of parts nothing is shown before its commit.
func fragmented(drafts []draft) bool {
	return slices.ContainsFunc(drafts, func(d draft) bool { return d.h.Flags&FlagContinues != 0 })
}

// fits reports whether drafts can join the batch. A batch that makes a
// checkpoint due keeps room for it unless it has one caller only.
func (c *composer) fits(drafts []draft) bool {
	n, size := len(c.b.entries)+len(drafts), c.b.bytes
	for i := range drafts {
		size += drafts[i].metered()
	}
	if n > MaxBatchRecords || size > MaxBatchBytes {
		return false
	}
	if len(c.b.entries) == 0 || !c.dueWith(n, size) {
		return true
	}
	return n < MaxBatchRecords && size+c.spec.room() <= MaxBatchBytes
}

func (c *composer) dueWith(n, size int) bool {
	return c.spec.due() || c.spec.sinceRecords+uint64(n) >= checkpointRecords ||
		c.spec.sinceBytes+uint64(size) >= checkpointBytes
}

// metered bounds the size of the draft's record from above.
func (d *draft) metered() int {
	if d.trim {
		return Entry{Trim: true}.Metered()
	}
	n := 8 + 2 + len(HeaderName) + 64 + len(d.body) + len(d.h.State) + len(d.h.StreamSeq) + len(d.h.Type)
	if d.h.Producer != nil {
		n += len(d.h.Producer.ID) + 24
	}
	for _, a := range d.h.Chain {
		n += len(a.Stream) + 32
	}
	if f := d.h.Fork; f != nil {
		n += len(f.Source) + len(f.At) + 32
	}
	return n + len(d.h.ExpiresRaw) + len(d.h.Name)
}

// room bounds the metered size of a checkpoint of s from above.
func (s *State) room() int {
	n := 1024 + len(s.typ) + len(s.streamSeq) + len(s.expiresRaw) + windowSize*24 + s.heldSize()
	for _, a := range s.chain {
		n += len(a.Stream) + 32
	}
	if s.closedBy != nil {
		n += len(s.closedBy.ID) + 32
	}
	for _, d := range s.debts {
		n += len(d.source) + 16
	}
	if s.fork != nil {
		n += len(s.fork.Source) + len(s.fork.At) + 32
	}
	table := 0
	for id := range s.producers {
		table += len(id) + 32
	}
	if s.base != nil {
		for id := range s.base.producers {
			table += len(id) + 32
		}
	}
	return n + min(table, producerBytes+MaxProducerID+64)
}

// place encodes drafts at the next positions of the batch and folds them into
// the speculation.
func (c *composer) place(drafts []draft) {
	for i := range drafts {
		e := c.encode(&drafts[i])
		c.b.entries = append(c.b.entries, e)
		c.b.bytes += e.Metered()
	}
}

// encode gives a draft its position and distance, and folds it.
func (c *composer) encode(d *draft) Entry {
	e := Entry{Body: d.body}
	pos := c.spec.Next
	if d.trim {
		e = Entry{Trim: true, TrimTo: pos + 1}
		_, _ = c.spec.fold(e.record(pos, 0), nil)
		return e
	}
	if d.h.Flags&(FlagLast|FlagPart) != 0 && d.h.Kind != KindCheckpoint {
		d.h.HasBack, d.h.BackRecords, d.h.BackBytes = true, c.spec.sinceRecords, c.spec.sinceBytes
	}
	e.Header, e.known = d.h.encode(pos), &d.h
	if _, err := c.spec.fold(e.record(pos, 0), &d.h); err != nil {
		panic("shard: own record does not fold: " + err.Error())
	}
	return e
}

// finish ends the batch with a checkpoint if one is due and fits.
func (c *composer) finish() *batch {
	if len(c.b.entries) > 0 && c.spec.due() && (c.spec.exists || c.spec.gone) && len(c.b.entries) < MaxBatchRecords {
		c.checkpoint()
	}
	return &c.b
}

func (c *composer) checkpoint() {
	d := draft{h: Header{Kind: KindCheckpoint, State: c.spec.encode()}}
	if c.b.bytes+d.metered() > MaxBatchBytes {
		return
	}
	e := Entry{Header: d.h.encode(c.spec.Next)}
	c.b.entries = append(c.b.entries, e)
	c.b.bytes += e.Metered()
}

// split lays a large append out in parts: full batches, the last one with room
// for the checkpoint that such an append always makes due.
func (c *composer) split(drafts []draft) {
	drafts[len(drafts)-1].h.Flags |= FlagCommit
	room := c.spec.room()
	var part []Entry
	size := 0
	cut := func() {
		c.b.parts = append(c.b.parts, part)
		part, size = nil, 0
	}
	for i := range drafts {
		d := &drafts[i]
		d.h.Flags |= FlagPart
		limit, n := MaxBatchBytes, MaxBatchRecords
		if i == len(drafts)-1 {
			limit, n = limit-room, n-1
		}
		if len(part) > 0 && (size+d.metered() > limit || len(part)+1 > n) {
			cut()
		}
		if len(part) == 0 {
			d.h.Append = drafts[0].h.Append
		}
		part = append(part, c.encode(d))
		size += part[len(part)-1].Metered()
	}
	ck := draft{h: Header{Kind: KindCheckpoint, State: c.spec.encode()}}
	if size+ck.metered() <= MaxBatchBytes {
		part = append(part, Entry{Header: ck.h.encode(c.spec.Next)})
	}
	cut()
}
