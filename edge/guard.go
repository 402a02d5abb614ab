package edge

import (
	"context"
	"net/http"

	"github.com/fantail-dev/fantail/shard"
)

// caughtReader and caughtRequest say where a panic was caught, and what it cost.
const (
	caughtReader  = "reader"
	caughtRequest = "request"
)

// guard makes an error of a panic. It is deferred by itself: only so it can recover.
func (s *Server) guard(err *error) {
	if v := recover(); v != nil {
		*err = s.panics.Handle(caughtReader, v)
	}
}

// guardRequest counts a panic of a handler and cuts the connection: what of the answer
// was sent cannot be told from here. It is deferred by itself.
func (s *Server) guardRequest() {
	if v := recover(); v != nil {
		if v == http.ErrAbortHandler { //nolint:errorlint // as net/http does
			panic(v)
		}
		_ = s.panics.Handle(caughtRequest, v)
		panic(http.ErrAbortHandler)
	}
}

// abort is guardRequest for a panic that an event stream recovered from.
func (s *Server) abort(v any) {
	_ = s.panics.Handle(caughtReader, v)
	panic(http.ErrAbortHandler)
}

// readPage is Streams.ReadPage on a goroutine that nothing guards.
func (s *Server) readPage(ctx context.Context, l leg, pos uint64) (r shard.RecordBatch, err error) {
	defer s.guard(&err)
	return s.streams.ReadPage(ctx, l.id, l.info, pos)
}
