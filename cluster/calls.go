package cluster

import (
	"context"
	"errors"
	"fmt"
	"io"

	"google.golang.org/grpc"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// The edge's half of the calls that are no lanes. Each ends with its link.

// bind ends a call's context with the link.
func (l *link) bind(ctx context.Context) (context.Context, func()) {
	ctx, cancel := context.WithCancelCause(ctx)
	unhook := context.AfterFunc(l.ctx, func() { cancel(errUnreachable) })
	return ctx, func() {
		unhook()
		cancel(nil)
	}
}

// do has the member carry a write out. delivered: it may have got it. A call that this
// side ended before its last chunk was not carried out.
func (l *link) do(ctx context.Context, q *shard.Request, r route) (
	out shard.Outcome, delivered bool, err error,
) {
	head := requestToWire(q, r)
	if l.version < relayBytes {
		if err := readable(head.GetType(), head.GetExpiresRaw(), head.GetProducer().GetId()); err != nil {
			return out, false, err
		}
	}
	ctx, end := l.bind(ctx)
	defer end()
	call, err := l.client.Do(ctx)
	if err != nil {
		return out, false, statusToError(err)
	}
	if err := sendRequest(call, head, q); err != nil && !errors.Is(err, io.EOF) {
		return out, false, statusToError(err)
	}
	reply, err := call.CloseAndRecv() // after io.EOF it says why
	if err != nil {
		return out, !turnedAway(status.Code(err)), statusToError(err)
	}
	if err := checkOutcome(reply); err != nil {
		return out, true, fmt.Errorf("%w: %w", errFailed, err)
	}
	return outcomeFromWire(reply), true, nil
}

// sendRequest sends a request in chunks of frameBytes.
func sendRequest(
	call grpc.ClientStreamingClient[relaypb.DoChunk, relaypb.DoReply], head *relaypb.DoHead, q *shard.Request,
) error {
	chunk := &relaypb.DoChunk{Head: head}
	for body := q.Messages.Body(); ; {
		n := min(len(body), frameBytes)
		chunk.Body, body = body[:n], body[n:]
		if err := call.Send(chunk); err != nil || len(body) == 0 {
			return err
		}
		chunk = &relaypb.DoChunk{}
	}
}

// state asks the member for a stream's state.
func (l *link) state(
	ctx context.Context, id shard.StreamID, a shard.Ask, r route,
) (shard.Info, error) {
	ctx, end := l.bind(ctx)
	defer end()
	reply, err := l.client.State(ctx, &relaypb.StateRequest{
		Route: routeToWire(r), Stream: raw(id), Ask: uint32(a),
	})
	if err != nil {
		return shard.Info{}, statusToError(err)
	}
	if err := checkInfo(reply.GetInfo()); err != nil {
		return shard.Info{}, fmt.Errorf("%w: %w", errFailed, err)
	}
	return infoFromWire(reply.GetInfo()), nil
}

// page asks the member for a page of history.
func (l *link) page(
	ctx context.Context, id shard.StreamID, info shard.Info, from uint64,
) (shard.Range, error) {
	ctx, end := l.bind(ctx)
	defer end()
	call, err := l.client.ReadPage(ctx, &relaypb.PageRequest{
		Stream: raw(id), Info: infoToWire(info), From: from,
	})
	if err != nil {
		return shard.Range{}, statusToError(err)
	}
	var b []byte
	for total := 0; ; {
		chunk, err := call.Recv()
		if errors.Is(err, io.EOF) {
			l.met.bytes[sideEdge].Add(float64(len(b)))
			return shard.ParseRange(b)
		}
		if err != nil {
			return shard.Range{}, statusToError(err)
		}
		if b == nil {
			total = int(min(chunk.GetTotal(), maxRange))
			b = roomFor(total)
		}
		if len(b)+len(chunk.GetData()) > total {
			return shard.Range{}, fmt.Errorf("page: %w", errPiece)
		}
		b = append(b, chunk.GetData()...)
	}
}
