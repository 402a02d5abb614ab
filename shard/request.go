package shard

import (
	"errors"
	"time"

	"github.com/fantail-dev/fantail/shard/tail"
)

// Op is the operation of a Request.
type Op uint8

// The operations. Their numbers go over the wire between nodes.
const (
	OpCreate Op = 1 // PUT
	OpAppend Op = 2 // POST: messages, a close, or both
	OpDelete Op = 3 // DELETE

	// What the owners of forks and of their sources ask each other, and
	// themselves, about the reference Request.Ref.
	OpHold        Op = 4 // to the source: keep your records for a fork
	OpRelease     Op = 5 // to the source: that fork needs them no more
	OpReleaseDone Op = 6 // to the fork's own log: the reference was given back
	OpCancelFork  Op = 7 // to the fork: does your create record have the reference?

	LastOp = OpCancelFork
)

// Request is one write, as the edge understood it. It is immutable once given to Do, except HeldAt.
// It may be given to Do again (on any node) with the same ID, and is then written at most once.
type Request struct {
	Stream StreamID
	Op     Op
	// ID is minted where the request arrived; required.
	ID AppendID
	// Repeat is true if this request was given to a node before and its outcome is not known here.
	Repeat bool
	// MintedAt is the time at which ID was minted, by the monotonic clock of this process: nodes
	// tell each other how long ago that was. It only serves to tell whether the window of
	// remembered ids still reaches back to the first attempt. MintedMillis is the same in
	// milliseconds since 1970 by the minting node's clock, for nodes of an earlier release.
	MintedAt     time.Time
	MintedMillis Millis

	// Type is the content type as given; empty: none given.
	Type string
	// Messages are the messages to append, in order; none may be empty. At most
	// MaxMessages, together at most MaxBody bytes.
	Messages Messages
	// BodyError is the reason for which the body cannot be accepted (invalid JSON, an empty array).
	// It is a field and no early error because the protocol puts other refusals before this one.
	BodyError string
	// Close closes the stream with (or, without messages, after) this append. On
	// OpCreate the stream is created closed.
	Close bool

	// Append only.
	Producer  *Producer
	StreamSeq []byte // nil: none
	// IfMatch is not given together with Producer.
	IfMatch *TailCondition // nil: none

	// Create only.
	HasTTL     bool
	TTL        uint64 // seconds
	Expires    Millis // milliseconds since 1970; 0: none
	ExpiresRaw string // Stream-Expires-At as given, for HEAD to repeat
	// Fork holds what the request says of the stream that it forks (nil: it forks none), and Source
	// what is known of that stream.
	Fork   *Fork
	Source *ForkSource
	// HeldAt is the time at which the source was held, in ms by the clock of the stream's owner.
	// The owner computes it again for each decision, from how long ago the source was held.
	HeldAt Millis

	// Ref is the reference that OpHold, OpRelease, OpReleaseDone and OpCancelFork are about. Name
	// is the fork that holds it (OpHold, OpRelease). Generation is the source's generation that the
	// fork knows (OpHold).
	Ref        AppendID
	Name       StreamID
	Generation Generation
}

// WaitingCost returns an upper bound of the memory that the request holds while it waits.
func (r *Request) WaitingCost() int {
	return waitingRequestCost + r.Messages.Size() + r.Messages.Len()*waitingMessageCost
}

// mayGrowState reports whether a stream's State may be larger after the request.
func (r *Request) mayGrowState() bool { return r.Op == OpCreate || r.Op == OpAppend || r.Op == OpHold }

// Cost returns an upper bound of the memory that the request holds until it is answered, at the
// node that carries it out and at a node that relays it. That is its messages, a batch of them as
// records on the way to storage, and, of several batches, what waits for the last one.
func (r *Request) Cost() int { return RequestCost(r.Messages.Size(), r.Messages.Len()) }

// RequestCost returns Request.Cost for n messages of size bytes together.
func RequestCost(size, n int) int {
	c := requestCost + size + n*waitingMessageCost + batchCopies*min(size, MaxBatchBytes) + min(n, MaxBatchRecords)*recordCost
	if n > MaxBatchRecords {
		c += n * uncommittedCost
	}
	return c
}

// What a request costs in bytes beside its body; TestWhatWritesHold of package edge measures it.
const (
	// requestCost is for the request, its headers' fields, its batch and a call to S2. The stacks
	// of the goroutines that carry it out come on top.
	requestCost = 8 << 10
	// waitingRequestCost is the part of requestCost that a request has before its turn, and
	// waitingMessageCost the cost of a message; see Messages.
	waitingRequestCost = 1 << 10
	waitingMessageCost = 4
	// recordCost is the cost of a record of a batch, here and on its way through a client of S2.
	recordCost  = 512
	batchCopies = 2
	// uncommittedCost is the cost of a message of an append in parts, until its commit.
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
	CodeBadBody       Code = 30 // Request.BodyError: Outcome.Why
	CodeEmptyAppend   Code = 31 // neither messages nor close
	CodeForeignJSON   Code = 32 // OpCreate as JSON over records that are not all JSON
	CodeNameTaken     Code = 33 // OpCreate: CodeGone, and so its name is taken

	// Of a fork's source.
	CodeSourceMissing Code = 34 // no such stream
	CodeSourceGone    Code = 35 // deleted, though forks of it live
	CodeSourceType    Code = 36 // another content type
	CodeForkOffset    Code = 37 // the fork's offset or sub-offset is not in it
	CodeForkLimit     Code = 38 // too many forks, or too long a chain of them
	CodeSourceChanged Code = 39 // another generation than Request.Generation: look again
	codeNeedsHold     Code = 40 // create: the source is to be held first; never sent
	codeHoldExpired   Code = 41 // create: the source was held too long ago; never sent

	CodeTailMoved Code = 42 // OpAppend: the stream does not end where Request.IfMatch says
)

// Accepted reports whether the request took effect, now or earlier.
func (c Code) Accepted() bool { return c > 0 && c <= CodeDeleted }

// Outcome is the verdict on a Request, with everything that the answer needs. It is given only
// after everything that it rests on was acknowledged by S2.
type Outcome struct {
	Code Code
	// Why is a sentence for people, for refusals.
	Why string
	// Info is the stream after the request; for a refusal, as it stands. From another node it comes
	// without Chain.
	Info Info
	// Producer is the highest accepted (epoch, seq) of the request's producer; nil: the request has
	// no producer, or nothing is known of it.
	Producer *Producer
	// Expected and Received are the seqs of CodeSeqGap.
	Expected, Received uint64
}

// IsAbsent reports whether an error says that there is no such stream (any more).
func IsAbsent(err error) bool { return errors.Is(err, ErrNotFound) || errors.Is(err, ErrGone) }

// Errors of a Manager and of StreamOwners. An Outcome's refusals are
// answers, not errors.
var (
	// ErrNotFound: no such stream (Follow and ReadPage).
	ErrNotFound = tail.ErrNotFound
	// ErrGone: the stream was deleted, but forks of it live.
	ErrGone = tail.ErrGone
	// ErrTrimmed: the position lies below what the log still holds.
	ErrTrimmed = errors.New("position is no longer kept")
	// ErrContended: others write to the stream faster than this node can; the
	// request was certainly not written.
	ErrContended = errors.New("stream is contended")
	// ErrOverloaded: a bounded queue is full; the request was not written.
	ErrOverloaded = errors.New("too much in flight")
	// ErrStoreDown: S2 does not answer; nothing was written.
	ErrStoreDown = errors.New("storage does not answer")
	// ErrOutcomeUnknown: it is not known whether the append was written. Only a
	// request with a producer may be sent again without a risk.
	ErrOutcomeUnknown = errors.New("append outcome cannot be told")
	// ErrUnavailable: no node that could serve the stream can be reached.
	ErrUnavailable = errors.New("stream owner cannot be reached")
	// ErrNotOwner: this node has released the stream; certainly not written.
	ErrNotOwner = errors.New("not the owner")
	// ErrConditionUnsupported: the stream's owner runs a release that cannot check Request.IfMatch;
	// certainly not written.
	ErrConditionUnsupported = errors.New("the owner cannot check the condition of an append")
	// ErrStopped: the node is stopping.
	ErrStopped = tail.ErrStopped
)
