package shard

import "unsafe"

// assembler turns folded records into RecordBatches: what may be shown, in order, each
// message whole, parts only once they are committed.
type assembler struct {
	from uint64 // first position of the next RecordBatch
	time uint64 // S2 time of the last record
	done []piece
	held []piece // parts without their commit
	// cost is what held takes of parts that others wrote, which nothing else is charged for;
	// those of this process are in a request, which was charged when it came.
	cost int
}

// piece is a message under way: its records are [pos, next). An append in parts has as many as
// messages, until its commit, so a piece is small.
type piece struct {
	pos  uint64
	body []byte
	more *[][]byte // the other fragments of one that is in several records; nil: there are none
}

func (p *piece) next() uint64 { return p.pos + 1 + uint64(len(p.rest())) }

func (p *piece) rest() [][]byte {
	if p.more == nil {
		return nil
	}
	return *p.more
}

func (p *piece) size() int {
	n := len(p.body)
	for _, b := range p.rest() {
		n += len(b)
	}
	return n
}

// add takes the record that was just folded with effect e.
func (a *assembler) add(r Record, e effect) {
	a.time = r.Time
	if e.void {
		a.held, a.cost = nil, 0
	}
	if (e.show == holdMessage || e.show == holdContinues) && r.known == nil {
		a.cost += len(r.Body) + int(unsafe.Sizeof(piece{}))
	}
	switch e.show {
	case showMessage:
		a.done = append(a.done, piece{pos: r.Pos, body: r.Body})
	case showContinues:
		a.done = grow(a.done, r)
	case holdMessage:
		a.held = append(a.held, piece{pos: r.Pos, body: r.Body})
	case holdContinues:
		a.held = grow(a.held, r)
	}
	if e.commit {
		if len(a.done) == 0 {
			a.done = a.held
		} else {
			a.done = append(a.done, a.held...)
		}
		a.held, a.cost = nil, 0
	}
}

// grow adds a fragment to the last message. A fragment whose beginning lies
// below (a page that starts inside a message) is not shown.
func grow(ps []piece, r Record) []piece {
	n := len(ps)
	if n == 0 || ps[n-1].next() != r.Pos {
		return ps
	}
	p := &ps[n-1]
	if p.more == nil {
		p.more = new([][]byte)
	}
	*p.more = append(*p.more, r.Body)
	return ps
}

// flush lays out the RecordBatch up to next, or up to the first part that is still
// held; tail and closed are the state after it. The zero Range: nothing to say.
func (a *assembler) flush(s *State) RecordBatch {
	to := s.Next
	if s.run != nil {
		to = s.run.start
	}
	if to <= a.from {
		return RecordBatch{}
	}
	size := 0
	for _, p := range a.done {
		size += p.size()
	}
	b := newRangeBuilder(a.from, len(a.done), size)
	for _, p := range a.done {
		b.message(p.pos, p.next(), p.body, p.rest()...)
	}
	a.done, a.from = emptied(a.done), to
	return b.build(to, s.tail, a.time, s.closed)
}

// emptied is all without what is in it. A small array serves again.
func emptied[T any](all []T) []T {
	if cap(all) > 8 {
		return nil
	}
	clear(all) // it must keep nothing alive
	return all[:0]
}

// skip moves on to next without what is under way.
func (a *assembler) skip(next uint64) {
	a.from, a.done, a.held, a.cost = max(a.from, next), nil, nil, 0
}
