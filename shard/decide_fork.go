package shard

import (
	"fmt"
	"slices"
)

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
