package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// This file has the edge's half of the calls that are not lanes. Each ends with its link.

// bindContext returns a context that also ends with the link.
func (l *link) bindContext(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(l.ctx, func() { cancel(placement.ErrUnreachable) })
	return ctx, func() {
		unhook()
		cancel(nil)
	}
}

// requestWrite has the member carry out a write. delivered reports that it may have received the
// write. A call that this side ended before its last chunk was not carried out.
func (l *link) requestWrite(ctx context.Context, q *shard.Request, r placement.Route) (
	out shard.Outcome, delivered bool, err error,
) {
	head := requestToWire(q, r)
	if l.peerVersion < placement.RelayVersionBytes {
		if err := checkUTF8(head.GetType(), head.GetExpiresRaw(), head.GetProducer().GetId()); err != nil {
			return out, false, err
		}
	}
	ctx, end := l.bindContext(ctx)
	defer end()
	call, err := l.client.Do(ctx)
	if err != nil {
		return out, false, statusToError(err)
	}
	if err := sendWriteChunks(call, head, q); err != nil && !errors.Is(err, io.EOF) {
		return out, false, statusToError(err)
	}
	reply, err := call.CloseAndRecv() // after io.EOF it returns the reason
	if err != nil {
		return out, !isNotCarriedOut(status.Code(err)), statusToError(err)
	}
	if err := checkOutcome(reply); err != nil {
		return out, true, fmt.Errorf("%w: %w", placement.ErrCallFailed, err)
	}
	return outcomeFromWire(reply), true, nil
}

// sendWriteChunks sends a request in chunks of maxFrameBytes.
func sendWriteChunks(
	call grpc.ClientStreamingClient[relaypb.WriteChunk, relaypb.WriteReply], head *relaypb.WriteHead, q *shard.Request,
) error {
	chunk := &relaypb.WriteChunk{Head: head}
	for body := q.Messages.Body(); ; {
		n := min(len(body), maxFrameBytes)
		chunk.Body, body = body[:n], body[n:]
		if err := call.Send(chunk); err != nil || len(body) == 0 {
			return err
		}
		chunk = &relaypb.WriteChunk{}
	}
}

// requestInfo asks the member for a stream's description.
func (l *link) requestInfo(
	ctx context.Context, id shard.StreamID, a shard.InfoOptions, r placement.Route,
) (shard.Info, error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.State(ctx, &relaypb.StateRequest{
		Route: routeToWire(r), Stream: wireBytes(id), Options: uint32(a),
	})
	if err != nil {
		return shard.Info{}, statusToError(err)
	}
	if err := checkInfo(reply.GetInfo()); err != nil {
		return shard.Info{}, fmt.Errorf("%w: %w", placement.ErrCallFailed, err)
	}
	return infoFromWire(reply.GetInfo()), nil
}

// requestPage asks the member for a page of history.
func (l *link) requestPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	ctx, end := l.bindContext(ctx)
	defer end()
	call, err := l.client.ReadPage(ctx, &relaypb.PageRequest{
		Stream: wireBytes(id), Info: infoToWire(info), From: uint64(from),
	})
	if err != nil {
		return shard.RecordBatch{}, statusToError(err)
	}
	var b []byte
	for total := 0; ; {
		chunk, err := call.Recv()
		if errors.Is(err, io.EOF) {
			l.metrics.bytes[endEdge].Add(float64(len(b)))
			return shard.ParseBatch(b)
		}
		if err != nil {
			return shard.RecordBatch{}, statusToError(err)
		}
		if b == nil {
			total = int(min(chunk.GetTotal(), maxBatchOnWire))
			b = bufferFor(total)
		}
		if len(b)+len(chunk.GetData()) > total {
			return shard.RecordBatch{}, fmt.Errorf("page: %w", errMalformedPiece)
		}
		b = append(b, chunk.GetData()...)
	}
}

// requestHandover asks the member to hand a stream over to this node.
func (l *link) requestHandover(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (
	h shard.Handover, found bool, err error,
) {
	ctx, end := l.bindContext(ctx)
	defer end()
	reply, err := l.client.Hand(ctx, &relaypb.HandoverRequest{Stream: wireBytes(id), From: uint64(from), Caller: peerAddrToWire(to)})
	if err != nil {
		return h, false, statusToError(err)
	}
	h, err = checkHandover(reply)
	return h, reply.GetFound() && err == nil, err
}

// requestTakeover asks the member, the new owner of a stream, to fetch it. A release without the call
// TakeOver fetches the stream for a State call.
func (l *link) requestTakeover(ctx context.Context, id shard.StreamID) error {
	if l.peerVersion < placement.RelayVersionTakeOver {
		_, err := l.requestInfo(ctx, id, shard.InfoAllowCached, placement.Route{})
		return err
	}
	ctx, end := l.bindContext(ctx)
	defer end()
	_, err := l.client.TakeOver(ctx, &relaypb.TakeOverRequest{Stream: wireBytes(id)})
	return statusToError(err)
}
