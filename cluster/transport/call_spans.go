package transport

import (
	"context"
	"path"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/cluster/placement"
	"github.com/fantail-dev/fantail/cluster/wire"
	"github.com/fantail-dev/fantail/shard"
	"github.com/fantail-dev/fantail/shard/tracing"
)

// A call of a traced request has a span here, and one at the peer, which continues the trace by the header
// traceparent in gRPC's metadata. A release that does not know the header ignores it. The lanes of a link
// belong to no request and have no span.

// RequestWrite has the member carry out a write. delivered reports that it may have received the
// write. A call that this side ended before its last chunk was not carried out.
func (l *Link) RequestWrite(ctx context.Context, q *shard.Request, r placement.Route) (
	out shard.Outcome, delivered bool, err error,
) {
	ctx, span := l.beginCallSpan(ctx, "relay.Do", "Do")
	out, delivered, err = l.requestWrite(ctx, q, r)
	endCallSpan(span, err)
	return out, delivered, err
}

// RequestInfo asks the member for a stream's description.
func (l *Link) RequestInfo(
	ctx context.Context, id shard.StreamID, a shard.InfoOptions, r placement.Route,
) (shard.Info, error) {
	ctx, span := l.beginCallSpan(ctx, "relay.State", "State")
	info, err := l.requestInfo(ctx, id, a, r)
	endCallSpan(span, err)
	return info, err
}

// RequestPage asks the member for a page of history.
func (l *Link) RequestPage(
	ctx context.Context, id shard.StreamID, info shard.Info, from shard.Pos,
) (shard.RecordBatch, error) {
	ctx, span := l.beginCallSpan(ctx, "relay.ReadPage", "ReadPage")
	page, err := l.requestPage(ctx, id, info, from)
	endCallSpan(span, err)
	return page, err
}

// RequestHandover asks the member to hand a stream over to this node.
func (l *Link) RequestHandover(ctx context.Context, id shard.StreamID, from shard.Pos, to placement.PeerAddr) (
	h shard.Handover, found bool, err error,
) {
	ctx, span := l.beginCallSpan(ctx, "relay.Hand", "Hand")
	h, found, err = l.requestHandover(ctx, id, from, to)
	span.Bool(tracing.Found, found)
	endCallSpan(span, err)
	return h, found, err
}

// OfferStream asks the member, the new owner of a stream, to fetch it. A release without the call
// TakeOver fetches the stream for a State call.
func (l *Link) OfferStream(ctx context.Context, id shard.StreamID) error {
	ctx, span := l.beginCallSpan(ctx, "relay.TakeOver", "TakeOver")
	err := l.offerStream(ctx, id)
	endCallSpan(span, err)
	return err
}

// beginCallSpan begins the span of a call, if its request is traced, and has the peer continue the trace.
func (l *Link) beginCallSpan(ctx context.Context, name, method string) (context.Context, *tracing.Span) {
	ctx, span := tracing.Start(ctx, name, tracing.Client)
	if span == nil {
		return ctx, nil
	}
	span.Text(tracing.RPCSystem, "grpc")
	span.Text(tracing.RPCMethod, method)
	span.Text(tracing.Peer, l.peer.Name)
	return metadata.AppendToOutgoingContext(ctx, tracing.HeaderName, span.Traceparent()), span
}

// endCallSpan ends the span of a call. An error is told by its gRPC status alone.
func endCallSpan(span *tracing.Span, err error) {
	if span == nil {
		return
	}
	if err != nil {
		_, code := wire.EncodeRefusal(err)
		span.Fail(code.String())
	}
	span.End()
}

// traceInterceptors returns the interceptors that continue the traces of peers.
func traceInterceptors(t *tracing.Tracer) []grpc.ServerOption {
	begin := func(ctx context.Context, method string) *tracing.Span {
		method = path.Base(method)
		span := t.Continue("relay."+method, tracing.ParseTraceparent(metadata.ValueFromIncomingContext(ctx, tracing.HeaderName)))
		span.Text(tracing.RPCSystem, "grpc")
		span.Text(tracing.RPCMethod, method)
		return span
	}
	end := func(span *tracing.Span, err error) {
		if err != nil {
			span.Fail(status.Code(err).String())
		}
		span.End()
	}
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(ctx context.Context, q any, about *grpc.UnaryServerInfo, next grpc.UnaryHandler) (any, error) {
			span := begin(ctx, about.FullMethod)
			reply, err := next(span.In(ctx), q)
			end(span, err)
			return reply, err
		}),
		grpc.ChainStreamInterceptor(func(srv any, s grpc.ServerStream, about *grpc.StreamServerInfo, next grpc.StreamHandler) error {
			span := begin(s.Context(), about.FullMethod)
			if span != nil {
				s = &tracedStream{s, span.In(s.Context())}
			}
			err := next(srv, s)
			end(span, err)
			return err
		}),
	}
}

// tracedStream is a stream whose context has the span of its call.
type tracedStream struct {
	grpc.ServerStream
	ctx context.Context
}

// Context implements grpc.ServerStream.
func (s *tracedStream) Context() context.Context { return s.ctx }
