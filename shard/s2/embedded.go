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

// Embedded keeps streams in an S2 of this process, without a socket in between: what a lone
// node's appends would spend on it is most of their time. Everything else is as with Log. It
// implements shard.Log.
type Embedded struct {
	cfg      Config
	basins   basins[Basin]
	sessions atomic.Int64
	m        metrics
}

var _ shard.Log = (*Embedded)(nil)

// Basin is a basin of an S2 in this process (s2dev.Direct). Each method is the call of S2's
// API of that name, but for Capped, which says whether the stream's timestamps are at most
// the server's own; Append returns the first position, and the timestamps of the first and last
// record; Read returns what stands from seq on, or the last count with fromEnd; Follow is a read
// session, which calls fn with records, or at the tail with none. An answer
// of S2 that is an error is a Refusal; any other error is no answer.
type Basin interface {
	EnsureBasin() error
	EnsureStream(ctx context.Context, name string) error
	Capped(ctx context.Context, name string) (bool, error)
	Append(ctx context.Context, name string, in *pb.AppendInput) (start, startTime, endTime uint64, err error)
	Tail(ctx context.Context, name string) (uint64, error)
	Read(ctx context.Context, name string, seq uint64, count int, fromEnd bool) ([]*pb.SequencedRecord, error)
	Follow(ctx context.Context, name string, seq uint64, fn func(recs []*pb.SequencedRecord, tail uint64) error) error
}

// Refusal is an error that S2 answered with: its HTTP status, its code and message, and of a
// refused position (412, 416) the tail.
type Refusal interface {
	error
	Refusal() (status int, code, message string, tail *uint64)
}

// OpenEmbedded returns a Log on the basins of a server, which has to outlive it.
func OpenEmbedded(open func(basin string) Basin, cfg Config) (*Embedded, error) {
	cfg.Token = noToken
	if err := cfg.validate(); err != nil {
		return nil, fmt.Errorf("s2: %w", err)
	}
	return &Embedded{cfg: cfg, basins: basins[Basin]{open: open}, m: newMetrics(cfg.Metrics, newHealth("in this process", cfg.Logger))}, nil
}

// Close does nothing: the server is not the Log's.
func (l *Embedded) Close() error { return nil }

func (l *Embedded) stream(id shard.StreamID) (d Basin, name string, err error) {
	basin, name, err := l.cfg.place(id)
	if err != nil {
		return nil, "", err
	}
	return l.basins.get(basin), name, nil
}

// Create implements shard.Log.
func (l *Embedded) Create(ctx context.Context, id shard.StreamID) error {
	d, name, err := l.stream(id)
	if err != nil {
		return err
	}
	err = asSDK(d.EnsureStream(ctx, name))
	if l.cfg.CreateBasins && hasCode(err, "basin_not_found") {
		if err := l.cfg.mayMake(string(id)); err != nil {
			return err
		}
		if err := d.EnsureBasin(); err != nil {
			return classify("ensure basin", asSDK(err))
		}
		err = asSDK(d.EnsureStream(ctx, name))
	}
	return classify("create", err)
}

// FleetLog implements shard.Sited.
func (l *Embedded) FleetLog(id shard.StreamID) shard.StreamID { return l.cfg.fleetLog(id) }

// Capped implements shard.Timed.
func (l *Embedded) Capped(ctx context.Context, id shard.StreamID) (bool, error) {
	d, name, err := l.stream(id)
	if err != nil {
		return false, err
	}
	capped, err := d.Capped(ctx, name)
	if err != nil {
		return false, l.cfg.classify("stream config", asSDK(err))
	}
	return capped, nil
}

// Append implements shard.Log.
func (l *Embedded) Append(
	ctx context.Context, id shard.StreamID, at uint64, batch []shard.Entry,
) (shard.Ack, error) {
	d, name, err := l.stream(id)
	if err != nil {
		return shard.Ack{}, err
	}
	in := &pb.AppendInput{MatchSeqNum: &at, Records: make([]*pb.AppendRecord, len(batch))}
	for i, e := range batch {
		in.Records[i] = toWire(e)
	}
	begun := time.Now()
	start, startTime, endTime, err := d.Append(ctx, name, in)
	l.m.done(opAppend, begun, l.cfg.classify("append", asSDK(err)))
	if err != nil {
		return shard.Ack{}, l.cfg.appendErr(asSDK(err))
	}
	return shard.Ack{Start: start, End: start + uint64(len(batch)), StartTime: startTime, EndTime: endTime}, nil
}

// toWire makes the server's record of an entry, in one piece of memory.
func toWire(e shard.Entry) *pb.AppendRecord {
	r := new(struct {
		pb.AppendRecord
		header  pb.Header
		headers [1]*pb.Header
	})
	var has bool
	if r.header.Name, r.header.Value, r.Body, has = parts(e); has {
		r.headers[0] = &r.header
		r.Headers = r.headers[:]
	}
	return &r.AppendRecord
}

// Read implements shard.Log.
func (l *Embedded) Read(ctx context.Context, id shard.StreamID, from uint64, limit int) (shard.Page, error) {
	if limit <= 0 || limit > shard.MaxBatchRecords {
		limit = shard.MaxBatchRecords
	}
	p, err := l.read(ctx, id, from, limit, false)
	if lost, ok := errors.AsType[*shard.TailError](err); ok && lost.Tail == from {
		return shard.Page{Tail: from, HasTail: true}, nil
	}
	return p, err
}

// Last implements shard.Log.
func (l *Embedded) Last(ctx context.Context, id shard.StreamID, n int) (shard.Page, error) {
	p, err := l.read(ctx, id, 0, n, true)
	if lost, ok := errors.AsType[*shard.TailError](err); ok {
		return shard.Page{Tail: lost.Tail, HasTail: true}, nil
	}
	if err == nil && len(p.Records) == 0 { // all there was is trimmed
		p.Tail, err = l.Tail(ctx, id)
		p.HasTail = err == nil
	}
	return p, err
}

func (l *Embedded) read(ctx context.Context, id shard.StreamID, from uint64, n int, fromEnd bool) (shard.Page, error) {
	d, name, err := l.stream(id)
	if err != nil {
		return shard.Page{}, err
	}
	start := time.Now()
	recs, err := d.Read(ctx, name, from, n, fromEnd)
	err = l.cfg.classify("read", asSDK(err))
	l.m.done(opRead, start, err)
	if err != nil {
		return shard.Page{}, err
	}
	return shard.Page{Records: fromWire(recs)}, nil
}

// Tail implements shard.Log.
func (l *Embedded) Tail(ctx context.Context, id shard.StreamID) (uint64, error) {
	d, name, err := l.stream(id)
	if err != nil {
		return 0, err
	}
	start := time.Now()
	tail, err := d.Tail(ctx, name)
	err = l.cfg.classify("check tail", asSDK(err))
	l.m.done(opTail, start, err)
	return tail, err
}

// Follow implements shard.Log.
func (l *Embedded) Follow(ctx context.Context, id shard.StreamID, from uint64, fn func(shard.Page) error) error {
	d, name, err := l.stream(id)
	if err != nil {
		return err
	}
	return l.cfg.follow(ctx, id, from, &l.m, fn, func(ctx context.Context, from uint64, fn func(shard.Page) error) error {
		return l.session(ctx, d, name, from, func(recs []shard.Record, tail uint64) error {
			return fn(shard.Page{Records: recs, Tail: tail, HasTail: true})
		})
	})
}

// errDone ends a session that has delivered what was asked for.
var errDone = errors.New("s2: done")

// Replay implements shard.Log.
func (l *Embedded) Replay(ctx context.Context, id shard.StreamID, from, to uint64, fn func(shard.Page) error) error {
	d, name, err := l.stream(id)
	if err != nil || from >= to {
		return err
	}
	err = l.session(ctx, d, name, from, func(recs []shard.Record, tail uint64) error {
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
			return errDone
		}
		return nil
	})
	if _, ok := errors.AsType[*shard.TailError](err); ok || errors.Is(err, errDone) {
		return nil // the log ends here
	}
	if own, ok := errors.AsType[*callerError](err); ok {
		return own.error
	}
	return err
}

// session is one read session.
func (l *Embedded) session(
	ctx context.Context, d Basin, name string, from uint64, fn func(recs []shard.Record, tail uint64) error,
) error {
	l.sessions.Add(1)
	defer l.sessions.Add(-1)
	l.m.opened.Inc()
	var own error
	err := d.Follow(ctx, name, from, func(recs []*pb.SequencedRecord, tail uint64) error {
		own = fn(fromWire(recs), tail)
		return own
	})
	switch {
	case own != nil:
		return &callerError{own}
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	err = l.cfg.classify("read session", asSDK(err))
	l.m.ended(opSession, time.Now(), err)
	return err
}

// OpenSessions implements shard.Log.
func (l *Embedded) OpenSessions() int { return int(l.sessions.Load()) }

// fromWire makes records of the server's.
func fromWire(recs []*pb.SequencedRecord) []shard.Record {
	out := make([]shard.Record, len(recs))
	for i, r := range recs {
		one := s2.SequencedRecord{SeqNum: r.GetSeqNum(), Timestamp: r.GetTimestamp(), Body: r.GetBody(), Headers: make([]s2.Header, len(r.GetHeaders()))}
		for k, h := range r.GetHeaders() {
			one.Headers[k] = s2.Header{Name: h.GetName(), Value: h.GetValue()}
		}
		out[i] = fromS2(one)
	}
	return out
}

// asSDK words an error of the server as the SDK would, so that there is one classify.
func asSDK(err error) error {
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
