package shard

import (
	"fmt"
	"maps"
	"mime"
	"runtime"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"pgregory.net/rapid"
)

// world is a log in a slice, written by the composer as the sequencer does and
// now and then by others.
type world struct {
	recs  []Record
	state *State
	now   Millis
	ids   map[AppendID]Outcome
}

func newWorld() *world {
	return &world{state: &State{}, now: 1000, ids: map[AppendID]Outcome{}}
}

func (w *world) add(t *rapid.T, e Entry) {
	r := e.record(Pos(len(w.recs)), w.now)
	if _, err := w.state.foldRecord(r); err != nil {
		t.Fatalf("own record: %v", err)
	}
	r.decoded = nil // a reader of the log knows its bytes only
	w.recs = append(w.recs, r)
}

// composeBatch composes a batch at a node whose clocks agree.
func composeBatch(s *State, queue []*call, now, used Millis) (*appendBatch, int) {
	return composeBatchAt(s, queue, clockReading{wall: now, bothClocks: now, lastUse: used})
}

func composeBatchAt(s *State, queue []*call, at clockReading) (*appendBatch, int) {
	return (&composer{now: at}).compose(s, queue)
}

// write composes one batch of reqs and appends it; the verdicts come back.
func (w *world) write(t *rapid.T, reqs ...*Request) []Outcome {
	var calls []*call
	for _, r := range reqs {
		calls = append(calls, &call{req: r})
	}
	var outs []Outcome
	for len(calls) > 0 {
		b, n := composeBatch(w.state, calls, w.now, 0)
		for {
			checkLimits(t, b)
			for _, e := range b.entries {
				w.add(t, e)
			}
			if b.remaining == nil {
				break
			}
			b.composePart(w.state)
		}
		for _, v := range b.verdicts {
			outs = append(outs, v.outcome)
		}
		calls = calls[n:]
	}
	return outs
}

func checkLimits(t *rapid.T, b *appendBatch) {
	size := 0
	for _, e := range b.entries {
		size += e.MeteredSize()
	}
	if len(b.entries) > MaxBatchRecords || size > MaxBatchBytes {
		t.Fatalf("batch of %d records, %d bytes", len(b.entries), size)
	}
}

// foldFrom folds the log from its newest checkpoint on, as a new owner does.
func (w *world) foldFrom(t *rapid.T, start Pos) *State {
	s := &State{Next: start}
	for _, r := range w.recs[start:] {
		if _, err := s.foldRecord(r); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

var sameState = cmp.Options{
	cmp.AllowUnexported(
		State{}, producerClaim{}, outcome{}, run{}, forkRef{}, pendingRelease{}, counts{}, batchEnd{}, trimmedTo{}, retention{},
	), cmpopts.EquateEmpty(),
	cmp.Comparer(func(a, b forkRefTable) bool { return maps.Equal(a.rows, b.rows) && a.size == b.size }),
	cmp.Comparer(func(a, b outcomeWindow) bool {
		var x, y []outcome
		a.each(func(o outcome) { x = append(x, o) })
		b.each(func(o outcome) { y = append(y, o) })
		return a.forgottenTime == b.forgottenTime && fmt.Sprint(x) == fmt.Sprint(y)
	}),
	// Not part of the meaning: a trim point below the checkpoint, an append under way.
	cmpopts.IgnoreFields(State{}, "trimTo", "openAppend", "base", "rooted", "confirmed"),
}

func genRequest(t *rapid.T, w *world) *Request {
	r := &Request{Stream: "p/s", Op: OpAppend, ID: NewAppendID(), Type: "text/plain"}
	ref := AppendID{byte(rapid.IntRange(1, 3).Draw(t, "ref"))}
	switch rapid.IntRange(0, 24).Draw(t, "op") {
	case 0:
		r.Op = OpDelete
	case 21:
		return &Request{Stream: "p/s", Op: OpHold, ID: r.ID, Ref: ref, Name: "p/f", Generation: w.state.generation}
	case 22:
		return &Request{Stream: "p/s", Op: OpRelease, ID: r.ID, Ref: ref}
	case 23:
		return &Request{Stream: "p/s", Op: OpReleaseDone, ID: r.ID, Ref: ref}
	case 24:
		r.Op, r.Type, r.Fork = OpCreate, "", &Fork{Source: "p/o", Hold: ref, Offset: "-1", SubOffset: 2}
		r.Source = &ForkSource{Generation: 7, Type: "text/plain", HasTTL: true, TTL: 60, Chain: []Ancestor{{Stream: "p/o", Generation: 7, Bound: 9}}}
	case 1, 2, 3:
		r.Op, r.HasTTL = OpCreate, rapid.Bool().Draw(t, "ttl")
		if r.HasTTL {
			r.TTL = 3600
		}
	case 4:
		r.Close = true
	}
	for range rapid.IntRange(0, 3).Draw(t, "messages") {
		r.Messages.Add(make([]byte, rapid.SampledFrom([]int{1, 1, 1, 100, 5000, 200_000, 700_000}).Draw(t, "size")))
	}
	if r.Op == OpAppend && rapid.Bool().Draw(t, "producer") {
		r.Producer = &Producer{
			ID:    rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "id"),
			Epoch: uint64(rapid.IntRange(0, 2).Draw(t, "epoch")), Seq: uint64(rapid.IntRange(0, 3).Draw(t, "seq")),
		}
	}
	return r
}

// fold(checkpoint + what follows) = fold(everything), whatever was written, and the last record of
// ours points back to where a fold may begin. A State that is handed over is the same State.
func TestFoldFromCheckpoint(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		t.Repeat(map[string]func(*rapid.T){
			"write": func(t *rapid.T) {
				w.now += 10
				w.write(t, genRequest(t, w))
			},
			"group": func(t *rapid.T) {
				w.now += 10
				w.write(t, genRequest(t, w), genRequest(t, w), genRequest(t, w))
			},
			"many": func(t *rapid.T) {
				w.now += 10
				r := genRequest(t, w)
				many := make([][]byte, 300)
				for i := range many {
					many[i] = []byte("m")
				}
				for i := range r.Messages.Len() {
					many = append(many, r.Messages.At(i))
				}
				r.Messages = NewMessages(many...)
				w.write(t, r)
			},
			"foreign": func(t *rapid.T) {
				w.now++
				w.add(t, Entry{Body: []byte("f")})
			},
			"abandoned part": func(t *rapid.T) {
				h := Header{Kind: KindMessage, Flags: FlagFirst | FlagPart, Append: NewAppendID()}
				h.HasCheckpoint, h.RecordsSinceCheckpoint, h.BytesSinceCheckpoint = true, w.state.recordsSinceCheckpoint, w.state.bytesSinceCheckpoint
				w.add(t, Entry{Header: h.encode(w.state.Next), Body: []byte("part")})
			},
			"": func(t *rapid.T) {
				if s := w.state; s.isBetweenAppends() {
					over, _, _, err := decodeHandover(s.encodeHandover())
					if d := cmp.Diff(s, over, sameState); err != nil || d != "" || over.trimTo != s.trimTo {
						t.Fatalf("handed over: %v %s", err, d)
					}
				}
				if len(w.recs) == 0 {
					return
				}
				start, ours, err := foldStartOf(w.recs[len(w.recs)-1])
				if err != nil || !ours {
					return
				}
				if d := cmp.Diff(w.foldFrom(t, 0), w.foldFrom(t, start), sameState); d != "" {
					t.Fatalf("from %d of %d: %s", start, len(w.recs), d)
				}
			},
		})
	})
}

// decide never accepts one append twice: not by its id, not by its producer's
// claim, whatever happened between.
func TestDecideNeverTwice(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		w.write(t, &Request{Op: OpCreate, ID: NewAppendID(), Type: "text/plain"})
		var past []*Request
		type claimKey struct {
			id         string
			epoch, seq uint64
		}
		claims := map[claimKey]AppendID{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			r := genRequest(t, w)
			r.Op, r.Close, r.Type, r.Fork = OpAppend, false, "text/plain", nil
			if len(past) > 0 && rapid.Bool().Draw(t, "repeat") {
				r = rapid.SampledFrom(past).Draw(t, "which")
			}
			before := w.state.tail
			out := w.write(t, r)[0]
			wrote := w.state.tail != before
			if first, seen := w.ids[r.ID]; seen {
				if wrote || out.Info.Tail != first.Info.Tail && first.Code == CodeAppended {
					t.Fatalf("repeat: %+v after %+v", out, first)
				}
			}
			if wrote && r.Producer != nil {
				k := claimKey{r.Producer.ID, r.Producer.Epoch, r.Producer.Seq}
				if id, taken := claims[k]; taken && id != r.ID {
					t.Fatalf("%+v accepted twice", k)
				}
				claims[k] = r.ID
			}
			if _, seen := w.ids[r.ID]; !seen && out.Code == CodeAppended {
				w.ids[r.ID] = out
				past = append(past, r)
			}
		}
	})
}

// The producer table of the protocol, row by row (PROTOCOL 5.2.1).
func TestProducerRulesOfTheProtocol(t *testing.T) {
	base := newWorld()
	rt := (*rapid.T)(nil)
	base.write(rt, &Request{Op: OpCreate, ID: NewAppendID(), Type: "text/plain"})
	post := func(w *world, p Producer) Outcome {
		return w.write(rt, &Request{
			Op: OpAppend, ID: NewAppendID(), Type: "text/plain", Messages: NewMessages([]byte("x")), Producer: &p,
		})[0]
	}
	post(base, Producer{"p", 2, 0})
	post(base, Producer{"p", 2, 1})
	for _, c := range []struct {
		p    Producer
		want Code
	}{
		{Producer{"q", 9, 0}, CodeAppended},
		{Producer{"q", 0, 1}, CodeSeqGap},
		{Producer{"p", 1, 5}, CodeEpochStale},
		{Producer{"p", 3, 0}, CodeAppended},
		{Producer{"p", 3, 1}, CodeEpochStart},
		{Producer{"p", 2, 0}, CodeDuplicate},
		{Producer{"p", 2, 1}, CodeDuplicate},
		{Producer{"p", 2, 2}, CodeAppended},
		{Producer{"p", 2, 3}, CodeSeqGap},
	} {
		t.Run(fmt.Sprintf("%s, epoch %d, seq %d", c.p.ID, c.p.Epoch, c.p.Seq), func(t *testing.T) {
			w := newWorld()
			for _, r := range base.recs {
				w.recs = append(w.recs, r)
				_, _ = w.state.foldRecord(r)
			}
			if got := post(w, c.p); got.Code != c.want {
				t.Errorf("%+v: code %d, want %d", c.p, got.Code, c.want)
			}
		})
	}
}

// A stream may expire in the middle of a batch: the batch never exceeds its limit by the tombstone.
func TestExpiryInAFullBatch(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		w := newWorld()
		first := &Request{Op: OpCreate, ID: NewAppendID(), Type: "text/plain", Expires: w.now}
		n := rapid.IntRange(MaxBatchRecords-8, MaxBatchRecords).Draw(t, "n")
		for range n {
			first.Messages.Add([]byte("x"))
		}
		second := &Request{Op: OpAppend, ID: NewAppendID(), Type: "text/plain", Messages: NewMessages([]byte{0x79})}
		outs := w.write(t, first, second) // checks the limits
		if outs[0].Code != CodeCreated || outs[1].Code != CodeNotFound {
			t.Fatalf("codes %d, %d", outs[0].Code, outs[1].Code)
		}
	})
}

// A full table of forks is decoded with every checkpoint, while the stream waits.
func TestFullForkTableIsDecodedQuickly(t *testing.T) {
	s := &State{exists: true, generation: 1, contentType: "text/plain"}
	for i := 0; s.forkRefs.size+40 < maxForkRefBytes; i++ {
		s.forkRefs.set(NewAppendID(), forkRef{fork: StreamID(fmt.Sprint("default/f", i)), time: 5})
	}
	b, got := s.encode(), State{}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	err := got.decode(b, 1)
	runtime.ReadMemStats(&after)
	if err != nil || !maps.Equal(got.forkRefs.rows, s.forkRefs.rows) {
		t.Fatalf("%d of %d forks, %v", len(got.forkRefs.rows), len(s.forkRefs.rows), err)
	}
	if n := after.TotalAlloc - before.TotalAlloc; n > 10<<20 {
		t.Errorf("%d bytes for a table of %d", n, len(b))
	}
}

// The shortcut to a media type gives what the parser gives.
func TestPlainMediaTypeEqualsTheParsedOne(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := rapid.StringMatching(`[a-zA-Z0-9/+. ;=-]{0,12}`).Draw(t, "type")
		if !plainType(s) {
			return
		}
		if long, _, err := mime.ParseMediaType(s); err != nil || long != MediaType(s) {
			t.Fatalf("%q: %q, %q %v", s, MediaType(s), long, err)
		}
	})
}
