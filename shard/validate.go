package shard

// A client that may append to a stream in S2 can write records that carry our header. So everything
// that a record, or a peer, says is checked here before it is used: what no Fantail writes is a
// foreign record, and never ends the process or the stream.

// MaxGeneration is the highest generation that an offset has space for (16 digits).
const MaxGeneration = 1e16 - 1

// maxNumber bounds times (ms), durations and counts, so that sums of them cannot overflow.
const maxNumber = 1<<53 - 1

// maxForkOffset bounds an offset as a fork's create record keeps it, in bytes.
const maxForkOffset = 64

// valid reports whether a header of a known kind holds what a Fantail writes. It depends on nothing
// but the header and its position, so all nodes and pages judge alike.
func (h *Header) valid(pos Pos) bool {
	switch {
	case len(h.Chain) > 0 && h.Chain[0].Stream == "" && h.Chain[0].Bound > pos:
		return false
	case h.Producer != nil && len(h.Producer.ID) > MaxProducerID,
		len(h.StreamSeq) > MaxStreamSeq, len(h.Type) > MaxContentType, h.Generation > MaxGeneration,
		h.TTL > maxNumber, h.Expires > maxNumber, len(h.ExpiresRaw) > maxExpiresRaw,
		!validChain(h.Chain), h.Fork != nil && !h.Fork.valid():
		return false
	case h.ChainTimes != nil && len(h.ChainTimes) != len(h.Chain):
		return false
	}
	switch h.Kind {
	case KindCreate:
		return h.Generation > 0
	case KindCheckpoint, KindTombstone:
		return h.State != nil
	case KindHold:
		return !h.Ref.IsZero() && validName(h.Name)
	case KindRelease, KindReleaseDone:
		return !h.Ref.IsZero()
	case KindRetain:
		return h.Retain != nil
	}
	return true
}

// maxExpiresRaw bounds Stream-Expires-At as a stream keeps it, in bytes.
const maxExpiresRaw = 64 << 10

func validName(id StreamID) bool { _, err := ParseStreamID(string(id)); return err == nil }

func (f *Fork) valid() bool {
	return validName(f.Source) && !f.Hold.IsZero() && len(f.Offset) <= maxForkOffset && f.SubOffset <= maxNumber
}

// validChain checks what a generation inherited. Only the first piece may be the stream's own log.
// Generations may repeat: two pieces of one log may share one.
func validChain(chain []Ancestor) bool {
	if len(chain) > MaxChain+1 {
		return false
	}
	for i, a := range chain {
		own := a.Stream == "" && i == 0
		if a.Generation > MaxGeneration || a.Start > a.Bound || a.Bound > maxNumber || !own && !validName(a.Stream) {
			return false
		}
	}
	return true
}

// valid reports whether the fold of a log up to Next can come to a decoded State.
func (s *State) valid() bool {
	switch {
	case s.Next > maxNumber, s.start > s.tail, s.tail > s.Next, Pos(s.recordsSinceCheckpoint) > s.Next,
		s.exists && s.ended, s.generation > MaxGeneration, s.Time > maxNumber, s.lastUsed > maxNumber,
		s.ttl > maxNumber, s.expiresAt > maxNumber, s.outcomes.forgottenTime > maxNumber:
		return false
	case len(s.contentType) > MaxContentType, len(s.streamSeq) > MaxStreamSeq, len(s.expiresRaw) > maxExpiresRaw,
		s.closedBy != nil && len(s.closedBy.ID) > MaxProducerID,
		s.fork != nil && !s.fork.valid(), !validChain(s.chain),
		s.chainTimes != nil && len(s.chainTimes) != len(s.chain),
		len(s.chain) > 0 && s.chain[0].Stream == "" && s.chain[0].Bound > s.Next:
		return false
	case s.retainedFrom != nil && s.retainedFrom.pos > s.Next, Pos(s.counts.messages) > s.Next,
		len(s.unknownFields) > maxUnknownFields:
		return false
	}
	return s.validTables()
}

// validTables checks the tables of a State.
func (s *State) validTables() bool {
	if len(s.pendingReleases) > 2*maxPendingReleases || s.forkRefs.size > 2*maxForkRefBytes {
		return false
	}
	for id, f := range s.forkRefs.rows {
		if id.IsZero() || !validName(f.fork) || f.time > maxNumber {
			return false
		}
	}
	for _, d := range s.pendingReleases {
		if d.ref.IsZero() || !validName(d.source) {
			return false
		}
	}
	for id, c := range s.producers {
		if len(id) > MaxProducerID || c.time > maxNumber {
			return false
		}
	}
	for _, o := range s.outcomes.ring {
		if o.end > s.Next || o.time > maxNumber || o.op > LastOp {
			return false
		}
	}
	return true
}

// valid reports whether what a stream would keep of the request is within its bounds. The edge and
// the relay refuse such requests in better words; what they miss must not become a record that the
// next owner takes for a foreign record.
func (r *Request) valid() bool {
	h := Header{
		Kind: KindMessage, Producer: r.Producer, StreamSeq: r.StreamSeq, Type: r.Type,
		TTL: r.TTL, Expires: r.Expires, ExpiresRaw: r.ExpiresRaw,
	}
	if c := r.IfMatch; c != nil && (len(c.Places) > MaxTailPlaces || r.Op != OpAppend || r.Producer != nil) {
		return false
	}
	if r.Op >= OpHold && r.Ref.IsZero() || r.Op == OpHold && !validName(r.Name) {
		return false
	}
	if s := r.Source; s != nil {
		from := Header{Type: s.Type, TTL: s.TTL, Expires: s.Expires, ExpiresRaw: s.ExpiresRaw, Chain: s.Chain}
		if !from.valid(maxNumber) || s.Generation > MaxGeneration {
			return false
		}
	}
	if f := r.Fork; f != nil && (!validName(f.Source) || len(f.Offset) > maxForkOffset || f.SubOffset > maxNumber || r.Source == nil) {
		return false
	}
	return h.valid(maxNumber)
}
