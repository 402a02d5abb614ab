package shard

import (
	"fmt"
	"maps"
	"slices"
)

// A fork has a log of its own and reads the records that it inherited in the logs
// of its ancestors (its chain). While it lives its source holds them for it: by a
// reference, which is in the source's log before the fork's create record and is
// given back after the fork's end. This file is the pure half of it; fork_refs.go has
// the streams talk to each other.

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

// inheritConfig gives a fork's create record what it inherits; true: it may be written. Otherwise
// the verdict is a refusal, or that the source is to be held first.
func inheritConfig(s *State, req *Request, h *Header, now Millis) (Outcome, bool) {
	src := req.Source
	switch {
	case src.Refused != 0:
		return refuse(s, src.Refused, src.Why), false
	case len(src.Chain) > MaxChain:
		return refuse(s, CodeForkLimit, fmt.Sprintf("a fork may have %d ancestors", MaxChain)), false
	case chainSize(src.Chain) > maxChainBytes:
		return refuse(s, CodeForkLimit, fmt.Sprintf("the names of a fork's ancestors may have %d bytes together", maxChainBytes)), false
	case len(s.pendingReleases) >= maxPendingReleases:
		return refuse(s, CodeForkLimit, "earlier forks of this name are still being given up"), false
	case req.Fork.Hold.IsZero():
		return refuse(s, codeNeedsHold, ""), false
	case now > req.HeldAt+Millis(maxForkTime.Milliseconds()):
		return refuse(s, codeHoldExpired, ""), false
	}
	f := *req.Fork
	f.InheritsExpiry = !req.HasTTL && req.Expires == 0
	if f.InheritsExpiry {
		h.HasTTL, h.TTL = src.HasTTL, src.TTL
		h.Expires, h.ExpiresRaw = src.Expires, src.ExpiresRaw
	}
	h.Fork, h.Chain, h.Generation = &f, src.Chain, min(max(h.Generation, src.Generation+1), MaxGeneration)
	return Outcome{}, true
}

// sameFork compares what PUT compares of a fork: its source, offset and sub-offset as they were
// given.
func sameFork(s *State, f *Fork) bool {
	if s.fork == nil || f == nil {
		return s.fork == f
	}
	return s.fork.Source == f.Source && s.fork.Offset == f.Offset && s.fork.SubOffset == f.SubOffset
}

// decideHold writes the reference of a fork. If it is there it is written again, with the time of
// now, from which it is looked after. Forks stay within their project, because a fork reads its
// source and keeps it, whatever the source's own clients do.
func decideHold(s *State, req *Request) ([]draft, Outcome) {
	switch {
	case s.gone:
		return nil, refuse(s, CodeSourceGone, "the source was deleted")
	case !s.exists:
		return nil, refuse(s, CodeSourceMissing, "no such source")
	case req.Name.Project() != req.Stream.Project():
		return nil, refuse(s, CodeSourceMissing, "no such source in this project")
	case s.generation != req.Generation:
		return nil, refuse(s, CodeSourceChanged, "the source was deleted and created again")
	case s.forkRefs.size+(forkRef{fork: req.Name}).size() > maxForkRefBytes:
		return nil, refuse(s, CodeForkLimit, "the source has too many forks")
	}
	return controlDraft(Header{Kind: KindHold, Ref: req.Ref, Name: req.Name}), Outcome{Code: CodeAppended}
}

// decideRelease gives a reference back. The last release of a stream that is gone ends it for good.
func decideRelease(s *State, req *Request) ([]draft, Outcome) {
	// Only the fork that holds a reference may give it back. An earlier release does not send the
	// fork's name.
	if f, ok := s.forkRefs.rows[req.Ref]; !ok || req.Name != "" && f.fork != req.Name {
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	}
	drafts := controlDraft(Header{Kind: KindRelease, Ref: req.Ref})
	if s.gone && len(s.forkRefs.rows) == 1 {
		last := *s
		last.removeForkRef(req.Ref)
		drafts = append(drafts, endGeneration(&last, AppendID{}, ReasonDeleted)...)
	}
	return drafts, Outcome{Code: CodeAppended}
}

// decideReleaseDone notes that a pending release was given back.
func decideReleaseDone(s *State, req *Request) ([]draft, Outcome) {
	if !slices.ContainsFunc(s.pendingReleases, func(d pendingRelease) bool { return d.ref == req.Ref }) {
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	}
	return controlDraft(Header{Kind: KindReleaseDone, Ref: req.Ref}), Outcome{Code: CodeAppended}
}

// decideCancelFork says whether the stream is the fork that has the reference. It writes nothing,
// because the question may rest on a forged record of another stream. A create record with the
// reference that is written later is a fork without a past: its source does not hold it any more
// (fork_confirm.go). That is unlikely: a create record is decided within maxForkTime, and the
// question comes after refGrace.
func decideCancelFork(s *State, req *Request) ([]draft, Outcome) {
	if s.fork != nil && s.fork.Hold == req.Ref {
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	}
	return nil, refuse(s, CodeNotFound, "no such fork")
}

// controlDraft returns one record that readers never see.
func controlDraft(h Header) []draft {
	h.Flags = FlagFirst | FlagLast
	return []draft{{header: h}}
}
