package shard

import (
	"bytes"
	"encoding/hex"
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "rewrite the golden files in testdata")

// samples are one header of each kind, with every field somewhere.
func samples() []Header {
	id := AppendID{1, 2, 3, 4, 5, 6, 7, 8}
	s := State{Next: 7, Time: 9}
	return []Header{
		{Kind: KindMessage},
		{
			Kind: KindMessage, Flags: FlagFirst | FlagLast, Append: id,
			Producer: &Producer{ID: "p-1", Epoch: 3, Seq: 1 << 40}, StreamSeq: []byte("a"), Close: true,
			HasCheckpoint: true, RecordsSinceCheckpoint: 500, BytesSinceCheckpoint: 524288,
		},
		{Kind: KindMessage, Flags: FlagContinues | FlagPart | FlagLast | FlagCommit, Append: id},
		{
			Kind: KindCreate, Flags: FlagFirst | FlagLast, Append: id, Generation: 1767225600000, Type: "text/plain",
			HasTTL: true, TTL: 3600, Chain: []Ancestor{{Generation: 0, Bound: 12}, {Stream: "p/s", Generation: 5, Start: 3, Bound: 9}},
		},
		{Kind: KindCreate, Generation: 1, Type: OctetStream, Expires: 1767225600000, ExpiresRaw: "2026-01-01T00:00:00Z"},
		{Kind: KindClose, Flags: FlagFirst | FlagLast, Append: id, Close: true},
		{Kind: KindCheckpoint, State: s.encode()},
		{Kind: KindTouch, Flags: FlagFirst | FlagLast},
		{Kind: KindTombstone, Flags: FlagFirst | FlagLast, Append: id, Generation: 4, Reason: ReasonExpired, State: s.encode()},
		{
			Kind: KindCreate, Flags: FlagFirst | FlagLast, Append: id, Generation: 6, Type: "text/plain",
			Chain: []Ancestor{{Stream: "p/s", Generation: 5, Start: 3, Bound: 9}},
			Fork:  &Fork{Source: "p/s", Hold: AppendID{9, 8}, Offset: "-1", SubOffset: 3, InheritsExpiry: true},
		},
		{Kind: KindHold, Flags: FlagFirst | FlagLast, Ref: id, Name: "p/f"},
		{Kind: KindRelease, Flags: FlagFirst | FlagLast, Ref: id},
		{Kind: KindReleaseDone, Flags: FlagFirst | FlagLast, Ref: id},
		// Format level 2.
		{
			Kind: KindMessage, Flags: FlagFirst | FlagLast, Append: id, Batch: AppendID{5}, Base: AppendID{6},
			Key: "k", Trace: make([]byte, traceSize), Digest: []byte{1, 2, 3},
		},
		{
			Kind: KindCreate, Flags: FlagFirst | FlagLast, Append: id, Generation: 7, Type: "text/plain",
			Chain: []Ancestor{{Stream: "p/s", Generation: 5, Start: 3, Bound: 9}}, ChainTimes: []Millis{1767225600000},
			Retain: &retention{Seconds: 60, Bytes: 1 << 40},
		},
		{Kind: KindCheckpoint, State: s.encode(), Batch: AppendID{5}, HasPrev: true, Prev: distance{500, 1 << 19}},
		{Kind: KindHold, Flags: FlagFirst | FlagLast, Ref: id, Name: "p/f", From: &sourcePosition{Generation: 7, Pos: 1000}},
		{Kind: KindClock, Flags: FlagFirst | FlagLast},
		{Kind: KindRetain, Flags: FlagFirst | FlagLast, Retain: &retention{Messages: 5}},
	}
}

// The bytes of the format never change: a change of this file is a change of records in every
// operator's object storage.
func TestHeaderBytesNeverChange(t *testing.T) {
	const file = "testdata/header.golden"
	var b strings.Builder
	for i, h := range samples() {
		fmt.Fprintf(&b, "%d %s\n", i, hex.EncodeToString(h.encode(Pos(uint64(i)*1000))))
	}
	if *update {
		if err := os.WriteFile(file, []byte(b.String()), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if d := cmp.Diff(string(want), b.String()); d != "" {
		t.Error(d)
	}
}

func TestHeaderRoundTrip(t *testing.T) {
	for i, h := range samples() {
		got, err := decodeHeader(77, h.encode(77))
		if err != nil {
			t.Fatalf("%d: %v", i, err)
		}
		if d := cmp.Diff(h, *got); d != "" {
			t.Errorf("%d: %s", i, d)
		}
	}
}

// A header counts only at its own position, and only whole.
func TestHeaderElsewhereOrDamagedIsForeign(t *testing.T) {
	h := samples()[1]
	whole := h.encode(77)
	if _, err := decodeHeader(78, whole); !errors.Is(err, errForeign) {
		t.Errorf("copied to another position: %v", err)
	}
	for i := range whole {
		bad := bytes.Clone(whole)
		bad[i] ^= 0x10
		if _, err := decodeHeader(77, bad); !errors.Is(err, errForeign) {
			t.Errorf("byte %d changed: %v", i, err)
		}
		if _, err := decodeHeader(77, whole[:i]); !errors.Is(err, errForeign) {
			t.Errorf("cut at %d: %v", i, err)
		}
	}
}

// A later release's record is declined, never mistaken for a message.
func TestRecordOfALaterReleaseIsDeclined(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"version":   func(b []byte) { b[1] = headerVersion + 1 },
		"kind":      func(b []byte) { b[2] = byte(KindRetain) + 1 },
		"ended":     func(b []byte) { b[2] = 9 },
		"sealed":    func(b []byte) { b[2] = 11 },
		"no stream": func(b []byte) { b[2] = 32 },
		"field":     func(b []byte) { b[4] = tagMustKnow },
		"fields":    func(b []byte) { b[4] = tagSeal - 1 },
	} {
		t.Run(name, func(t *testing.T) {
			b := (&Header{Kind: KindMessage}).encode(5)
			b = append(b[:len(b)-headerSum], 100, 0)
			change(b)
			if _, err := decodeHeader(5, resum(5, b)); !errors.Is(err, ErrNeedsLaterRelease) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
}

// Unknown fields are skipped, and so is a seal, which no release checks yet.
func TestUnknownFieldIsSkipped(t *testing.T) {
	h := Header{Kind: KindTouch}
	for tag, v := range map[byte]string{tagChainTimes + 1: "later", tagMustKnow - 1: "", tagSeal: "0123456789abcdef"} {
		b := h.encode(5)
		b = appendField(b[:len(b)-headerSum], tag, []byte(v))
		got, err := decodeHeader(5, resum(5, b))
		if err != nil || got.Kind != KindTouch {
			t.Errorf("%d: %+v, %v", tag, got, err)
		}
	}
}

// A header that no Fantail writes is foreign, however good its checksum: it neither counts nor
// declines.
func TestMalformedHeaderIsForeign(t *testing.T) {
	id := AppendID{1}
	long := StreamID(strings.Repeat("n", MaxStreamID+1))
	for name, h := range map[string]Header{
		"producer":     {Kind: KindMessage, Producer: &Producer{ID: strings.Repeat("p", MaxProducerID+1)}},
		"sequence":     {Kind: KindMessage, StreamSeq: make([]byte, MaxStreamSeq+1)},
		"type":         {Kind: KindCreate, Generation: 1, Type: strings.Repeat("t", MaxContentType+1)},
		"no life":      {Kind: KindCreate},
		"life":         {Kind: KindCreate, Generation: MaxGeneration + 1},
		"TTL":          {Kind: KindCreate, Generation: 1, HasTTL: true, TTL: 1 << 60},
		"chain":        {Kind: KindCreate, Generation: 1, Chain: make([]Ancestor, MaxChain+2)},
		"ancestor":     {Kind: KindCreate, Generation: 1, Chain: []Ancestor{{Stream: "p/s", Start: 2, Bound: 1}}},
		"own ancestor": {Kind: KindCreate, Generation: 1, Chain: []Ancestor{{Stream: "p/s"}, {}}},
		"far ancestor": {Kind: KindCreate, Generation: 1, Chain: []Ancestor{{Stream: "p/s", Bound: 1 << 60}}},
		"chain times":  {Kind: KindCreate, Generation: 1, ChainTimes: []Millis{1}},
		"fork":         {Kind: KindCreate, Generation: 1, Fork: &Fork{Source: "p/s"}},
		"fork's name":  {Kind: KindCreate, Generation: 1, Fork: &Fork{Source: long, Hold: id}},
		"no state":     {Kind: KindCheckpoint},
		"no reference": {Kind: KindHold, Name: "p/f"},
		"holder":       {Kind: KindHold, Ref: id, Name: long},
		"release":      {Kind: KindRelease},
		"settled":      {Kind: KindReleaseDone},
		"retention":    {Kind: KindRetain},
		"key":          {Kind: KindMessage, Key: strings.Repeat("k", maxKey+1)},
		"trace":        {Kind: KindMessage, Trace: make([]byte, traceSize-1)},
		"digest":       {Kind: KindMessage, Digest: make([]byte, maxDigest+2)},
	} {
		t.Run(name, func(t *testing.T) {
			if got, err := decodeHeader(5, h.encode(5)); !errors.Is(err, errForeign) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		})
	}
	for name, fields := range map[string][]byte{
		"descending": {tagClose, 0, tagStreamSeq, 0},
		"twice":      {tagClose, 0, tagClose, 0},
		"after seal": append(appendField(nil, tagSeal, make([]byte, sealSize)), tagSeal, 0),
		"short seal": {tagSeal, 1, 0},
		"cut":        {tagStreamSeq, 9, 0},
	} {
		t.Run(name, func(t *testing.T) {
			b := (&Header{Kind: KindMessage}).encode(5)
			if got, err := decodeHeader(5, resum(5, append(b[:len(b)-headerSum], fields...))); !errors.Is(err, errForeign) {
				t.Errorf("%s: %+v, %v", name, got, err)
			}
		})
	}
}

func resum(pos Pos, b []byte) []byte {
	sum := headerCRC(pos, b)
	return append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

func FuzzDecodeHeader(f *testing.F) {
	for i, h := range samples() {
		f.Add(uint64(i), h.encode(Pos(i)))
	}
	f.Fuzz(func(t *testing.T, at uint64, b []byte) {
		pos := Pos(at)
		h, err := decodeHeader(pos, b)
		if err == nil && headerCRC(pos, b[:len(b)-headerSum]) == 0 && h == nil {
			t.Fatal("no header and no error")
		}
		// The same bytes with a good sum, so that the fields are reached.
		if h, err = decodeHeader(pos, resum(pos, b)); err != nil {
			return
		}
		again, err := decodeHeader(pos, h.encode(pos))
		if err != nil {
			t.Fatalf("does not survive: %v", err)
		}
		if d := cmp.Diff(h, again); d != "" && h.Expires != 0 == (again.Expires != 0) && len(h.Chain) == len(again.Chain) {
			t.Fatal(d)
		}
	})
}
