package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"

	"github.com/fantail-dev/fantail/cluster/internal/guard"
	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/proto/relaypb"
	"github.com/fantail-dev/fantail/shard"
)

// bodyRate is the least rate, in bytes a second, at which the body of a peer's write may arrive: it has
// Config.BodyGrace plus its size divided by bodyRate. A later write gets ErrOverloaded, and its part of
// the budget is free again. The peer holds the whole body before it sends the head, so only a peer that
// hangs is slower.
const bodyRate = 1 << 20

var errBodyLate = fmt.Errorf("%w: the body of a write did not arrive in time", shard.ErrOverloaded)

// Do carries out a peer's write.
func (s *Server) Do(in grpc.ClientStreamingServer[relaypb.WriteChunk, relaypb.WriteReply]) error {
	ctx := in.Context()
	first, err := in.Recv()
	if err != nil {
		return err
	}
	req, size, err := wire.DecodeRequest(first.GetHead())
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	rt := wire.DecodeRoute(first.GetHead().GetRoute())
	if err := s.streams.CheckOwnership(ctx, req.Stream, rt); err != nil {
		return wire.ErrorToStatus(err)
	}
	cost := int64(shard.RequestCost(size, len(first.GetHead().GetSizes())))
	if !s.writeBudget.TryAcquire(cost) {
		return wire.ErrorToStatus(shard.ErrOverloaded)
	}
	defer s.writeBudget.Release(cost)
	body, err := s.awaitBody(in, first.GetBody(), size)
	if err != nil {
		return err
	}
	if err := wire.SplitMessages(req, first.GetHead().GetSizes(), body); err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	out, err := s.streams.Write(ctx, req, rt.Hop == placement.HopForce)
	if err != nil {
		return wire.ErrorToStatus(err)
	}
	return in.SendAndClose(wire.EncodeOutcome(out))
}

// awaitBody returns a body of size bytes that arrives in chunks, or the status of errBodyLate. The
// goroutine that reads ends with the handler at the latest: only that ends a pending read in gRPC.
func (s *Server) awaitBody(
	in grpc.ClientStreamingServer[relaypb.WriteChunk, relaypb.WriteReply], first []byte, size int,
) ([]byte, error) {
	type result struct {
		body []byte
		err  error
	}
	done := make(chan result, 1)
	s.wg.Go(func() {
		var r result
		defer func() { done <- r }()
		defer guard.ToError(s.panics, panicInCall, &r.err)
		r.body, r.err = readBody(in, first, size)
	})
	late := time.NewTimer(s.bodyGrace + time.Duration(size)*time.Second/bodyRate)
	defer late.Stop()
	select {
	case r := <-done:
		return r.body, r.err
	case <-late.C:
		return nil, wire.ErrorToStatus(errBodyLate)
	}
}

// readBody returns a body of size bytes that arrives in chunks.
func readBody(
	in grpc.ClientStreamingServer[relaypb.WriteChunk, relaypb.WriteReply], first []byte, size int,
) ([]byte, error) {
	body := first
	if len(first) < size {
		body = append(make([]byte, 0, size), first...)
	}
	for {
		chunk, err := in.Recv()
		if errors.Is(err, io.EOF) {
			return body, nil
		}
		if err != nil {
			return nil, err
		}
		if len(body)+len(chunk.GetBody()) > size {
			return nil, status.Error(codes.InvalidArgument, wire.ErrMalformedRequest.Error())
		}
		body = append(body, chunk.GetBody()...)
	}
}

// State describes a stream to a peer.
func (s *Server) State(
	ctx context.Context, q *relaypb.StateRequest,
) (*relaypb.StateReply, error) {
	id, ask, err := wire.CheckStateRequest(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	rt := wire.DecodeRoute(q.GetRoute())
	if err := s.streams.CheckOwnership(ctx, id, rt); err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	info, err := s.streams.Info(ctx, id, ask, rt.Hop == placement.HopForce)
	if err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	reply := &relaypb.StateReply{Info: wire.EncodeInfo(info)}
	if n, known := s.streams.KnownReaders(id); known && q.GetReaders() {
		reply.Readers = proto.Uint64(uint64(max(n, 0)))
	}
	return reply, nil
}

// TakeOver has this node fetch a stream that it owns now from the peer that owned it, and serve it.
func (s *Server) TakeOver(ctx context.Context, q *relaypb.TakeOverRequest) (*relaypb.TakeOverReply, error) {
	id, err := wire.CheckStream(q.GetStream())
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	if err := s.streams.CheckOwnership(ctx, id, placement.Route{}); err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	if err := s.streams.ServeOffered(ctx, id); err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	return &relaypb.TakeOverReply{}, nil
}

// Hand hands a stream over to the caller, if the caller is its next owner.
func (s *Server) Hand(ctx context.Context, q *relaypb.HandoverRequest) (*relaypb.HandoverReply, error) {
	id, err := wire.CheckHandoverRequest(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	h, found, err := s.streams.HandOver(ctx, id, shard.Pos(q.GetFrom()), wire.DecodePeerAddr(q.GetCaller()))
	switch {
	case err != nil:
		return nil, status.Error(codes.PermissionDenied, err.Error())
	case !found:
		return &relaypb.HandoverReply{}, nil
	}
	reply := &relaypb.HandoverReply{Found: true, State: h.State}
	for _, r := range h.Tail {
		reply.Tail = append(reply.Tail, r.Bytes())
	}
	return reply, nil
}

// ReadPage sends a peer a page of history.
func (s *Server) ReadPage(
	q *relaypb.PageRequest, out grpc.ServerStreamingServer[relaypb.PageChunk],
) error {
	id, err := wire.CheckPageRequest(q)
	if err != nil {
		return status.Error(codes.InvalidArgument, err.Error())
	}
	r, err := s.streams.ReadPage(out.Context(), id, wire.DecodeInfo(q.GetInfo()), shard.Pos(q.GetFrom()))
	if err != nil {
		return wire.ErrorToStatus(err)
	}
	b := r.Bytes()
	s.metrics.bytes.Add(float64(len(b)))
	for total := uint32(len(b)); len(b) > 0; total = 0 {
		n := min(len(b), wire.MaxFrameBytes)
		if err := out.Send(&relaypb.PageChunk{Data: b[:n], Total: total}); err != nil {
			return err
		}
		b = b[n:]
	}
	return nil
}

// FindTime tells a peer from which position on messages have a time or a later one.
func (s *Server) FindTime(ctx context.Context, q *relaypb.TimeRequest) (*relaypb.TimeReply, error) {
	id, err := wire.CheckTimeRequest(q)
	if err != nil {
		return nil, status.Error(codes.InvalidArgument, err.Error())
	}
	pos, err := s.streams.FindTime(ctx, id, wire.DecodeInfo(q.GetInfo()), shard.Millis(q.GetSince()))
	if err != nil {
		return nil, wire.ErrorToStatus(err)
	}
	return &relaypb.TimeReply{Position: uint64(pos)}, nil
}

var errNoReport = errors.New("no report")

// Report answers a peer's question about this node.
func (s *Server) Report(ctx context.Context, q *relaypb.ReportRequest) (*relaypb.ReportReply, error) {
	if len(q.GetQuestion()) > MaxQuestion {
		return nil, status.Error(codes.FailedPrecondition, errNoReport.Error())
	}
	b, err := s.streams.Report(ctx, q.GetQuestion())
	if err == nil && len(b) > MaxReport {
		err = errNoReport
	}
	if err != nil {
		return nil, status.Error(codes.FailedPrecondition, err.Error())
	}
	return &relaypb.ReportReply{Report: b}, nil
}

// Ping tells a peer that this node answers.
func (s *Server) Ping(context.Context, *relaypb.PingRequest) (*relaypb.PingReply, error) {
	return &relaypb.PingReply{}, nil
}
