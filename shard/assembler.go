package shard

import (
	"unsafe"

	"github.com/fantail-dev/fantail/shard/tail"
)

// assembler turns folded records into RecordBatches: the messages that may be shown, in order and
// whole. Parts are shown only once they are committed. Owned by a Stream, under its mu, or by one
// read of a page.
type assembler struct {
	from        Pos              // first position of the next RecordBatch
	time        Millis           // S2 time of the last record
	ready       []pendingMessage // messages that may be shown
	readyTime   Millis           // S2 time of those; 0: there are none
	timesDiffer bool             // they have several
	uncommitted []pendingMessage // parts without their commit
	// uncommittedCost is the memory of the uncommitted parts that others wrote. No other budget is
	// charged for those; parts of this process belong to a request, which was charged when it came.
	uncommittedCost int
}

// pendingMessage is a message that no RecordBatch holds yet. Its records are [pos, next). An append
// in parts has as many as it has messages, until its commit, so a pendingMessage is small.
type pendingMessage struct {
	pos           Pos
	body          []byte
	moreFragments *[][]byte // the other fragments of a message in several records; nil: none
}

func (p *pendingMessage) next() Pos { return p.pos + 1 + Pos(len(p.fragments())) }

func (p *pendingMessage) fragments() [][]byte {
	if p.moreFragments == nil {
		return nil
	}
	return *p.moreFragments
}

func (p *pendingMessage) size() int {
	n := len(p.body)
	for _, b := range p.fragments() {
		n += len(b)
	}
	return n
}

// addRecord adds the record that was just folded with effect e.
func (a *assembler) addRecord(r Record, e effect) {
	a.time = r.Time
	if e.voidsRun {
		a.uncommitted, a.uncommittedCost = nil, 0
	}
	if (e.visibility == showMessageOnCommit || e.visibility == showContinuesOnCommit) && r.decoded == nil {
		a.uncommittedCost += len(r.Body) + int(unsafe.Sizeof(pendingMessage{}))
	}
	switch e.visibility {
	case showMessage:
		a.ready = append(a.ready, pendingMessage{pos: r.Pos, body: r.Body})
		a.noteReadyTime(r.Time)
	case showContinues:
		a.ready = appendFragment(a.ready, r)
		a.noteReadyTime(r.Time)
	case showMessageOnCommit:
		a.uncommitted = append(a.uncommitted, pendingMessage{pos: r.Pos, body: r.Body})
	case showContinuesOnCommit:
		a.uncommitted = appendFragment(a.uncommitted, r)
	}
	if e.commitsRun {
		if len(a.ready) == 0 {
			a.ready = a.uncommitted
		} else {
			a.ready = append(a.ready, a.uncommitted...)
		}
		a.noteReadyTime(r.Time)
		a.uncommitted, a.uncommittedCost = nil, 0
	}
}

// noteReadyTime notes the time of a record that makes messages visible.
func (a *assembler) noteReadyTime(time Millis) {
	a.timesDiffer = a.timesDiffer || a.readyTime != 0 && a.readyTime != time
	a.readyTime = time
}

// appendFragment adds a fragment to the last message. A fragment of a message that begins below (a
// page may start inside one) is not shown.
func appendFragment(ps []pendingMessage, r Record) []pendingMessage {
	n := len(ps)
	if n == 0 || ps[n-1].next() != r.Pos {
		return ps
	}
	p := &ps[n-1]
	if p.moreFragments == nil {
		p.moreFragments = new([][]byte)
	}
	*p.moreFragments = append(*p.moreFragments, r.Body)
	return ps
}

// flushBatch returns the RecordBatch up to s.Next, or up to the first uncommitted part. s is the
// state after it. The zero RecordBatch: there is nothing new.
func (a *assembler) flushBatch(s *State) tail.RecordBatch {
	to := s.Next
	if s.run != nil {
		to = s.run.start
	}
	if to <= a.from {
		return tail.RecordBatch{}
	}
	size := 0
	for _, p := range a.ready {
		size += p.size()
	}
	b := tail.NewBuilder(a.from, len(a.ready), size)
	for _, p := range a.ready {
		b.Add(p.pos, p.next(), p.body, p.fragments()...)
	}
	if a.readyTime == a.time && !a.timesDiffer {
		b.SetOneTime()
	}
	a.ready, a.from = clearForReuse(a.ready), to
	a.readyTime, a.timesDiffer = 0, false
	return b.Build(to, s.tail, a.time, s.closed)
}

// clearForReuse returns the slice empty. It keeps a small array, to be filled again.
func clearForReuse[T any](all []T) []T {
	if cap(all) > 8 {
		return nil
	}
	clear(all) // the array must keep nothing alive
	return all[:0]
}

// skipTo moves on to next, without the messages that are under way.
func (a *assembler) skipTo(next Pos) {
	a.from, a.ready, a.uncommitted, a.uncommittedCost = max(a.from, next), nil, nil, 0
	a.readyTime, a.timesDiffer = 0, false
}
