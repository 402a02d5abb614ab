package shard

// recordGenerator makes the records of drafts in order, one at a time. A large append has some ten
// thousand records, and one batch is composed while those before it are already written.
type recordGenerator struct {
	drafts    []draft
	remaining int   // records that are still to be made
	flags     Flags // set in every record

	// The next record begins at byte bodyOffset of message messageIndex of drafts[draftIndex].
	draftIndex, messageIndex, bodyOffset int
	// The headers of the records between a draft's first and last: of a whole message, and of a
	// fragment that continues one. The records share them.
	wholeHeader, continuesHeader *Header
}

// recordDraft is a record without its position. Its header's distance to the checkpoint holds until
// the next record is made.
type recordDraft struct {
	header *Header // nil: a trim
	body   []byte
}

// newRecordGenerator returns a generator of all records of drafts.
func newRecordGenerator(drafts []draft) recordGenerator {
	s := recordGenerator{drafts: drafts}
	for i := range drafts {
		s.remaining += drafts[i].recordCount()
	}
	return s
}

// recordCount returns the number of records that the draft makes.
func (d *draft) recordCount() int {
	n := max(d.messages.Len(), 1)
	if d.messages.Size() <= maxWholeMessage {
		return n
	}
	for i := range d.messages.Len() {
		if over := len(d.messages.At(i)) - maxWholeMessage; over > 0 {
			n += (over + fragmentSize - 1) / fragmentSize
		}
	}
	return n
}

// needsFragments reports whether a message of drafts needs several records. Such an append goes in
// parts even if it fits one batch: a read may end between two records, and of a run of parts
// nothing is shown before its commit.
func needsFragments(drafts []draft) bool {
	for i := range drafts {
		if m := drafts[i].messages; m.Size() > maxWholeMessage && drafts[i].recordCount() > m.Len() {
			return true
		}
	}
	return false
}

// nextBody returns the body of the next record; last: it is its draft's last record.
func (s *recordGenerator) nextBody() (body []byte, last bool) {
	d := &s.drafts[s.draftIndex]
	if d.messages.Len() == 0 {
		return nil, true
	}
	body = d.messages.At(s.messageIndex)[s.bodyOffset:]
	if len(body) > maxWholeMessage {
		return body[:fragmentSize], false
	}
	return body, s.messageIndex+1 == d.messages.Len()
}

// maxNextSize returns an upper bound of the metered size of the next record.
func (s *recordGenerator) maxNextSize() int {
	d := &s.drafts[s.draftIndex]
	body, last := s.nextBody()
	if !last {
		return plainRecordSize + len(body)
	}
	return d.maxLastRecordSize() + len(body)
}

// nextRecord makes the next record; begins: it is the first of a part, and so it names the append.
func (s *recordGenerator) nextRecord(begins bool) recordDraft {
	d := &s.drafts[s.draftIndex]
	first := s.messageIndex == 0 && s.bodyOffset == 0
	body, last := s.nextBody()
	l := recordDraft{s.nextHeader(d, first, last), body}
	s.remaining--
	switch {
	case last:
		s.draftIndex, s.messageIndex, s.bodyOffset = s.draftIndex+1, 0, 0
	case s.bodyOffset+len(body) < len(d.messages.At(s.messageIndex)):
		s.bodyOffset += len(body)
	default:
		s.messageIndex, s.bodyOffset = s.messageIndex+1, 0
	}
	if l.header == nil {
		return l
	}
	if begins && s.flags&FlagPart != 0 && !first {
		h := *l.header
		h.Append, l.header = s.drafts[0].header.Append, &h
	}
	l.header.Flags |= s.flags
	if s.remaining == 0 && s.flags&FlagPart != 0 {
		l.header.Flags |= FlagCommit
	}
	return l
}

// nextHeader returns the header of the next record.
func (s *recordGenerator) nextHeader(d *draft, first, last bool) *Header {
	flags := Flags(0)
	if s.bodyOffset > 0 {
		flags = FlagContinues
	}
	switch {
	case d.trim:
		return nil
	case first && last:
		return &d.header
	case first:
		return &Header{Kind: d.header.Kind, Flags: d.header.Flags & FlagFirst, Append: d.header.Append}
	case last:
		h := d.header
		h.Flags, h.Append = h.Flags&^FlagFirst|flags, AppendID{}
		return &h
	case flags != 0:
		if s.continuesHeader == nil {
			s.continuesHeader = &Header{Kind: d.header.Kind, Flags: flags}
		}
		return s.continuesHeader
	default:
		if s.wholeHeader == nil {
			s.wholeHeader = &Header{Kind: d.header.Kind}
		}
		return s.wholeHeader
	}
}
