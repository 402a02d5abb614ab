package s2

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"sync/atomic"
	"time"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"github.com/s2-streamstore/s2-sdk-go/s2"

	"github.com/fantail-dev/fantail/shard"
)

// InProcess keeps streams in an S2 of this process, without a socket in between: the socket would
// take most of the time of a lone node's appends. Everything else is as with Log. It implements
// shard.Log.
type InProcess struct {
	cfg      Config
	basins   basinCache[Basin]
	sessions atomic.Int64
	metrics  metrics
}

var _ shard.Log = (*InProcess)(nil)

// Basin is a basin of an S2 in this process (s2dev.Direct). Each method is the call of S2's API
// with that name. Capped is the exception: it reports whether the stream's timestamps never exceed
// the server's clock. Append returns the first position, and the timestamps of the first and last
// record. Read returns records from seq on, or the last count records with fromEnd. Follow is a
// read session: it calls fn with records, and at the tail with none. A Refusal is an error that S2
// answered. Any other error means that there was no answer.
type Basin interface {
	EnsureBasin() error
	EnsureStream(ctx context.Context, name string) error
	Capped(ctx context.Context, name string) (bool, error)
	Append(ctx context.Context, name string, in *pb.AppendInput) (start, startTime, endTime uint64, err error)
	Tail(ctx context.Context, name string) (uint64, error)
	Read(ctx context.Context, name string, seq uint64, count int, fromEnd bool) ([]*pb.SequencedRecord, error)
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
	return &InProcess{cfg: cfg, basins: basinCache[Basin]{newBasin: open}, metrics: newMetrics(cfg.Metrics, newHealth("in this process", cfg.Logger))}, nil
}

// Close does nothing: the Log does not own the server.
func (l *InProcess) Close() error { return nil }

func (l *InProcess) locate(id shard.StreamID) (d Basin, name string, err error) {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return nil, "", err
	}
	return l.basins.get(basin), name, nil
}

// Create implements shard.Log.
func (l *InProcess) Create(ctx context.Context, id shard.StreamID) error {
	basin, name, err := l.cfg.locate(id)
	if err != nil {
		return err
	}
	d := l.basins.get(basin)
	return l.cfg.createStream(basin,
		func() error { return toSDKError(d.EnsureStream(ctx, name)) },
		func() error { return classifyError("ensure basin "+basin, toSDKError(d.EnsureBasin())) })
}

// FleetLog implements shard.Sited.
func (l *InProcess) FleetLog(id shard.StreamID) shard.StreamID { return l.cfg.fleetLog(id) }

// Capped implements shard.Timed.
func (l *InProcess) Capped(ctx context.Context, id shard.StreamID) (bool, error) {
	d, name, err := l.locate(id)
	if err != nil {
		return false, err
	}
	capped, err := d.Capped(ctx, name)
	if err != nil {
		return false, l.cfg.classifyError("stream config", toSDKError(err))
	}
	return capped, nil
}

// Append implements shard.Log.
func (l *InProcess) Append(
	ctx context.Context, id shard.StreamID, at shard.Pos, batch []shard.Entry,
) (shard.Ack, error) {
	d, name, err := l.locate(id)
	if err != nil {
		return shard.Ack{}, err
	}
	in := &pb.AppendInput{MatchSeqNum: new(uint64(at)), Records: make([]*pb.AppendRecord, len(batch))}
	for i, e := range batch {
		in.Records[i] = toServerRecord(e)
	}
	begun := time.Now()
	start, startTime, endTime, err := d.Append(ctx, name, in)
	l.metrics.recordCall(opAppend, begun, l.cfg.classifyError("append", toSDKError(err)))
	if err != nil {
		return shard.Ack{}, l.cfg.classifyAppend(toSDKError(err))
	}
	return shard.Ack{Start: shard.Pos(start), End: shard.Pos(start + uint64(len(batch))), StartTime: shard.Millis(startTime), EndTime: shard.Millis(endTime)}, nil
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

// Read implements shard.Log.
func (l *InProcess) Read(ctx context.Context, id shard.StreamID, from shard.Pos, limit int) (shard.Page, error) {
	p, err := l.read(ctx, id, from, pageLimit(limit), false)
	return emptyAtTail(p, err, from)
}

// Last implements shard.Log.
func (l *InProcess) Last(ctx context.Context, id shard.StreamID, n int) (shard.Page, error) {
	p, err := l.read(ctx, id, 0, n, true)
	return lastPage(p, err, func() (shard.Pos, error) { return l.Tail(ctx, id) })
}

func (l *InProcess) read(ctx context.Context, id shard.StreamID, from shard.Pos, n int, fromEnd bool) (shard.Page, error) {
	d, name, err := l.locate(id)
	if err != nil {
		return shard.Page{}, err
	}
	start := time.Now()
	recs, err := d.Read(ctx, name, uint64(from), n, fromEnd)
	err = l.cfg.classifyError("read", toSDKError(err))
	l.metrics.recordCall(opRead, start, err)
	if err != nil {
		return shard.Page{}, err
	}
	return shard.Page{Records: fromServerRecords(recs)}, nil
}

// Tail implements shard.Log.
func (l *InProcess) Tail(ctx context.Context, id shard.StreamID) (shard.Pos, error) {
	d, name, err := l.locate(id)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	tail, err := d.Tail(ctx, name)
	err = l.cfg.classifyError("check tail", toSDKError(err))
	l.metrics.recordCall(opTail, start, err)
	return shard.Pos(tail), err
}

// Follow implements shard.Log.
func (l *InProcess) Follow(ctx context.Context, id shard.StreamID, from shard.Pos, fn func(shard.Page) error) error {
	d, name, err := l.locate(id)
	if err != nil {
		return err
	}
	return l.cfg.keepSessionOpen(ctx, id, from, &l.metrics, fn, func(ctx context.Context, from shard.Pos, fn func(shard.Page) error) error {
		return l.readSession(ctx, d, name, from, func(recs []shard.Record, tail shard.Pos) error {
			return fn(shard.Page{Records: recs, Tail: tail, HasTail: true})
		})
	})
}

// errReplayDone ends a session that has delivered all records of a replay.
var errReplayDone = errors.New("s2: done")

// Replay implements shard.Log.
func (l *InProcess) Replay(ctx context.Context, id shard.StreamID, from, to shard.Pos, fn func(shard.Page) error) error {
	d, name, err := l.locate(id)
	if err != nil || from >= to {
		return err
	}
	err = l.readSession(ctx, d, name, from, func(recs []shard.Record, tail shard.Pos) error {
		ends := len(recs) == 0
		for n := len(recs); n > 0 && recs[n-1].Pos+1 >= to; n-- {
			if ends = true; recs[n-1].Pos < to {
				break
			}
			recs = recs[:n-1]
		}
		if len(recs) > 0 {
			ends = ends || recs[len(recs)-1].Pos+1 >= tail
			if err := fn(shard.Page{Records: recs}); err != nil {
				return err
			}
		}
		if ends {
			return errReplayDone
		}
		return nil
	})
	if _, ok := errors.AsType[*shard.TailError](err); ok || errors.Is(err, errReplayDone) {
		return nil // the log ends here
	}
	if own, ok := errors.AsType[*callerError](err); ok {
		return own.error
	}
	return err
}

// readSession runs one read session.
func (l *InProcess) readSession(
	ctx context.Context, d Basin, name string, from shard.Pos, fn func(recs []shard.Record, tail shard.Pos) error,
) error {
	l.sessions.Add(1)
	defer l.sessions.Add(-1)
	l.metrics.sessionOpens.Inc()
	var own error
	err := d.Follow(ctx, name, uint64(from), func(recs []*pb.SequencedRecord, tail uint64) error {
		own = fn(fromServerRecords(recs), shard.Pos(tail))
		return own
	})
	switch {
	case own != nil:
		return &callerError{own}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	err = l.cfg.classifyError("read session", toSDKError(err))
	l.metrics.recordResult(opSession, time.Now(), err)
	return err
}

// OpenSessions implements shard.Log.
func (l *InProcess) OpenSessions() int { return int(l.sessions.Load()) }

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
