package shard

// assembler turns folded records into Ranges: what may be shown, in order, each
// message whole, parts only once they are committed.
type assembler struct {
	from uint64 // first position of the next Range
	time uint64 // S2 time of the last record
	done []piece
	held []piece // parts without their commit
}

// piece is a message under way: its records are [pos, next).
type piece struct {
	pos, next uint64
	body      [][]byte
}

// add takes the record that was just folded with effect e.
func (a *assembler) add(r Record, e effect) {
	a.time = r.Time
	if e.void {
		a.held = nil
	}
	switch e.show {
	case showMessage:
		a.done = append(a.done, piece{r.Pos, r.Pos + 1, [][]byte{r.Body}})
	case showContinues:
		a.done = grow(a.done, r)
	case holdMessage:
		a.held = append(a.held, piece{r.Pos, r.Pos + 1, [][]byte{r.Body}})
	case holdContinues:
		a.held = grow(a.held, r)
	}
	if e.commit {
		a.done = append(a.done, a.held...)
		a.held = nil
	}
}

// grow adds a fragment to the last message. A fragment whose beginning lies
// below (a page that starts inside a message) is not shown.
func grow(ps []piece, r Record) []piece {
	if n := len(ps); n > 0 && ps[n-1].next == r.Pos {
		ps[n-1].next = r.Pos + 1
		ps[n-1].body = append(ps[n-1].body, r.Body)
	}
	return ps
}

// flush lays out the Range up to next, or up to the first part that is still
// held; tail and closed are the state after it. The zero Range: nothing to say.
func (a *assembler) flush(s *State) Range {
	to := s.Next
	if s.run != nil {
		to = s.run.start
	}
	if to <= a.from {
		return Range{}
	}
	b := newRangeBuilder(a.from)
	for _, p := range a.done {
		b.message(p.pos, p.next, p.body...)
	}
	a.done, a.from = nil, to
	return b.build(to, s.tail, a.time, s.closed)
}

// skip moves on to next without what is under way.
func (a *assembler) skip(next uint64) {
	a.from, a.done, a.held = max(a.from, next), nil, nil
}
