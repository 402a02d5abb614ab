package main

import (
	"slices"
	"testing"

	"github.com/anishathalye/porcupine"
)

// texts are messages of writer 0 of stream 7, by number; from 100 on, of writer 1.
func texts(numbers ...int) (all [][]byte) {
	for _, n := range numbers {
		all = append(all, message{7, n / 100, n % 100, 1_700_000_000_000_000 + int64(n)}.encode(0))
	}
	return all
}

func wrote(verdicts ...verdict) *book {
	b := newBook(2)
	b.wrote[0], b.wrote[1] = slices.Clone(verdicts), []verdict{acked, acked}
	return b
}

func TestMessage(t *testing.T) {
	t.Parallel()
	m := message{12, 3, 4567, 1795579617916851}
	for _, size := range []int{0, 100, 5000} {
		b := m.encode(size)
		if got, ok := decode(b); !ok || got != m || len(b) < size {
			t.Errorf("%v, %v from %d bytes for %d", got, ok, len(b), size)
		}
		for i := range b {
			b[i] ^= 1
			if got, ok := decode(b); ok {
				t.Fatalf("%q passes for %v", b, got)
			}
			b[i] ^= 1
		}
		if _, ok := decode(b[:len(b)-1]); ok {
			t.Error("a cut one passes")
		}
	}
}

// The log against what its writers were told.
func TestBook(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name string
		b    *book
		log  []int
		want damage
	}{
		{"whole", wrote(acked, acked, acked), []int{0, 100, 1, 101, 2}, damage{}},
		{"lost", wrote(acked, acked, acked), []int{0, 100, 101, 2}, damage{Lost: 1}},
		{"lost at the end", wrote(acked, acked, acked), []int{0, 1, 100, 101}, damage{Lost: 1}},
		{"doubled", wrote(acked, acked), []int{0, 100, 1, 1, 101}, damage{Doubled: 1}},
		{"doubled later", wrote(acked, acked), []int{0, 100, 1, 101, 0}, damage{Doubled: 1}},
		{"reordered", wrote(acked, acked, acked), []int{0, 2, 1, 100, 101}, damage{Reordered: 1}},
		{"unknown, there", wrote(acked, unknown, acked), []int{0, 1, 2, 100, 101}, damage{}},
		{"unknown, late", wrote(acked, unknown, acked), []int{0, 2, 100, 1, 101}, damage{}},
		{"unknown, not there", wrote(acked, unknown, acked), []int{0, 2, 100, 101}, damage{}},
		{"unknown, twice", wrote(acked, unknown, acked), []int{0, 1, 2, 1, 100, 101}, damage{Doubled: 1}},
		{"refused, there", wrote(acked, refused, acked), []int{0, 1, 2, 100, 101}, damage{Corrupt: 1}},
		{"never sent", wrote(acked), []int{0, 100, 1, 101}, damage{Corrupt: 1}},
	} {
		got := c.b.read(7, texts(c.log...))
		if got.First = ""; got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
	}
}

// What was settled in one comparison is not found again in the next, and an unknown
// message may still come then.
func TestBookGoesOn(t *testing.T) {
	t.Parallel()
	b := wrote(acked, unknown, acked)
	if d := b.read(7, texts(0, 100, 101)); d.Lost != 1 {
		t.Fatalf("%+v", d)
	}
	b.wrote[0] = append(b.wrote[0], acked)
	if d := b.read(7, texts(3, 1)); d.total() != 0 {
		t.Errorf("%+v", d)
	}
	if d := b.read(7, texts(1)); d.Doubled != 1 {
		t.Errorf("%+v", d)
	}
}

// A reader against the log.
func TestSight(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name     string
		log, got []int
		want     damage
	}{
		{"whole", []int{0, 100, 1, 101}, []int{0, 100, 1, 101}, damage{}},
		{"lost", []int{0, 100, 1, 101}, []int{0, 100, 101}, damage{Lost: 1}},
		{"lost in the middle", []int{0, 1, 2, 100, 101}, []int{0, 2, 100, 101}, damage{Lost: 1}},
		{"lost at the start", []int{0, 1, 100, 101}, []int{1, 100, 101}, damage{Lost: 1}},
		{"nothing seen", []int{0, 100, 101}, nil, damage{Lost: 3}},
		{"doubled", []int{0, 100, 1, 101}, []int{0, 0, 100, 1, 101}, damage{Doubled: 1}},
		{"doubled at the end", []int{0, 100, 1, 101}, []int{0, 100, 1, 101, 101}, damage{Doubled: 1}},
		{"one writer's reordered", []int{0, 1, 2, 100, 101}, []int{0, 2, 1, 100, 101}, damage{Reordered: 1}},
		{"two writers' reordered", []int{0, 1, 2, 100, 101}, []int{0, 1, 100, 2, 101}, damage{Reordered: 1}},
		{"late, as in the log", []int{0, 2, 1, 100, 101}, []int{0, 2, 1, 100, 101}, damage{}},
		{"not in the log either", []int{0, 2, 100, 101}, []int{0, 2, 100, 101}, damage{}},
	} {
		b := wrote(unknown, unknown, unknown)
		if d := b.read(7, texts(c.log...)); d.total() != 0 {
			t.Fatalf("%s: the log: %+v", c.name, d)
		}
		var s sight
		for _, raw := range texts(c.got...) {
			s.noteMessage(7, raw)
		}
		got := s.compare(7, b.digest())
		if got.First = ""; got != c.want {
			t.Errorf("%s: %+v, want %+v", c.name, got, c.want)
		}
		if d := s.compare(7, b.digest()); d.total() != 0 {
			t.Errorf("%s: found again: %+v", c.name, d)
		}
	}
}

// A message that is not whole, or of another stream, is no message.
func TestSightCorrupt(t *testing.T) {
	t.Parallel()
	var s sight
	s.noteMessage(7, append(texts(0)[0], ' '))
	s.noteMessage(8, texts(0)[0])
	if d := s.compare(7, digest{}); d.Corrupt != 2 || d.total() != 2 {
		t.Errorf("%+v", d)
	}
}

// The model of histories: a read that misses what was acknowledged before it began is
// caught, and one that overlaps it is not.
func TestModel(t *testing.T) {
	t.Parallel()
	append1 := porcupine.Operation{ClientId: 0, Input: "a", Call: 0, Return: 10}
	unsure := porcupine.Operation{ClientId: 1, Input: "b", Call: 0, Return: never}
	read := func(client int, out string, call int64) porcupine.Operation {
		return porcupine.Operation{ClientId: client, Output: out, Call: call, Return: call + 10}
	}
	for _, c := range []struct {
		name string
		ops  []porcupine.Operation
		want bool
	}{
		{"read after", []porcupine.Operation{append1, read(2, "a,", 20)}, true},
		{"stale read", []porcupine.Operation{append1, read(2, "", 20)}, false},
		{"read beside", []porcupine.Operation{append1, read(2, "", 5)}, true},
		{"unsure, never there", []porcupine.Operation{append1, unsure, read(2, "a,", 20)}, true},
		{"unsure, there late", []porcupine.Operation{append1, unsure, read(2, "a,", 20), read(2, "a,b,", 40)}, true},
		{"gone again", []porcupine.Operation{append1, unsure, read(2, "a,b,", 20), read(2, "a,", 40)}, false},
		{"two orders", []porcupine.Operation{append1, unsure, read(2, "a,b,", 20), read(3, "b,a,", 40)}, false},
	} {
		if got := porcupine.CheckOperations(model, c.ops); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}
