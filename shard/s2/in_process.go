package s2

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// InProcess keeps streams in an S2 of this process, without a socket in between: the socket would
// take most of the time of a lone node's appends. Everything else is as with Log. It implements
// shard.Log.
type InProcess struct{ logCalls }

// Basin is a basin of an S2 in this process (s2dev.Direct). Each method is the call of S2's API
// with that name. Capped is the exception: it reports whether the stream's timestamps never exceed
// the server's clock. Append returns the first position, and the timestamps of the first and last
// record. Read returns records from seq on, or the last count records with fromEnd, as many as fit in
// maxBytes, unless that is 0. ReadSince begins at the first record of a time, in milliseconds, or later.
// Follow is a read session: it calls fn with records, and at the tail with none. List returns names in their order,
// with the times at which the streams were created, in milliseconds. A Refusal is an error that S2
// answered. Any other error means that there was no answer.
type Basin interface {
	EnsureBasin() error
	EnsureStream(ctx context.Context, name string) error
	Capped(ctx context.Context, name string) (bool, error)
	Append(ctx context.Context, name string, in *pb.AppendInput) (start, startTime, endTime uint64, err error)
	Tail(ctx context.Context, name string) (uint64, error)
	Read(ctx context.Context, name string, seq uint64, count, maxBytes int, fromEnd bool) ([]*pb.SequencedRecord, error)
	ReadSince(ctx context.Context, name string, since uint64, count int) ([]*pb.SequencedRecord, error)
	List(ctx context.Context, prefix, after string, limit int) (names []string, created []uint64, more bool, err error)
	Follow(ctx context.Context, name string, seq uint64, fn func(recs []*pb.SequencedRecord, tail uint64) error) error
}

// Refusal is an error that S2 answered: HTTP status, code and message. For a refused position (412,
// 416) it has the tail, too.
type Refusal interface {
	error
	Refusal() (status int, code, message string, tail *uint64)
}

// OpenInProcess returns a Log on the basins of a server. The server must be closed after the Log.
func OpenInProcess(open func(basin string) Basin, cfg Config) (*InProcess, error) {
	cfg.Token = placeholderToken
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("s2: %w", err)
	}
	return &InProcess{logCalls{
		cfg:     cfg,
		service: &inProcessService{basins: basinCache[Basin]{newBasin: open}},
		metrics: newMetrics(cfg.Metrics, newHealth("in this process", cfg.Logger)),
	}}, nil
}

// Close does nothing: the Log does not own the server.
func (l *InProcess) Close() error { return nil }

// inProcessService is the S2 of this process.
type inProcessService struct{ basins basinCache[Basin] }

func (s *inProcessService) ensureBasin(_ context.Context, basin string) error {
	return toSDKError(s.basins.get(basin).EnsureBasin())
}

func (s *inProcessService) ensureStream(ctx context.Context, basin, name string) error {
	return toSDKError(s.basins.get(basin).EnsureStream(ctx, name))
}

func (s *inProcessService) isCapped(ctx context.Context, basin, name string) (bool, error) {
	capped, err := s.basins.get(basin).Capped(ctx, name)
	return capped, toSDKError(err)
}

func (s *inProcessService) append(ctx context.Context, basin, name string, at shard.Pos, batch []shard.Entry) (shard.Ack, error) {
	in := &pb.AppendInput{MatchSeqNum: new(uint64(at)), Records: make([]*pb.AppendRecord, len(batch))}
	for i, e := range batch {
		in.Records[i] = toServerRecord(e)
	}
	start, startTime, endTime, err := s.basins.get(basin).Append(ctx, name, in)
	if err != nil {
		return shard.Ack{}, toSDKError(err)
	}
	return shard.Ack{Start: shard.Pos(start), End: shard.Pos(start) + shard.Pos(len(batch)), StartTime: shard.Millis(startTime), EndTime: shard.Millis(endTime)}, nil
}

// toServerRecord converts an entry to a record of the server, with one allocation.
func toServerRecord(e shard.Entry) *pb.AppendRecord {
	r := new(struct {
		pb.AppendRecord
		header  pb.Header
		headers [1]*pb.Header
	})
	var has bool
	if r.header.Name, r.header.Value, r.Body, has = recordParts(e); has {
		r.headers[0] = &r.header
		r.Headers = r.headers[:]
	}
	return &r.AppendRecord
}

func (s *inProcessService) read(ctx context.Context, basin, name string, start readStart, count int) (shard.Page, error) {
	b := s.basins.get(basin)
	var recs []*pb.SequencedRecord
	var err error
	if start.since != nil {
		recs, err = b.ReadSince(ctx, name, uint64(*start.since), count)
	} else {
		recs, err = b.Read(ctx, name, uint64(start.pos), count, start.maxBytes, start.fromEnd)
	}
	if err != nil {
		return shard.Page{}, toSDKError(err)
	}
	return shard.Page{Records: fromServerRecords(recs)}, nil
}

func (s *inProcessService) tail(ctx context.Context, basin, name string) (shard.Pos, error) {
	tail, err := s.basins.get(basin).Tail(ctx, name)
	return shard.Pos(tail), toSDKError(err)
}

// errSessionDone ends a session that has delivered its count of records, or all there are.
var errSessionDone = errors.New("s2: done")

// runSession implements service. The server's sessions know no count.
func (s *inProcessService) runSession(
	ctx context.Context, basin, name string, from shard.Pos, count uint64, opened func(), fn func(shard.Page) error,
) error {
	opened()
	last := uint64(from) + count // where the session ends, if it has a count
	var own error
	err := s.basins.get(basin).Follow(ctx, name, uint64(from), func(recs []*pb.SequencedRecord, tail uint64) error {
		page := shard.Page{Records: fromServerRecords(recs), Tail: shard.Pos(tail), HasTail: true}
		if count > 0 && len(recs) == 0 {
			return errSessionDone
		}
		if err := fn(page); err != nil {
			own = &callerError{err}
			return own
		}
		if n := len(recs); count > 0 && recs[n-1].GetSeqNum()+1 >= min(last, tail) {
			return errSessionDone
		}
		return nil
	})
	switch {
	case own != nil:
		return own
	case errors.Is(err, errSessionDone):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	return toSDKError(err)
}

// fromServerRecords converts records of the server.
func fromServerRecords(recs []*pb.SequencedRecord) []shard.Record {
	out := make([]shard.Record, len(recs))
	for i, r := range recs {
		one := s2.SequencedRecord{SeqNum: r.GetSeqNum(), Timestamp: r.GetTimestamp(), Body: r.GetBody(), Headers: make([]s2.Header, len(r.GetHeaders()))}
		for k, h := range r.GetHeaders() {
			one.Headers[k] = s2.Header{Name: h.GetName(), Value: h.GetValue()}
		}
		out[i] = fromSDKRecord(one)
	}
	return out
}

// toSDKError converts an error of the server to the SDK's error for the same answer, so that
// classifyError serves both.
func toSDKError(err error) error {
	e, ok := errors.AsType[Refusal](err)
	if !ok {
		return err
	}
	status, code, message, tail := e.Refusal()
	plain := &s2.S2Error{Message: message, Code: code, Status: status, Origin: "server"}
	switch {
	case tail != nil && status == http.StatusPreconditionFailed:
		return &s2.SeqNumMismatchError{S2Error: plain, ExpectedSeqNum: *tail}
	case tail != nil:
		return &s2.RangeNotSatisfiableError{S2Error: plain, Tail: &s2.StreamPosition{SeqNum: *tail}}
	}
	return plain
}
