package shard

import (
	"fmt"
	"slices"
)

// draft holds records that are to be written, without their positions: one record, or those of a
// request's messages. header says what the first record says (FlagFirst, Append) and what the last
// record says (everything else). A recordGenerator makes the records, one at a time.
type draft struct {
	header   Header
	messages Messages
	trim     bool // S2's trim command, up to the record after it
}

// decide returns the verdict on req against s. It is pure. If the verdict has to be written first,
// drafts are the records to write, and the outcome's Info is filled in once they are folded. now is
// the owner's clock in milliseconds.
//
// The order of checks is the protocol's (PROTOCOL 5.2, 5.2.1).
func decide(s *State, req *Request, now Millis) (drafts []draft, out Outcome) {
	if o, ok := s.findOutcome(req.ID); ok {
		return nil, firstOutcome(s, req, o)
	}
	if !req.valid() {
		return nil, refuse(s, CodeBadBody, "a header is longer or larger than a stream keeps")
	}
	switch req.Op {
	case OpCreate:
		return decideCreate(s, req, now)
	case OpDelete:
		if !s.exists {
			return nil, refuseAbsent(s)
		}
		return endGeneration(s, req.ID, ReasonDeleted), Outcome{Code: CodeDeleted}
	case OpHold:
		return decideHold(s, req)
	case OpRelease:
		return decideRelease(s, req)
	case OpReleaseDone:
		return decideReleaseDone(s, req)
	case OpCancelFork:
		return decideCancelFork(s, req)
	default:
		return decideAppend(s, req)
	}
}

// refuseAbsent refuses because there is no stream.
func refuseAbsent(s *State) Outcome {
	if s.gone {
		return refuse(s, CodeGone, "the stream was deleted; forks of it live")
	}
	return refuse(s, CodeNotFound, "no such stream")
}

// firstOutcome answers a repeated append id: with the append's first outcome o.
func firstOutcome(s *State, req *Request, o outcome) Outcome {
	out := Outcome{Code: CodeAppended, Info: s.Info()}
	switch {
	case req.Op == OpCreate: // o.op is its last record's, which may be a message
		out.Code = CodeCreated
	case o.op == OpDelete:
		return Outcome{Code: CodeDeleted}
	}
	out.Info.Tail = o.end
	out.Info.Closed = out.Info.Closed && o.end == s.tail
	out.Producer = lastAccepted(s, req)
	return out
}

// refuse returns a refusal, with the stream as it stands.
func refuse(s *State, c Code, why string) Outcome {
	return Outcome{Code: c, Why: why, Info: s.Info()}
}

// lastAccepted returns the last epoch and seq that were accepted from the request's producer, or
// nil.
func lastAccepted(s *State, req *Request) *Producer {
	if req.Producer == nil {
		return nil
	}
	c, ok := s.producer(req.Producer.ID)
	if !ok {
		return nil
	}
	return &Producer{ID: req.Producer.ID, Epoch: c.epoch, Seq: c.seq}
}

// decideCreate decides a create request. A stream without a create record (generation 0) is
// adopted: its records stay readable.
func decideCreate(s *State, req *Request, now Millis) ([]draft, Outcome) {
	typ := req.Type
	switch {
	case typ == "" && req.Fork == nil:
		typ = OctetStream
	case typ == "":
		typ = req.Source.Type
	}
	adopts := s.exists && s.generation == 0 && req.Fork == nil
	switch {
	case s.exists && !adopts && sameConfig(s, req, typ):
		return nil, Outcome{Code: CodeExists, Info: s.Info()}
	case s.exists && !adopts:
		return nil, refuse(s, CodeConfigDiffers, "stream exists with another configuration")
	case s.gone:
		return nil, refuse(s, CodeNameTaken, "a deleted stream has this name until its forks are deleted")
	case adopts && IsJSON(typ) && s.hasNonJSON:
		return nil, refuse(s, CodeForeignJSON, "the records that are there are not all JSON")
	case req.BodyError != "":
		return nil, refuse(s, CodeBadBody, req.BodyError)
	case s.generation == MaxGeneration:
		return nil, refuse(s, CodeNameTaken, "this name has had all the lives that offsets can tell apart: use another one")
	}
	h := Header{
		Kind: KindCreate, Generation: min(max(newGeneration(now, req.ID), s.generation+1), MaxGeneration), Type: typ, HasTTL: req.HasTTL, TTL: req.TTL,
		Expires: req.Expires, ExpiresRaw: req.ExpiresRaw,
	}
	if adopts {
		h.Chain = []Ancestor{{Generation: 0, Bound: s.Next}}
	}
	if req.Fork != nil {
		if out, ok := inheritConfig(s, req, &h, now); !ok {
			return nil, out
		}
	}
	drafts := make([]draft, 1, 2)
	drafts[0].header = h
	if req.Messages.Len() > 0 {
		drafts = append(drafts, messagesDraft(req))
	}
	return markAppend(drafts, req), Outcome{Code: CodeCreated}
}

// newGeneration returns the number of a generation that begins now: the time, and three random
// digits. Two streams made in one millisecond so hardly ever get the same generation: an offset of one
// must not be valid in a fork of the other.
func newGeneration(now Millis, id AppendID) Generation {
	return Generation(now*1000 + Millis((uint64(id[0])<<8|uint64(id[1]))%1000))
}

// sameConfig compares what PUT compares: type, TTL, expiry as an instant, closed, the fork. A
// fork's type may be left out, and its lifetime if it was left out before.
func sameConfig(s *State, req *Request, typ string) bool {
	fork := req.Fork != nil
	sameType := fork && req.Type == "" || MediaType(s.contentType) == MediaType(typ)
	sameLife := s.hasTTL == req.HasTTL && s.ttl == req.TTL && s.expiresAt == req.Expires
	if fork && s.fork != nil && !req.HasTTL && req.Expires == 0 {
		sameLife = s.fork.InheritsExpiry
	}
	return sameType && sameLife && s.closed == req.Close && sameFork(s, req.Fork)
}

// decideAppend decides an append, a close, or both.
func decideAppend(s *State, req *Request) ([]draft, Outcome) {
	hasBody := req.Messages.Len() > 0 || req.BodyError != ""
	switch {
	case !s.exists:
		return nil, refuseAbsent(s)
	case !hasBody && !req.Close:
		return nil, refuse(s, CodeEmptyAppend, "an append needs a body, or Stream-Closed: true")
	case hasBody && req.Type == "":
		return nil, refuse(s, CodeTypeMissing, "a body needs a Content-Type")
	case s.closed:
		return nil, decideClosed(s, req, hasBody)
	case hasBody && MediaType(req.Type) != MediaType(s.contentType):
		return nil, refuse(s, CodeTypeDiffers, fmt.Sprintf("the stream's type is %s", s.contentType))
	}
	if req.Producer != nil {
		if out, ok := checkProducer(s, req.Producer); !ok {
			return nil, out
		}
	}
	switch {
	case req.IfMatch != nil && !req.IfMatch.holds(s):
		return nil, refuse(s, CodeTailMoved, "the stream does not end where If-Match says")
	case req.StreamSeq != nil && s.streamSeq != nil && string(req.StreamSeq) <= string(s.streamSeq):
		return nil, refuse(s, CodeSeqOrder, "Stream-Seq is not above the last sequence")
	case req.BodyError != "":
		return nil, refuse(s, CodeBadBody, req.BodyError)
	}
	d := draft{header: Header{Kind: KindClose}}
	if req.Messages.Len() > 0 {
		d = messagesDraft(req)
	}
	return markAppend([]draft{d}, req), Outcome{Code: CodeAppended, Producer: req.Producer}
}

// decideClosed answers an append to a closed stream. The tuple that closed it and a bare close are
// no conflict; everything else is.
func decideClosed(s *State, req *Request, hasBody bool) Outcome {
	p, by := req.Producer, s.closedBy
	if p != nil && by != nil && *p == *by || p == nil && !hasBody {
		return Outcome{Code: CodeDuplicate, Info: s.Info(), Producer: lastAccepted(s, req)}
	}
	return refuse(s, CodeClosed, "stream is closed")
}

// checkProducer validates an idempotent producer's claim (PROTOCOL 5.2.1); true: the append is to
// be written.
func checkProducer(s *State, p *Producer) (Outcome, bool) {
	c, known := s.producer(p.ID)
	out := Outcome{Info: s.Info()}
	if known {
		out.Producer = &Producer{ID: p.ID, Epoch: c.epoch, Seq: c.seq}
	}
	switch {
	case !known && p.Seq != 0:
		out.Code, out.Expected, out.Received = CodeSeqGap, 0, p.Seq
		out.Why = "unknown producer must begin with seq 0"
	case !known:
		return Outcome{}, true
	case p.Epoch < c.epoch:
		out.Code, out.Why = CodeEpochStale, fmt.Sprintf("epoch %d is current", c.epoch)
	case p.Epoch > c.epoch && p.Seq != 0:
		out.Code, out.Why = CodeEpochStart, "a fresh epoch must begin with seq 0"
	case p.Epoch > c.epoch:
		return Outcome{}, true
	case p.Seq <= c.seq:
		out.Code = CodeDuplicate
	case p.Seq > c.seq+1:
		out.Code, out.Expected, out.Received = CodeSeqGap, c.seq+1, p.Seq
		out.Why = fmt.Sprintf("seq %d is expected", c.seq+1)
	default:
		return Outcome{}, true
	}
	return out, false
}

// messagesDraft returns the draft of the request's messages: a record each, or fragments where a
// message does not fit a record.
func messagesDraft(req *Request) draft {
	return draft{header: Header{Kind: KindMessage}, messages: req.Messages}
}

// A message of up to maxWholeMessage bytes is one record. A larger one is cut into fragments of
// half a batch, so that the last batch has space for a checkpoint.
const (
	maxWholeMessage = MaxBatchBytes - 1024
	fragmentSize    = MaxBatchBytes / 2
)

// markAppend marks the append's first and last record, and puts what holds for the whole append on
// its last record.
func markAppend(drafts []draft, req *Request) []draft {
	drafts[0].header.Flags |= FlagFirst
	drafts[0].header.Append = req.ID
	last := &drafts[len(drafts)-1].header
	last.Flags |= FlagLast
	last.Producer, last.StreamSeq, last.Close = req.Producer, req.StreamSeq, req.Close
	return drafts
}

// endGeneration returns the records that end a generation: a trim of everything, then the
// tombstone, which holds the State after it. While forks hold the stream nothing is trimmed, and
// its name stays taken: the stream is gone.
func endGeneration(s *State, id AppendID, why Reason) []draft {
	after := *s
	after.exists, after.ended, after.closed = false, true, false
	after.gone = len(s.forkRefs.rows) > 0
	after.closedBy, after.streamSeq, after.chain, after.producers = nil, nil, nil, nil
	after.contentType, after.hasTTL, after.ttl, after.expiresAt, after.expiresRaw = "", false, 0, 0, ""
	after.hasNonJSON = false
	after.retainedFrom, after.counts, after.retention, after.chainTimes = nil, counts{}, nil, nil
	if s.fork != nil && !after.gone {
		// A bound for logs that others wrote: none of ours has so many.
		kept := s.pendingReleases[max(len(s.pendingReleases)-2*maxPendingReleases+1, 0):]
		after.pendingReleases = append(slices.Clone(kept), pendingRelease{s.fork.Hold, s.fork.Source})
		after.fork = nil
	}
	if after.base != nil {
		after.hideProducers()
	}
	end := draft{header: Header{
		Kind: KindTombstone, Flags: FlagFirst | FlagLast, Append: id,
		Generation: s.generation, Reason: why, State: after.encode(),
	}}
	if after.gone {
		return []draft{end}
	}
	return []draft{{trim: true}, end}
}

// touchDraft returns the record that makes a use of the stream durable.
func touchDraft() []draft { return controlDraft(Header{Kind: KindTouch}) }

// controlDraft returns one record that readers never see.
func controlDraft(h Header) []draft {
	h.Flags = FlagFirst | FlagLast
	return []draft{{header: h}}
}
