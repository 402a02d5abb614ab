package transport

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/fantail-dev/fantail/shard"
)

// The places where panics are recovered, as the metric names them. A panic ends the call, link or
// subscription in which it happens, and nothing else.
const (
	panicInCall         = "relay_call"
	panicInLink         = "relay_link"
	panicInSubscription = "relay_subscription"
)

// recoverToStatus does what guard.ToError does, for a call's handler.
func recoverToStatus(p *shard.PanicHandler, err *error) {
	if v := recover(); v != nil {
		*err = status.Error(codes.Internal, p.Handle(panicInCall, v).Error())
	}
}

// panicInterceptors returns the interceptors that make a handler's panic cost one call. gRPC itself
// would let it end the process.
func panicInterceptors(p *shard.PanicHandler) []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.ChainUnaryInterceptor(func(
			ctx context.Context, q any, _ *grpc.UnaryServerInfo, next grpc.UnaryHandler,
		) (reply any, err error) {
			defer recoverToStatus(p, &err)
			return next(ctx, q)
		}),
		grpc.ChainStreamInterceptor(func(
			srv any, s grpc.ServerStream, _ *grpc.StreamServerInfo, next grpc.StreamHandler,
		) (err error) {
			defer recoverToStatus(p, &err)
			return next(srv, s)
		}),
	}
}
