package shard

import (
	"math"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// Handover is everything that a stream's owner knows of it: the next owner goes on from there
// without a read. It is worth nothing once another node has written to the log; the next
// compare-and-swap finds that out, and costs a read.
type Handover struct {
	// State is the fold, with what a checkpoint leaves out: the position of the next record, the
	// distance to the last checkpoint, and the last use that only memory knows of. No producers are
	// left out of it.
	State []byte
	// Tail is the newest part of the stream's tail.Buffer, up to there, for readers that are a
	// little behind.
	Tail []tail.RecordBatch
}

const (
	// minHandoverTailBytes bounds the tail.Buffer in a Handover if all readers are within it, and
	// maxHandoverTailBytes any other: a Handover is one message, and pages hold the rest.
	minHandoverTailBytes = 16 << 10
	maxHandoverTailBytes = 1 << 20
)

// HandOver releases a stream, as Drop does, and returns what this node knows of it; false: nothing
// of use. from is the position that the next owner's own tail.Buffer needs (0: it has none). When it
// returns no batch is in flight, and callers that waited for one have got ErrNotOwner: nothing of
// theirs was written. Where storage has not answered for a pipeline's batches in time, their callers
// have got ErrOutcomeUnknown, and what this node knows is of no use.
func (m *Manager) HandOver(id StreamID, from Pos) (Handover, bool) {
	m.mu.Lock()
	s := m.streams.byID[id]
	if s != nil {
		m.streams.removeStream(s)
	}
	m.mu.Unlock()
	if s == nil {
		return Handover{}, false
	}
	t := m.tails.Lookup(id) // looked up before halt: the buffer may go with its last reader
	s.halt()
	s.mu.Lock()
	defer s.mu.Unlock()
	var out Handover
	ok := s.opened && s.foldErr == nil && !s.noLog && !s.abandoned && s.state.isBetweenAppends()
	if ok {
		out.State = appendField(s.state.encodeHandover(), ckLastUse, s.useForHandover(m.cfg.Now()).encode())
	}
	s.opened, s.state = false, &State{} // for the session, which may still run
	if t == nil {
		return out, ok
	}
	defer t.Release()
	if ok {
		out.Tail = t.Newest(from, minHandoverTailBytes, maxHandoverTailBytes)
	}
	return out, ok
}

// isBetweenAppends reports whether the State is between two appends.
func (s *State) isBetweenAppends() bool { return s.run == nil && s.openAppend.IsZero() }

// encodeHandover returns the whole State.
func (s *State) encodeHandover() []byte {
	b := s.encodeWith(s.encodeProducers(math.MaxUint64, math.MaxInt))
	b = appendField(b, ckNext, uvarints(uint64(s.Next)))
	b = appendField(b, ckTime, uvarints(uint64(s.Time)))
	b = appendField(b, ckSinceCheckpoint, uvarints(s.recordsSinceCheckpoint, s.bytesSinceCheckpoint))
	if s.confirmed {
		b = appendField(b, ckConfirmed, nil)
	}
	return appendField(b, ckTrimTo, uvarints(uint64(s.trimTo)))
}

// handoverUse is the last use of a stream that only its owner knows of.
type handoverUse struct {
	at     Millis // ms since 1970, by a clock that may be the owner's own; for earlier releases
	grace  Millis // ms by storage's clock: the owner adds it without having seen a use
	ago    uint64 // 1 + ms since the last use; 0: none
	hasAgo bool   // ago was encoded
}

// useForHandover returns the last use to hand over, under mu.
func (s *Stream) useForHandover(now time.Time) handoverUse {
	at, ok := s.storageClockLocked().readTime(now)
	if !ok {
		at = MillisOf(now)
	}
	u := handoverUse{at: s.lastSeenUse(now, at), grace: s.graceUntil}
	switch {
	case s.followers > 0:
		u.ago = 1
	case !s.unsavedUse.IsZero():
		u.ago = 1 + uint64(max(now.Sub(s.unsavedUse), 0).Milliseconds())
	}
	return u
}

func (u handoverUse) encode() []byte { return uvarints(uint64(u.at), uint64(u.grace), u.ago) }

// applyTo has the Stream go on from what the previous owner knew.
func (u handoverUse) applyTo(s *Stream, now time.Time) {
	s.graceUntil = u.grace
	switch {
	case !u.hasAgo: // by another node's clock: expiring too late is better than too early
		s.graceUntil = max(s.graceUntil, u.at)
	case u.ago > 0:
		s.unsavedUse = now.Add(-time.Duration(min(u.ago-1, uint64(maxDuration.Milliseconds()))) * time.Millisecond)
	}
}

// decodeHandover reads what HandOver wrote. used is the last use; grace is what the owner adds to
// it without having seen a use.
func decodeHandover(b []byte) (s *State, used, grace Millis, err error) {
	s = &State{rooted: true}
	if err := s.decodeWith(b, 0, true); err != nil {
		return nil, 0, 0, err
	}
	u := decodeUse(b)
	return s, u.at, u.grace, nil
}

// decodeUse reads the last use from what HandOver wrote.
func decodeUse(b []byte) (u handoverUse) {
	for r := (fieldReader{b: b}); len(r.b) > 0 && !r.bad; {
		tag := r.byte()
		if f := (fieldReader{b: r.bytes()}); tag == ckLastUse {
			u = handoverUse{at: Millis(f.uvarint()), grace: Millis(f.uvarint()), hasAgo: len(f.b) > 0}
			if u.hasAgo {
				u.ago = f.uvarint()
			}
		}
	}
	return u
}

// InstallHandover makes this node the owner of a stream, as its previous owner left it. A stream
// that is in memory already stays as it is. Errors: ErrStopped, ErrOverloaded,
// ErrNeedsLaterRelease, and ErrNotOwner if a later generation is known here: another node has
// created it.
func (m *Manager) InstallHandover(id StreamID, from Handover) error {
	fold, _, _, err := decodeHandover(from.State)
	if err != nil {
		return err
	}
	if t := m.tails.Lookup(id); t != nil {
		later := t.Generation() > fold.generation
		t.Release()
		if later { // its readers would be told that their generation has ended
			return ErrNotOwner
		}
	}
	s := m.newStream(id)
	s.mu.Lock()
	s.state, s.assembler, s.opened, s.handedOver = fold, assembler{from: fold.Next}, true, true
	decodeUse(from.State).applyTo(s, m.cfg.Now())
	wake := s.installTail(from.Tail)
	s.mu.Unlock()
	err = m.addInstalled(s)
	wake.WakeAll()
	m.tails.Reclaim()
	if err != nil {
		s.halt()
		return err
	}
	s.mu.Lock()
	s.measureMemory()
	s.startRefTasks()
	s.mu.Unlock()
	m.evictIdle()
	return nil
}

// installTail gives a Stream that was handed over its tail.Buffer.
func (s *Stream) installTail(newest []tail.RecordBatch) (wake tail.Wakers) {
	if !s.state.exists {
		return nil
	}
	first := s.state.Next
	if len(newest) > 0 {
		first = newest[0].From()
	}
	s.buffer = s.manager.tails.Open(s.id, s.state.Info(), first)
	s.manager.creationWaits.noteExists(s.id)
	for _, r := range newest {
		w, err := s.buffer.ExtendLater(r)
		if err != nil {
			break // the buffer was too far behind: its readers find the rest in pages
		}
		wake = append(wake, w...)
	}
	return append(wake, s.buffer.SkipLater(s.state.Next, s.state.tail, s.state.closed)...)
}
