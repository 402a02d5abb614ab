package main

import (
	"fmt"
	"slices"
	"time"
)

// verdict records what a writer knows of a message.
type verdict uint8

const (
	pending verdict = iota
	acked           // must be there, once, in its place
	unknown         // no answer tells: there once, or not at all, perhaps late
	seen            // in the log
	refused         // was never written, so must never be seen
)

// book records what was written to one stream, and how far its log has been compared
// with that.
type book struct {
	wrote [][]verdict // by writer and number
	next  []int       // by writer: above the highest number that the log has
	count int         // messages in the log
	chain uint64      // over them
	holes []hole      // below next, and not in the log
}

// hole is a number that was passed over.
type hole struct{ Writer, Number int }

// damage holds what an oracle counts. All of it should be 0.
type damage struct {
	Lost, Doubled, Reordered, Corrupt int
	First                             string // the first that was found
}

func (d *damage) note(n *int, format string, args ...any) {
	*n++
	if d.First == "" {
		d.First = fmt.Sprintf(format, args...)
	}
}

func (d *damage) add(o damage) {
	d.Lost += o.Lost
	d.Doubled += o.Doubled
	d.Reordered += o.Reordered
	d.Corrupt += o.Corrupt
	if d.First == "" {
		d.First = o.First
	}
}

func (d damage) total() int { return d.Lost + d.Doubled + d.Reordered + d.Corrupt }

func newBook(writers int) *book {
	return &book{wrote: make([][]verdict, writers), next: make([]int, writers)}
}

// read takes the messages that the log has gained, in its order, while no writer
// writes; afterwards whatever was acknowledged has to be there.
func (b *book) read(stream int, log [][]byte) (d damage) {
	for _, raw := range log {
		m, ok := decode(raw)
		if !ok || m.stream != stream || m.writer >= len(b.wrote) || m.number >= len(b.wrote[m.writer]) {
			d.note(&d.Corrupt, "stream %d: the log has %.100q, which no writer wrote", stream, raw)
			continue
		}
		b.noteMessage(m, &d)
		b.count++
		b.chain = chain(b.chain, raw)
	}
	b.holes = slices.DeleteFunc(b.holes, func(h hole) bool { return b.wrote[h.Writer][h.Number] == seen })
	for w, all := range b.wrote {
		for n := b.next[w]; n < len(all); n++ {
			b.holes = append(b.holes, hole{w, n})
		}
		b.next[w] = len(all)
	}
	for _, h := range b.holes {
		if v := &b.wrote[h.Writer][h.Number]; *v == acked {
			d.note(&d.Lost, "stream %d: message %d of writer %d was acknowledged and is not in the log", stream, h.Number, h.Writer)
			*v = refused // said once
		}
	}
	return d
}

func (b *book) noteMessage(m message, d *damage) {
	v := &b.wrote[m.writer][m.number]
	switch *v {
	case seen:
		d.note(&d.Doubled, "stream %d: the log has message %d of writer %d twice", m.stream, m.number, m.writer)
	case refused, pending:
		d.note(&d.Corrupt, "stream %d: the log has message %d of writer %d, which was not written", m.stream, m.number, m.writer)
	case acked:
		if m.number < b.next[m.writer] {
			d.note(&d.Reordered, "stream %d: message %d of writer %d came after %d", m.stream, m.number, m.writer, b.next[m.writer]-1)
		}
	}
	*v = seen
	for n := b.next[m.writer]; n < m.number; n++ {
		b.holes = append(b.holes, hole{m.writer, n})
	}
	b.next[m.writer] = max(b.next[m.writer], m.number+1)
}

// digest holds what readers need of a book to be compared with it.
type digest struct {
	Count int
	Chain uint64
	Next  []int
	Holes []hole
}

func (b *book) digest() digest { return digest{b.count, b.chain, b.next, b.holes} }

// sight records what one reader has seen of its stream, from the start.
type sight struct {
	count int
	chain uint64
	next  []int  // by writer
	holes []hole // passed over so far
	bad   damage
}

// noteMessage records the next message that a reader got, and returns when it was sent. timely reports
// whether that time is of use: it is not if the writer had given the message up long before, and
// others came.
func (s *sight) noteMessage(stream int, raw []byte) (sent time.Time, timely bool) {
	m, ok := decode(raw)
	sent = time.UnixMicro(m.sent)
	if !ok || m.stream != stream {
		s.bad.note(&s.bad.Corrupt, "stream %d: a reader got %.100q", stream, raw)
		return sent, false
	}
	s.count++
	s.chain = chain(s.chain, raw)
	for len(s.next) <= m.writer {
		s.next = append(s.next, 0)
	}
	next := s.next[m.writer]
	if m.number < next { // late, which the log has to say as well, or for the second time
		h := hole{m.writer, m.number}
		if i := slices.Index(s.holes, h); i >= 0 {
			s.holes = slices.Delete(s.holes, i, i+1)
		} else {
			s.bad.note(&s.bad.Doubled, "stream %d: a reader got message %d of writer %d twice", stream, m.number, m.writer)
		}
		return sent, false
	}
	for n := next; n < m.number; n++ {
		s.holes = append(s.holes, hole{m.writer, n})
	}
	s.next[m.writer] = m.number + 1
	return sent, true
}

// compare holds what was seen against the log, which is complete and at rest, and
// starts again from there.
func (s *sight) compare(stream int, log digest) damage {
	d := s.bad
	for w, end := range log.Next {
		for w >= len(s.next) {
			s.next = append(s.next, 0)
		}
		for n := s.next[w]; n < end; n++ {
			s.holes = append(s.holes, hole{w, n})
		}
	}
	for _, h := range s.holes {
		if !slices.Contains(log.Holes, h) {
			d.note(&d.Lost, "stream %d: a reader did not get message %d of writer %d", stream, h.Number, h.Writer)
		}
	}
	if d.total() == 0 && (s.chain != log.Chain || s.count != log.Count) {
		d.note(&d.Reordered, "stream %d: a reader got the %d messages in another order than the log's %d", stream, s.count, log.Count)
	}
	*s = sight{count: log.Count, chain: log.Chain, next: slices.Clone(log.Next), holes: slices.Clone(log.Holes)}
	return d
}
