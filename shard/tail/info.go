package tail

import "errors"

// Info describes a stream at a moment: everything that HEAD answers, and everything that a reader
// needs before its first byte.
type Info struct {
	// Exists is false for a stream that never was, was deleted or has expired; all
	// fields but Gone and LogTail are then zero.
	Exists bool
	// Gone: the stream was deleted or has expired, but forks of it live.
	Gone bool
	// Generation tells this life of the stream from others under its name: it is 1,000 times the
	// milliseconds since 1970 at the create, or higher; 0 for a log that only others wrote to.
	// Offsets carry it.
	Generation Generation
	// Chain is the past that this generation inherited; see Ancestor.
	Chain []Ancestor
	// Start is the first position that may hold a message of this generation.
	Start Pos
	// Tail is the visible tail: the position after the last message (before the
	// first one: Start). Control records never move it.
	Tail Pos
	// LogTail is the position of the next record, at least Tail. An offset above it cannot be
	// valid.
	LogTail Pos
	// Truncated: the log's beginning was deleted, and not by Fantail, and with it the generations
	// that lived there: an offset of a generation that is not known was one of theirs.
	Truncated bool
	// Checked: the log was asked after the call for this Info had come, so that a refusal may rest on it.
	Checked bool
	// Closed: no message will follow; Tail is final.
	Closed bool

	Type       string
	HasTTL     bool
	TTL        uint64 // seconds
	Expires    Millis // milliseconds since 1970; 0: none
	ExpiresRaw string

	// Hold is the reference by which this generation, or the generation that is Gone, keeps its
	// source's records; zero: it is no fork.
	Hold AppendID
}

// Absent returns the reason for which the stream cannot be used; nil: it exists.
func (i *Info) Absent() error {
	switch {
	case i.Exists:
		return nil
	case i.Gone:
		return ErrGone
	default:
		return ErrNotFound
	}
}

// The reasons for which a stream, or a Buffer of it, cannot be read.
var (
	// ErrNotFound: no such stream, or no such generation any more.
	ErrNotFound = errors.New("no such stream")
	// ErrGone: the stream was deleted, but forks of it live.
	ErrGone = errors.New("stream was deleted")
	// ErrStopped: the last reference to the Buffer was given back, or the node is stopping.
	ErrStopped = errors.New("stopping")
)
