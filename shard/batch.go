package shard

import "slices"

// batch is what goes to S2 in one append, with the verdicts that rest on it.
type batch struct {
	on       *State  // what it was decided on
	at       uint64  // match_seq_num of what is left of it
	entries  []Entry // what is left of it, as far as one append takes it
	bytes    int     // metered
	calls    []*call
	verdicts []verdict // of calls[i], given once the batch is acknowledged
	// settled: no verdict rests on anything that a newer log could reverse.
	settled bool
	// expired: it begins with the end of a life whose time was over.
	expired bool
	// large: the batch is one append in parts. Each is laid out in entries once the one before it
	// is written (layPart); rest makes those that follow, and is nil with the last one.
	large bool
	rest  *script

	// How far it was carried out.
	sent    bool  // err is the outcome of sending it
	err     error // the last try's
	unknown bool  // a try may have written it
}

// composer fills one batch: it decides each caller against the state plus what
// the batch already holds.
type composer struct {
	spec State // the time of each entry is not known before the ack: 0
	b    batch
	at   moment
	// heads is where headers are encoded, if there are several.
	heads []byte

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
	return composeAt(s, queue, moment{wall: now, ends: now, used: used})
}

// composeAt is compose where the node's clock is not what lives end by.
func composeAt(s *State, queue []*call, at moment) (*batch, int) {
	c := &composer{at: at}
	c.spec.speculate(s)
	c.b = batch{on: s, at: s.Next, settled: true, calls: c.calls[:0], verdicts: c.verdicts[:0], entries: c.entries[:0]}
	c.spec.recent.ring, c.spec.recent.ids = c.ring[:0], c.ids[:0]
	if n := min(len(queue), MaxBatchRecords); n > 1 { // what such a batch will hold, as a rule
		c.b.calls, c.b.verdicts, c.b.entries = make([]*call, 0, n), make([]verdict, 0, n), make([]Entry, 0, n+1)
		c.spec.recent.ring, c.spec.recent.ids = make([]outcome, 0, n), make([]AppendID, 0, n)
		c.heads = make([]byte, 0, n*fullHeader)
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
	if c.b.large {
		return false
	}
	if c.spec.expired(c.at.ends, c.at.used) {
		// The state below is the one that decide has to see, so it is folded now; a
		// caller that then does not fit finds the stream expired again.
		grave := bury(&c.spec, NewAppendID(), ReasonExpired)
		if len(c.b.entries) > 0 && !c.fits(grave) {
			return false
		}
		c.place(grave)
		c.b.expired = true
	}
	switch {
	case call.touch && c.spec.exists:
		return c.add(call, touch(), Outcome{Code: CodeAppended}, alone)
	case call.touch:
		return c.add(call, nil, Outcome{Code: CodeAppended}, alone)
	case call.req.Repeat && c.spec.lost(call.req, call.minted):
		c.answer(call, verdict{err: ErrOutcomeUnknown})
		return true
	}
	drafts, out := decide(&c.spec, call.req, c.at.wall)
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

// fits reports whether drafts can join the batch. A batch that makes a
// checkpoint due keeps room for it unless it has one caller only.
func (c *composer) fits(drafts []draft) bool {
	n, size := len(c.b.entries), c.b.bytes
	for i := range drafts {
		more := drafts[i].records()
		n, size = n+more, size+drafts[i].metered(more)
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

// plainRecord bounds from above what a record is metered beside its body, that says nothing of an
// append's end.
const plainRecord = 8 + 2 + len(HeaderName) + 64

// metered bounds the size of the draft's records, of which there are n, from above.
func (d *draft) metered(n int) int { return (n-1)*plainRecord + d.msgs.Bytes() + d.last() }

// last is metered for the draft's last record, without its body.
func (d *draft) last() int {
	if d.trim {
		return Entry{Trim: true}.MeteredSize()
	}
	n := plainRecord + len(d.h.State) + len(d.h.StreamSeq) + len(d.h.Type)
	if d.h.Producer != nil {
		n += len(d.h.Producer.ID) + 24
	}
	for _, a := range d.h.Chain {
		n += len(a.Stream) + 32
	}
	if f := d.h.Fork; f != nil {
		n += len(f.Source) + len(f.Offset) + 32
	}
	return n + len(d.h.ExpiresRaw) + len(d.h.Name)
}

// room bounds the metered size of a checkpoint of s from above.
func (s *State) room() int {
	n := 1024 + len(s.typ) + len(s.streamSeq) + len(s.expiresRaw) + windowSize*24 + s.held.size
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
		n += len(s.fork.Source) + len(s.fork.Offset) + 32
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
	lines := newScript(drafts)
	c.expect(lines.left)
	for lines.left > 0 {
		c.put(lines.next(false))
	}
}

// expect makes room for n more records in few pieces of memory.
func (c *composer) expect(n int) {
	if n < 2 {
		return
	}
	c.b.entries = slices.Grow(c.b.entries, n+1) // and a checkpoint
	c.heads = make([]byte, 0, n*plainHeader+2*fullHeader)
}

const (
	// plainHeader is how long the header is of a record in the middle of an append in parts, or less.
	plainHeader = 18
	// fullHeader is about how long one is that says more.
	fullHeader = 64
)

// put gives a record its position and distance, folds it and adds it.
func (c *composer) put(l line) {
	pos := c.spec.Next
	e := Entry{Body: l.body, known: l.h}
	if l.h == nil {
		e = Entry{Trim: true, TrimTo: pos + 1}
	} else {
		if l.h.Flags&(FlagLast|FlagPart) != 0 && l.h.Kind != KindCheckpoint {
			l.h.HasCheckpoint, l.h.RecordsSinceCheckpoint, l.h.BytesSinceCheckpoint = true, c.spec.sinceRecords, c.spec.sinceBytes
		}
		e.Header = c.encode(l.h, pos)
	}
	if _, err := c.spec.fold(e.record(pos, 0), l.h); err != nil {
		panic("shard: own record does not fold: " + err.Error())
	}
	c.b.entries = append(c.b.entries, e)
	c.b.bytes += e.MeteredSize()
}

// encode is the header's value at pos. Those of a batch lie side by side.
func (c *composer) encode(h *Header, pos uint64) []byte {
	if c.heads == nil {
		return h.encode(pos)
	}
	start := len(c.heads)
	c.heads = h.appendTo(c.heads, pos)
	return c.heads[start:len(c.heads):len(c.heads)]
}

// finish ends the batch with a checkpoint if one is due and fits.
func (c *composer) finish() *batch {
	if !c.b.large && len(c.b.entries) > 0 && c.spec.due() && (c.spec.exists || c.spec.gone) && len(c.b.entries) < MaxBatchRecords {
		c.checkpoint()
	}
	return &c.b
}

func (c *composer) checkpoint() {
	d := draft{h: Header{Kind: KindCheckpoint, State: c.spec.encode()}}
	if c.b.bytes+d.metered(1) > MaxBatchBytes {
		return
	}
	e := Entry{Header: d.h.encode(c.spec.Next)}
	c.b.entries = append(c.b.entries, e)
	c.b.bytes += e.MeteredSize()
}

// split lays a large append out in parts: full batches, the last one with room
// for the checkpoint that such an append always makes due.
func (c *composer) split(drafts []draft) {
	lines := newScript(drafts)
	lines.flags = FlagPart
	c.b.large, c.b.rest = true, &lines
	c.part(&c.b)
}

// layPart lays the next part of a large append out; s is the State after those before it.
func (b *batch) layPart(s *State) {
	c := &composer{}
	c.spec.speculate(s)
	c.part(b)
	b.entries, b.bytes = c.b.entries, c.b.bytes
	if b.rest == nil {
		b.verdicts[0].out.Info = c.spec.Info()
	}
}

// part adds the next records of a large append, as many as one batch takes.
func (c *composer) part(b *batch) {
	lines := b.rest
	c.expect(min(lines.left, MaxBatchRecords))
	for lines.left > 0 {
		limit, most := MaxBatchBytes, MaxBatchRecords
		if lines.left == 1 {
			limit, most = limit-c.spec.room(), most-1
		}
		n := len(c.b.entries)
		if n > 0 && (c.b.bytes+lines.metered() > limit || n+1 > most) {
			return
		}
		c.put(lines.next(n == 0))
	}
	b.rest = nil
	c.checkpoint()
}
