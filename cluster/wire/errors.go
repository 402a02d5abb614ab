package wire

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// errorReasons lists the errors that travel between nodes. The first match counts. An unknown
// outcome comes before its causes, which by themselves say that nothing was written. The status
// code is for people and tools; the reason decides.
var errorReasons = []struct {
	err    error
	reason relaypb.Reason
	code   codes.Code
}{
	{shard.ErrOutcomeUnknown, relaypb.Reason_REASON_OUTCOME_UNKNOWN, codes.Unknown},
	{shard.ErrNotFound, relaypb.Reason_REASON_NOT_FOUND, codes.NotFound},
	{shard.ErrGone, relaypb.Reason_REASON_GONE, codes.NotFound},
	{shard.ErrTrimmed, relaypb.Reason_REASON_TRIMMED, codes.OutOfRange},
	{shard.ErrContended, relaypb.Reason_REASON_CONTENDED, codes.Aborted},
	{shard.ErrOverloaded, relaypb.Reason_REASON_OVERLOADED, codes.ResourceExhausted},
	{shard.ErrStoreDown, relaypb.Reason_REASON_STORE_DOWN, codes.Unavailable},
	{shard.ErrUnavailable, relaypb.Reason_REASON_UNAVAILABLE, codes.Unavailable},
	{shard.ErrNotOwner, relaypb.Reason_REASON_RELEASED, codes.FailedPrecondition},
	{shard.ErrStopped, relaypb.Reason_REASON_STOPPED, codes.Unavailable},
	{shard.ErrConditionUnsupported, relaypb.Reason_REASON_CONDITION_UNSUPPORTED, codes.FailedPrecondition},
	{shard.ErrNeedsLaterRelease, relaypb.Reason_REASON_DECLINED, codes.FailedPrecondition},
	{shard.ErrLogDenied, relaypb.Reason_REASON_LOG_DENIED, codes.PermissionDenied},
	{shard.ErrLogBusy, relaypb.Reason_REASON_LOG_BUSY, codes.Unavailable},
	{shard.ErrNoLog, relaypb.Reason_REASON_NO_LOG, codes.NotFound},
	{shard.ErrAppendUnknown, relaypb.Reason_REASON_LOG_UNKNOWN, codes.Unknown},
	{ErrCreated, relaypb.Reason_REASON_CREATED, codes.AlreadyExists},
}

// ErrCreated ends a subscription that awaits a stream's creation: the stream may exist by now.
var ErrCreated = errors.New("the stream exists")

// EncodeRefusal returns the Refusal that err travels as; nil: err has no reason of its own.
func EncodeRefusal(err error) (*relaypb.Refusal, codes.Code) {
	sentence := EncodeError(err)
	if r := (*placement.RedirectError)(nil); errors.As(err, &r) {
		reason := relaypb.Reason_REASON_NOT_OWNER
		if r.OwnerAlive {
			reason = relaypb.Reason_REASON_OWNER_ALIVE
		}
		return &relaypb.Refusal{Reason: reason, Why: sentence, Owner: EncodePeerAddr(r.Owner)},
			codes.FailedPrecondition
	}
	if t := (*shard.TrimmedError)(nil); errors.As(err, &t) {
		return &relaypb.Refusal{
			Reason: relaypb.Reason_REASON_TRIMMED, Why: sentence, Position: uint64(t.First),
		}, codes.OutOfRange
	}
	for _, row := range errorReasons {
		if errors.Is(err, row.err) {
			return &relaypb.Refusal{Reason: row.reason, Why: sentence}, row.code
		}
	}
	if t := (*shard.TailError)(nil); errors.As(err, &t) {
		return &relaypb.Refusal{
			Reason: relaypb.Reason_REASON_TAIL, Why: sentence, Position: uint64(t.Tail),
		}, codes.OutOfRange
	}
	if g := (*shard.GapError)(nil); errors.As(err, &g) {
		return &relaypb.Refusal{
			Reason: relaypb.Reason_REASON_GAP, Why: sentence, Position: uint64(g.Next),
		}, codes.OutOfRange
	}
	return nil, codes.Internal
}

// DecodeRefusal returns the error that a Refusal stands for.
func DecodeRefusal(f *relaypb.Refusal) error {
	switch f.GetReason() {
	case relaypb.Reason_REASON_NOT_OWNER:
		return &placement.RedirectError{Owner: DecodePeerAddr(f.GetOwner())}
	case relaypb.Reason_REASON_OWNER_ALIVE:
		return &placement.RedirectError{Owner: DecodePeerAddr(f.GetOwner()), OwnerAlive: true}
	case relaypb.Reason_REASON_TRIMMED:
		return &shard.TrimmedError{First: shard.Pos(min(f.GetPosition(), maxPosition))}
	case relaypb.Reason_REASON_TAIL:
		return &shard.TailError{Tail: shard.Pos(min(f.GetPosition(), maxPosition))}
	case relaypb.Reason_REASON_GAP:
		return &shard.GapError{Next: shard.Pos(min(f.GetPosition(), maxPosition))}
	}
	for _, row := range errorReasons {
		if row.reason == f.GetReason() {
			why := strings.ToValidUTF8(string(f.GetWhy()), "\uFFFD")
			if why == "" || why == row.err.Error() {
				return row.err
			}
			return &peerError{row.err, why}
		}
	}
	return fmt.Errorf("%w: reason %d: %q", placement.ErrCallFailed, f.GetReason(), f.GetWhy())
}

// peerError is a known error with the peer's own sentence.
type peerError struct {
	err error
	why string
}

func (e *peerError) Error() string { return "peer: " + e.why }
func (e *peerError) Unwrap() error { return e.err }

// ErrorToStatus returns the status that a handler returns for err.
func ErrorToStatus(err error) error {
	if err == nil {
		return nil
	}
	f, code := EncodeRefusal(err)
	if f == nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err).Err()
		}
		return status.Error(code, string(EncodeError(err)))
	}
	st, serr := status.New(code, string(f.GetWhy())).WithDetails(f)
	if serr != nil {
		return status.Error(code, string(f.GetWhy()))
	}
	return st.Err()
}

// isUnanswered reports whether a status means that the peer did not answer: the transport broke, no
// process listens, the time ran out, or the link ended. The set is closed: whatever else goes wrong
// with a call, on this side too, says nothing about whether the peer can be reached.
func isUnanswered(code codes.Code) bool {
	return code == codes.Unavailable || code == codes.DeadlineExceeded || code == codes.Canceled
}

// IsNotCarriedOut reports whether a status means that the call was certainly not carried out.
func IsNotCarriedOut(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		return true
	default:
		return false
	}
}

// StatusToError returns the error that a call to a peer ended with: that of the Refusal in it;
// without one ErrUnreachable if the peer did not answer, else ErrCallFailed.
func StatusToError(err error) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if f, ok := d.(*relaypb.Refusal); ok {
			return DecodeRefusal(f)
		}
	}
	if isUnanswered(st.Code()) {
		return fmt.Errorf("%w: %s", placement.ErrUnreachable, st.Message())
	}
	return fmt.Errorf("%w: %s: %s", placement.ErrCallFailed, st.Code(), st.Message())
}
