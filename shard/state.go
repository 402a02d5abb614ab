package shard

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
	// hidesProducers: producers are not looked up in base, because a generation began or ended here.
	hidesProducers bool
	// base: this State is a speculation on top of base, which may be one itself. Producers and
	// outcomes that are not found here are looked up there.
	base    *State
	basedAt Pos // base.Next when the speculation began
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
	for t := s; !ok && t.base != nil && !t.hidesProducers; {
		t = t.base
		c, ok = t.producers[id]
	}
	return c, ok
}

// eachProducerTable calls fn with the tables in which producers are looked up, the newest first.
func (s *State) eachProducerTable(fn func(map[string]producerClaim)) {
	fn(s.producers)
	for t := s; t.base != nil && !t.hidesProducers; {
		t = t.base
		fn(t.producers)
	}
}

// findOutcome returns the first outcome of an append id.
func (s *State) findOutcome(id AppendID) (outcome, bool) {
	o, ok := s.outcomes.find(id)
	for t := s.base; !ok && t != nil; t = t.base {
		o, ok = t.outcomes.find(id)
	}
	return o, ok
}

// forgottenTime returns the S2 time, in ms, of the newest outcome that is forgotten; 0: none is.
func (s *State) forgottenTime() Millis {
	newest := s.outcomes.forgottenTime
	for t := s.base; t != nil; t = t.base {
		newest = max(newest, t.outcomes.forgottenTime)
	}
	return newest
}

// mayHaveForgotten reports whether an append may have been written and have left the window of
// remembered ids. minted is when its id was minted, in ms.
func (s *State) mayHaveForgotten(minted Millis) bool {
	forgotten := s.forgottenTime()
	return forgotten != 0 && minted <= forgotten+clockSlack
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
// acknowledgement. base may be folded further meanwhile, with the records that s has got.
func (s *State) speculateOn(base *State) {
	*s = *base
	s.base, s.basedAt, s.producers, s.hidesProducers = base, base.Next, nil, false
	if base.run != nil { // the speculation changes it
		r := *base.run
		s.run = &r
	}
	s.outcomes = outcomeWindow{forgottenTime: base.outcomes.forgottenTime}
}

// lowestBase returns the State that all speculations below this one stand on.
func (s *State) lowestBase() *State {
	t := s.base
	for t.base != nil {
		t = t.base
	}
	return t
}

// hideProducers stops lookups of producers from reaching the generation before.
func (s *State) hideProducers() { s.hidesProducers = true }
