package shard

import (
	"bytes"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/fantail-dev/fantail/shard/tail"
)

// later holds fields that only a State of a later release has.
var later = appendField(appendField(appendField(nil, ckSealedFrom, uvarints(3)), 99, []byte("later")), 99, []byte("once more"))

// level2 returns a State with everything that format level 2 added.
func level2() *State {
	return &State{
		Next: 900, Time: 8000, exists: true, generation: 5, start: 3, tail: 899, contentType: "text/plain", lastUsed: 7,
		retainedFrom: &trimmedTo{pos: 12, ordinal: 9, bytes: 4711}, counts: counts{true, 800, 9000},
		retention: &retention{Seconds: 60}, newestForeign: 77, lastBatch: batchEnd{AppendID{4}, 890},
		forkRefs: forkRefTable{rows: map[AppendID]forkRef{{1}: {fork: "p/f", time: 5, from: 30}, {2}: {fork: "p/g", time: 6}}, size: 54},
		chain:    []Ancestor{{Stream: "p/o", Generation: 2, Bound: 8}}, chainTimes: []Millis{4000},
		unknownFields: bytes.Clone(later),
	}
}

// A checkpoint, a tombstone and a handover keep what a later release has put into the State: this
// release may own the stream for an hour in between.
func TestStateKeepsUnknownFields(t *testing.T) {
	want := level2()
	ck := Header{Kind: KindCheckpoint, State: want.encode()}
	got := &State{Next: 899, Time: 8000}
	if _, err := got.foldRecord(Record{Pos: 899, Time: 8000, Header: ck.encode(899)}); err != nil {
		t.Fatal(err)
	}
	want.recordsSinceCheckpoint = 1
	if d := cmp.Diff(want, got, sameState); d != "" {
		t.Errorf("checkpoint: %s", d)
	}
	over, _, _, err := decodeHandover(got.encodeHandover())
	if d := cmp.Diff(want, over, sameState); d != "" || err != nil {
		t.Errorf("handover: %v %s", err, d)
	}
	grave := endGeneration(got, AppendID{}, ReasonDeleted)
	dead := &State{}
	if err := dead.fold1(901, grave[len(grave)-1].header); err != nil || !bytes.Equal(dead.unknownFields, later) || dead.retainedFrom != nil || dead.counts.known {
		t.Errorf("tombstone: %v, %q kept, of the life that ended: %+v", err, dead.unknownFields, dead)
	}
	again := Header{Kind: KindCreate, Flags: FlagFirst | FlagLast, Generation: 9, Retain: &retention{Bytes: 5}}
	if err := dead.fold1(902, again); err != nil || !bytes.Equal(dead.unknownFields, later) || *dead.retention != (retention{Bytes: 5}) {
		t.Errorf("next life: %v, %q kept, retention %+v", err, dead.unknownFields, dead.retention)
	}
}

// fold1 folds one record as it is read from a log.
func (s *State) fold1(pos Pos, h Header) error {
	_, err := s.foldRecord(Record{Pos: pos, Header: h.encode(pos)})
	return err
}

// This release writes nothing that a release before it would lose.
func TestLevelOneWritesNothingNew(t *testing.T) {
	s := &State{}
	for pos, h := range []Header{
		{Kind: KindCreate, Generation: 1, Type: "text/plain", Flags: FlagFirst | FlagLast},
		{Kind: KindHold, Ref: AppendID{1}, Name: "p/f"},
		{Kind: KindMessage, Flags: FlagFirst | FlagLast},
		{Kind: KindTouch},
	} {
		if err := s.fold1(Pos(pos), h); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := s.foldRecord(Record{Pos: 4, Time: 9, Body: []byte("foreign")}); err != nil {
		t.Fatal(err)
	}
	for r := (fieldReader{b: s.encode()}); len(r.b) > 0; {
		if tag := r.byte(); tag >= ckNext {
			t.Errorf("field %d", tag)
		}
		r.bytes()
	}
}

// Where the counts are known they are counted on, in every shape that an append has.
func TestCountsAreKept(t *testing.T) {
	id := AppendID{1}
	s := level2()
	for i, r := range []struct {
		h    *Header
		body string
	}{
		{&Header{Kind: KindMessage, Flags: FlagFirst}, "ab"},
		{&Header{Kind: KindMessage, Flags: FlagContinues | FlagLast}, "c"},
		{nil, "foreign"},
		{&Header{Kind: KindMessage, Flags: FlagPart | FlagFirst, Append: id}, "part"},
		{&Header{Kind: KindMessage, Flags: FlagPart | FlagContinues}, "on"},
		{&Header{Kind: KindMessage, Flags: FlagPart | FlagLast | FlagCommit}, "end"},
		{&Header{Kind: KindMessage, Flags: FlagPart | FlagFirst, Append: id}, "void"},
		{&Header{Kind: KindTouch}, ""},
	} {
		rec := Record{Pos: Pos(900 + uint64(i)), Body: []byte(r.body)}
		if r.h != nil {
			rec.Header = r.h.encode(rec.Pos)
		}
		if _, err := s.foldRecord(rec); err != nil {
			t.Fatal(err)
		}
	}
	if want := (counts{true, 800 + 4, 9000 + 3 + 7 + 9}); s.counts != want {
		t.Errorf("%+v, want %+v", s.counts, want)
	}
	if s.newestForeign != 77 {
		t.Errorf("a foreign record of time 0 moved %d", s.newestForeign)
	}
}

// A State that no log can come to is no checkpoint, whichever client wrote it.
func TestMalformedStateIsNoCheckpoint(t *testing.T) {
	good := func() *State { return level2() }
	field := func(tag byte, vs ...uint64) []byte { return appendField(nil, tag, uvarints(vs...)) }
	for name, b := range map[string][]byte{
		"tail above":     field(ckTail, 901),
		"start above":    field(ckStart, 900),
		"life":           field(ckGeneration, MaxGeneration+1),
		"both":           field(ckFlags, ckExists|ckEnded),
		"touched":        field(ckLastUsed, 1<<60),
		"TTL":            field(ckTTL, 1<<60),
		"retained":       field(ckRetainedFrom, 901, 0, 0),
		"counts":         field(ckCounts, 901, 0),
		"own bound":      appendField(nil, ckChain, uvarints(0, 0, 901)),
		"type":           appendField(nil, ckType, make([]byte, MaxContentType+1)),
		"producer":       appendField(nil, ckProducers, append(append(uvarints(257), make([]byte, 257)...), 0, 0, 0)),
		"outcome":        appendField(nil, ckRecent, append(make([]byte, 8), byte(OpAppend), 0xff, 0xff, 3, 0)),
		"operation":      appendField(nil, ckRecent, append(make([]byte, 8), byte(LastOp)+1, 0, 0)),
		"holder":         appendField(nil, ckForkRef, append(uvarints(5), make([]byte, 8)...)),
		"debt":           appendField(nil, ckPendingRelease, append([]byte{1}, make([]byte, 7)...)),
		"cut":            {ckTail, 9, 1},
		"too much kept":  appendField(nil, 99, make([]byte, maxUnknownFields)),
		"too much debts": bytes.Repeat(appendField(nil, ckPendingRelease, []byte("12345678p/s")), 2*maxPendingReleases+1),
	} {
		t.Run(name, func(t *testing.T) {
			s := &State{Next: 900}
			if err := s.decode(append(good().encode(), b...), 1); !errors.Is(err, errForeign) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	if err := (&State{Next: 900}).decode(append(good().encode(), ckMustKnow, 0), 1); !errors.Is(err, ErrNeedsLaterRelease) {
		t.Errorf("of a later release: %v", err)
	}
	// What only a handover says moves no fold of a log.
	s := &State{Next: 900}
	if err := s.decode(append(good().encode(), append(field(ckNext, 1<<40), ckConfirmed, 0)...), 1); err != nil || s.Next != 900 || s.confirmed {
		t.Errorf("%v, next %d, confirmed %v", err, s.Next, s.confirmed)
	}
}

// A damaged checkpoint changes nothing, and neither does a control record with a body.
func TestDamagedCheckpointIsForeign(t *testing.T) {
	s := level2()
	before := s.Info()
	for i, r := range []Record{
		{Header: (&Header{Kind: KindCheckpoint, State: []byte{ckTail, 9}}).encode(900)},
		{Header: (&Header{Kind: KindTombstone, State: []byte{ckFlags}, Reason: ReasonDeleted}).encode(901)},
		{Header: (&Header{Kind: KindCheckpoint, State: appendField(nil, ckTail, uvarints(1<<40))}).encode(902)},
	} {
		r.Pos = Pos(900 + uint64(i))
		e, err := s.foldRecord(r)
		if err != nil || e != (effect{}) {
			t.Errorf("%d: %+v, %v", i, e, err)
		}
	}
	after := s.Info()
	before.LogTail = after.LogTail
	if d := cmp.Diff(before, after); d != "" {
		t.Error(d)
	}
	r := Record{Pos: 903, Header: (&Header{Kind: KindClose}).encode(903), Body: []byte("text")}
	if e, err := s.foldRecord(r); err != nil || e.visibility != showMessage || s.closed {
		t.Errorf("%+v, %v, closed: %v", e, err, s.closed)
	}
}

// FuzzFold folds what any client may have written, in a tail.Buffer that readers read: it must not
// panic, nor show more than there is.
func FuzzFold(f *testing.F) {
	var seed []byte
	for _, h := range samples() {
		seed = append(seed, byte(h.Kind), byte(len(h.encode(0))-headerSum))
		seed = append(seed, h.encode(0)[headerFixed:]...)
	}
	f.Add(seed)
	st := level2().encode()
	f.Add(append([]byte{byte(KindCheckpoint), byte(len(st))}, st...))
	f.Fuzz(func(t *testing.T, b []byte) {
		tails := tail.NewBuffers(0, 0)
		on, asm := &State{}, assembler{}
		var buffer *tail.Buffer
		for pos := uint64(0); len(b) > 2; pos++ {
			kind, flags := b[0], b[1]
			n := min(int(b[1]), len(b)-2)
			r := Record{Pos: Pos(pos), Time: Millis(flags), Body: b[2 : 2+n]}
			if kind&0x80 == 0 {
				head := append([]byte{headerMagic, headerVersion, kind & 0x3f, flags}, b[2:2+n]...)
				r.Header = resum(Pos(pos), head)
				r.Body = nil
			}
			b = b[2+n:]
			e, err := on.foldRecord(r)
			if err != nil {
				return
			}
			asm.addRecord(r, e)
			if e.begins || e.ends || buffer == nil {
				buffer = tails.Open("p/s", on.Info(), asm.from)
			}
			if rg := asm.flushBatch(on); !rg.IsZero() {
				if _, err := tail.ParseBatch(rg.Bytes()); err != nil {
					t.Fatalf("own range: %v", err)
				}
				_ = buffer.Extend(rg)
			}
			if info := buffer.Info(); info.Tail > buffer.Next() {
				t.Fatalf("the tail is at %d, %d are there", info.Tail, buffer.Next())
			}
			for at := range pos + 2 {
				_, _ = buffer.ReadAt(Pos(at), 1, nil)
			}
			if !on.pageOnly && !on.valid() && on.run == nil {
				t.Fatalf("after %d: %+v", pos, on)
			}
		}
	})
}

// Everything that decide accepts folds as what it is: a request beyond the bounds of a stream is
// refused, and never becomes a record that the next owner takes for foreign.
func TestRequestBeyondBoundsIsRefused(t *testing.T) {
	long := strings.Repeat("x", 1<<17)
	for name, change := range map[string]func(*Request){
		"type":     func(r *Request) { r.Type = long },
		"producer": func(r *Request) { r.Producer = &Producer{ID: long} },
		"sequence": func(r *Request) { r.StreamSeq = []byte(long) },
		"TTL":      func(r *Request) { r.HasTTL, r.TTL = true, 1<<60 },
		"expiry":   func(r *Request) { r.Expires, r.ExpiresRaw = 1, long },
		"source":   func(r *Request) { r.Fork, r.Source = &Fork{Source: StreamID(long)}, &ForkSource{} },
		"chain":    func(r *Request) { r.Fork, r.Source = &Fork{Source: "p/o"}, &ForkSource{Chain: make([]Ancestor, 99)} },
		"name":     func(r *Request) { r.Op, r.Ref, r.Name = OpHold, AppendID{1}, StreamID(long) },
		"ref":      func(r *Request) { r.Op = OpRelease },
	} {
		t.Run(name, func(t *testing.T) {
			req := &Request{Stream: "p/s", Op: OpCreate, ID: NewAppendID(), Type: "text/plain"}
			change(req)
			drafts, out := decide(&State{}, req, 1000)
			if len(drafts) > 0 || out.Code.Accepted() {
				t.Errorf("%s: %d records, %+v", name, len(drafts), out)
			}
		})
	}
}

// Forged holds and generations fill no table beyond what a checkpoint may hold.
func TestTablesStayWithinTheirBounds(t *testing.T) {
	s := &State{exists: true, generation: 1}
	for i := range 2 * maxForkRefBytes / 256 {
		s.addForkRef(AppendID{1, byte(i), byte(i >> 8), byte(i >> 16)}, forkRef{fork: StreamID(strings.Repeat("f", 256))})
	}
	for i := range 4 * maxPendingReleases {
		s.exists, s.fork = true, &Fork{Source: "p/o", Hold: AppendID{byte(i), byte(i >> 8), 1}}
		s.forkRefs = forkRefTable{}
		grave := endGeneration(s, AppendID{}, ReasonDeleted)
		if err := s.fold1(Pos(i), grave[len(grave)-1].header); err != nil {
			t.Fatal(err)
		}
	}
	if !s.valid() || len(s.pendingReleases) > 2*maxPendingReleases {
		t.Errorf("%d debts, %d bytes of holds", len(s.pendingReleases), s.forkRefs.size)
	}
}

// A message with the fields that are reserved for a key, a trace and a digest is a message like any other:
// each release reads them, leaves them in the log, and shows the message without them.
func TestReservedMessageFieldsChangeNothing(t *testing.T) {
	h := Header{
		Kind: KindMessage, Flags: FlagFirst | FlagLast, Append: AppendID{7},
		Key: "k", Trace: bytes.Repeat([]byte{1}, traceSize), Digest: []byte{1, 2, 3},
	}
	const pos = 1
	s := &State{}
	if err := s.fold1(0, Header{Kind: KindCreate, Generation: 1, Type: "text/plain", Flags: FlagFirst | FlagLast}); err != nil {
		t.Fatal(err)
	}
	r := Record{Pos: pos, Header: h.encode(pos), Body: []byte("shown")}
	a := assembler{from: pos}
	e, err := s.foldRecord(r)
	if err != nil {
		t.Fatal(err)
	}
	a.addRecord(r, e)
	b := a.flushBatch(s)
	if b.Len() != 1 || string(b.Message(0).Body) != "shown" {
		t.Errorf("%d messages", b.Len())
	}
	got, err := decodeHeader(pos, r.Header)
	if err != nil || got.Key != h.Key || !bytes.Equal(got.Trace, h.Trace) || !bytes.Equal(got.Digest, h.Digest) {
		t.Errorf("%+v, %v", got, err)
	}
}
