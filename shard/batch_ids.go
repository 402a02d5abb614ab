package shard

// A batch on an append session carries an id, in its last record, and a speculative one also the id of
// the batch that it was decided on, in its first. Storage that keeps AppendSession's promise writes a
// speculative batch only where that other batch ends. So a record that names another batch than stands
// directly below it shows that storage, or something on the way to it, breaks the promise. Nothing is
// voided for it: readers of S2 itself see the records, and pages and takeovers believe records without
// looking below them. The log is shown as it is, and the node pipelines no more (reportWrongBases).
//
// A batch that is sent as a call carries neither: it stands on what is acknowledged, and most such
// batches are one small record.

// batchIDLevel is the format level at which batches carry ids. Releases of a level below keep none in
// the State that they check against.
const batchIDLevel = 2

// batchIDBytes bounds the bytes that the ids take in one batch.
const batchIDBytes = 2 * (2 + len(AppendID{}))

// maxBytes returns the metered size that the batch's records may have before the ids are added.
func (c *composer) maxBytes() int {
	if c.batchID.IsZero() {
		return MaxBatchBytes
	}
	return MaxBatchBytes - batchIDBytes
}

// addBaseID returns a copy of h with baseID if h is the header of the batch's first record, and
// otherwise h. h may be nil, and may be shared by records.
func (c *composer) addBaseID(h *Header) *Header {
	if h == nil || c.baseID.IsZero() || len(c.batch.entries) > 0 {
		return h
	}
	own := *h
	own.Base = c.baseID
	return &own
}

// addBatchID puts the id into the last record of the batch. A checkpoint has it already.
func (c *composer) addBatchID() {
	n := len(c.batch.entries)
	if c.batchID.IsZero() || n == 0 {
		return
	}
	e := &c.batch.entries[n-1]
	if e.decoded == nil || !e.decoded.Batch.IsZero() {
		return
	}
	h, s := *e.decoded, &c.speculation
	h.Batch = c.batchID
	before := e.MeteredSize()
	e.decoded, e.Header = &h, h.encode(s.Next-1)
	more := e.MeteredSize() - before
	c.batch.bytes += more
	s.bytesSinceCheckpoint += uint64(more)
	s.lastBatch = batchEnd{c.batchID, s.Next}
}

// newComposer returns a composer of a batch that is to stand on base. Once the whole fleet reads the
// ids the batch has them.
func (p *pipeline) newComposer(base *State) *composer {
	c := &composer{predicts: true}
	if p.stream.manager.formatLevel() < batchIDLevel {
		return c
	}
	c.batchID = NewAppendID()
	if p.sent > 0 && base.lastBatch.end == base.Next {
		c.baseID = base.lastBatch.id
	}
	return c
}

// formatLevel returns the format level that this node may write.
func (m *Manager) formatLevel() uint8 {
	if m.cfg.formatLevel > 0 {
		return m.cfg.formatLevel
	}
	s := m.standingWatcher.Load()
	if s == nil {
		return 0
	}
	return min(s.newest.Load().Level, FormatLevel)
}

// wrongBase describes a record that names another batch than stands directly below it.
type wrongBase struct {
	pos      Pos
	expected AppendID
	found    batchEnd // the newest batch below that has an id
}

// checkBase returns the batch that the record at pos expects directly below, if another one is there.
func (s *State) checkBase(pos Pos, h *Header) (expected AppendID) {
	if h.Base.IsZero() || s.lastBatch == (batchEnd{h.Base, pos}) {
		return AppendID{}
	}
	return h.Base
}

// noteBatch notes the batch that ends with a record that is folded, as its header says.
func (s *State) noteBatch(h *Header) {
	if !h.Batch.IsZero() {
		s.lastBatch = batchEnd{h.Batch, s.Next}
	}
}

// noteBase notes what checkBase found in a record that is about to be folded, under mu. Of the first
// record that is folded here, and of one behind a gap, nothing is known of what stands below.
func (s *Stream) noteBase(pos Pos, expected AppendID, found batchEnd) {
	if !expected.IsZero() && s.absorbedTo == pos {
		s.wrongBases = append(s.wrongBases, wrongBase{pos, expected, found})
	}
	s.absorbedTo = pos + 1
}

// reportWrongBases reports records that stand on another batch than they say, and ends pipelining on
// this node.
func (s *Stream) reportWrongBases(all []wrongBase) {
	p := &s.manager.pipelines
	for _, w := range all {
		p.brokenLogs.Add(1)
		p.brokenLogLimit.Do(func() {
			s.manager.cfg.Logger.Error("a batch of appends stands on another one than it was decided on: S2, or what is on the way to it, does not keep the order of append sessions, so this node pipelines no more",
				"stream", s.id, "position", w.pos, "expects batch", w.expected.String(), "found batch", w.found.id.String(), "which ends at", w.found.end)
		})
	}
}
