package transport

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// This file has the edge's half of the calls that are not lanes. Each ends with its link. Their spans are in
// call_spans.go.

// bindContext returns a context that also ends with the link.
func (l *Link) bindContext(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(l.ctx, func() { cancel(placement.ErrUnreachable) })
	return ctx, func() {
		unhook()
		cancel(nil)
	}
}

// requestWrite does what RequestWrite does, without its span.
func (l *Link) requestWrite(ctx context.Context, q *shard.Request, r placement.Route) (
	out shard.Outcome, delivered bool, err error,
) {
	if q.IfMatch != nil && l.peerVersion < placement.RelayVersionIfMatch {
		return out, false, shard.ErrConditionUnsupported // it would write the append whatever its condition
	}
	head := wire.EncodeRequest(q, r)
	if l.peerVersion < placement.RelayVersionBytes {
		if err := wire.CheckUTF8(head.GetType(), head.GetExpiresRaw(), head.GetProducer().GetId()); err != nil {
			return out, false, err
		}
	}
	ctx, end := l.bindContext(ctx)
	defer end()
	call, err := l.client.Do(ctx)
	if err != nil {
		return out, false, wire.StatusToError(err)
	}
	if err := sendWriteChunks(call, head, q); err != nil && !errors.Is(err, io.EOF) {
		return out, false, wire.StatusToError(err)
	}
	reply, err := call.CloseAndRecv() // after io.EOF it returns the reason
	if err != nil {
		return out, !wire.IsNotCarriedOut(status.Code(err)), wire.StatusToError(err)
	}
	if err := wire.CheckOutcome(reply); err != nil {
		return out, true, fmt.Errorf("%w: %w", placement.ErrCallFailed, err)
	}
	return wire.DecodeOutcome(reply), true, nil
}

// sendWriteChunks sends a request in chunks of wire.MaxFrameBytes.
func sendWriteChunks(
	call grpc.ClientStreamingClient[relaypb.WriteChunk, relaypb.WriteReply], head *relaypb.WriteHead, q *shard.Request,
) error {
	chunk := &relaypb.WriteChunk{Head: head}
	for body := q.Messages.Body(); ; {
		n := min(len(body), wire.MaxFrameBytes)
		chunk.Body, body = body[:n], body[n:]
		if err := call.Send(chunk); err != nil || len(body) == 0 {
			return err
		}
		chunk = &relaypb.WriteChunk{}
	}
}

// requestInfo does what RequestInfo does, without its span.
func (l *Link) requestInfo(
	ctx context.Context, id shard.StreamID, a shard.InfoOptions, r placement.Route,
) (shard.Info, error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.State(ctx, &relaypb.StateRequest{
		Route: wire.EncodeRoute(r), Stream: wire.Bytes(id), Options: uint32(a),
	})
	if err != nil {
		return shard.Info{}, wire.StatusToError(err)
	}
	if err := wire.CheckInfo(reply.GetInfo()); err != nil {
		return shard.Info{}, fmt.Errorf("%w: %w", placement.ErrCallFailed, err)
	}
	return wire.DecodeInfo(reply.GetInfo()), nil
}

// requestPage does what RequestPage does, without its span.
func (l *Link) requestPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	call, err := l.client.ReadPage(ctx, &relaypb.PageRequest{
		Stream: wire.Bytes(id), Info: wire.EncodeInfo(info), From: uint64(from),
	})
	if err != nil {
		return shard.RecordBatch{}, wire.StatusToError(err)
	}
	var b []byte
	for total := 0; ; {
		chunk, err := call.Recv()
		if errors.Is(err, io.EOF) {
			l.metrics.bytes.Add(float64(len(b)))
			return shard.ParseBatch(b)
		}
		if err != nil {
			return shard.RecordBatch{}, wire.StatusToError(err)
		}
		if b == nil {
			total = int(min(chunk.GetTotal(), wire.MaxBatchBytes))
			b = wire.NewBuffer(total)
		}
		if len(b)+len(chunk.GetData()) > total {
			return shard.RecordBatch{}, fmt.Errorf("page: %w", wire.ErrMalformedPiece)
		}
		b = append(b, chunk.GetData()...)
	}
}

// errNoTimes reports that the member runs a release without FindTime.
var errNoTimes = fmt.Errorf("%w: it knows no times of messages", placement.ErrCallFailed)

// RequestTime asks the member from which position on messages have a time at or above since.
func (l *Link) RequestTime(ctx context.Context, id shard.StreamID, info shard.Info, since shard.Millis) (shard.Pos, error) {
	if l.peerVersion < placement.RelayVersionFindTime {
		return 0, errNoTimes
	}
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.FindTime(ctx, &relaypb.TimeRequest{Stream: wire.Bytes(id), Info: wire.EncodeInfo(info), Since: uint64(since)})
	if err != nil {
		return 0, wire.StatusToError(err)
	}
	return wire.DecodeTime(reply, info)
}

// requestHandover does what RequestHandover does, without its span.
func (l *Link) requestHandover(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (
	h shard.Handover, found bool, err error,
) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.Hand(ctx, &relaypb.HandoverRequest{Stream: wire.Bytes(id), From: uint64(from), Caller: wire.EncodePeerAddr(to)})
	if err != nil {
		return h, false, wire.StatusToError(err)
	}
	h, err = wire.DecodeHandover(reply)
	return h, reply.GetFound() && err == nil, err
}

// offerStream does what OfferStream does, without its span.
func (l *Link) offerStream(ctx context.Context, id shard.StreamID) error {
	if l.peerVersion < placement.RelayVersionTakeOver {
		_, err := l.requestInfo(ctx, id, shard.InfoAllowCached, placement.Route{})
		return err
	}
	ctx, end := l.bindContext(ctx)
	defer end()
	_, err := l.client.TakeOver(ctx, &relaypb.TakeOverRequest{Stream: wire.Bytes(id)})
	return wire.StatusToError(err)
}

// RequestReport asks the member a question about itself.
func (l *Link) RequestReport(ctx context.Context, question []byte) ([]byte, error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.Report(ctx, &relaypb.ReportRequest{Question: question})
	if err != nil {
		return nil, wire.StatusToError(err)
	}
	if len(reply.GetReport()) > MaxReport {
		return nil, placement.ErrCallFailed
	}
	return reply.GetReport(), nil
}
