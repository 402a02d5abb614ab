package shard

import (
	"maps"
	"slices"
)

// A fork has a log of its own and reads the records that it inherited in the logs
// of its ancestors (its chain). While it lives its source holds them for it: by a
// reference, which is in the source's log before the fork's create record and is
// given back after the fork's end. This file and decide_fork.go are the pure half of it;
// fork_refs.go has the streams talk to each other.

// Fork holds what a stream keeps of the request that forked it.
type Fork struct {
	// Source is the stream that the request named.
	Source StreamID
	// Hold is the reference at Source. It is random for each attempt, so that an attempt that loses
	// cannot give back the winner's reference.
	Hold AppendID
	// Offset is the offset as given, as its edge writes it; empty: none was given.
	Offset string
	// SubOffset is the sub-offset.
	SubOffset uint64
	// InheritsExpiry: the request gave neither TTL nor expiry, so the source's hold.
	InheritsExpiry bool
}

// ForkSource holds what an edge has found out about the stream that a request forks.
type ForkSource struct {
	// Refused is the reason for which it cannot be forked; zero: it can. It is a field and no early
	// error because a fork that exists is answered without its source.
	Refused Code
	Why     string

	// Generation is the source's, Type its content type, and so on.
	Generation Generation
	Type       string
	HasTTL     bool
	TTL        uint64
	Expires    Millis
	ExpiresRaw string
	// Chain holds what the fork inherits, oldest first.
	Chain []Ancestor
}

// Bounds of forks.
const (
	// MaxChain is the largest number of ancestors of a fork.
	MaxChain = 64
	// maxChainBytes bounds the chain of a fork. The create record and each checkpoint of the fork
	// hold the chain, and a request of a few hundred bytes makes it.
	maxChainBytes = 4 << 10
	// maxForkRefBytes bounds the table of forks of one stream, which each of its checkpoints holds.
	maxForkRefBytes = 32 << 10
	// maxPendingReleases bounds the references that a stream's earlier generations still have to
	// give back. With so many, no source having answered, the stream is forked no more.
	maxPendingReleases = 64
)

// forkRef is the reference of a fork that holds a stream.
type forkRef struct {
	fork StreamID
	time Millis // S2 timestamp, ms; 0: this batch's
	from Pos    // position from which the fork needs the stream; 0: from its start
}

// pendingRelease is a reference that is still to be given back.
type pendingRelease struct {
	ref    AppendID
	source StreamID
}

// forkRefTable holds the forks that hold a stream. Copies of a State share its rows: the State that
// owns them changes them in place, and any other State copies them before its first change. So the
// fold copies them once for each copy that goes on from there, and not for each record.
type forkRefTable struct {
	rows  map[AppendID]forkRef
	size  int    // upper bound of the encoded rows
	owner *State // nil: no State may change the rows in place
}

// set adds or replaces a row.
func (t *forkRefTable) set(id AppendID, f forkRef) {
	t.remove(id)
	if t.rows == nil {
		t.rows = map[AppendID]forkRef{}
	}
	t.rows[id] = f
	t.size += f.size()
}

// remove removes a row, if it is there.
func (t *forkRefTable) remove(id AppendID) {
	if f, ok := t.rows[id]; ok {
		t.size -= f.size()
		delete(t.rows, id)
	}
}

// ownForkRefs makes the State the owner of its table of forks, and returns it to be changed.
func (s *State) ownForkRefs() *forkRefTable {
	if s.forkRefs.owner != s {
		s.forkRefs.rows, s.forkRefs.owner = maps.Clone(s.forkRefs.rows), s
	}
	return &s.forkRefs
}

// snapshot returns a copy of what the State says of its generation and its forks, to be kept while
// the fold goes on.
func (s *State) snapshot() *State {
	s.forkRefs.owner = nil
	kept := *s
	kept.producers, kept.outcomes, kept.run, kept.base = nil, outcomeWindow{}, nil, nil
	return &kept
}

// addForkRef adds a fork. A log of ours never has more than decideHold allows; beyond twice as many
// the fork is not added.
func (s *State) addForkRef(id AppendID, f forkRef) {
	if s.forkRefs.size+f.size() <= 2*maxForkRefBytes {
		s.ownForkRefs().set(id, f)
	}
}

// removeForkRef removes a fork.
func (s *State) removeForkRef(id AppendID) {
	if _, ok := s.forkRefs.rows[id]; ok {
		s.ownForkRefs().remove(id)
	}
}

// removePendingRelease removes a pending release. It copies the slice first, because others may
// hold it.
func (s *State) removePendingRelease(id AppendID) {
	of := func(d pendingRelease) bool { return d.ref == id }
	if slices.ContainsFunc(s.pendingReleases, of) {
		s.pendingReleases = slices.DeleteFunc(slices.Clone(s.pendingReleases), of)
	}
}

// size returns an upper bound of the reference's encoded size.
func (f forkRef) size() int { return len(f.fork) + 24 }

// chainSize returns an upper bound of a chain's encoded size.
func chainSize(chain []Ancestor) (n int) {
	for _, a := range chain {
		n += len(a.Stream) + 24
	}
	return n
}

func (f *Fork) encode() []byte {
	inherits := uint64(0)
	if f.InheritsExpiry {
		inherits = 1
	}
	b := append(uvarints(inherits, f.SubOffset), f.Hold[:]...)
	b = append(b, uvarints(uint64(len(f.Offset)))...)
	return append(append(b, f.Offset...), f.Source...)
}

func (r *fieldReader) fork() *Fork {
	f := &Fork{InheritsExpiry: r.uvarint()&1 != 0, SubOffset: r.uvarint(), Hold: r.leadingID()}
	f.Offset = string(r.bytes())
	f.Source = StreamID(r.restAsString())
	return f
}
