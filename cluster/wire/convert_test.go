package wire

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"pgregory.net/rapid"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// overTheWire returns m as the other side receives it.
func overTheWire[M proto.Message](t *rapid.T, m, into M) M {
	b, err := proto.Marshal(m)
	if err == nil {
		err = proto.Unmarshal(b, into)
	}
	if err != nil {
		t.Fatal(err)
	}
	return into
}

func drawInfo(t *rapid.T) shard.Info {
	u, at := rapid.Uint64(), rapid.Uint64Range(0, maxPosition/2)
	i := shard.Info{
		Exists: rapid.Bool().Draw(t, "exists"), Generation: shard.Generation(u.Draw(t, "life")), Start: shard.Pos(at.Draw(t, "start")),
		Tail: shard.Pos(at.Draw(t, "tail")), LogTail: shard.Pos(maxPosition - at.Draw(t, "logTail")), Closed: rapid.Bool().Draw(t, "closed"),
		Type: drawText(t, "type"), HasTTL: rapid.Bool().Draw(t, "hasTTL"),
		TTL: u.Draw(t, "ttl"), Expires: shard.Millis(u.Draw(t, "expires")), ExpiresRaw: drawText(t, "raw"),
		Gone: rapid.Bool().Draw(t, "gone"), Hold: drawID(t),
	}
	for range rapid.IntRange(0, 3).Draw(t, "chain") {
		i.Chain = append(i.Chain, shard.Ancestor{
			Stream: shard.StreamID(drawText(t, "ancestor")), Generation: shard.Generation(u.Draw(t, "l")), Start: shard.Pos(at.Draw(t, "s")), Bound: shard.Pos(maxPosition - at.Draw(t, "b")),
		})
	}
	return i
}

// drawText draws what a client may have sent: a header may hold any byte.
func drawText(t *rapid.T, label string) string {
	return string(rapid.SliceOf(rapid.Byte()).Draw(t, label))
}

// drawID draws an id, or none.
func drawID(t *rapid.T) (id shard.AppendID) {
	copy(id[:], rapid.SliceOfN(rapid.Byte(), 8, 8).Draw(t, "id"))
	return id
}

func drawProducer(t *rapid.T) *shard.Producer {
	if rapid.Bool().Draw(t, "no producer") {
		return nil
	}
	return &shard.Producer{
		ID: drawText(t, "id"), Epoch: rapid.Uint64().Draw(t, "epoch"), Seq: rapid.Uint64().Draw(t, "seq"),
	}
}

// A node understands what another one sends.
func TestMessagesRoundTrip(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		info := drawInfo(t)
		said := overTheWire(t, EncodeInfo(info), &relaypb.Info{})
		if err := CheckInfo(said); err != nil {
			t.Fatal(err)
		}
		if d := cmp.Diff(info, DecodeInfo(said)); d != "" {
			t.Fatal(d)
		}
		out := shard.Outcome{
			Code: shard.Code(rapid.Uint8().Draw(t, "code")), Why: rapid.String().Draw(t, "why"), Info: info,
			Producer: drawProducer(t), Expected: rapid.Uint64().Draw(t, "e"), Received: rapid.Uint64().Draw(t, "r"),
		}
		out.Info.Chain = nil // is not sent
		if d := cmp.Diff(out, DecodeOutcome(overTheWire(t, EncodeOutcome(out), &relaypb.WriteReply{}))); d != "" {
			t.Fatal(d)
		}
		q := &shard.Request{
			Stream: shard.StreamID("p/" + drawText(t, "stream")), ID: shard.NewAppendID(), Repeat: rapid.Bool().Draw(t, "repeat"),
			Op:           rapid.SampledFrom([]shard.Op{shard.OpCreate, shard.OpAppend, shard.OpDelete}).Draw(t, "op"),
			MintedMillis: shard.Millis(rapid.Uint64().Draw(t, "minted")), Type: drawText(t, "type"),
			BodyError: rapid.String().Draw(t, "bad"), Close: rapid.Bool().Draw(t, "close"), Producer: drawProducer(t),
			HasTTL: rapid.Bool().Draw(t, "hasTTL"), TTL: rapid.Uint64().Draw(t, "ttl"),
			Expires: shard.Millis(rapid.Uint64().Draw(t, "expires")), ExpiresRaw: drawText(t, "raw"),
		}
		if q.Op == shard.OpCreate && rapid.Bool().Draw(t, "fork") {
			q.Fork = &shard.Fork{Source: shard.StreamID("p/" + drawText(t, "source")), Offset: drawText(t, "at"), SubOffset: rapid.Uint64().Draw(t, "sub")}
			q.Source = &shard.ForkSource{
				Refused: shard.Code(rapid.Uint8().Draw(t, "refused")), Why: rapid.String().Draw(t, "why"),
				Generation: info.Generation, Type: info.Type, HasTTL: info.HasTTL, TTL: info.TTL,
				Expires: info.Expires, ExpiresRaw: info.ExpiresRaw, Chain: info.Chain,
			}
		}
		if rapid.Bool().Draw(t, "ref") {
			q.Ref, q.Name, q.Generation = drawID(t), shard.StreamID("p/"+drawText(t, "name")), shard.Generation(rapid.Uint64().Draw(t, "life"))
		}
		if q.Op == shard.OpAppend && q.Producer == nil && rapid.Bool().Draw(t, "condition") { // which may have no place
			q.IfMatch = &shard.TailCondition{}
			for range rapid.IntRange(0, shard.MaxTailPlaces).Draw(t, "places") {
				q.IfMatch.Places = append(q.IfMatch.Places, shard.Place{
					Generation: shard.Generation(rapid.Uint64().Draw(t, "place life")), Pos: shard.Pos(rapid.Uint64().Draw(t, "place")),
				})
			}
		}
		if rapid.Bool().Draw(t, "seq") { // empty is not absent
			q.StreamSeq = []byte(drawText(t, "streamSeq"))
		}
		most := 5 // messages
		if rapid.Bool().Draw(t, "owner's") {
			q.Op = rapid.SampledFrom([]shard.Op{shard.OpHold, shard.OpRelease, shard.OpCancelFork}).Draw(t, "about")
			q.Fork, q.Source, q.IfMatch, q.Ref, most = nil, nil, nil, shard.NewAppendID(), 0
		}
		for range rapid.IntRange(0, most).Draw(t, "messages") {
			q.Messages.Add(rapid.SliceOfN(rapid.Byte(), 1, 20).Draw(t, "m"))
		}
		head := overTheWire(t, EncodeRequest(q, placement.Route{Hop: placement.HopRedirected, Excluded: []string{"a"}}), &relaypb.WriteHead{})
		got, size, err := DecodeRequest(head)
		if err == nil {
			err = SplitMessages(got, head.GetSizes(), q.Messages.Body())
		}
		if err != nil || size != q.Messages.Size() {
			t.Fatalf("%v, %d bytes", err, size)
		}
		if d := cmp.Diff(q, got); d != "" {
			t.Fatal(d)
		}
	})
}

// Every error that a caller may have to distinguish arrives as itself.
func TestErrorsRoundTrip(t *testing.T) {
	for _, row := range errorReasons {
		got := StatusToError(ErrorToStatus(fmt.Errorf("while reading: %w", row.err)))
		if !errors.Is(got, row.err) {
			t.Errorf("%v arrives as %v", row.err, got)
		}
	}
	for _, row := range errorReasons { // an unknown outcome counts before its cause
		err := ErrorToStatus(errors.Join(row.err, shard.ErrOutcomeUnknown))
		if got := StatusToError(err); !errors.Is(got, shard.ErrOutcomeUnknown) {
			t.Errorf("%v arrives as %v", err, got)
		}
	}
	var trimmed *shard.TrimmedError
	if err := StatusToError(ErrorToStatus(&shard.TrimmedError{First: 7})); !errors.As(err, &trimmed) || trimmed.First != 7 {
		t.Errorf("%v", err)
	}
	var r *placement.RedirectError
	want := &placement.RedirectError{Owner: placement.PeerAddr{Name: "n", Address: "addr"}, OwnerAlive: true}
	if err := StatusToError(ErrorToStatus(want)); !errors.As(err, &r) || *r != *want {
		t.Errorf("%v", err)
	}
}

// Only a missing answer makes a node unreachable. Whatever else fails, on either side, fails one
// call.
func TestOnlyMissingAnswersMakeANodeUnreachable(t *testing.T) {
	t.Parallel()
	silent := []codes.Code{codes.Unavailable, codes.DeadlineExceeded, codes.Canceled}
	for code := codes.Canceled; code <= codes.Unauthenticated; code++ {
		err := StatusToError(status.Error(code, "why"))
		if want := slices.Contains(silent, code); errors.Is(err, placement.ErrUnreachable) != want || errors.Is(err, placement.ErrCallFailed) == want {
			t.Errorf("%v is %v", code, err)
		}
	}
	for _, err := range []error{
		ErrorToStatus(errors.New("something new")), errors.New("grpc: error while marshaling"),
		statusWithRefusal(&relaypb.Refusal{Reason: 250, Why: []byte("of a later release")}),
	} {
		t.Run(err.Error(), func(t *testing.T) {
			if err = StatusToError(err); errors.Is(err, placement.ErrUnreachable) || !errors.Is(err, placement.ErrCallFailed) {
				t.Errorf("%v", err)
			}
		})
	}
}

// statusWithRefusal returns a refusal as a call's error.
func statusWithRefusal(f *relaypb.Refusal) error {
	st, _ := status.New(codes.Unavailable, "").WithDetails(f)
	return st.Err()
}

// No text of the contract is a string, which must be UTF-8: what a client or a log contains need
// not be, and would break what it travels with.
func TestTheContractHasNoStrings(t *testing.T) {
	t.Parallel()
	messages := relaypb.File_relay_proto.Messages()
	for i := range messages.Len() {
		fields := messages.Get(i).Fields()
		for j := range fields.Len() {
			if f := fields.Get(j); f.Kind() == protoreflect.StringKind {
				t.Errorf("%s is a string: want bytes", f.FullName())
			}
		}
	}
}

// What a release before RelayVersionBytes reads as strings, above all a sentence, is UTF-8.
func TestSentencesForPeopleAreUTF8(t *testing.T) {
	t.Parallel()
	bad := "caf\xe9 " + strings.Repeat("é", maxSentence)
	f, _ := EncodeRefusal(fmt.Errorf("%s: %w", bad, shard.ErrNeedsLaterRelease))
	out := EncodeOutcome(shard.Outcome{Why: bad})
	q := EncodeRequest(&shard.Request{BodyError: bad, Fork: &shard.Fork{}, Source: &shard.ForkSource{Why: bad}}, placement.Route{})
	for _, b := range [][]byte{f.GetWhy(), out.GetWhy(), q.GetBodyError(), q.GetSource().GetWhy()} {
		if !utf8.Valid(b) || len(b) > maxSentence+4 || !strings.HasPrefix(string(b), "caf\uFFFD ") {
			t.Errorf("%d bytes: %.20q", len(b), b)
		}
	}
}

// However a batch is cut, its pieces make it again. Whatever else arrives is refused, and allocates
// no more than was announced.
func FuzzBatchAssembler(f *testing.F) {
	whole := shard.EmptyBatch(3, 9, 3, true).Bytes()
	f.Add(whole, uint8(7))
	f.Add([]byte("no range at all"), uint8(3))
	f.Fuzz(func(t *testing.T, b []byte, cut uint8) {
		want, wantErr := shard.ParseBatch(b)
		a := &BatchAssembler{}
		n := max(int(cut), 1)
		for at := 0; at < len(b); at += n {
			end := min(at+n, len(b))
			total := uint32(0)
			if at == 0 && end < len(b) {
				total = uint32(len(b))
			}
			r, done, err := a.AddPiece(b[at:end], total)
			if c := cap(a.buf); c > 2*max(len(a.buf), maxPreallocated) {
				t.Fatalf("room for %d bytes, of which %d have come", c, len(a.buf))
			}
			if err != nil {
				if wantErr == nil {
					t.Fatalf("a whole Range of %d bytes in pieces of %d: %v", len(b), n, err)
				}
				return
			}
			if done != (end == len(b)) {
				t.Fatalf("done %v at %d of %d", done, end, len(b))
			}
			if done && !bytes.Equal(r.Bytes(), want.Bytes()) {
				t.Fatal("another Range")
			}
		}
	})
}
