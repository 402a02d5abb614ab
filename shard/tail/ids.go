package tail

import (
	"bytes"
	"encoding/hex"
	"strings"
)

// StreamID is the canonical name of a stream: "project/stream…", at most MaxStreamID bytes. The
// ring hashes it, and a Log maps it to a place in S2. It is never a URL.
type StreamID string

// Project returns the first segment of the name.
func (id StreamID) Project() string {
	project, _, _ := strings.Cut(string(id), "/")
	return project
}

// reservedSegment is the first segment of a project's name, or of a stream's name in its project,
// that the protocol reserves. The fleet's own logs are there.
const reservedSegment = "__ds"

// Reserved reports whether the name is reserved by the protocol (PROTOCOL 6), and so no stream's.
func (id StreamID) Reserved() bool {
	project, rest, _ := strings.Cut(string(id), "/")
	stream, _, _ := strings.Cut(rest, "/")
	return project == reservedSegment || stream == reservedSegment
}

// AppendID names one append forever. It is minted at the node where the HTTP request arrived, so a
// request that is repeated inside the fleet keeps its id and is written once (cluster/DESIGN.md,
// "The owner").
type AppendID [8]byte

// IsZero reports whether no id was given.
func (id AppendID) IsZero() bool { return id == AppendID{} }

// Compare orders ids, as bytes.Compare does.
func (id AppendID) Compare(other AppendID) int { return bytes.Compare(id[:], other[:]) }

func (id AppendID) String() string { return hex.EncodeToString(id[:]) }

// Ancestor is a piece of the past that a generation inherited: the positions from Start on and
// below Bound, under offsets of that generation. Stream is empty for the stream's own log (records
// that stood there before its first create).
type Ancestor struct {
	Stream     StreamID
	Generation Generation
	Start      Pos
	Bound      Pos
}
