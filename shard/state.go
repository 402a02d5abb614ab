package shard

import (
	"encoding/json"
	"errors"
	"mime"
	"strings"
	"unicode/utf8"
)

// OctetStream is the content type of a stream that was created without one.
const OctetStream = "application/octet-stream"

// State holds what a stream's log says. It is a fold over the log's records, and pure: it has no
// clock, no goroutine and no I/O. A checkpoint record holds a State and replaces the fold's, so
// fold(checkpoint + what follows) = fold(everything).
//
// A State is not safe for concurrent use. A Stream guards its own with Stream.mu.
type State struct {
	// Next is the position of the next record.
	Next Pos
	// Time is the highest S2 timestamp seen, in milliseconds.
	Time Millis

	exists     bool
	ended      bool // the last generation ended by a tombstone, and none has begun since
	generation Generation
	start      Pos
	tail       Pos
	chain      []Ancestor
	// hasNonJSON reports that a generation without a create record holds a message that is not
	// JSON.
	hasNonJSON bool

	contentType string
	hasTTL      bool
	ttl         uint64
	expiresAt   Millis
	expiresRaw  string
	lastUsed    Millis // S2 time of the last create, message, close or touch, in ms; 0: this batch's

	// fork holds what the request said of the fork's source; nil: it is no fork. forkRefs are the
	// forks that refer to this stream. gone: the generation has ended, and its records are kept for
	// those forks. pendingReleases are references of ended generations that are still to be given
	// back to their sources. They outlive generations, and are copied before they are changed.
	fork            *Fork
	forkRefs        forkRefTable
	gone            bool
	pendingReleases []pendingRelease

	// The fields that format level 2 added; nil and zero: unknown. confirmed: the sources hold this
	// fork, so its chain may be served (fork_confirm.go).
	retainedFrom  *trimmedTo
	counts        counts
	retention     *retention
	newestForeign Millis // S2 ms of the newest foreign record
	lastBatch     batchEnd
	chainTimes    []Millis
	confirmed     bool
	// unknownFields are the fields of a checkpoint that this release does not know, byte for byte.
	unknownFields []byte

	closed    bool
	closedBy  *Producer
	streamSeq []byte
	producers map[string]producerClaim
	outcomes  outcomeWindow

	// The distance back to the last checkpoint: its records and metered bytes, the checkpoint
	// included. Without a checkpoint they count from the first record folded.
	recordsSinceCheckpoint, bytesSinceCheckpoint uint64
	trimTo                                       Pos // highest trim point that a command asked for

	openAppend AppendID // id of the append that the newest first record belongs to
	run        *run     // parts that still wait for their commit; nil: none

	// rooted: the fold began at the log's start or at a checkpoint.
	rooted bool
	// pageOnly: this State only decides what is visible in a page. It has never seen what lies
	// below the page, so a run may begin without its first record, and checkpoints are skipped.
	pageOnly bool
	// base: this State is a speculation on top of base. Producers and outcomes that are not found
	// here are looked up there.
	base *State
}

// trimmedTo holds the place where a trimmed stream begins: a position, and how many messages and
// bytes lie below it.
type trimmedTo struct {
	pos            Pos
	ordinal, bytes uint64
}

// counts holds the number of visible messages of a generation, and their bytes.
type counts struct {
	known           bool
	messages, bytes uint64
}

// batchEnd holds the id of the last batch that carried one, and the position after that batch.
type batchEnd struct {
	id  AppendID
	end Pos
}

// countMessages adds visible messages to the counts, where they are known.
func (s *State) countMessages(messages, bytes int) {
	if s.counts.known {
		s.counts.messages += uint64(messages)
		s.counts.bytes += uint64(bytes)
	}
}

// producerClaim holds the last epoch and seq that were accepted from a producer.
type producerClaim struct {
	epoch, seq uint64
	time       Millis // S2 timestamp, ms; 0: this batch's
}

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
		(Kind(r.Header[2]) == KindCreate || Kind(r.Header[2]) == KindTombstone)
}

// effect holds what a folded record means to readers.
type effect struct {
	visibility visibility
	voidsRun   bool // the uncommitted parts before this record are void
	commitsRun bool // the uncommitted parts, this record included, are visible now
	begins     bool // a generation begins with this record
	ends       bool // the generation ends with this record
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
	s.Next = r.Pos + 1
	s.Time = max(s.Time, r.Time)
	s.recordsSinceCheckpoint++
	s.bytesSinceCheckpoint += uint64(r.Size)
	if h != nil && h.Flags&FlagPart != 0 {
		return s.foldPart(r, h), nil
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
	if !h.Batch.IsZero() {
		s.lastBatch = batchEnd{h.Batch, s.Next}
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

// isCheckpointDue reports whether the next batch should end with a checkpoint.
func (s *State) isCheckpointDue() bool {
	return s.recordsSinceCheckpoint >= checkpointRecords || s.bytesSinceCheckpoint >= checkpointBytes ||
		s.trimTo > s.Next-min(Pos(s.recordsSinceCheckpoint), s.Next)
}

// A checkpoint is due after so many records or metered bytes, foreign ones included, or once
// the last checkpoint was trimmed away.
const (
	checkpointRecords = 500
	checkpointBytes   = 512 << 10
)

// Info describes the stream.
func (s *State) Info() Info {
	info := Info{LogTail: s.Next, Gone: s.gone}
	if s.fork != nil {
		info.Hold = s.fork.Hold
	}
	if !s.exists {
		return info
	}
	return Info{
		Hold:   info.Hold,
		Exists: true, Generation: s.generation, Chain: s.servedChain(), Start: s.start, Tail: s.tail,
		LogTail: s.Next, Truncated: s.generation == 0 && s.retainedFrom != nil, Closed: s.closed, Type: s.contentType,
		HasTTL: s.hasTTL, TTL: s.ttl, Expires: s.expiresAt, ExpiresRaw: s.expiresRaw,
	}
}

// isExpired reports whether the stream's time is over at now. The stream was last used at lastUse
// or later. Both are in milliseconds.
func (s *State) isExpired(now, touched Millis) bool {
	if !s.exists {
		return false
	}
	if s.expiresAt != 0 && now >= s.expiresAt {
		return true
	}
	return s.hasTTL && s.lastUsed != 0 && now >= max(touched, s.lastUsed)+Millis(s.ttl*1000)
}

// producer returns the claim of a producer.
func (s *State) producer(id string) (producerClaim, bool) {
	c, ok := s.producers[id]
	if !ok && s.base != nil {
		c, ok = s.base.producer(id)
	}
	return c, ok
}

// findOutcome returns the first outcome of an append id.
func (s *State) findOutcome(id AppendID) (outcome, bool) {
	o, ok := s.outcomes.find(id)
	if !ok && s.base != nil {
		o, ok = s.base.findOutcome(id)
	}
	return o, ok
}

// mayHaveForgotten reports whether an append may have been written and have left the window of
// remembered ids. minted is when its id was minted, in ms.
func (s *State) mayHaveForgotten(minted Millis) bool {
	return s.outcomes.forgottenTime != 0 && minted <= s.outcomes.forgottenTime+clockSlack
}

// isOutcomeLost reports whether it cannot be known if the request was written before: its id has
// left the window, and no claim of its producer decides.
func (s *State) isOutcomeLost(req *Request, minted Millis) bool {
	if !s.mayHaveForgotten(minted) {
		return false
	}
	if _, ok := s.findOutcome(req.ID); ok {
		return false
	}
	if p := req.Producer; p != nil {
		_, known := s.producer(p.ID)
		return !known && p.Seq == 0
	}
	return req.Ref.IsZero() // a reference is in the table, or it is not
}

// clockSlack is the largest difference between a node's clock and S2's that is allowed for, in
// milliseconds.
const clockSlack = 2_000

// speculateOn makes s a State on top of base, to be folded further while base waits for the
// acknowledgement.
func (s *State) speculateOn(base *State) {
	*s = *base
	s.base, s.producers = base, nil
	if base.run != nil { // the speculation changes it
		r := *base.run
		s.run = &r
	}
	s.outcomes = outcomeWindow{forgottenTime: base.outcomes.forgottenTime}
}

// hideProducers stops lookups of producers from reaching the generation before.
func (s *State) hideProducers() {
	merged := *s.base
	merged.producers, merged.base = nil, nil
	merged.outcomes = s.base.outcomes
	if s.base.base != nil {
		panic("shard: speculation on a speculation")
	}
	s.base = &merged
}

// validJSON reports whether b is JSON text by RFC 8259: valid, and in UTF-8.
func validJSON(b []byte) bool { return json.Valid(b) && utf8.Valid(b) }

// IsJSON reports whether a content type is application/json, parameters aside.
func IsJSON(contentType string) bool { return MediaType(contentType) == "application/json" }

// plainType reports whether a content type is its own media type: lower case, without
// parameters or anything unusual.
func plainType(s string) bool {
	for i := range len(s) {
		if c := s[i]; (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '/' && c != '-' && c != '+' && c != '.' {
			return false
		}
	}
	return strings.Count(s, "/") == 1 && s[0] != '/' && s[len(s)-1] != '/'
}

// MediaType returns the type/subtype of a content type in lower case, without parameters. The
// protocol compares these (PROTOCOL 5.1).
func MediaType(contentType string) string {
	if plainType(contentType) { // nearly every content type, on the path of every append
		return contentType
	}
	if t, _, err := mime.ParseMediaType(contentType); err == nil {
		return t
	}
	t, _, _ := strings.Cut(contentType, ";")
	return strings.ToLower(strings.TrimSpace(t))
}
