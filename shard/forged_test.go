package shard

import (
	"fmt"
	"maps"
	"runtime"
	"testing"

	"github.com/fantail-dev/fantail/shard/tail"
)

// A client that may write to S2 may forge records of ours. They must not end the node.

// Parts of an append that never ends are not held beyond the size of the largest append.
func TestForgedRunIsBounded(t *testing.T) {
	const size = 1 << 19
	s, asm := &State{}, assembler{}
	id := NewAppendID()
	most := 0
	for pos := range uint64(4 * MaxBody / size) {
		h := Header{Kind: KindMessage, Flags: FlagPart, Append: id}
		if pos == 0 {
			h.Flags |= FlagFirst
		}
		r := Record{Pos: Pos(pos), Header: h.encode(Pos(pos)), Body: make([]byte, size)}
		e, err := s.foldRecord(r)
		if err != nil {
			t.Fatal(err)
		}
		asm.addRecord(r, e)
		asm.flushBatch(s)
		held := 0
		for _, p := range asm.uncommitted {
			held += p.size()
		}
		most = max(most, held)
	}
	if most < MaxBody-size || most > MaxBody || len(asm.uncommitted) > 0 || s.run != nil {
		t.Errorf("%d bytes held at most, %d pieces in the end, in a run: %v", most, len(asm.uncommitted), s.run != nil)
	}
}

// A forged State that is too large for a checkpoint does not stop appends.
func TestForgedStateDoesNotBlockAppends(t *testing.T) {
	s := &State{exists: true, generation: 1, contentType: "text/plain", bytesSinceCheckpoint: overdueBytes}
	for range 2 * MaxBatchBytes / 100 {
		s.forkRefs.set(NewAppendID(), forkRef{fork: StreamID(fmt.Sprintf("%0100d", 0))})
	}
	b, n := composeBatch(s, []*call{{req: &Request{Op: OpAppend, Type: "text/plain", ID: NewAppendID(), Messages: NewMessages([]byte("a"))}}}, 1, 0)
	if n != 1 || len(b.calls) != 1 || len(b.entries) == 0 {
		t.Errorf("%d taken, %d calls, %d entries: %+v", n, len(b.calls), len(b.entries), b.verdicts)
	}
}

// allocated returns the bytes that fn allocates. The caller does not run in parallel.
func allocated(fn func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	fn()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

// The cost of folding a record about a reference does not depend on the number of references,
// whichever client wrote it and whether it changes anything.
func TestFoldOfReferencesIsLinear(t *testing.T) {
	const forks = 2000
	ids := make([]AppendID, forks)
	for i := range ids {
		ids[i] = NewAppendID()
	}
	for name, header := range map[string]func(i int) Header{
		"holds":             func(i int) Header { return Header{Kind: KindHold, Ref: ids[i], Name: "p/f"} },
		"the same hold":     func(int) Header { return Header{Kind: KindHold, Ref: ids[0], Name: "p/f"} },
		"releases":          func(i int) Header { return Header{Kind: KindRelease, Ref: ids[i]} },
		"releases of none":  func(int) Header { return Header{Kind: KindRelease, Ref: AppendID{1}} },
		"settled, and owed": func(i int) Header { return Header{Kind: KindReleaseDone, Ref: ids[i]} },
		"settled, not owed": func(int) Header { return Header{Kind: KindReleaseDone, Ref: AppendID{1}} },
	} {
		t.Run(name, func(t *testing.T) {
			s := &State{exists: true, generation: 1}
			for i := range forks {
				s.addForkRef(ids[i], forkRef{fork: "p/f"})
			}
			for i := range 2 * maxPendingReleases {
				s.pendingReleases = append(s.pendingReleases, pendingRelease{ids[i], "p/s"})
			}
			h := make([]Header, forks)
			for i := range h {
				h[i] = header(i)
			}
			s.snapshot()
			n := allocated(func() {
				for i := range h {
					if _, err := s.foldDecoded(Record{Pos: Pos(i)}, &h[i]); err != nil {
						t.Fatal(err)
					}
				}
			})
			if n > 4<<20 {
				t.Errorf("%s: %d bytes for %d records", name, n, forks)
			}
		})
	}
}

// Copies of a State keep their forks, whichever of them goes on, and the table knows its size.
func TestForkTableIsCopiedOncePerSnapshot(t *testing.T) {
	t.Parallel()
	s := &State{exists: true, generation: 1}
	for i := range 100 {
		s.addForkRef(AppendID{1, byte(i)}, forkRef{fork: "p/f"})
	}
	kept, spec := s.snapshot(), State{}
	want := maps.Clone(s.forkRefs.rows)
	for i := range 50 {
		s.removeForkRef(AppendID{1, byte(i)})
		s.addForkRef(AppendID{2, byte(i)}, forkRef{fork: "p/longer"})
	}
	spec.speculateOn(s)
	spec.removeForkRef(AppendID{1, 99})
	last := *s
	last.addForkRef(AppendID{3}, forkRef{fork: "p/g"})
	if !maps.Equal(kept.forkRefs.rows, want) {
		t.Errorf("the snapshot went on: %d forks", len(kept.forkRefs.rows))
	}
	for name, n := range map[*State]int{kept: 100, s: 100, &spec: 99, &last: 101} {
		size := 0
		for _, f := range name.forkRefs.rows {
			size += f.size()
		}
		if len(name.forkRefs.rows) != n || name.forkRefs.size != size {
			t.Errorf("%d forks of %d bytes, want %d of %d", len(name.forkRefs.rows), name.forkRefs.size, n, size)
		}
	}
}

// A log of the fleet's own is no stream: no record and no request makes a fork, a reference, a
// pending release or an ancestor of it, in any project.
func TestFleetLogsAreNoStreams(t *testing.T) {
	t.Parallel()
	for name, want := range map[StreamID]bool{
		"p/s": true, "p/a/__ds": true, "p/__dsx": true, "__ds": false, "__ds/fleet": false, "__ds/clock": false,
		"__ds/fleet/basin": false, "p/__ds": false, "p/__ds/fleet": false,
	} {
		id, fork := NewAppendID(), &Fork{Source: name, Hold: AppendID{1}}
		chain := []Ancestor{{Stream: name, Generation: 1, Bound: 1}}
		hold, debts := &State{Next: 9}, &State{Next: 9, pendingReleases: []pendingRelease{{id, name}}}
		hold.addForkRef(id, forkRef{fork: name})
		for what, got := range map[string]bool{
			"hold record":   (&Header{Kind: KindHold, Ref: id, Name: name}).valid(9),
			"create record": (&Header{Kind: KindCreate, Generation: 1, Fork: fork}).valid(9),
			"chain":         (&Header{Kind: KindCreate, Generation: 1, Chain: chain}).valid(9),
			"held":          hold.valid(),
			"debts":         debts.valid(),
			"fork":          (&State{Next: 9, fork: fork}).valid(),
			"ancestors":     (&State{Next: 9, chain: chain}).valid(),
			"hold":          (&Request{Op: OpHold, Ref: id, Name: name}).valid(),
			"create":        (&Request{Op: OpCreate, Fork: &Fork{Source: name}, Source: &ForkSource{}}).valid(),
			"past":          (&Request{Op: OpCreate, Fork: &Fork{Source: "p/s"}, Source: &ForkSource{Chain: chain}}).valid(),
		} {
			t.Run(what, func(t *testing.T) {
				if got != want {
					t.Errorf("%s of %q: valid %v", what, name, got)
				}
			})
		}
	}
}

// Parts without their commit are charged for what they hold, until their commit is there or they
// are void. Parts that this process wrote were charged with their request.
func TestUncommittedPartsAreCharged(t *testing.T) {
	t.Parallel()
	const size, parts = 1 << 18, 16
	for name, c := range map[string]struct {
		own, commit bool
		want        int
	}{
		"forged, void": {false, false, size * parts}, "committed": {false, true, size * parts}, "own": {true, true, 0},
	} {
		t.Run(name, func(t *testing.T) {
			h := NewManager(nil, tail.NewBuffers(1<<20, 1<<20), Config{})
			s := h.newStream("p/s")
			s.state, s.opened = &State{exists: true, contentType: OctetStream, rooted: true}, true
			h.streams.addStream(s)
			fold := func(pos Pos, hd *Header) {
				r := Record{Pos: pos, Header: hd.encode(pos), Body: make([]byte, size)}
				if c.own {
					r.decoded = hd
				}
				if err := s.foldFromLog(s.state, []Record{r}); err != nil {
					t.Fatal(err)
				}
			}
			counted := func() int { return int(h.streams.bytes.Load() + h.streams.absentBytes.Load()) }
			id, before := NewAppendID(), counted()
			for pos := range uint64(parts) {
				hd := &Header{Kind: KindMessage, Flags: FlagPart, Append: id}
				if pos == 0 {
					hd.Flags |= FlagFirst
				}
				fold(Pos(pos), hd)
			}
			if n := counted() - before; n < c.want-size || n > c.want+size {
				t.Errorf("%s: %d bytes are charged for %d", name, n, size*parts)
			}
			end := &Header{Kind: KindTouch}
			if c.commit {
				end = &Header{Kind: KindMessage, Flags: FlagPart | FlagLast | FlagCommit, Append: id}
			}
			fold(parts, end)
			if n := counted() - before; n > size {
				t.Errorf("%s: %d bytes are charged in the end", name, n)
			}
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}
