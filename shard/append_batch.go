package shard

import (
	"errors"
	"slices"
	"time"
)

// appendBatch goes to S2 in one append, or in one append per part, with the verdicts that rest on
// it. Owned by the goroutine that is in the write loop. A leader gives it away by starting the
// goroutine that goes on with it.
type appendBatch struct {
	base     *State  // the fold that it was decided on
	pos      Pos     // match_seq_num of what is left to be written
	entries  []Entry // what is left to be written, as far as one append takes it
	bytes    int     // metered size of entries
	calls    []*call
	verdicts []verdict // of calls[i], given once the batch is acknowledged
	// irreversible: no verdict rests on anything that a newer log could reverse.
	irreversible bool
	// endsExpired: the batch begins with the end of a generation that has expired.
	endsExpired bool
	// inParts: the batch is one append in parts. Each part is composed into entries once the part
	// before it is written (composePart). remaining makes the parts that follow; nil: entries is
	// the last part.
	inParts   bool
	remaining *recordGenerator

	// How far it was carried out; the next step of the write loop follows from it.
	err          error     // of the last sending
	sent         bool      // entries (or, if there are none, the tail check) were sent, and err is the answer
	needsLog     bool      // the log is to be made first
	maybeWritten bool      // a sending may have written it
	attempted    bool      // Log.Append was called
	failures     int       // sendings that told nothing
	failingSince time.Time // when the first of them had failed

	foreignBefore int // Stream.foreignRecords when it was composed
	*flight           // of a batch of a pipeline; else nil
}

// flight holds what a pipeline knows of a batch.
type flight struct {
	predicted *State     // the State after it
	sentAt    time.Time  // by this process's monotonic clock
	sentClock time.Time  // by Config.Now
	unsent    bool       // it was certainly not sent
	found     int        // its records that were found in the log
	skipped   bool       // where it is to stand, records were trimmed before they were seen
	proof     *tailProof // of refusals; nil: they need none
}

// tailProof is a tail check in the place of a batch: it shows that a refusal rests on the log.
type tailProof struct {
	done bool // guarded by Stream.mu, as err is
	err  error
}

// checked reports whether it is known if the refusals in b stand, under mu. *TailError: the log had
// gone on.
func (b *appendBatch) checked() (known bool, err error) {
	switch {
	case b.proof == nil:
		return true, nil
	case !b.proof.done:
		return false, nil
	}
	return true, b.proof.err
}

// answerCalls gives every caller of the batch its verdict, or err to all.
func (b *appendBatch) answerCalls(err error) {
	for i, c := range b.calls {
		if err != nil {
			c.answer(Outcome{}, err)
		} else {
			c.answer(b.verdicts[i].outcome, b.verdicts[i].err)
		}
	}
}

// isWritten reports whether nothing of the batch is left to be written.
func (b *appendBatch) isWritten() bool { return len(b.entries) == 0 && b.remaining == nil }

// isReadForCalls reports whether the fold that the batch was decided on was read from the log after
// each of its callers had come.
func (b *appendBatch) isReadForCalls() bool {
	return !slices.ContainsFunc(b.calls, func(c *call) bool { return c.readFold != b.base })
}

// hasCreate reports whether a generation begins in what is left of the batch.
func (b *appendBatch) hasCreate() bool {
	return slices.ContainsFunc(b.entries, func(e Entry) bool { return e.decoded != nil && e.decoded.Kind == KindCreate })
}

// callerError returns what callers are told of a batch that ended in err: whether it is certain
// that nothing was written.
func (b *appendBatch) callerError(err error) error {
	if b.maybeWritten {
		return errors.Join(ErrOutcomeUnknown, err)
	}
	return err
}

// composer fills one batch: it decides each caller against the fold plus what the batch already
// holds. It is used once, by one goroutine.
type composer struct {
	speculation State // record times are not known before the ack: 0
	batch       appendBatch
	// predicts: the speculation outlives the composer, as the State that the next batch is decided
	// on before this one is acknowledged. So it has to be right after a checkpoint, too.
	predicts bool
	now      clockReading
	// batchID is written into the last record of the batch, and baseID, the id of the batch that is
	// to stand directly below, into the first; zero: they are not (batch_ids.go).
	batchID, baseID AppendID
	// headerBuf holds the encoded headers, if there are several.
	headerBuf []byte

	// What a batch of one caller needs, in the same piece of memory as the composer: most batches
	// have one caller.
	calls    [1]*call
	verdicts [1]verdict
	entries  [2]Entry
	outcomes [1]outcome
	ids      [1]AppendID
}

// compose fills the batch, which is to stand on s: it decides callers from the front of queue as long
// as their records fit. It returns the batch and how many callers it decided: at least one, unless
// the batch is a lone checkpoint. s is not changed.
func (c *composer) compose(s *State, queue []*call) (*appendBatch, int) {
	c.speculation.speculateOn(s)
	c.batch = appendBatch{base: s, pos: s.Next, irreversible: true, calls: c.calls[:0], verdicts: c.verdicts[:0], entries: c.entries[:0]}
	c.speculation.outcomes.ring, c.speculation.outcomes.ids = c.outcomes[:0], c.ids[:0]
	if n := min(len(queue), MaxBatchRecords); n > 1 { // what such a batch usually holds
		c.batch.calls, c.batch.verdicts, c.batch.entries = make([]*call, 0, n), make([]verdict, 0, n), make([]Entry, 0, n+1)
		c.speculation.outcomes.ring, c.speculation.outcomes.ids = make([]outcome, 0, n), make([]AppendID, 0, n)
		c.headerBuf = make([]byte, 0, n*fullHeaderSize)
	}
	if (s.exists || s.gone) && (s.bytesSinceCheckpoint >= overdueBytes || s.recordsSinceCheckpoint >= overdueRecords) {
		if c.addCheckpoint(); len(c.batch.entries) > 0 { // or it is larger than a batch
			return &c.batch, 0
		}
	}
	for i, call := range queue {
		if !c.decideCall(call, i == 0) {
			return c.finishBatch(), i
		}
	}
	return c.finishBatch(), len(queue)
}

// A checkpoint that is overdue by so much is written alone: callers that fill a batch each
// leave no room for it beside them.
const (
	overdueBytes   = 2 << 20
	overdueRecords = 4 * MaxBatchRecords
)

// decideCall decides one caller and adds its records; false: they do not fit.
func (c *composer) decideCall(call *call, alone bool) bool {
	if c.batch.inParts {
		return false
	}
	if c.speculation.isExpired(c.now.bothClocks, c.now.lastUse) {
		// decide has to see the state after the end, so the end is folded now. A caller that then
		// does not fit finds the stream expired again in the next batch.
		end := endGeneration(&c.speculation, NewAppendID(), ReasonExpired)
		if len(c.batch.entries) > 0 && !c.fits(end) {
			return false
		}
		c.placeDrafts(end)
		c.batch.endsExpired = true
	}
	switch {
	case call.touch && c.speculation.exists:
		return c.addDrafts(call, touchDraft(), Outcome{Code: CodeAppended}, alone)
	case call.touch:
		return c.addDrafts(call, nil, Outcome{Code: CodeAppended}, alone)
	case call.req.Repeat && c.speculation.isOutcomeLost(call.req, call.mintedMillis):
		c.addVerdict(call, verdict{err: ErrOutcomeUnknown})
		return true
	}
	drafts, out := decide(&c.speculation, call.req, c.now.wall)
	return c.addDrafts(call, drafts, out, alone)
}

// addVerdict adds a caller that is decided.
func (c *composer) addVerdict(call *call, v verdict) {
	c.batch.calls = append(c.batch.calls, call)
	c.batch.verdicts = append(c.batch.verdicts, v)
}

// addDrafts adds a caller with the records that its verdict rests on; false: they do not fit.
func (c *composer) addDrafts(call *call, drafts []draft, out Outcome, alone bool) bool {
	switch {
	case len(drafts) == 0:
		c.batch.irreversible = c.batch.irreversible && out.Code.Accepted() && out.Code != CodeExists
	case !needsFragments(drafts) && c.fits(drafts):
		c.placeDrafts(drafts)
		out.Info = c.speculation.Info()
	case !alone || len(c.batch.entries) > 0:
		return false
	default:
		c.beginParts(drafts)
		out.Info = c.speculation.Info()
	}
	c.addVerdict(call, verdict{outcome: out})
	return true
}

// fits reports whether drafts can join the batch. A batch that makes a checkpoint due keeps space
// for it, unless it has one caller only.
func (c *composer) fits(drafts []draft) bool {
	n, size := len(c.batch.entries), c.batch.bytes
	for i := range drafts {
		more := drafts[i].recordCount()
		n, size = n+more, size+drafts[i].maxMeteredSize(more)
	}
	if n > MaxBatchRecords || size > c.maxBytes() {
		return false
	}
	if len(c.batch.entries) == 0 || !c.checkpointDueWith(n, size) {
		return true
	}
	return n < MaxBatchRecords && size+c.speculation.maxCheckpointSize() <= c.maxBytes()
}

// checkpointDueWith reports whether a checkpoint is due after n records of size bytes.
func (c *composer) checkpointDueWith(n, size int) bool {
	return c.speculation.isCheckpointDue() || c.speculation.recordsSinceCheckpoint+uint64(n) >= checkpointRecords ||
		c.speculation.bytesSinceCheckpoint+uint64(size) >= checkpointBytes
}

// plainRecordSize is an upper bound of the metered size of a record without its body, if the record
// does not end an append.
const plainRecordSize = 8 + 2 + len(HeaderName) + 64

// maxMeteredSize returns an upper bound of the metered size of the draft's n records.
func (d *draft) maxMeteredSize(n int) int {
	return (n-1)*plainRecordSize + d.messages.Size() + d.maxLastRecordSize()
}

// maxLastRecordSize returns an upper bound of the metered size of the draft's last record, without
// its body.
func (d *draft) maxLastRecordSize() int {
	if d.trim {
		return Entry{Trim: true}.MeteredSize()
	}
	n := plainRecordSize + len(d.header.State) + len(d.header.StreamSeq) + len(d.header.Type)
	if d.header.Producer != nil {
		n += len(d.header.Producer.ID) + 24
	}
	for _, a := range d.header.Chain {
		n += len(a.Stream) + 32
	}
	if f := d.header.Fork; f != nil {
		n += len(f.Source) + len(f.Offset) + 32
	}
	return n + len(d.header.ExpiresRaw) + len(d.header.Name)
}

// maxCheckpointSize returns an upper bound of the metered size of a checkpoint of s.
func (s *State) maxCheckpointSize() int {
	n := 1024 + len(s.contentType) + len(s.streamSeq) + len(s.expiresRaw) + outcomeWindowSize*24 + s.forkRefs.size
	for _, a := range s.chain {
		n += len(a.Stream) + 32
	}
	if s.closedBy != nil {
		n += len(s.closedBy.ID) + 32
	}
	for _, d := range s.pendingReleases {
		n += len(d.source) + 16
	}
	if s.fork != nil {
		n += len(s.fork.Source) + len(s.fork.Offset) + 32
	}
	table := 0
	s.eachProducerTable(func(m map[string]producerClaim) {
		for id := range m {
			table += len(id) + 32
		}
	})
	return n + min(table, producerBytes+MaxProducerID+64)
}

// placeDrafts encodes drafts at the next positions of the batch and folds them into the
// speculation.
func (c *composer) placeDrafts(drafts []draft) {
	lines := newRecordGenerator(drafts)
	c.reserveEntries(lines.remaining)
	for lines.remaining > 0 {
		c.putRecord(lines.nextRecord(false))
	}
}

// reserveEntries allocates memory for n more records in few pieces.
func (c *composer) reserveEntries(n int) {
	if n < 2 {
		return
	}
	c.batch.entries = slices.Grow(c.batch.entries, n+1) // one more for a checkpoint
	c.headerBuf = make([]byte, 0, n*plainHeaderSize+2*fullHeaderSize)
}

const (
	// plainHeaderSize is an upper bound of the header of a record in the middle of an append in
	// parts.
	plainHeaderSize = 18
	// fullHeaderSize is about the size of a longer header.
	fullHeaderSize = 64
)

// putRecord gives a record its position and its distance to the checkpoint, folds it into the
// speculation and adds it to the batch.
func (c *composer) putRecord(l recordDraft) {
	pos := c.speculation.Next
	l.header = c.addBaseID(l.header)
	e := Entry{Body: l.body, decoded: l.header}
	if l.header == nil {
		e = Entry{Trim: true, TrimTo: pos + 1}
	} else {
		if l.header.Flags&(FlagLast|FlagPart) != 0 && l.header.Kind != KindCheckpoint {
			l.header.HasCheckpoint, l.header.RecordsSinceCheckpoint, l.header.BytesSinceCheckpoint = true, c.speculation.recordsSinceCheckpoint, c.speculation.bytesSinceCheckpoint
		}
		e.Header = c.encodeHeader(l.header, pos)
	}
	if _, err := c.speculation.foldDecoded(e.record(pos, 0), l.header); err != nil {
		panic("shard: own record does not fold: " + err.Error())
	}
	c.batch.entries = append(c.batch.entries, e)
	c.batch.bytes += e.MeteredSize()
}

// encodeHeader returns the header's value at pos. The headers of a batch lie side by side in
// headerBuf.
func (c *composer) encodeHeader(h *Header, pos Pos) []byte {
	if c.headerBuf == nil {
		return h.encode(pos)
	}
	start := len(c.headerBuf)
	c.headerBuf = h.appendTo(c.headerBuf, pos)
	return c.headerBuf[start:len(c.headerBuf):len(c.headerBuf)]
}

// finishBatch returns the batch, with a checkpoint at its end if one is due and fits.
func (c *composer) finishBatch() *appendBatch {
	if !c.batch.inParts && len(c.batch.entries) > 0 && c.speculation.isCheckpointDue() && (c.speculation.exists || c.speculation.gone) && len(c.batch.entries) < MaxBatchRecords {
		c.addCheckpoint()
	}
	c.addBatchID()
	return &c.batch
}

// addCheckpoint adds a checkpoint of the speculation, if it fits.
func (c *composer) addCheckpoint() {
	d := draft{header: Header{Kind: KindCheckpoint, State: c.speculation.encode()}}
	if c.batch.bytes+d.maxMeteredSize(1) > c.maxBytes() {
		return
	}
	d.header = *c.addBaseID(&d.header)
	d.header.Batch = c.batchID
	pos := c.speculation.Next
	e := Entry{Header: d.header.encode(pos)}
	c.batch.entries = append(c.batch.entries, e)
	c.batch.bytes += e.MeteredSize()
	if !c.predicts {
		return
	}
	if _, err := c.speculation.foldDecoded(e.record(pos, 0), &d.header); err != nil {
		panic("shard: own checkpoint does not fold: " + err.Error())
	}
}

// beginParts makes the batch an append in parts and composes its first part. Parts are full
// batches; the last one keeps space for the checkpoint that such an append always makes due.
func (c *composer) beginParts(drafts []draft) {
	lines := newRecordGenerator(drafts)
	lines.flags = FlagPart
	c.batch.inParts, c.batch.remaining = true, &lines
	c.fillPart(&c.batch)
}

// composePart composes the next part of an append in parts; s is the State after the parts before
// it.
func (b *appendBatch) composePart(s *State) {
	c := &composer{}
	c.composePart(b, s)
	b.entries, b.bytes = c.batch.entries, c.batch.bytes
}

// composePart composes the next part of b into the composer's own batch.
func (c *composer) composePart(b *appendBatch, s *State) {
	c.speculation.speculateOn(s)
	c.fillPart(b)
	if b.remaining == nil {
		b.verdicts[0].outcome.Info = c.speculation.Info()
	}
}

// fillPart adds the next records of an append in parts, as many as one batch takes.
func (c *composer) fillPart(b *appendBatch) {
	lines := b.remaining
	c.reserveEntries(min(lines.remaining, MaxBatchRecords))
	for lines.remaining > 0 {
		limit, most := c.maxBytes(), MaxBatchRecords
		if lines.remaining == 1 {
			limit, most = limit-c.speculation.maxCheckpointSize(), most-1
		}
		n := len(c.batch.entries)
		if n > 0 && (c.batch.bytes+lines.maxNextSize() > limit || n+1 > most) {
			c.addBatchID()
			return
		}
		c.putRecord(lines.nextRecord(n == 0))
	}
	b.remaining = nil
	c.addCheckpoint()
	c.addBatchID()
}
