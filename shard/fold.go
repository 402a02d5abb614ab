package shard

import (
	"errors"
)

// run describes a contiguous run of parts without their commit.
type run struct {
	id        AppendID
	start     Pos
	create    *Header // not nil: the run begins with this create record
	createPos Pos     // position of create
	ownCreate bool    // this process wrote create

	records, messages, bytes int
}

// isTooLarge reports that the run is larger than any append of ours. Parts are held in memory until
// their commit, so such a run is dropped.
func (r *run) isTooLarge() bool { return r.records > 2*MaxMessages || r.bytes > MaxBody }

// mayChangeGeneration reports whether the record may end a generation or begin one.
func (s *State) mayChangeGeneration(r Record) bool {
	if s.run != nil && s.run.create != nil {
		return true
	}
	return len(r.Header) >= headerFixed && r.Header[0] == headerMagic &&
		(RecordKind(r.Header[2]) == KindCreate || RecordKind(r.Header[2]) == KindTombstone)
}

// effect holds what a folded record means to readers.
type effect struct {
	visibility visibility
	voidsRun   bool // the uncommitted parts before this record are void
	commitsRun bool // the uncommitted parts, this record included, are visible now
	begins     bool // a generation begins with this record
	ends       bool // the generation ends with this record
	// wrongBase is the batch that the record expects directly below; zero: it expects none, or that
	// batch is there.
	wrongBase AppendID
}

// visibility says whether and how a record is shown to readers.
type visibility uint8

const (
	showNone              visibility = iota // never shown
	showMessage                             // a message begins
	showContinues                           // continues the message before
	showMessageOnCommit                     // as showMessage, once committed
	showContinuesOnCommit                   // as showContinues, once committed
)

// foldRecord folds the record at Next. Its only error is ErrNeedsLaterRelease, which leaves the
// State unusable.
func (s *State) foldRecord(r Record) (effect, error) {
	h := r.decoded
	if h == nil {
		var err error
		if h, err = headerOf(r); err != nil {
			return effect{}, err
		}
	}
	return s.foldDecoded(r, h)
}

// headerOf returns the header of a record; nil: the record is foreign. Its only error is
// ErrNeedsLaterRelease.
func headerOf(r Record) (*Header, error) {
	if r.Command || r.Header == nil {
		return nil, nil //nolint:nilnil // a foreign record is no error
	}
	h, err := decodeHeader(r.Pos, r.Header)
	switch {
	case errors.Is(err, ErrNeedsLaterRelease):
		return nil, err
	case err != nil, h.Kind != KindMessage && len(r.Body) > 0: // control records have no body
		return nil, nil //nolint:nilnil,nilerr // as above
	}
	return h, nil
}

// foldDecoded folds record r with its decoded header h; nil: a foreign record. Speculation
// (composer.putRecord) and acknowledged records (foldRecord) both come through here, so both fold
// alike.
func (s *State) foldDecoded(r Record, h *Header) (effect, error) {
	var e effect
	if h != nil {
		e.wrongBase = s.checkBase(r.Pos, h)
	}
	s.Next = r.Pos + 1
	s.Time = max(s.Time, r.Time)
	s.recordsSinceCheckpoint++
	s.bytesSinceCheckpoint += uint64(r.Size)
	if h != nil && h.Flags&FlagPart != 0 {
		wrong := e.wrongBase
		e = s.foldPart(r, h)
		e.wrongBase = wrong
		s.noteBatch(h)
		return e, nil
	}
	e.voidsRun = s.run != nil
	s.run = nil
	switch {
	case r.Command: // it may ask for more than there is
		s.trimTo = max(s.trimTo, min(r.TrimTo, s.Next))
	case h == nil:
		e.visibility, e.begins = s.foldForeign(r)
	default:
		return s.foldOurs(e, r, h)
	}
	return e, nil
}

// foldForeign folds a foreign record: it is a message, unless nothing may be shown here.
func (s *State) foldForeign(r Record) (visibility, bool) {
	if len(r.Body) == 0 { // the protocol knows no empty message
		return showNone, false
	}
	begun := s.beginUncreated()
	if s.newestForeign != 0 { // where it is known: see counts
		s.newestForeign = max(s.newestForeign, min(r.Time, maxNumber))
	}
	if !s.exists || s.closed {
		return showNone, begun
	}
	if !s.pageOnly && s.generation == 0 && !s.hasNonJSON && !validJSON(r.Body) {
		s.hasNonJSON = true
	}
	if IsJSON(s.contentType) && !validJSON(r.Body) {
		return showNone, begun
	}
	s.tail, s.lastUsed = s.Next, r.Time
	s.countMessages(1, len(r.Body))
	return showMessage, begun
}

// beginUncreated makes a log without a create record a readable stream of generation 0.
func (s *State) beginUncreated() bool {
	if s.exists || s.ended || s.generation != 0 {
		return false
	}
	s.exists, s.contentType = true, OctetStream
	return true
}

// foldOurs folds a record that Fantail wrote and that is no part of a run.
func (s *State) foldOurs(e effect, r Record, h *Header) (effect, error) {
	if h.Flags&FlagFirst != 0 {
		s.openAppend = h.Append
	}
	switch h.Kind {
	case KindMessage:
		e.begins = s.beginUncreated()
		if s.exists && !s.closed {
			e.visibility = showMessage
			if h.Flags&FlagContinues != 0 {
				e.visibility = showContinues
			}
			s.foldMessage(r, h)
		}
	case KindCreate:
		s.foldCreate(r.Pos, r.Time, h, r.decoded != nil)
		e.begins = true
		s.foldAppendEnd(r, h, OpCreate)
	case KindClose:
		s.foldAppendEnd(r, h, OpAppend)
	case KindTouch:
		s.lastUsed = r.Time
	case KindHold:
		f := forkRef{fork: h.Name, time: r.Time}
		if h.From != nil && h.From.Generation == s.generation {
			f.from = h.From.Pos
		}
		s.addForkRef(h.Ref, f)
	case KindRetain:
		s.retention = h.Retain
	case KindRelease:
		s.removeForkRef(h.Ref)
	case KindReleaseDone:
		s.removePendingRelease(h.Ref)
	case KindCheckpoint, KindTombstone:
		if s.pageOnly {
			e.ends = h.Kind == KindTombstone
			break
		}
		switch err := s.restoreCheckpoint(r, h); {
		case errors.Is(err, errForeign): // and so nothing: it has no body
		case err != nil:
			return e, err
		default:
			e.ends = h.Kind == KindTombstone
		}
	}
	s.noteBatch(h)
	return e, nil
}

// foldMessage folds a visible message record of ours.
func (s *State) foldMessage(r Record, h *Header) {
	if !s.pageOnly && s.generation == 0 && !s.hasNonJSON && !IsJSON(s.contentType) {
		// Fragments are not checked one by one: a message in fragments counts as not JSON.
		s.hasNonJSON = h.Flags&FlagContinues != 0 || !validJSON(r.Body)
	}
	s.tail = s.Next
	if h.Flags&FlagContinues != 0 {
		s.countMessages(0, len(r.Body))
	} else {
		s.countMessages(1, len(r.Body))
	}
	s.foldAppendEnd(r, h, OpAppend)
}

// foldCreate begins a generation; own: this process wrote the record.
func (s *State) foldCreate(pos Pos, time Millis, h *Header, own bool) {
	adopted := len(h.Chain) > 0 && h.Chain[0].Stream == ""
	if !adopted {
		s.start, s.tail = pos+1, pos+1
	}
	s.exists, s.ended, s.generation, s.chain, s.fork = true, false, h.Generation, h.Chain, h.Fork
	s.contentType, s.hasTTL, s.ttl = h.Type, h.HasTTL, h.TTL
	s.expiresAt, s.expiresRaw = h.Expires, h.ExpiresRaw
	s.closed, s.closedBy, s.streamSeq = false, nil, nil
	s.producers, s.hasNonJSON, s.lastUsed = nil, false, time
	s.retainedFrom, s.counts, s.retention, s.chainTimes = nil, counts{}, h.Retain, h.ChainTimes
	s.confirmed = own
	if s.base != nil { // lookups must not fall through to the generation before
		s.producers = map[string]producerClaim{}
		s.hideProducers()
	}
}

// foldAppendEnd folds what the last record of an append says about the whole append.
func (s *State) foldAppendEnd(r Record, h *Header, op Op) {
	s.lastUsed = r.Time
	if h.Flags&FlagLast == 0 || s.pageOnly {
		return
	}
	if p := h.Producer; p != nil {
		if s.producers == nil {
			s.producers = map[string]producerClaim{}
		}
		s.producers[p.ID] = producerClaim{p.Epoch, p.Seq, r.Time}
	}
	if h.StreamSeq != nil {
		s.streamSeq = h.StreamSeq
	}
	if h.Close {
		s.closed, s.closedBy = true, h.Producer
	}
	if !s.openAppend.IsZero() {
		s.outcomes.add(outcome{id: s.openAppend, end: s.tail, op: op, time: r.Time})
		s.openAppend = AppendID{}
	}
}

// foldPart folds a record of an append in several batches. Any other record between the parts voids
// the parts before it. A part without its first record is skipped; in a page it is kept, because a
// page may begin inside a run.
func (s *State) foldPart(r Record, h *Header) effect {
	var e effect
	first := h.Flags&FlagFirst != 0
	if s.pageOnly && s.run != nil && s.run.id.IsZero() && !first {
		s.run.id = h.Append // the page begins inside a part, and only the next part names the append
	}
	orphan := s.run == nil || !h.Append.IsZero() && h.Append != s.run.id
	if first || orphan {
		e.voidsRun = s.run != nil
		s.run = nil
		if !first && !s.pageOnly {
			return e
		}
		s.run = &run{id: h.Append, start: r.Pos}
	}
	s.run.records++
	s.run.bytes += len(r.Body)
	if h.Kind == KindMessage && h.Flags&FlagContinues == 0 {
		s.run.messages++
	}
	if s.run.isTooLarge() {
		s.run = nil
		return effect{voidsRun: true}
	}
	switch {
	case h.Kind == KindCreate:
		s.run.create, s.run.createPos, s.run.ownCreate = h, r.Pos, r.decoded != nil
	case h.Flags&FlagContinues != 0:
		e.visibility = showContinuesOnCommit
	default:
		e.visibility = showMessageOnCommit
	}
	if h.Flags&FlagCommit != 0 {
		s.commitRun(&e, r, h)
	}
	return e
}

// commitRun makes the run visible, its create record first.
func (s *State) commitRun(e *effect, r Record, h *Header) {
	done := s.run
	s.run = nil
	op := OpAppend
	if done.create != nil {
		s.foldCreate(done.createPos, r.Time, done.create, done.ownCreate)
		e.begins, op = true, OpCreate
	}
	if !s.exists || s.closed {
		e.voidsRun, e.visibility = true, showNone
		return
	}
	e.commitsRun = true
	s.tail, s.openAppend = s.Next, done.id
	s.countMessages(done.messages, done.bytes)
	s.hasNonJSON = s.hasNonJSON || s.generation == 0
	s.foldAppendEnd(r, h, op)
}

// skipTo moves the State over positions that were trimmed away.
func (s *State) skipTo(next Pos) {
	s.recordsSinceCheckpoint += uint64(next - s.Next)
	s.Next, s.run = next, nil
}
