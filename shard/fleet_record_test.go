package shard

import (
	"bytes"
	"errors"
	"testing"
)

func someFleet() *fleetRecord {
	return &fleetRecord{id: FleetID{1, 2}, mapping: [32]byte{3}, mappingText: "all in basin b", keyIDs: []byte{}, level: 1}
}

// What is written is read again, at its position only; a field of a later release is kept, one
// that must be understood makes the record unreadable.
func TestFleetRecordIsReadAtItsPositionOnly(t *testing.T) {
	f := someFleet()
	f.unknown = appendField(nil, 77, []byte("later"))
	e := f.entry(3)
	got, err := decodeFleetRecord(e.record(3, 1))
	if err != nil || got.id != f.id || got.mapping != f.mapping || got.mappingText != f.mappingText || got.level != 1 || !bytes.Equal(got.unknown, f.unknown) {
		t.Fatalf("%+v, %v", got, err)
	}
	if again := got.entry(3); !bytes.Equal(again.Body, e.Body) || !bytes.Equal(again.Header, e.Header) {
		t.Error("written again it is another one")
	}
	if _, err := decodeFleetRecord(e.record(4, 1)); !errors.Is(err, errFleetForeign) {
		t.Errorf("copied to another position: %v", err)
	}
	f.unknown = appendField(nil, 128, nil)
	if _, err := decodeFleetRecord(f.entry(0).record(0, 1)); !errors.Is(err, errFleetLater) {
		t.Errorf("a field that must be understood: %v", err)
	}
	if _, err := decodeHeader(3, e.Header); !errors.Is(err, ErrNeedsLaterRelease) {
		t.Errorf("a stream's fold: %v, want it declined", err)
	}
}

// No byte that is changed goes unnoticed, and none of what is cut short is read.
func TestDamagedFleetRecordIsNotRead(t *testing.T) {
	whole := someFleet().entry(0).record(0, 1)
	for name, b := range map[string]*[]byte{"header": &whole.Header, "body": &whole.Body} {
		t.Run(name, func(t *testing.T) {
			intact := *b
			for i := range intact {
				*b = bytes.Clone(intact)
				(*b)[i] ^= 0x40
				if _, err := decodeFleetRecord(whole); err == nil {
					t.Errorf("%s: byte %d changed, and it is read", name, i)
				}
				*b = intact[:i]
				if _, err := decodeFleetRecord(whole); err == nil {
					t.Errorf("%s: cut to %d bytes, and it is read", name, i)
				}
			}
			*b = intact
		})
	}
}

func FuzzFleetRecord(f *testing.F) {
	e := someFleet().entry(0)
	f.Add(e.Header, e.Body)
	f.Fuzz(func(t *testing.T, header, body []byte) {
		got, err := decodeFleetRecord(Record{Header: header, Body: body})
		if err == nil && got.id == (FleetID{}) {
			t.Error("a fleet without an id")
		}
	})
}
