package shard

import (
	"crypto/rand"
	"errors"
	"fmt"
	"strings"

	"github.com/fantail-dev/fantail/shard/tail"
)

// The names that this package shares with package tail, which lies below it.
type (
	// StreamID is the canonical name of a stream.
	StreamID = tail.StreamID
	// AppendID names one append forever.
	AppendID = tail.AppendID
	// Info describes a stream at a moment.
	Info = tail.Info
	// Ancestor is a piece of the past that a generation inherited.
	Ancestor = tail.Ancestor
)

// Size limits, in bytes unless said otherwise.
const (
	// MaxStreamID is the longest stream name; S2's own limit is the same.
	MaxStreamID = 512
	// MaxBody is the largest append body; a larger one is answered 413.
	MaxBody = 16 << 20
	// MaxMessages bounds the messages of one append (a JSON array).
	MaxMessages = 32768
	// MaxBatchRecords is S2's limit on records in one append.
	MaxBatchRecords = 1000
	// MaxBatchBytes is S2's limit on the metered size of one append and of one record.
	MaxBatchBytes = 1 << 20
	// MaxProducerID is the longest Producer-Id.
	MaxProducerID = 256
	// MaxStreamSeq is the longest Stream-Seq.
	MaxStreamSeq = 256
	// MaxContentType is the longest Content-Type a stream may have.
	MaxContentType = 256
)

// NewAppendID returns a random id. It is never zero.
func NewAppendID() AppendID {
	var id AppendID
	for id.IsZero() {
		_, _ = rand.Read(id[:]) // crypto/rand.Read never fails
	}
	return id
}

// Entry is one record to be written; Log.Append takes them.
type Entry struct {
	// Header is the value of our header; nil writes the record without one.
	Header []byte
	// Body is the record's body.
	Body []byte
	// Trim makes the entry S2's trim command record. Header and Body are then empty, and records
	// below TrimTo are deleted.
	Trim bool
	// TrimTo is the first position that is kept.
	TrimTo Pos

	decoded *Header // what Header says, in a process that wrote it
}

// MeteredSize returns the entry's size as S2 counts it: 8 bytes, 2 per header, header names and
// values, body.
func (e Entry) MeteredSize() int {
	switch {
	case e.Trim:
		return 8 + 2 + len("trim") + 8
	case e.Header == nil:
		return 8 + len(e.Body)
	default:
		return 8 + 2 + len(HeaderName) + len(e.Header) + len(e.Body)
	}
}

// Record is one record as it stands in the log.
type Record struct {
	// Pos is the S2 sequence number.
	Pos Pos
	// Time is the S2 timestamp, in milliseconds since 1970.
	Time Millis
	// Header is the value of our header if the record carries exactly one header and the name of
	// that header is ours; nil otherwise.
	Header []byte
	// Body is the record's body.
	Body []byte
	// Command is true for S2's own command records (fence, trim).
	Command bool
	// TrimTo is the trim point that a trim command asked for; 0 for all else.
	TrimTo Pos
	// Size is the record's metered size.
	Size int

	decoded *Header // what Header says, of a record that this process wrote; else nil
}

// record returns the Record that entry e becomes at a position.
func (e Entry) record(pos Pos, time Millis) Record {
	return Record{
		Pos: pos, Time: time, Header: e.Header, Body: e.Body,
		Command: e.Trim, TrimTo: e.TrimTo, Size: e.MeteredSize(), decoded: e.decoded,
	}
}

// ParseStreamID checks a canonical name that came from outside: from a client, a peer or a record.
// A log of the fleet's own is no stream.
func ParseStreamID(s string) (StreamID, error) {
	switch id := StreamID(s); {
	case id.Reserved():
		return "", errReserved
	case s == "" || len(s) > MaxStreamID:
		return "", fmt.Errorf("stream name of %d bytes: %w", len(s), errStreamID)
	default:
		return id, nil
	}
}

// RevocationsStream is the name, within its project, of the one stream that the fleet keeps for
// itself. No client reaches it; nodes read and write it like any stream.
const RevocationsStream = "__ds/revocations"

// ParsePeerStreamID does what ParseStreamID does, for a name that another node of the fleet
// sends.
func ParsePeerStreamID(s string) (StreamID, error) {
	if project, name, _ := strings.Cut(s, "/"); name == RevocationsStream && project != "" && !StreamID(project).Reserved() && len(s) <= MaxStreamID {
		return StreamID(s), nil
	}
	return ParseStreamID(s)
}

var (
	errStreamID = errors.New("want 1 to 512 bytes")
	errReserved = errors.New("the name is reserved by the protocol")
)
