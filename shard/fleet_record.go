package shard

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
)

// The fleet's record says to which fleet a basin belongs. It stands in the log that a Prober names
// for each basin, at position 0. The first node of a fleet writes it. Later records of the same
// kind may follow it, with clock records between them (KindClock).
//
// Position 0 alone says which fleet it is. A node keeps what it finds there for as long as it owns
// streams. A client that may append to the log, or trim it, can keep newcomers from a fleet that
// way, and a fleet from starting again, but stops no node that owns streams. To mend it, delete the
// log in S2: an owner writes it again.
//
// Of the later records the newest valid one counts. It only tells an operator the mapping, and the
// format level, which no node takes to be higher than its own.
//
// The record has our header (kind 32). Its body:
//
//	0      version, 1
//	1…     fields: tag (1 byte), length (uvarint), that many bytes, in ascending order
//	last 4 CRC-32C of the record's position (8 bytes, big-endian) and of all above
//
// Fields: 1 fleet id, 16 bytes · 2 mapping, SHA-256 · 3 mapping as text, at most 1 KiB ·
// 4 key ids, 4 bytes each; none yet · 5 format level, 1 byte. Others up to 127 are kept,
// byte for byte, in what is written after them; one above makes the record unreadable.

// FleetID names a fleet. A basin's fleet record holds it.
type FleetID [16]byte

func newFleetID() (id FleetID) {
	_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
	return id
}

func (id FleetID) String() string { return hex.EncodeToString(id[:]) }

// fleetRecord is a decoded record.
type fleetRecord struct {
	id          FleetID
	mapping     [sha256.Size]byte
	mappingText string // the mapping as text, perhaps truncated
	keyIDs      []byte
	level       uint8
	unknown     []byte // fields of a later release, byte for byte
}

const (
	fleetVersion = 1
	maxFleetText = 1 << 10
	maxFleetBody = 64 << 10 // more is not read

	fleetTagID      = 1
	fleetTagMapping = 2
	fleetTagText    = 3
	fleetTagKeys    = 4
	fleetTagLevel   = 5
	fleetKeySize    = 4
)

var (
	errFleetForeign = errors.New("it is not a record that Fantail writes")
	errFleetLater   = errors.New("it needs a later release of Fantail")
)

// entry returns the record as it is written at a position.
func (f *fleetRecord) entry(pos Pos) Entry {
	h := Header{Kind: KindFleet, Flags: FlagFirst | FlagLast}
	b := []byte{fleetVersion}
	b = appendField(b, fleetTagID, f.id[:])
	b = appendField(b, fleetTagMapping, f.mapping[:])
	b = appendField(b, fleetTagText, []byte(f.mappingText[:min(len(f.mappingText), maxFleetText)]))
	b = appendField(b, fleetTagKeys, f.keyIDs)
	b = appendField(b, fleetTagLevel, []byte{f.level})
	b = append(b, f.unknown...)
	return Entry{Header: h.encode(pos), Body: binary.BigEndian.AppendUint32(b, headerCRC(pos, b))}
}

// isFleetRecord reports whether a record of the log claims to be a fleet record: clock records and
// foreign records do not.
func isFleetRecord(r Record) bool {
	return len(r.Header) >= headerFixed && r.Header[0] == headerMagic && RecordKind(r.Header[2]) == KindFleet
}

// decodeFleetRecord reads a record. It does not read the header's fields: none is defined.
func decodeFleetRecord(r Record) (*fleetRecord, error) {
	n := len(r.Header) - headerSum
	if !isFleetRecord(r) || n < headerFixed || binary.BigEndian.Uint32(r.Header[n:]) != headerCRC(r.Pos, r.Header[:n]) {
		return nil, errFleetForeign
	}
	m := len(r.Body) - headerSum
	if m < 1 || m > maxFleetBody || binary.BigEndian.Uint32(r.Body[m:]) != headerCRC(r.Pos, r.Body[:m]) {
		return nil, errFleetForeign
	}
	if r.Header[1] > headerVersion || r.Body[0] > fleetVersion {
		return nil, errFleetLater
	}
	f := new(fleetRecord)
	for b, last := r.Body[1:m], byte(0); len(b) > 0; {
		tag := b[0]
		size, used := binary.Uvarint(b[1:])
		if used <= 0 || size > uint64(len(b)-1-used) || tag <= last {
			return nil, errFleetForeign
		}
		whole := 1 + used + int(size)
		if tag >= tagMustKnow {
			return nil, errFleetLater
		}
		if !f.setField(tag, b[1+used:whole], b[:whole]) {
			return nil, errFleetForeign
		}
		b, last = b[whole:], tag
	}
	if f.id == (FleetID{}) {
		return nil, errFleetForeign
	}
	return f, nil
}

// setField stores one field; false: it is malformed.
func (f *fleetRecord) setField(tag byte, v, whole []byte) bool {
	switch tag {
	case fleetTagID:
		return len(v) == copy(f.id[:], v) && len(v) == len(f.id)
	case fleetTagMapping:
		return len(v) == copy(f.mapping[:], v) && len(v) == len(f.mapping)
	case fleetTagText:
		f.mappingText = string(v)
		return len(v) <= maxFleetText
	case fleetTagKeys:
		f.keyIDs = bytes.Clone(v)
		return len(v)%fleetKeySize == 0
	case fleetTagLevel:
		if len(v) != 1 {
			return false
		}
		f.level = v[0]
	default:
		f.unknown = append(f.unknown, whole...)
	}
	return true
}

// fleetHash returns a number that stands for a fleet in gossip: a hash of the fleet's ids at all
// sites, and of how projects map to the sites. It is never 0.
func fleetHash(sites []Site, ids []FleetID, mapping string) uint64 {
	h := sha256.New()
	_, _ = fmt.Fprintf(h, "fantail/fleet/1\n%d %s\n", len(mapping), mapping)
	for i, s := range sites {
		_, _ = fmt.Fprintf(h, "%d %s %s\n", len(s.Basin), s.Basin, ids[i])
	}
	return max(binary.BigEndian.Uint64(h.Sum(nil)), 1)
}
