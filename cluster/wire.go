package cluster

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"
	"unicode/utf8"
	"unsafe"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// This file converts between relaypb and shard: the messages that travel, and what they mean here.

// Sizes on the wire, in bytes.
const (
	// maxFrameBytes bounds the data of a Frame, about, and of a chunk of a call.
	maxFrameBytes = 64 << 10
	// maxPieceBytes bounds the data of one subscription in one Frame.
	maxPieceBytes = 32 << 10
	// partOverhead is the space that a Part takes beside its data.
	partOverhead = 24
	// maxBatchOnWire bounds a record batch: the largest append and what was batched with it, with
	// its index.
	maxBatchOnWire = 2*shard.MaxBody + 4<<20
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
	{shard.ErrNeedsLaterRelease, relaypb.Reason_REASON_DECLINED, codes.FailedPrecondition},
	{shard.ErrLogDenied, relaypb.Reason_REASON_LOG_DENIED, codes.PermissionDenied},
	{shard.ErrLogBusy, relaypb.Reason_REASON_LOG_BUSY, codes.Unavailable},
	{shard.ErrNoLog, relaypb.Reason_REASON_NO_LOG, codes.NotFound},
	{shard.ErrAppendUnknown, relaypb.Reason_REASON_LOG_UNKNOWN, codes.Unknown},
}

// errorToRefusal returns the Refusal that err travels as; nil: err has no reason of its own.
func errorToRefusal(err error) (*relaypb.Refusal, codes.Code) {
	sentence := errorToWire(err)
	if r := (*placement.RedirectError)(nil); errors.As(err, &r) {
		reason := relaypb.Reason_REASON_NOT_OWNER
		if r.OwnerAlive {
			reason = relaypb.Reason_REASON_OWNER_ALIVE
		}
		return &relaypb.Refusal{Reason: reason, Why: sentence, Owner: peerAddrToWire(r.Owner)},
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

// refusalToError returns the error that a Refusal stands for.
func refusalToError(f *relaypb.Refusal) error {
	switch f.GetReason() {
	case relaypb.Reason_REASON_NOT_OWNER:
		return &placement.RedirectError{Owner: peerAddrFromWire(f.GetOwner())}
	case relaypb.Reason_REASON_OWNER_ALIVE:
		return &placement.RedirectError{Owner: peerAddrFromWire(f.GetOwner()), OwnerAlive: true}
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

// errorToStatus returns the status that a handler returns for err.
func errorToStatus(err error) error {
	if err == nil {
		return nil
	}
	f, code := errorToRefusal(err)
	if f == nil {
		if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
			return status.FromContextError(err).Err()
		}
		return status.Error(code, string(errorToWire(err)))
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

// isNotCarriedOut reports whether a status means that the call was certainly not carried out.
func isNotCarriedOut(code codes.Code) bool {
	switch code {
	case codes.InvalidArgument, codes.Unimplemented, codes.Unauthenticated, codes.PermissionDenied:
		return true
	default:
		return false
	}
}

// statusToError returns the error that a call to a peer ended with: that of the Refusal in it;
// without one ErrUnreachable if the peer did not answer, else ErrCallFailed.
func statusToError(err error) error {
	if err == nil {
		return nil
	}
	st, _ := status.FromError(err)
	for _, d := range st.Details() {
		if f, ok := d.(*relaypb.Refusal); ok {
			return refusalToError(f)
		}
	}
	if isUnanswered(st.Code()) {
		return fmt.Errorf("%w: %s", placement.ErrUnreachable, st.Message())
	}
	return fmt.Errorf("%w: %s: %s", placement.ErrCallFailed, st.Code(), st.Message())
}

// wireBytes returns a text as the bytes of a message, and wireText the text of a message's bytes.
// Neither copies: a message is only written while it is built.
func wireBytes[S ~string](s S) []byte { return unsafe.Slice(unsafe.StringData(string(s)), len(s)) }

func wireText(b []byte) string { return unsafe.String(unsafe.SliceData(b), len(b)) }

// maxSentence bounds a sentence for people, in bytes; the rest is dropped.
const maxSentence = 1 << 10

// sentenceToWire returns a sentence for people as bytes that every release can read.
func sentenceToWire(s string) []byte {
	return wireBytes(strings.ToValidUTF8(s[:min(len(s), maxSentence)], "\uFFFD"))
}

func errorToWire(err error) []byte { return sentenceToWire(err.Error()) }

func peerAddrToWire(p placement.PeerAddr) *relaypb.PeerAddress {
	return &relaypb.PeerAddress{Name: wireBytes(p.Name), Address: wireBytes(p.Address)}
}

func peerAddrFromWire(p *relaypb.PeerAddress) placement.PeerAddr {
	return placement.PeerAddr{Name: wireText(p.GetName()), Address: wireText(p.GetAddress())}
}

func routeToWire(r placement.Route) *relaypb.Route {
	out := &relaypb.Route{Hop: relaypb.Hop(r.Hop)}
	for _, name := range r.Excluded {
		out.Excluded = append(out.Excluded, wireBytes(name))
	}
	return out
}

func routeFromWire(r *relaypb.Route) placement.Route {
	out := placement.Route{Hop: placement.Hop(min(max(r.GetHop(), 0), relaypb.Hop(placement.HopForce)))}
	for _, name := range r.GetExcluded() {
		out.Excluded = append(out.Excluded, wireText(name))
	}
	return out
}

func infoToWire(i shard.Info) *relaypb.Info {
	out := &relaypb.Info{
		Exists: i.Exists, Generation: uint64(i.Generation), Start: uint64(i.Start), Tail: uint64(i.Tail), LogTail: uint64(i.LogTail),
		Closed: i.Closed, Type: wireBytes(i.Type), HasTtl: i.HasTTL, Ttl: i.TTL,
		Expires: uint64(i.Expires), ExpiresRaw: wireBytes(i.ExpiresRaw), Gone: i.Gone, Truncated: i.Truncated, Hold: idToWire(i.Hold),
		Chain: chainToWire(i.Chain),
	}
	return out
}

func chainToWire(chain []shard.Ancestor) (out []*relaypb.Ancestor) {
	for _, a := range chain {
		out = append(out, &relaypb.Ancestor{
			Stream: wireBytes(a.Stream), Generation: uint64(a.Generation), Start: uint64(a.Start), Bound: uint64(a.Bound),
		})
	}
	return out
}

func chainFromWire(chain []*relaypb.Ancestor) (out []shard.Ancestor) {
	for _, a := range chain {
		out = append(out, shard.Ancestor{
			Stream: shard.StreamID(wireText(a.GetStream())), Generation: shard.Generation(a.GetGeneration()),
			Start: shard.Pos(a.GetStart()), Bound: shard.Pos(a.GetBound()),
		})
	}
	return out
}

// idToWire returns an id's bytes; nil: the id is zero.
func idToWire(id shard.AppendID) []byte {
	if id.IsZero() {
		return nil
	}
	return id[:]
}

func idFromWire(b []byte) (id shard.AppendID) {
	copy(id[:], b)
	return id
}

func infoFromWire(i *relaypb.Info) shard.Info {
	out := shard.Info{
		Exists: i.GetExists(), Generation: shard.Generation(i.GetGeneration()), Start: shard.Pos(i.GetStart()), Tail: shard.Pos(i.GetTail()),
		LogTail: shard.Pos(i.GetLogTail()), Closed: i.GetClosed(), Type: wireText(i.GetType()),
		HasTTL: i.GetHasTtl(), TTL: i.GetTtl(), Expires: shard.Millis(i.GetExpires()),
		ExpiresRaw: wireText(i.GetExpiresRaw()), Gone: i.GetGone(), Truncated: i.GetTruncated(), Hold: idFromWire(i.GetHold()),
		Chain: chainFromWire(i.GetChain()),
	}
	return out
}

func producerToWire(p *shard.Producer) *relaypb.Producer {
	if p == nil {
		return nil
	}
	return &relaypb.Producer{Id: wireBytes(p.ID), Epoch: p.Epoch, Seq: p.Seq}
}

func producerFromWire(p *relaypb.Producer) *shard.Producer {
	if p == nil {
		return nil
	}
	return &shard.Producer{ID: wireText(p.GetId()), Epoch: p.GetEpoch(), Seq: p.GetSeq()}
}

func requestToWire(q *shard.Request, r placement.Route) *relaypb.WriteHead {
	head := &relaypb.WriteHead{
		Route: routeToWire(r), Stream: wireBytes(q.Stream), Op: uint32(q.Op), Id: q.ID[:],
		Repeat: q.Repeat, MintedMillis: uint64(q.MintedMillis), Age: ageToWire(q.MintedAt), Type: wireBytes(q.Type), BodyError: sentenceToWire(q.BodyError), Close: q.Close,
		Producer: producerToWire(q.Producer), StreamSeq: q.StreamSeq,
		HasTtl: q.HasTTL, Ttl: q.TTL, Expires: uint64(q.Expires), ExpiresRaw: wireBytes(q.ExpiresRaw),
		Ref: idToWire(q.Ref), Name: wireBytes(q.Name), Generation: uint64(q.Generation),
	}
	if f, s := q.Fork, q.Source; f != nil && s != nil {
		head.Fork = &relaypb.Fork{Source: wireBytes(f.Source), Offset: wireBytes(f.Offset), SubOffset: f.SubOffset}
		head.Source = &relaypb.Source{
			Refused: uint32(s.Refused), Why: sentenceToWire(s.Why), Generation: uint64(s.Generation), Type: wireBytes(s.Type), HasTtl: s.HasTTL,
			Ttl: s.TTL, Expires: uint64(s.Expires), ExpiresRaw: wireBytes(s.ExpiresRaw), Chain: chainToWire(s.Chain),
		}
	}
	head.Sizes = make([]uint32, q.Messages.Len())
	for i := range head.Sizes {
		head.Sizes[i] = uint32(len(q.Messages.At(i)))
	}
	return head
}

// ageToWire returns how long ago born was. It is computed again each time that a request is sent.
func ageToWire(born time.Time) uint64 {
	if born.IsZero() {
		return 0
	}
	return 1 + uint64(max(time.Since(born), 0).Milliseconds())
}

func ageFromWire(age uint64) time.Time {
	if age == 0 {
		return time.Time{}
	}
	return time.Now().Add(-time.Duration(min(age-1, maxAge)) * time.Millisecond)
}

// maxAge bounds the age that a peer may report, in milliseconds.
const maxAge = 24 * 3600 * 1000

var errRequest = errors.New("malformed request")

// requestFromWire returns the request without its messages, and their total size.
func requestFromWire(head *relaypb.WriteHead) (*shard.Request, int, error) {
	id, total, err := checkWriteHead(head)
	if err != nil {
		return nil, 0, err
	}
	q := &shard.Request{
		Stream: id, Op: shard.Op(head.GetOp()), ID: shard.AppendID(head.GetId()), Repeat: head.GetRepeat(),
		MintedMillis: shard.Millis(head.GetMintedMillis()), MintedAt: ageFromWire(head.GetAge()), Type: wireText(head.GetType()), BodyError: wireText(head.GetBodyError()), Close: head.GetClose(),
		Producer: producerFromWire(head.GetProducer()), StreamSeq: head.StreamSeq,
		HasTTL: head.GetHasTtl(), TTL: head.GetTtl(), Expires: shard.Millis(head.GetExpires()),
		ExpiresRaw: wireText(head.GetExpiresRaw()), Ref: idFromWire(head.GetRef()),
		Name: shard.StreamID(wireText(head.GetName())), Generation: shard.Generation(head.GetGeneration()),
	}
	if f, s := head.GetFork(), head.GetSource(); f != nil && s != nil {
		q.Fork = &shard.Fork{Source: shard.StreamID(wireText(f.GetSource())), Offset: wireText(f.GetOffset()), SubOffset: f.GetSubOffset()}
		q.Source = &shard.ForkSource{
			Refused: shard.Code(s.GetRefused()), Why: wireText(s.GetWhy()), Generation: shard.Generation(s.GetGeneration()),
			Type: wireText(s.GetType()), HasTTL: s.GetHasTtl(), TTL: s.GetTtl(), Expires: shard.Millis(s.GetExpires()),
			ExpiresRaw: wireText(s.GetExpiresRaw()), Chain: chainFromWire(s.GetChain()),
		}
	}
	return q, total, nil
}

// splitMessages sets the messages of a request, which lie in body one after the other. It keeps
// both slices, and replaces each size by the end of its message.
func splitMessages(q *shard.Request, sizes []uint32, body []byte) error {
	end := uint64(0)
	for i, size := range sizes {
		if size == 0 {
			return errRequest
		}
		end += uint64(size)
		sizes[i] = uint32(min(end, shard.MaxBody+1))
	}
	if end != uint64(len(body)) {
		return errRequest
	}
	q.Messages = shard.SplitMessages(body, sizes)
	return nil
}

// outcomeToWire converts an Outcome. It leaves out the ancestry of a fork, which no caller needs
// from an Outcome and which may be longer than the append.
func outcomeToWire(o shard.Outcome) *relaypb.WriteReply {
	o.Info.Chain = nil
	return &relaypb.WriteReply{
		Code: uint32(o.Code), Why: sentenceToWire(o.Why), Info: infoToWire(o.Info),
		Producer: producerToWire(o.Producer), Expected: o.Expected, Received: o.Received,
	}
}

func outcomeFromWire(o *relaypb.WriteReply) shard.Outcome {
	return shard.Outcome{
		Code: shard.Code(o.GetCode()), Why: wireText(o.GetWhy()), Info: infoFromWire(o.GetInfo()),
		Producer: producerFromWire(o.GetProducer()),
		Expected: o.GetExpected(), Received: o.GetReceived(),
	}
}

// maxDescription bounds the description of a stream in one message, in bytes. The longest ancestry
// of a fork takes half of it.
const maxDescription = 64 << 10

var (
	errDescriptionLong = fmt.Errorf("%w: its description is too long", shard.ErrNeedsLaterRelease)
	errPeerNeedsUTF8   = fmt.Errorf("%w: the peer reads no text but UTF-8", shard.ErrNeedsLaterRelease)
)

// checkDescribable returns why a peer that speaks a version of the contract cannot receive a
// stream's description; nil: it can.
func checkDescribable(info *relaypb.Info, version uint32) error {
	switch {
	case proto.Size(info) > maxDescription:
		return errDescriptionLong
	case version >= placement.RelayVersionBytes:
		return nil
	}
	texts := [][]byte{info.GetType(), info.GetExpiresRaw()}
	for _, a := range info.GetChain() {
		texts = append(texts, a.GetStream())
	}
	return checkUTF8(texts...)
}

// checkUTF8 returns errPeerNeedsUTF8 unless a release before RelayVersionBytes can read the texts.
func checkUTF8(texts ...[]byte) error {
	for _, t := range texts {
		if !utf8.Valid(t) {
			return errPeerNeedsUTF8
		}
	}
	return nil
}

// infoAt returns info as of the position at: a tail buffer must not claim more than it holds.
func infoAt(info shard.Info, at shard.Pos) shard.Info {
	if info.Tail > at {
		info.Tail, info.Closed = at, false
	}
	return info
}

// batchAssembler joins the pieces of a record batch.
type batchAssembler struct {
	buf   []byte
	total int
}

var errMalformedPiece = errors.New("malformed piece of a record batch")

// maxPreallocated bounds the space that is allocated for a size that a peer only announces, in
// bytes. It grows with what arrives.
const maxPreallocated = 256 << 10

func bufferFor(total int) []byte { return make([]byte, 0, min(total, maxPreallocated)) }

// addPiece adds the data of one Part. With the last piece it returns the whole batch.
func (p *batchAssembler) addPiece(data []byte, total uint32) (shard.RecordBatch, bool, error) {
	switch {
	case p.total == 0 && total == 0:
		r, err := shard.ParseBatch(data)
		return r, err == nil, err
	case p.total == 0:
		if total > maxBatchOnWire || int(total) <= len(data) {
			return shard.RecordBatch{}, false, errMalformedPiece
		}
		p.total, p.buf = int(total), bufferFor(int(total))
	case total != 0:
		return shard.RecordBatch{}, false, errMalformedPiece
	}
	if len(p.buf)+len(data) > p.total {
		return shard.RecordBatch{}, false, errMalformedPiece
	}
	p.buf = append(p.buf, data...)
	if len(p.buf) < p.total {
		return shard.RecordBatch{}, false, nil
	}
	b := p.buf
	*p = batchAssembler{}
	r, err := shard.ParseBatch(b)
	return r, err == nil, err
}
