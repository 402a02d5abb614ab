package shard

import (
	"context"
	"errors"
	"time"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// callTrace notes what a traced call meets, for spans that are made once it is answered. It has the
// owner that the call has. Most batches hold calls of several traces, or of none, so a batch has no
// span of its own: each traced call gets one for each sending.
type callTrace struct {
	span     *tracing.Span // of the caller
	queuedAt time.Time
	batchAt  time.Time // when the newest batch took the call; zero: none has
	sends    []sendTrace
}

// sendTrace is a sending of a batch in which the call was.
type sendTrace struct {
	began, ended   time.Time
	pos            Pos
	records, calls int
	err            error
}

// maxSendTraces bounds the sendings that a trace tells: those of the largest append, and as many repeats.
const maxSendTraces = 64

// traceCall has a call noted if its caller is traced.
func traceCall(ctx context.Context, c *call) {
	if span := tracing.FromContext(ctx); span != nil {
		c.trace = &callTrace{span: span, queuedAt: time.Now()}
	}
}

// noteBatch notes that a batch has taken the call.
func (t *callTrace) noteBatch() {
	if t != nil {
		t.batchAt = time.Now()
	}
}

// noteSending notes that the batch was sent, and what came of it, for those of its callers that are
// traced. It is called before the batch's position moves on.
func (b *appendBatch) noteSending(began time.Time, err error) {
	if !tracing.IsOn() {
		return
	}
	now := time.Now()
	for _, c := range b.calls {
		if t := c.trace; t != nil && len(t.sends) < maxSendTraces {
			t.sends = append(t.sends, sendTrace{began, now, b.pos, len(b.entries), len(b.calls), err})
		}
	}
}

// report makes the spans of a call that is answered.
func (t *callTrace) report(c *call, v verdict) {
	op := t.span.ChildAt(opName(c.req), tracing.Internal, t.queuedAt)
	taken := t.batchAt
	if taken.IsZero() {
		taken = time.Now()
	}
	op.ChildAt("queue", tracing.Internal, t.queuedAt).EndAt(taken)
	for _, send := range t.sends {
		span := op.ChildAt("s2.append", tracing.Client, send.began)
		span.Int(tracing.Position, int(send.pos))
		span.Int(tracing.Records, send.records)
		span.Int(tracing.Calls, send.calls)
		if send.err != nil {
			span.Fail(storageErrorKind(send.err))
		}
		span.EndAt(send.ended)
	}
	result := resultOf(v.outcome, v.err)
	op.Text(tracing.Outcome, string(result))
	if c.losses > 0 {
		op.Int(tracing.Losses, c.losses)
	}
	if v.err != nil {
		op.Fail(string(result))
	}
	op.End()
}

// opName names the span of a request; nil: of a touch.
func opName(req *Request) string {
	if req == nil {
		return "touch"
	}
	switch req.Op {
	case OpCreate:
		return "create"
	case OpAppend:
		return "append"
	case OpDelete:
		return "delete"
	case OpHold, OpRelease, OpReleaseDone, OpCancelFork:
	}
	return "fork-reference"
}

// storageErrorKind names what went wrong with a call to storage. Closed set.
func storageErrorKind(err error) string {
	switch {
	case isTail(err):
		return "position"
	case errors.Is(err, ErrNoLog):
		return "no-log"
	case errors.Is(err, ErrLogDenied):
		return "denied"
	case errors.Is(err, ErrLogUnreachable):
		return "unreachable"
	case errors.Is(err, ErrLogBusy):
		return "busy"
	case errors.Is(err, context.Canceled):
		return "cancelled"
	case errors.Is(err, ErrAppendUnknown), errors.Is(err, context.DeadlineExceeded):
		return "unanswered"
	}
	return "error"
}

// endStorageSpan ends the span of a call to storage that brought so many records.
func endStorageSpan(span *tracing.Span, records int, err error) {
	if span == nil {
		return
	}
	span.Int(tracing.Records, records)
	if err != nil {
		span.Fail(storageErrorKind(err))
	}
	span.End()
}
