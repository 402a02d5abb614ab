package edge

import (
	"context"
	"net/http"

	"github.com/fantail-dev/fantail/edge/position"
	"github.com/fantail-dev/fantail/shard"
)

// caughtReader and caughtRequest name what a panic cost, in the metric and the log.
const (
	caughtReader  = "reader"
	caughtRequest = "request"
)

// recoverReader turns a panic into an error. It must be deferred directly, because it recovers.
func (s *Server) recoverReader(err *error) {
	if v := recover(); v != nil {
		*err = s.panics.Handle(caughtReader, v)
	}
}

// recoverRequest counts a panic of a handler and closes the connection: how much of the answer
// was sent is unknown here. It must be deferred directly, because it recovers.
func (s *Server) recoverRequest() {
	if v := recover(); v != nil {
		if v == http.ErrAbortHandler { //nolint:errorlint // as net/http does
			panic(v)
		}
		_ = s.panics.Handle(caughtRequest, v)
		panic(http.ErrAbortHandler)
	}
}

// abortStream does the same as recoverRequest for a panic from which an event stream recovered.
func (s *Server) abortStream(v any) {
	_ = s.panics.Handle(caughtReader, v)
	panic(http.ErrAbortHandler)
}

// readPageRecovered calls Backend.ReadPage, on a goroutine on which nothing else recovers.
func (s *Server) readPageRecovered(ctx context.Context, seg position.Segment, pos shard.Pos) (batch shard.RecordBatch, err error) {
	defer s.recoverReader(&err)
	return s.streams.ReadPage(ctx, seg.ID, seg.Info, pos)
}
