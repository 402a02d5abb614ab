package shard

// script is the records of drafts in order, made one at a time: a large append has some ten
// thousand of them, and one batch is laid out while those before it are already written.
type script struct {
	drafts []draft
	left   int   // records that are still to be made
	flags  Flags // of every record

	// at says where it stands: at byte off of message msg of drafts[at].
	at, msg, off int
	// whole and more are what the records between a draft's first and last say; they share it.
	whole, more *Header
}

// line is a record of a script: all but its place. What its header says of the distance back holds
// until the next line is made.
type line struct {
	h    *Header // nil: a trim
	body []byte
}

func newScript(drafts []draft) script {
	s := script{drafts: drafts}
	for i := range drafts {
		s.left += drafts[i].records()
	}
	return s
}

// records returns how many records the draft is.
func (d *draft) records() int {
	n := max(d.msgs.Len(), 1)
	if d.msgs.Bytes() <= maxWhole {
		return n
	}
	for i := range d.msgs.Len() {
		if over := len(d.msgs.At(i)) - maxWhole; over > 0 {
			n += (over + fragment - 1) / fragment
		}
	}
	return n
}

// fragmented reports whether a message of drafts is in several records. Such an
// append goes in parts even if one batch has room for it: a read may end between
// two records, and of a run of parts nothing is shown before its commit.
func fragmented(drafts []draft) bool {
	for i := range drafts {
		if m := drafts[i].msgs; m.Bytes() > maxWhole && drafts[i].records() > m.Len() {
			return true
		}
	}
	return false
}

// body is that of the next record; last: no record of the same draft follows.
func (s *script) body() (body []byte, last bool) {
	d := &s.drafts[s.at]
	if d.msgs.Len() == 0 {
		return nil, true
	}
	body = d.msgs.At(s.msg)[s.off:]
	if len(body) > maxWhole {
		return body[:fragment], false
	}
	return body, s.msg+1 == d.msgs.Len()
}

// metered bounds the size of the next record from above.
func (s *script) metered() int {
	d := &s.drafts[s.at]
	body, last := s.body()
	if !last {
		return plainRecord + len(body)
	}
	return d.last() + len(body)
}

// next makes the next record; begins: it is the first of a part, which says whose that is.
func (s *script) next(begins bool) line {
	d := &s.drafts[s.at]
	first := s.msg == 0 && s.off == 0
	body, last := s.body()
	l := line{s.header(d, first, last), body}
	s.left--
	switch {
	case last:
		s.at, s.msg, s.off = s.at+1, 0, 0
	case s.off+len(body) < len(d.msgs.At(s.msg)):
		s.off += len(body)
	default:
		s.msg, s.off = s.msg+1, 0
	}
	if l.h == nil {
		return l
	}
	if begins && s.flags&FlagPart != 0 && !first {
		h := *l.h
		h.Append, l.h = s.drafts[0].h.Append, &h
	}
	l.h.Flags |= s.flags
	if s.left == 0 && s.flags&FlagPart != 0 {
		l.h.Flags |= FlagCommit
	}
	return l
}

// header is that of the next record.
func (s *script) header(d *draft, first, last bool) *Header {
	flags := Flags(0)
	if s.off > 0 {
		flags = FlagContinues
	}
	switch {
	case d.trim:
		return nil
	case first && last:
		return &d.h
	case first:
		return &Header{Kind: d.h.Kind, Flags: d.h.Flags & FlagFirst, Append: d.h.Append}
	case last:
		h := d.h
		h.Flags, h.Append = h.Flags&^FlagFirst|flags, AppendID{}
		return &h
	case flags != 0:
		if s.more == nil {
			s.more = &Header{Kind: d.h.Kind, Flags: flags}
		}
		return s.more
	default:
		if s.whole == nil {
			s.whole = &Header{Kind: d.h.Kind}
		}
		return s.whole
	}
}
