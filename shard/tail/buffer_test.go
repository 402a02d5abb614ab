package tail

import (
	"bytes"
	"errors"
	"fmt"
	"testing"

	"pgregory.net/rapid"
)

// tailModel is the model of a Buffer: every message that there ever was, and those that the
// Buffer may be asked for.
type tailModel struct {
	tail   *Buffer
	set    *Buffers
	bodies map[Pos]string // by position
	next   Pos
	shown  Pos // visible tail
	woken  int
	armed  bool
}

func (m *tailModel) Wake() { m.woken++ }

// batchOf lays out [from, to) from the model, which it first extends.
func (m *tailModel) batchOf(t *rapid.T, from, to Pos) RecordBatch {
	for p := m.next; p < to; p++ {
		if rapid.IntRange(0, 3).Draw(t, "kind") > 0 { // else a control record
			m.bodies[p] = fmt.Sprintf("m%d", p)
		}
	}
	shown, n := m.shown, 0
	for p := from; p < to; p++ {
		if _, ok := m.bodies[p]; ok {
			n++
		}
	}
	b := NewBuilder(from, n, 0)
	for p := from; p < to; p++ {
		if body, ok := m.bodies[p]; ok {
			b.Add(p, p+1, []byte(body))
			shown = max(shown, p+1)
		}
	}
	return b.Build(to, shown, 0, false)
}

// A Buffer is a run of RecordBatches without a hole, whatever feeds it, in whatever order, and
// whatever is evicted meanwhile.
func TestBufferEqualsItsModel(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		set := NewBuffers(rapid.IntRange(100, 600).Draw(t, "budget"), 1<<20)
		m := &tailModel{set: set, bodies: map[Pos]string{}, next: 5, shown: 5}
		m.tail = set.Open("s/s", Info{Exists: true, Generation: 1, Start: 5, Tail: 5}, 5)
		t.Repeat(map[string]func(*rapid.T){
			"extend": m.extend, "again": m.extendAgain, "gap": m.extendBeyond, "skip": m.skip,
			"read": m.read, "watch": m.watch, "": m.check,
		})
		m.tail.Release()
		if set.Len() != 0 || set.Bytes() != 0 {
			t.Fatalf("%d Tails, %d bytes after the last release", len(set.byStream), set.Bytes())
		}
	})
}

func (m *tailModel) apply(t *rapid.T, r RecordBatch) {
	if err := m.tail.Extend(r); err != nil {
		t.Fatal(err)
	}
	if r.To() > m.next {
		m.next, m.shown = r.To(), r.Tail()
		m.checkNews(t)
	}
}

func (m *tailModel) checkNews(t *rapid.T) {
	if m.armed && m.woken != 1 {
		t.Fatalf("woken %d times by news", m.woken)
	}
	m.armed, m.woken = false, 0
}

func (m *tailModel) extend(t *rapid.T) {
	m.apply(t, m.batchOf(t, m.next, m.next+Pos(rapid.Uint64Range(1, 6).Draw(t, "n"))))
}

// extendAgain is a second feed that brings what is known, and perhaps more.
func (m *tailModel) extendAgain(t *rapid.T) {
	back := rapid.Uint64Range(1, 9).Draw(t, "back")
	from := m.next - min(Pos(back), m.next)
	m.apply(t, m.batchOf(t, from, max(from+1, m.next+Pos(rapid.Uint64Range(0, 3).Draw(t, "more")))))
}

func (m *tailModel) extendBeyond(t *rapid.T) {
	from := m.next + Pos(rapid.Uint64Range(1, 5).Draw(t, "hole"))
	b := NewBuilder(from, 1, 0)
	b.Add(from, from+1, []byte("never"))
	var gap *GapError
	if err := m.tail.Extend(b.Build(from+1, from+1, 0, false)); !errors.As(err, &gap) || gap.Next != m.next {
		t.Fatalf("a hole at %d: %v", m.next, err)
	}
}

func (m *tailModel) skip(t *rapid.T) {
	to := m.next + Pos(rapid.Uint64Range(0, 4).Draw(t, "n"))
	if to > m.next {
		m.batchOf(t, m.next, to)
		for p := m.next; p < to; p++ {
			if _, ok := m.bodies[p]; ok {
				m.shown = p + 1
			}
		}
	}
	m.tail.SkipTo(to, m.shown, false)
	if to > m.next {
		m.next = to
		m.checkNews(t)
	}
}

func (m *tailModel) read(t *rapid.T) {
	pos := Pos(rapid.Uint64Range(0, uint64(m.next+2)).Draw(t, "pos"))
	got, st := m.tail.ReadAt(pos, rapid.IntRange(0, 400).Draw(t, "max"), nil)
	switch {
	case pos >= m.shown:
		if len(got) != 0 || st != StatusTip {
			t.Fatalf("at %d of %d: %d Ranges, status %d", pos, m.shown, len(got), st)
		}
		return
	case st == StatusBelow:
		if pos >= m.tail.Floor() || len(got) != 0 {
			t.Fatalf("below at %d, floor %d", pos, m.tail.Floor())
		}
		return
	case len(got) == 0:
		t.Fatalf("nothing at %d of %d, status %d", pos, m.shown, st)
	}
	at := pos
	for i, r := range got {
		if r.From() > at || r.To() <= at {
			t.Fatalf("Range %d is [%d, %d), reader at %d", i, r.From(), r.To(), at)
		}
		for p := at; p < r.To(); p++ {
			i := r.Search(p)
			body, want := m.bodies[p]
			if has := i < r.Len() && r.Message(i).Pos == p; has != want || want && string(r.Message(i).Body) != body {
				t.Fatalf("position %d: has %v, want %q", p, has, body)
			}
		}
		at = r.To()
	}
	if more := at < m.shown; more != (st == StatusMore) {
		t.Fatalf("read to %d of %d, status %d", at, m.shown, st)
	}
}

func (m *tailModel) watch(t *rapid.T) {
	pos := Pos(rapid.Uint64Range(0, uint64(m.next+2)).Draw(t, "pos"))
	m.tail.Unwatch(m)
	m.woken = 0
	m.armed = m.tail.Watch(m, pos)
	if m.armed != (pos >= m.shown) {
		t.Fatalf("armed %v at %d of %d", m.armed, pos, m.shown)
	}
}

func (m *tailModel) check(t *rapid.T) {
	if m.tail.Next() != m.next || m.tail.Info().Tail != m.shown || m.tail.Floor() > m.next {
		t.Fatalf("next %d tail %d floor %d, want %d %d", m.tail.Next(), m.tail.Info().Tail, m.tail.Floor(), m.next, m.shown)
	}
	if m.woken > 1 || !m.armed && m.woken != 0 {
		t.Fatalf("woken %d times", m.woken)
	}
}

// Bytes from another node are a RecordBatch, whole and in order, or refused.
func FuzzParseBatch(f *testing.F) {
	b := NewBuilder(7, 2, 6)
	b.Add(7, 8, []byte("one"))
	b.Add(9, 11, []byte("two"))
	f.Add(b.Build(12, 11, 99, true).Bytes())
	f.Add(NewBuilder(0, 0, 0).Build(1, 0, 0, false).Bytes())
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, in []byte) {
		r, err := ParseBatch(in)
		if err != nil {
			return
		}
		at, size := r.From(), 0
		for i := range r.Len() {
			m := r.Message(i)
			if m.Pos < at || m.Next <= m.Pos || m.Next > r.To() {
				t.Fatalf("message %d is [%d, %d) in [%d, %d)", i, m.Pos, m.Next, r.From(), r.To())
			}
			if j := r.Search(m.Pos); j != i {
				t.Fatalf("search %d finds %d, want %d", m.Pos, j, i)
			}
			at, size = m.Next, size+len(m.Body)
		}
		if size != len(r.Payload()) {
			t.Fatalf("%d bytes in messages, %d in the payload", size, len(r.Payload()))
		}
		if r.To()-r.From() < 2 {
			return
		}
		mid := r.From() + 1
		rest := r.SliceFrom(mid)
		if again, err := ParseBatch(rest.Bytes()); err != nil || !bytes.Equal(again.Bytes(), rest.Bytes()) {
			t.Fatalf("the rest does not parse: %v", err)
		}
		if rest.Len() != r.Len()-r.Search(mid) || rest.To() != r.To() || rest.Closed() != r.Closed() {
			t.Fatalf("the rest from %d has %d messages", mid, rest.Len())
		}
	})
}

// RecordBatches without readers are not kept beyond the budget, not even the newest. With readers
// the newest stays, and a set that cannot keep its budget is not searched with every append.
func TestBuffersKeepTheirBudget(t *testing.T) {
	const size, budget = 1 << 10, 16 << 10
	set := NewBuffers(0, budget)
	grow := func(tail *Buffer) {
		b := NewBuilder(tail.Next(), 1, size)
		b.Add(tail.Next(), tail.Next()+1, make([]byte, size))
		if err := tail.Extend(b.Build(tail.Next()+1, tail.Next()+1, 0, false)); err != nil {
			t.Fatal(err)
		}
	}
	open := func(n int, readers int) (tails []*Buffer) {
		for range n {
			id := StreamID(fmt.Sprintf("s/%d", set.Len()))
			tail := set.Open(id, Info{Exists: true, Generation: 1}, 0)
			for range readers {
				set.Lookup(id)
			}
			tails = append(tails, tail)
			grow(tail)
		}
		return tails
	}
	unread := open(40, 0)
	if n := set.Bytes(); n > budget {
		t.Errorf("%d bytes of Tails that nobody reads", n)
	}
	for _, tail := range unread {
		if r, status := tail.ReadAt(0, 1, nil); len(r) == 0 && status != StatusBelow || tail.Next() != 1 {
			t.Errorf("%d ranges, %v, next %d", len(r), status, tail.Next())
		}
		grow(tail) // it goes on where it was
	}
	read := open(40, 1)
	for _, tail := range read {
		if r, _ := tail.ReadAt(0, 1, nil); len(r) != 1 {
			t.Error("what is read is gone")
		}
	}
	if n := set.Bytes(); n < 40*size || n > 41*size+budget {
		t.Errorf("%d bytes", n)
	}
	if n := set.reclaimAbove.Load(); n <= set.Bytes() {
		t.Errorf("the next append looks for what is not there: %d of %d", set.Bytes(), n)
	}
	for _, tail := range read {
		tail.Release() // its reader's
	}
	if n := set.Bytes(); n > budget {
		t.Errorf("%d bytes when the readers have left", n)
	}
	for _, tail := range append(unread, open(40, 0)...) {
		grow(tail)
	}
	if n := set.Bytes(); n > budget {
		t.Errorf("%d bytes of Tails that nobody reads after a peak, up to %d", n, set.reclaimAbove.Load())
	}
}

// A Buffer tells where a time begins only if what it holds is enough to know.
func TestBufferFindsATimeOrSaysThatItCannot(t *testing.T) {
	batch := func(from, to Pos, time Millis, oneTime bool, messages ...Pos) RecordBatch {
		b := NewBuilder(from, len(messages), 0)
		for _, p := range messages {
			b.Add(p, p+1, []byte("m"))
		}
		if oneTime {
			b.SetOneTime()
		}
		return b.Build(to, to, time, false)
	}
	one, mixed, silent := batch(5, 8, 100, true, 5, 7), batch(8, 11, 200, false, 9, 10), batch(11, 13, 300, false)
	last, empty, unknown := batch(13, 14, 400, true, 13), EmptyBatch(14, 16, 14, true), batch(14, 16, 0, false, 14, 15)
	const cannot = Pos(1 << 40)
	for name, c := range map[string]struct {
		held        []RecordBatch
		start, tail Pos
		want        map[Millis]Pos
	}{
		"nothing":              {nil, 5, 5, map[Millis]Pos{0: 5, 1: 5}},
		"nothing yet":          {nil, 5, 9, map[Millis]Pos{1: cannot}},
		"all":                  {[]RecordBatch{one}, 5, 8, map[Millis]Pos{0: 5, 1: 5, 100: 5, 101: 8, 1 << 50: 8}},
		"below the buffer":     {[]RecordBatch{one}, 3, 8, map[Millis]Pos{0: cannot, 100: cannot, 101: 8}},
		"from the middle":      {[]RecordBatch{one}, 6, 8, map[Millis]Pos{100: 6, 101: 8}},
		"up to the middle":     {[]RecordBatch{one, mixed}, 5, 9, map[Millis]Pos{100: 5, 101: cannot, 201: 9}},
		"several times":        {[]RecordBatch{one, mixed}, 5, 11, map[Millis]Pos{100: 5, 101: cannot, 200: cannot, 201: 11}},
		"several times only":   {[]RecordBatch{batch(5, 9, 200, false, 5, 6)}, 5, 9, map[Millis]Pos{0: 5, 1: cannot, 200: cannot, 201: 9}},
		"no message between":   {[]RecordBatch{one, mixed, silent, last}, 5, 14, map[Millis]Pos{201: 13, 300: 13, 301: 13, 400: 13, 401: 14}},
		"behind":               {[]RecordBatch{one}, 5, 9, map[Millis]Pos{100: cannot, 101: cannot}},
		"its end":              {[]RecordBatch{one, mixed, silent, last, empty}, 5, 14, map[Millis]Pos{100: 5, 400: 13, 401: 14}},
		"no time":              {[]RecordBatch{one, mixed, silent, last, unknown}, 5, 16, map[Millis]Pos{0: 5, 100: cannot, 401: cannot}},
		"a slice":              {[]RecordBatch{one.SliceFrom(6)}, 6, 8, map[Millis]Pos{100: 6, 101: 8}},
		"after an earlier one": {[]RecordBatch{batch(5, 6, 50, false), one.SliceFrom(6)}, 5, 8, map[Millis]Pos{50: 5, 51: 7, 100: 7, 101: 8}},
	} {
		t.Run(name, func(t *testing.T) {
			set, floor := NewBuffers(0, 0), Pos(5)
			if len(c.held) > 0 {
				floor = c.held[0].From()
			}
			b := set.Open("s/s", Info{Exists: true, Generation: 1, Start: floor, Tail: floor}, floor)
			defer b.Release()
			for _, r := range c.held {
				if err := b.Extend(r); err != nil {
					t.Fatal(err)
				}
			}
			for since, want := range c.want {
				pos, ok := set.FindTime("s/s", 1, since, c.start, c.tail)
				if !ok {
					pos = cannot
				}
				if pos != want {
					t.Errorf("since %d: %d, want %d", since, pos, want)
				}
			}
			for _, id := range []StreamID{"s/s", "s/none"} {
				if _, ok := set.FindTime(id, 2, 0, 5, 5); ok {
					t.Errorf("%s: another generation", id)
				}
			}
			b.End(ErrNotFound)
			if _, ok := b.FindTime(0, c.start, c.tail); ok {
				t.Error("after its end")
			}
		})
	}
}
