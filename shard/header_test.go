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
			HasBack: true, BackRecords: 500, BackBytes: 524288,
		},
		{Kind: KindMessage, Flags: FlagContinues | FlagPart | FlagLast | FlagCommit, Append: id},
		{
			Kind: KindCreate, Flags: FlagFirst | FlagLast, Append: id, Life: 1767225600000, Type: "text/plain",
			HasTTL: true, TTL: 3600, Chain: []Ancestor{{Life: 0, Bound: 12}, {Stream: "p/s", Life: 5, Start: 3, Bound: 9}},
		},
		{Kind: KindCreate, Life: 1, Type: OctetStream, Expires: 1767225600000, ExpiresRaw: "2026-01-01T00:00:00Z"},
		{Kind: KindClose, Flags: FlagFirst | FlagLast, Append: id, Close: true},
		{Kind: KindCheckpoint, State: s.encode()},
		{Kind: KindTouch, Flags: FlagFirst | FlagLast},
		{Kind: KindTombstone, Flags: FlagFirst | FlagLast, Append: id, Life: 4, Reason: ReasonExpired, State: s.encode()},
		{
			Kind: KindCreate, Flags: FlagFirst | FlagLast, Append: id, Life: 6, Type: "text/plain",
			Chain: []Ancestor{{Stream: "p/s", Life: 5, Start: 3, Bound: 9}},
			Fork:  &Fork{Source: "p/s", Hold: AppendID{9, 8}, At: "-1", Sub: 3, Inherits: true},
		},
		{Kind: KindHold, Flags: FlagFirst | FlagLast, Ref: id, Name: "p/f"},
		{Kind: KindRelease, Flags: FlagFirst | FlagLast, Ref: id},
		{Kind: KindSettled, Flags: FlagFirst | FlagLast, Ref: id},
	}
}

// The bytes of the format are for ever: a change of this file is a change of
// what stands in everybody's object storage.
func TestHeaderGolden(t *testing.T) {
	const file = "testdata/header.golden"
	var b strings.Builder
	for i, h := range samples() {
		fmt.Fprintf(&b, "%d %s\n", i, hex.EncodeToString(h.encode(uint64(i)*1000)))
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

// A header is one only where it was written, and only whole.
func TestForeignHeaders(t *testing.T) {
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
func TestLaterReleases(t *testing.T) {
	for name, change := range map[string]func([]byte){
		"version": func(b []byte) { b[1] = headerVersion + 1 },
		"kind":    func(b []byte) { b[2] = byte(KindSettled) + 1 },
		"sealed":  func(b []byte) { b[2] = 9 },
	} {
		b := (&Header{Kind: KindMessage}).encode(5)
		b = b[:len(b)-headerSum]
		change(b)
		if _, err := decodeHeader(5, resum(5, b)); !errors.Is(err, ErrDeclined) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// Unknown fields are skipped.
func TestUnknownField(t *testing.T) {
	h := Header{Kind: KindTouch}
	b := h.encode(5)
	b = appendField(b[:len(b)-headerSum], 200, []byte("later"))
	got, err := decodeHeader(5, resum(5, b))
	if err != nil || got.Kind != KindTouch {
		t.Errorf("%+v, %v", got, err)
	}
}

func resum(pos uint64, b []byte) []byte {
	sum := headerCRC(pos, b)
	return append(b, byte(sum>>24), byte(sum>>16), byte(sum>>8), byte(sum))
}

func FuzzDecodeHeader(f *testing.F) {
	for i, h := range samples() {
		f.Add(uint64(i), h.encode(uint64(i)))
	}
	f.Fuzz(func(t *testing.T, pos uint64, b []byte) {
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
