package shard

import (
	"fmt"
	"maps"
	"slices"
)

// A fork has a log of its own and reads the records that it inherited in the logs
// of its ancestors (its chain). While it lives its source holds them for it: by a
// reference, which is in the source's log before the fork's create record and is
// given back after the fork's end. This file is the pure half of it; forks.go has
// the streams talk to each other.

// Fork is what a stream keeps of the request that forked it.
type Fork struct {
	// Source is the stream that the request named.
	Source StreamID
	// Hold is the reference at Source: random for each attempt, so that an attempt
	// that loses cannot give back the winner's.
	Hold AppendID
	// Offset is the offset as given, as its edge writes it; empty: none was given.
	Offset string
	// SubOffset is the sub-offset.
	SubOffset uint64
	// InheritsExpiry: the request gave neither TTL nor expiry; they are the source's.
	InheritsExpiry bool
}

// Source is what an edge has found out about the stream that a request forks.
type Source struct {
	// Refused says why it cannot be forked; zero: it can. It is no early error
	// because a fork that exists is answered without its source.
	Refused Code
	Why     string

	// Generation is the source's, Type its content type, and so on.
	Generation uint64
	Type       string
	HasTTL     bool
	TTL        uint64
	Expires    uint64
	ExpiresRaw string
	// Chain is what the fork inherits, oldest first.
	Chain []Ancestor
}

// Bounds of forks.
const (
	// MaxChain is how many ancestors a fork may have.
	MaxChain = 64
	// chainBytes bounds the chain of a fork, which its create record holds and each of its
	// checkpoints: a request of a few hundred bytes makes those.
	chainBytes = 4 << 10
	// heldBytes bounds the table of forks of one stream, which each of its checkpoints holds.
	heldBytes = 32 << 10
	// maxDebts bounds the references that a stream's earlier lives have still to give
	// back: with so many, no source of theirs having answered, it is forked no more.
	maxDebts = 64
)

// holder is a fork that holds a stream.
type holder struct {
	stream StreamID
	time   uint64 // S2 timestamp, ms; 0: this batch's
	from   uint64 // position from which the fork needs the stream; 0: from its start
}

// debt is a reference to be given back.
type debt struct {
	id     AppendID
	source StreamID
}

// forkTable is the forks that hold a stream. Copies of a State share its rows: the State
// that owns them changes them in place, and any other copies them before its first change.
// So the fold copies them once for each copy that goes on from there, and not for each
// record.
type forkTable struct {
	rows  map[AppendID]holder
	size  int    // what the rows take encoded, from above
	owner *State // nil: nobody
}

// set adds or replaces a row.
func (t *forkTable) set(id AppendID, f holder) {
	t.drop(id)
	if t.rows == nil {
		t.rows = map[AppendID]holder{}
	}
	t.rows[id] = f
	t.size += f.size()
}

// drop removes a row, if it is there.
func (t *forkTable) drop(id AppendID) {
	if f, ok := t.rows[id]; ok {
		t.size -= f.size()
		delete(t.rows, id)
	}
}

// ownForks makes the table of forks the State's own, to be changed.
func (s *State) ownForks() *forkTable {
	if s.held.owner != s {
		s.held.rows, s.held.owner = maps.Clone(s.held.rows), s
	}
	return &s.held
}

// snapshot returns what the State says of its life and its forks, to be kept while the fold
// goes on.
func (s *State) snapshot() *State {
	s.held.owner = nil
	kept := *s
	kept.producers, kept.recent, kept.run, kept.base = nil, window{}, nil, nil
	return &kept
}

// hold notes a fork. More of them than decideHold allows are not ours, and are not noted.
func (s *State) hold(id AppendID, f holder) {
	if s.held.size+f.size() <= 2*heldBytes {
		s.ownForks().set(id, f)
	}
}

func (s *State) release(id AppendID) {
	if _, ok := s.held.rows[id]; ok {
		s.ownForks().drop(id)
	}
}

// settled strikes a debt out. Who has the debts of before keeps them as they were.
func (s *State) settled(id AppendID) {
	of := func(d debt) bool { return d.id == id }
	if slices.ContainsFunc(s.debts, of) {
		s.debts = slices.DeleteFunc(slices.Clone(s.debts), of)
	}
}

// size is the encoded size of one fork in the table, from above.
func (f holder) size() int { return len(f.stream) + 24 }

// chainSize is the encoded size of a chain, from above.
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
	f := &Fork{InheritsExpiry: r.uvarint()&1 != 0, SubOffset: r.uvarint(), Hold: r.head()}
	f.Offset = string(r.bytes())
	f.Source = StreamID(r.rest())
	return f
}

// forkConfig gives the request of a fork what it inherits. The verdict is a
// refusal, or that the source is to be held first.
func forkConfig(s *State, req *Request, h *Header, now uint64) (Outcome, bool) {
	src := req.Source
	switch {
	case src.Refused != 0:
		return refuse(s, src.Refused, src.Why), false
	case len(src.Chain) > MaxChain:
		return refuse(s, CodeForkLimit, fmt.Sprintf("a fork may have %d ancestors", MaxChain)), false
	case chainSize(src.Chain) > chainBytes:
		return refuse(s, CodeForkLimit, fmt.Sprintf("the names of a fork's ancestors may have %d bytes together", chainBytes)), false
	case len(s.debts) >= maxDebts:
		return refuse(s, CodeForkLimit, "earlier forks of this name are still being given up"), false
	case req.Fork.Hold.IsZero():
		return refuse(s, codeUnheld, ""), false
	case now > req.HeldAt+uint64(forkTime.Milliseconds()):
		return refuse(s, codeHeldLong, ""), false
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

// sameFork compares what PUT compares of a fork: its source, offset and sub-offset
// as they were given.
func sameFork(s *State, f *Fork) bool {
	if s.fork == nil || f == nil {
		return s.fork == f
	}
	return s.fork.Source == f.Source && s.fork.Offset == f.Offset && s.fork.SubOffset == f.SubOffset
}

// decideHold writes the reference of a fork, anew if it is there: its time is from
// when it is looked after. Forks stay within their project, because a fork reads its source
// and keeps it, whatever the source's own people do.
func decideHold(s *State, req *Request) ([]draft, Outcome) {
	switch {
	case s.gone:
		return nil, refuse(s, CodeSourceGone, "the source was deleted")
	case !s.exists:
		return nil, refuse(s, CodeSourceMissing, "no such source")
	case req.Name.Project() != req.Stream.Project():
		return nil, refuse(s, CodeSourceMissing, "no such source in this project")
	case s.life != req.Generation:
		return nil, refuse(s, CodeSourceChanged, "the source was made anew")
	case s.held.size+(holder{stream: req.Name}).size() > heldBytes:
		return nil, refuse(s, CodeForkLimit, "the source has too many forks")
	}
	return control(Header{Kind: KindHold, Ref: req.Ref, Name: req.Name}), Outcome{Code: CodeAppended}
}

// decideRelease gives a reference back. The last one of a stream that is gone
// ends it for good.
func decideRelease(s *State, req *Request) ([]draft, Outcome) {
	// Only the fork that holds gives back. An earlier release does not say which it is.
	if f, ok := s.held.rows[req.Ref]; !ok || req.Name != "" && f.stream != req.Name {
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	}
	drafts := control(Header{Kind: KindRelease, Ref: req.Ref})
	if s.gone && len(s.held.rows) == 1 {
		last := *s
		last.release(req.Ref)
		drafts = append(drafts, bury(&last, AppendID{}, ReasonDeleted)...)
	}
	return drafts, Outcome{Code: CodeAppended}
}

// decideSettled strikes a debt out.
func decideSettled(s *State, req *Request) ([]draft, Outcome) {
	if !slices.ContainsFunc(s.debts, func(d debt) bool { return d.id == req.Ref }) {
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	}
	return control(Header{Kind: KindReleaseDone, Ref: req.Ref}), Outcome{Code: CodeAppended}
}

// decideVoid says whether the stream is the fork that has the reference. It writes
// nothing, since the question may rest on a forged record of another stream. A create
// record with the reference that lands later all the same is a fork without a past: its
// source does not hold it any more (confirm.go). None is likely: it was decided within
// forkTime, and is asked for after holdGrace.
func decideVoid(s *State, req *Request) ([]draft, Outcome) {
	if s.fork != nil && s.fork.Hold == req.Ref {
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	}
	return nil, refuse(s, CodeNotFound, "no such fork")
}

// control is one record that readers never see.
func control(h Header) []draft {
	h.Flags = FlagFirst | FlagLast
	return []draft{{h: h}}
}
