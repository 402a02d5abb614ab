package shard

import (
	"errors"
	"time"
)

// Op is what a Request asks for.
type Op uint8

// The operations. Their numbers go over the wire between nodes.
const (
	OpCreate Op = 1 // PUT
	OpAppend Op = 2 // POST: messages, a close, or both
	OpDelete Op = 3 // DELETE

	// What the owners of forks and of their sources ask of each other, and of
	// themselves: about the reference Request.Ref.
	OpHold        Op = 4 // of the source: keep your records for a fork
	OpRelease     Op = 5 // of the source: that fork needs them no more
	OpReleaseDone Op = 6 // of the fork's own log: the reference was given back
	OpCancelFork  Op = 7 // of the fork: is it you that has the reference?

	LastOp = OpCancelFork
)

// Request is one write, as the edge understood it. It is immutable once given
// to Do, and may be given to Do again (on any node) with the same ID: it is
// then written at most once.
type Request struct {
	Stream StreamID
	Op     Op
	// ID is minted where the request arrived; required.
	ID AppendID
	// Repeat is true if this request was given to some node before and its
	// outcome is not known here.
	Repeat bool
	// MintedAt is when ID was minted, by the monotonic clock of this process: nodes tell each
	// other how long ago that was. It only serves to tell whether the window of remembered
	// ids still reaches back to the first try. Minted is the same in milliseconds since 1970
	// by the minting node's clock, for nodes of an earlier release.
	MintedAt     time.Time
	MintedMillis uint64

	// Type is the content type as given; empty: none given.
	Type string
	// Messages are the messages to append, in order; none may be empty. At most
	// MaxMessages, together at most MaxBody bytes.
	Messages Messages
	// BodyError says why the body cannot be accepted (invalid JSON, an empty array). It
	// is a field and no early error because the protocol puts other refusals
	// before this one.
	BodyError string
	// Close closes the stream with (or, without messages, after) this append. On
	// OpCreate the stream is created closed.
	Close bool

	// Append only.
	Producer  *Producer
	StreamSeq []byte // nil: none

	// Create only.
	HasTTL     bool
	TTL        uint64 // seconds
	Expires    uint64 // milliseconds since 1970; 0: none
	ExpiresRaw string // Stream-Expires-At as given, for HEAD to repeat
	// Fork is what the request says of the stream that it forks (nil: it forks
	// none), and Source what is known of that one.
	Fork   *Fork
	Source *Source
	// HeldAt is when that was held, in ms by the clock of the stream's owner, who sets it anew
	// for each decision by how long ago it was.
	HeldAt uint64

	// Ref is what OpHold and the others are about; Name is the fork that
	// holds (OpHold, OpRelease), Life the life of the source that it knows (OpHold).
	Ref        AppendID
	Name       StreamID
	Generation uint64
}

// WaitingCost bounds from above what the request holds in memory while it waits.
func (r *Request) WaitingCost() int {
	return waitingRequestCost + r.Messages.Bytes() + r.Messages.Len()*waitingMessageCost
}

// mayGrowState reports whether a stream's State may be larger for the request.
func (r *Request) mayGrowState() bool { return r.Op == OpCreate || r.Op == OpAppend || r.Op == OpHold }

// Cost bounds from above what carrying the request out holds in memory, at the node that does and
// at one that has it done, until it is answered: its messages, what a batch of them is in records
// on its way to storage, and, where there are several, what of them waits for the last one.
func (r *Request) Cost() int { return RequestCost(r.Messages.Bytes(), r.Messages.Len()) }

// RequestCost is Request.Cost for n messages of size bytes together.
func RequestCost(size, n int) int {
	c := requestCost + size + n*waitingMessageCost + batchCopies*min(size, MaxBatchBytes) + min(n, MaxBatchRecords)*recordCost
	if n > MaxBatchRecords {
		c += n * uncommittedCost
	}
	return c
}

// What a request costs in bytes beside its body; TestWhatWritesHold of package edge measures it.
const (
	// requestCost is for the request, its headers' fields, its batch and a call to S2; the stacks of
	// the goroutines that carry it come on top.
	requestCost = 8 << 10
	// waitingRequestCost is what it is of that before its turn, and waitingMessageCost what a message is; see
	// Messages.
	waitingRequestCost = 1 << 10
	waitingMessageCost = 4
	// recordCost is what a record of a batch costs, here and on its way through a client of S2.
	recordCost  = 512
	batchCopies = 2
	// uncommittedCost is what a message costs of an append in parts, until its commit.
	uncommittedCost = 56
)

// Code is the verdict on a Request. Its numbers go over the wire between nodes.
type Code uint8

// The verdicts. Up to CodeDeleted the request took effect, now or before.
const (
	CodeCreated   Code = 1 // OpCreate: 201
	CodeExists    Code = 2 // OpCreate: 200, same configuration
	CodeAppended  Code = 3 // OpAppend: written
	CodeDuplicate Code = 4 // OpAppend: this (producer, epoch, seq) was written before
	CodeDeleted   Code = 5 // OpDelete

	CodeNotFound      Code = 20 // no such stream
	CodeGone          Code = 21 // deleted, but its forks live
	CodeConfigDiffers Code = 22 // OpCreate: exists with another configuration
	CodeClosed        Code = 23 // append to a closed stream
	CodeTypeMissing   Code = 24 // messages without a content type
	CodeTypeDiffers   Code = 25 // content type is not the stream's
	CodeEpochStale    Code = 26 // producer epoch below the current one: Outcome.Producer.Epoch
	CodeEpochStart    Code = 27 // a fresh epoch must begin with seq 0
	CodeSeqGap        Code = 28 // producer seq ahead: Outcome.Expected, Received
	CodeSeqOrder      Code = 29 // Stream-Seq not above the last one
	CodeBadBody       Code = 30 // Request.Bad: Outcome.Why
	CodeEmptyAppend   Code = 31 // neither messages nor close
	CodeForeignJSON   Code = 32 // OpCreate as JSON over records that are not all JSON
	CodeNameTaken     Code = 33 // OpCreate: CodeGone, and so its name is taken

	// Of a fork's source.
	CodeSourceMissing Code = 34 // no such stream
	CodeSourceGone    Code = 35 // deleted, though forks of it live
	CodeSourceType    Code = 36 // another content type
	CodeForkOffset    Code = 37 // the fork's offset or sub-offset is not in it
	CodeForkLimit     Code = 38 // too many forks, or too long a chain of them
	CodeSourceChanged Code = 39 // another life than Request.Life: look again
	codeNeedsHold     Code = 40 // create: the source is to be held first; never told
	codeHoldExpired   Code = 41 // create: the source was held too long ago; never told
)

// Accepted reports whether the request took effect, now or earlier.
func (c Code) Accepted() bool { return c > 0 && c <= CodeDeleted }

// Outcome is the verdict on a Request with what the answer needs. It is only
// given after everything that it rests on was acknowledged by S2.
type Outcome struct {
	Code Code
	// Why is a sentence for people, for refusals.
	Why string
	// Info is the stream after the request (for a refusal: as it stands). From another
	// node it comes without Chain.
	Info Info
	// Producer is the highest accepted (epoch, seq) of the request's producer; nil
	// if the request has none or nothing is known of it.
	Producer *Producer
	// Expected and Received are the seqs of CodeSeqGap.
	Expected, Received uint64
}

// Info describes a stream at a moment: all that HEAD answers and all that a
// reader needs before its first byte.
type Info struct {
	// Exists is false for a stream that never was, was deleted or has expired; all
	// fields but Gone and LogTail are then zero.
	Exists bool
	// Gone: the stream was deleted or has expired, but forks of it live.
	Gone bool
	// Generation is the stream's incarnation: 1,000 times the milliseconds since 1970 at its
	// create, or higher; 0 for a log that only others wrote to. Offsets carry it.
	Generation uint64
	// Chain is the past that this life inherited; see Ancestor.
	Chain []Ancestor
	// Start is the first position that may hold a message of this life.
	Start uint64
	// Tail is the visible tail: the position after the last message (before the
	// first one: Start). Control records never move it.
	Tail uint64
	// LogTail is where the next record will stand, at least Tail. An offset above
	// it cannot be valid.
	LogTail uint64
	// Truncated: the log's beginning was taken away by somebody else, and with it what lives there
	// were: an offset of a life that is not known was one of them.
	Truncated bool
	// Closed: no message will follow; Tail is final.
	Closed bool

	Type       string
	HasTTL     bool
	TTL        uint64 // seconds
	Expires    uint64 // milliseconds since 1970; 0: none
	ExpiresRaw string

	// Hold is the reference by which this life, or the one that is Gone, keeps its
	// source's records; zero: it is no fork.
	Hold AppendID
}

// Absent is why a stream cannot be used that this Info describes; nil: it exists.
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

// IsAbsent reports whether an error says that there is no such stream (any more).
func IsAbsent(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrGone) }

// Errors of Host and of whatever stands in for it. An Outcome's refusals are
// answers, not errors.
var (
	// ErrNotFound: no such stream (Follow and ReadPage).
	ErrNotFound = errors.New("no such stream")
	// ErrGone: the stream was deleted, but forks of it live.
	ErrGone = errors.New("stream was deleted")
	// ErrTrimmed: the position lies below what the log still holds.
	ErrTrimmed = errors.New("position is no longer kept")
	// ErrContended: others write to the stream faster than this node can; the
	// request was certainly not written.
	ErrContended = errors.New("stream is contended")
	// ErrOverloaded: a bounded queue is full; the request was not written.
	ErrOverloaded = errors.New("too much in flight")
	// ErrStoreDown: S2 does not answer; nothing was written.
	ErrStoreDown = errors.New("storage does not answer")
	// ErrOutcomeUnknown: nobody can say whether the append was written. Only a
	// request with a producer may be sent again without a risk.
	ErrOutcomeUnknown = errors.New("append outcome cannot be told")
	// ErrUnavailable: no node that could serve the stream can be reached.
	ErrUnavailable = errors.New("stream owner cannot be reached")
	// ErrNotOwner: this node has let go of the stream; certainly not written.
	ErrNotOwner = errors.New("not the owner")
	// ErrStopped: the node is stopping.
	ErrStopped = errors.New("stopping")
)
