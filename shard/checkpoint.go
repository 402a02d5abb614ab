package shard

import (
	"cmp"
	"encoding/binary"
	"fmt"
	"maps"
	"slices"
)

// Tags of the fields of an encoded State. They are never reused. An unknown tag up to 127 is
// kept byte for byte and written again in the next checkpoint, tombstone and handover. An
// unknown tag of 128 and above makes a node decline the stream.
const (
	ckFlags          = 1
	ckGeneration     = 2
	ckStart          = 3
	ckTail           = 4
	ckType           = 5
	ckTTL            = 6
	ckExpires        = 7 // ms (uvarint), then as given
	ckChain          = 8
	ckLastUsed       = 9
	ckClosedBy       = 10
	ckStreamSeq      = 11
	ckProducers      = 12
	ckRecent         = 13
	ckForgottenTime  = 14
	ckFork           = 15
	ckForkRef        = 16 // time, id, name of the fork; repeated
	ckPendingRelease = 17 // id, name of the source; repeated

	// Of a State that is handed over, and never of a checkpoint: see Handover.
	ckNext            = 18
	ckTime            = 19
	ckSinceCheckpoint = 20 // records, bytes back to the last checkpoint
	ckTrimTo          = 21
	ckLastUse         = 22

	// Read and kept by format level 1, written first by level 2.
	ckRetainedFrom  = 23 // position, ordinal, bytes: where retention has trimmed to
	ckCounts        = 24 // visible messages, their bytes, since the life's start; absent: unknown
	ckRetention     = 25 // as tagRetain
	ckSealedFrom    = 26 // position: below it records need no seal
	ckNewestForeign = 27 // S2 ms of the newest foreign record
	ckLastBatch     = 28 // id of the last batch that had one, position after it
	ckForkRefFrom   = 29 // id of a fork reference, position from which its fork needs the source; repeated
	ckChainTimes    = 30 // as tagChainTimes

	ckConfirmed = 31 // handover only: the sources were asked, and hold this fork
	ckMustKnow  = 128
)

// maxUnknownFields bounds the fields of a State that this release does not know, in bytes.
const maxUnknownFields = 128 << 10

// isHandoverOnly reports whether a field means something in a handover only.
func isHandoverOnly(tag byte) bool { return tag >= ckNext && tag <= ckLastUse || tag == ckConfirmed }

const (
	ckExists = 1 << iota
	ckEnded
	ckClosed
	ckHasTTL
	ckHasNonJSON
	ckGone
)

// Bounds of the producer table of one stream. Producers leave only while a checkpoint is
// written: first those that were not used for producerAge; then, oldest first, what exceeds
// producerBytes of the encoded table.
const (
	producerAge   = 7 * 24 * 3600 * 1000 // milliseconds of S2 time
	producerBytes = 256 << 10
)

// encode returns the State as a checkpoint holds it. Times that are not known yet (their records
// are in the same batch) are written as 0 and mean the checkpoint's own time.
func (s *State) encode() []byte { return s.encodeWith(s.encodeProducers(producerAge, producerBytes)) }

// encodeWith does what encode does, with the given table of producers.
func (s *State) encodeWith(producers []byte) []byte {
	var flags uint64
	for i, on := range []bool{s.exists, s.ended, s.closed, s.hasTTL, s.hasNonJSON, s.gone} {
		if on {
			flags |= 1 << i
		}
	}
	b := appendField(nil, ckFlags, uvarints(flags))
	b = appendField(b, ckGeneration, uvarints(uint64(s.generation)))
	b = appendField(b, ckStart, uvarints(uint64(s.start)))
	b = appendField(b, ckTail, uvarints(uint64(s.tail)))
	b = appendField(b, ckType, []byte(s.contentType))
	b = appendField(b, ckTTL, uvarints(s.ttl))
	b = appendField(b, ckExpires, append(uvarints(uint64(s.expiresAt)), s.expiresRaw...))
	for _, a := range s.chain {
		b = appendField(b, ckChain, encodeAncestor(a))
	}
	b = appendField(b, ckLastUsed, uvarints(uint64(s.lastUsed)))
	if p := s.closedBy; p != nil {
		b = appendField(b, ckClosedBy, append(uvarints(p.Epoch, p.Seq), p.ID...))
	}
	if s.streamSeq != nil {
		b = appendField(b, ckStreamSeq, s.streamSeq)
	}
	b = appendField(b, ckProducers, producers)
	recent, forgot := s.encodeOutcomes()
	b = appendField(b, ckRecent, recent)
	b = appendField(b, ckForgottenTime, uvarints(uint64(forgot)))
	return append(s.encodeLevel2(s.encodeForks(b)), s.unknownFields...)
}

// encodeLevel2 appends the fields of format level 2 that the State has from records of that level.
func (s *State) encodeLevel2(b []byte) []byte {
	if r := s.retainedFrom; r != nil {
		b = appendField(b, ckRetainedFrom, uvarints(uint64(r.pos), r.ordinal, r.bytes))
	}
	if c := s.counts; c.known {
		b = appendField(b, ckCounts, uvarints(c.messages, c.bytes))
	}
	if s.retention != nil {
		b = appendField(b, ckRetention, s.retention.encode())
	}
	if s.newestForeign != 0 {
		b = appendField(b, ckNewestForeign, uvarints(uint64(s.newestForeign)))
	}
	if !s.lastBatch.id.IsZero() {
		b = appendField(b, ckLastBatch, append(s.lastBatch.id[:], uvarints(uint64(s.lastBatch.end))...))
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.forkRefs.rows), AppendID.Compare) {
		if from := s.forkRefs.rows[id].from; from != 0 {
			b = appendField(b, ckForkRefFrom, append(id[:], uvarints(uint64(from))...))
		}
	}
	if s.chainTimes != nil {
		b = appendField(b, ckChainTimes, encodeMillis(s.chainTimes))
	}
	return b
}

// encodeForks appends the forks that hold the stream, and the references that the stream holds.
func (s *State) encodeForks(b []byte) []byte {
	if s.fork != nil {
		b = appendField(b, ckFork, s.fork.encode())
	}
	for _, id := range slices.SortedFunc(maps.Keys(s.forkRefs.rows), AppendID.Compare) {
		f := s.forkRefs.rows[id]
		b = appendField(b, ckForkRef, append(append(uvarints(uint64(f.time)), id[:]...), f.fork...))
	}
	for _, d := range s.pendingReleases {
		b = appendField(b, ckPendingRelease, append(d.ref[:], d.source...))
	}
	return b
}

// encodeProducers returns the newest claims, newest first: none that is older than maxAge, in ms of
// S2 time, and at most size bytes.
func (s *State) encodeProducers(maxAge Millis, size int) []byte {
	type row struct {
		id string
		producerClaim
	}
	var rows []row
	newer := map[string]bool{}
	s.eachProducerTable(func(m map[string]producerClaim) {
		for id, c := range m {
			if !newer[id] {
				rows = append(rows, row{id, c})
			}
			if s.base != nil {
				newer[id] = true
			}
		}
	})
	age := func(c producerClaim) Millis { // time 0 is this batch's, the newest of all
		if c.time == 0 {
			return 0
		}
		return s.Time - min(c.time, s.Time)
	}
	slices.SortFunc(rows, func(a, b row) int {
		return cmp.Or(cmp.Compare(age(a.producerClaim), age(b.producerClaim)), cmp.Compare(a.id, b.id))
	})
	var b []byte
	for _, r := range rows {
		next := binary.AppendUvarint(b, uint64(len(r.id)))
		next = append(next, r.id...)
		next = append(next, uvarints(r.epoch, r.seq, uint64(r.time))...)
		if age(r.producerClaim) > maxAge || len(next) > size {
			break
		}
		b = next
	}
	return b
}

// encodeOutcomes returns the remembered outcomes, oldest first, as differences to the outcome
// before, and the time of the newest producer that was forgotten.
func (s *State) encodeOutcomes() (b []byte, forgot Millis) {
	merged := outcomeWindow{forgottenTime: s.forgottenTime()}
	s.mergeOutcomes(&merged)
	var last outcome
	merged.each(func(o outcome) {
		b = append(b, o.id[:]...)
		b = append(b, byte(o.op))
		b = binary.AppendVarint(b, int64(o.end-last.end))
		b = binary.AppendVarint(b, int64(o.time-last.time)) // −last.time: not known yet
		last = o
	})
	return b, merged.forgottenTime
}

// mergeOutcomes adds the outcomes of the State's bases to w, and then its own. The lowest base may
// have been folded over some of the speculation above it: those are added once.
func (s *State) mergeOutcomes(w *outcomeWindow) {
	overlaps := false
	if s.base != nil {
		s.base.mergeOutcomes(w)
		overlaps = s.lowestBase().Next > s.basedAt
	}
	s.outcomes.each(func(o outcome) {
		if !overlaps {
			w.add(o)
		} else if _, known := w.find(o.id); !known {
			w.add(o)
		}
	})
}

// restoreCheckpoint replaces the State by the one in the checkpoint or tombstone r. errForeign: it
// was not written by a Fantail, and the State is unchanged.
func (s *State) restoreCheckpoint(r Record, h *Header) error {
	fresh := State{Next: r.Pos + 1, Time: s.Time, trimTo: s.trimTo, rooted: s.rooted}
	if err := fresh.decode(h.State, r.Time); err != nil {
		return fmt.Errorf("checkpoint at %d: %w", r.Pos, err)
	}
	fresh.confirmed = s.confirmed && fresh.generation == s.generation && slices.Equal(fresh.chain, s.chain)
	if h.Kind == KindTombstone && !h.Append.IsZero() {
		fresh.outcomes.add(outcome{id: h.Append, op: OpDelete, time: r.Time})
	}
	fresh.recordsSinceCheckpoint, fresh.bytesSinceCheckpoint = 1, uint64(r.Size)
	*s = fresh
	s.forkRefs.owner = s // decoded just now, so no other State has a copy
	return nil
}

// decode reads what encode wrote, for the fold of a log up to s.Next. time replaces the times that
// encode left out. errForeign: it is damaged, or no State that a log can come to.
// ErrNeedsLaterRelease: a later release wrote it.
func (s *State) decode(b []byte, time Millis) error { return s.decodeWith(b, time, false) }

// decodeWith does what decode does; handover: it reads the fields of a handover too.
func (s *State) decodeWith(b []byte, time Millis, handover bool) error {
	r, declined := fieldReader{b: b}, false
	for len(r.b) > 0 && !r.bad {
		whole := r.b
		tag := r.byte()
		f := fieldReader{b: r.bytes()}
		switch {
		case r.bad, isHandoverOnly(tag) && !handover:
		case tag >= ckMustKnow:
			declined = true
		case tag == ckSealedFrom, tag > ckConfirmed:
			s.unknownFields = append(s.unknownFields, whole[:len(whole)-len(r.b)]...)
		default:
			s.decodeField(tag, &f, time)
		}
		r.bad = r.bad || f.bad
	}
	switch {
	case r.bad:
		return errForeign
	case declined:
		return ErrNeedsLaterRelease
	case !s.valid():
		return errForeign
	}
	return nil
}

// decodeField stores one field.
func (s *State) decodeField(tag byte, f *fieldReader, time Millis) {
	orNow := func(t Millis) Millis {
		if t == 0 {
			return time
		}
		return t
	}
	switch tag {
	case ckFlags:
		v := f.uvarint()
		s.exists, s.ended, s.closed = v&ckExists != 0, v&ckEnded != 0, v&ckClosed != 0
		s.hasTTL, s.hasNonJSON, s.gone = v&ckHasTTL != 0, v&ckHasNonJSON != 0, v&ckGone != 0
	case ckGeneration:
		s.generation = Generation(f.uvarint())
	case ckStart:
		s.start = Pos(f.uvarint())
	case ckTail:
		s.tail = Pos(f.uvarint())
	case ckType:
		s.contentType = f.restAsString()
	case ckTTL:
		s.ttl = f.uvarint()
	case ckExpires:
		s.expiresAt, s.expiresRaw = Millis(f.uvarint()), f.restAsString()
	case ckChain:
		s.chain = append(s.chain, f.ancestor())
	case ckLastUsed:
		s.lastUsed = orNow(Millis(f.uvarint()))
	case ckClosedBy:
		s.closedBy = &Producer{Epoch: f.uvarint(), Seq: f.uvarint(), ID: f.restAsString()}
	case ckStreamSeq:
		s.streamSeq = []byte(f.restAsString())
	case ckProducers:
		s.producers = map[string]producerClaim{}
		for len(f.b) > 0 {
			id := string(f.bytes())
			s.producers[id] = producerClaim{f.uvarint(), f.uvarint(), orNow(Millis(f.uvarint()))}
		}
	case ckRecent:
		s.outcomes.ring, s.outcomes.ids = nil, nil
		for last := (outcome{}); len(f.b) > 0; {
			last.id = f.leadingID()
			last.op = Op(f.byte())
			last.end += Pos(f.varint())
			last.time += Millis(f.varint())
			o := last
			o.time = orNow(last.time)
			s.outcomes.add(o)
		}
	case ckForgottenTime:
		s.outcomes.forgottenTime = Millis(f.uvarint())
	case ckFork:
		s.fork = f.fork()
	case ckForkRef:
		at, id := orNow(Millis(f.uvarint())), f.leadingID()
		s.forkRefs.set(id, forkRef{fork: StreamID(f.restAsString()), time: at})
	case ckPendingRelease:
		s.pendingReleases = append(s.pendingReleases, pendingRelease{f.leadingID(), StreamID(f.restAsString())})
	case ckNext:
		s.Next = Pos(f.uvarint())
	case ckTime:
		s.Time = Millis(f.uvarint())
	case ckSinceCheckpoint:
		s.recordsSinceCheckpoint, s.bytesSinceCheckpoint = f.uvarint(), f.uvarint()
	case ckTrimTo:
		s.trimTo = Pos(f.uvarint())
	case ckConfirmed:
		s.confirmed = true
	default:
		s.decodeLevel2(tag, f)
	}
}

// decodeLevel2 does what decodeField does, for the fields that encodeLevel2 writes.
func (s *State) decodeLevel2(tag byte, f *fieldReader) {
	switch tag {
	case ckRetainedFrom:
		s.retainedFrom = &trimmedTo{Pos(f.uvarint()), f.uvarint(), f.uvarint()}
	case ckCounts:
		s.counts = counts{true, f.uvarint(), f.uvarint()}
	case ckRetention:
		s.retention = f.retention()
	case ckNewestForeign:
		s.newestForeign = Millis(f.uvarint())
	case ckLastBatch:
		s.lastBatch = batchEnd{f.leadingID(), Pos(f.uvarint())}
	case ckForkRefFrom:
		id, from := f.leadingID(), f.uvarint()
		if h, ok := s.forkRefs.rows[id]; ok {
			h.from = Pos(from)
			s.forkRefs.set(id, h)
		}
	case ckChainTimes:
		s.chainTimes = f.millis()
	}
}

// leadingID returns an append id that more bytes follow.
func (r *fieldReader) leadingID() (id AppendID) {
	for i := range id {
		id[i] = r.byte()
	}
	return id
}
