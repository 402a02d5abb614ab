package s2dev

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/proto"
)

// Direct is a basin of the server for callers in the same process. It has the same checks, order,
// durability, faults and usage counts as over a socket. Of the faults of sessions it knows those
// that come before they open, EndSession and Silence; the others are faults of a connection.
//
// Its errors are an *Error, or ErrNoAnswer where a client would see a lost connection.
type Direct struct {
	server *Server
	basin  string
}

// Direct returns a basin, which need not exist yet.
func (s *Server) Direct(basin string) *Direct { return &Direct{s, basin} }

// ErrNoAnswer is returned for a call without an answer: the server stopped, or a fault lost the
// answer. An append may have been carried out.
var ErrNoAnswer = errors.New("s2dev: no answer")

// Error is a refusal with S2's status, code and message.
type Error struct {
	Status        int
	Code, Message string
	// Tail is the stream's tail, for a refused position (412, 416).
	Tail *uint64
}

func (e *Error) Error() string { return fmt.Sprintf("s2dev: %d %s: %s", e.Status, e.Code, e.Message) }

// Refusal returns the HTTP status, code and message of S2's API, and the tail.
func (e *Error) Refusal() (status int, code, message string, tail *uint64) {
	return e.Status, e.Code, e.Message, e.Tail
}

// toDirectError converts an outcome to the error for the caller.
func toDirectError(lost bool, err *apiError) error {
	switch {
	case lost:
		return ErrNoAnswer
	case err == nil:
		return nil
	}
	e := &Error{Status: err.status, Code: err.code, Message: err.message}
	switch body := err.body.(type) {
	case map[string]uint64:
		e.Tail = new(body["seq_num_mismatch"])
	case map[string]position:
		e.Tail = new(body["tail"].Seq)
	}
	return e
}

// EnsureBasin creates the basin if it does not exist (PUT /basins/{b}).
func (d *Direct) EnsureBasin() error {
	if !d.server.enterRequest() {
		return ErrNoAnswer
	}
	defer d.server.requests.Done()
	return d.server.ensureBasin(d.basin)
}

// EnsureStream creates a stream that keeps its records, if it does not exist (PUT /streams/{s}).
func (d *Direct) EnsureStream(ctx context.Context, name string) error {
	if !d.server.enterRequest() {
		return ErrNoAnswer
	}
	defer d.server.requests.Done()
	// The operation is counted last: only then the stream that it creates exists.
	defer func() { d.server.meter.countOp(d.server.catalogue.usageOf(d.basin, name), OpEnsureStream) }()
	if err := checkStreamName(name); err != nil {
		return toDirectError(false, err)
	}
	if lost, err := d.server.faults.applyBefore(ctx, name, OpEnsureStream, nil); lost || err != nil {
		return toDirectError(lost, err)
	}
	if _, _, err := d.server.catalogue.provisionStream(d.basin, name, &streamConfig{
		Retention: &retention{}, Timestamping: &timestamping{Mode: new(modePrefer), Uncapped: new(false)}, DeleteOnEmpty: &deleteOnEmpty{},
	}, "", true); err != nil {
		return toDirectError(false, err)
	}
	return toDirectError(d.server.faults.applyAfter(ctx, name, OpEnsureStream), nil)
}

// Capped reports whether no record of the stream can be later than this server's clock (GET
// /streams/{s}).
func (d *Direct) Capped(_ context.Context, name string) (bool, error) {
	if !d.server.enterRequest() {
		return false, ErrNoAnswer
	}
	defer d.server.requests.Done()
	st, bad := d.server.catalogue.findStream(d.basin, name)
	if bad != nil {
		return false, toDirectError(false, bad)
	}
	st.mu.Lock()
	defer st.mu.Unlock()
	t := st.meta.Config.Timestamping
	return !*t.Uncapped && *t.Mode != modeRequire, nil
}

// Append appends a batch (POST /streams/{s}/records). It returns the first position, and the
// timestamps of the first and last record, in milliseconds since 1970.
func (d *Direct) Append(
	ctx context.Context, name string, in *pb.AppendInput,
) (start, startTime, endTime uint64, err error) {
	if !d.server.enterRequest() {
		return 0, 0, 0, ErrNoAnswer
	}
	defer d.server.requests.Done()
	ack, lost, bad := d.server.appendBatch(ctx, d.basin, name, in)
	return ack.Start.Seq, ack.Start.Time, ack.End.Time, toDirectError(lost, bad)
}

// Tail returns the position of the next record (GET /streams/{s}/records/tail).
func (d *Direct) Tail(ctx context.Context, name string) (uint64, error) {
	if !d.server.enterRequest() {
		return 0, ErrNoAnswer
	}
	defer d.server.requests.Done()
	tail, lost, bad := d.server.durableTail(ctx, d.basin, name)
	return tail.Seq, toDirectError(lost, bad)
}

// Read returns up to count records from seq on (GET /streams/{s}/records), as many as fit in maxBytes,
// unless that is 0. With fromEnd it reads the last count records.
func (d *Direct) Read(ctx context.Context, name string, seq uint64, count, maxBytes int, fromEnd bool) ([]*pb.SequencedRecord, error) {
	rd := readBounds{seq: &seq, count: new(uint64(count))}
	if fromEnd {
		rd.seq, rd.offset = nil, rd.count
	}
	if maxBytes > 0 {
		rd.bytes = new(uint64(maxBytes))
	}
	return d.read(ctx, name, rd)
}

// ReadSince returns up to count records from the first one on whose timestamp is since, in
// milliseconds, or later.
func (d *Direct) ReadSince(ctx context.Context, name string, since uint64, count int) ([]*pb.SequencedRecord, error) {
	return d.read(ctx, name, readBounds{time: &since, count: new(uint64(count))})
}

func (d *Direct) read(ctx context.Context, name string, rd readBounds) ([]*pb.SequencedRecord, error) {
	if !d.server.enterRequest() {
		return nil, ErrNoAnswer
	}
	defer d.server.requests.Done()
	st, lost, bad := d.server.enterStream(ctx, d.basin, name, OpRead, createsOnRead)
	if lost || bad != nil {
		return nil, toDirectError(lost, bad)
	}
	pos, bad := rd.resolveStart(st)
	if bad != nil {
		return nil, toDirectError(false, bad)
	}
	p, bad := st.read(pos, rd.maxRecords())
	if bad != nil {
		return nil, toDirectError(false, bad)
	}
	recs, _ := rd.limitRecords(p.recs)
	d.server.meter.countRead(st.usage, len(recs))
	if d.server.faults.applyAfter(ctx, name, OpRead) {
		return nil, ErrNoAnswer
	}
	return decodeRecords(recs)
}

// Follow runs a read session from seq on. It calls fn with records as they come, and without
// records at the tail: on arrival there, and every 5 to 15 s of silence. It returns fn's error,
// ctx's cause, an *Error, or ErrNoAnswer.
func (d *Direct) Follow(
	ctx context.Context, name string, seq uint64, fn func(recs []*pb.SequencedRecord, tail uint64) error,
) error {
	if !d.server.enterRequest() {
		return ErrNoAnswer
	}
	defer d.server.requests.Done()
	st, lost, bad := d.server.enterStream(ctx, d.basin, name, OpReadSession, createsOnRead)
	if lost || bad != nil {
		return toDirectError(lost, bad)
	}
	rd := readBounds{seq: &seq}
	pos, bad := rd.resolveStart(st)
	if bad != nil {
		return toDirectError(false, bad)
	}
	s := &readSession{server: d.server, ctx: ctx, st: st, bounds: rd, sink: directSink(fn), pos: pos}
	err := s.run()
	bad, refused := errors.AsType[*apiError](err)
	switch {
	case refused:
		return toDirectError(false, bad)
	case errors.Is(err, errSessionEnded), errors.Is(err, errSessionLost):
		return ErrNoAnswer
	default:
		return err
	}
}

// directSink is the fn of Direct.Follow.
type directSink func(recs []*pb.SequencedRecord, tail uint64) error

// sendRecords implements recordSink.
func (fn directSink) sendRecords(recs []record, tail position, _ bool) error {
	out, err := decodeRecords(recs)
	if err != nil {
		return err
	}
	return fn(out, tail.Seq)
}

// sendTail implements recordSink.
func (fn directSink) sendTail(tail position) error { return fn(nil, tail.Seq) }

// decodeRecords decodes records into the messages of S2's API.
func decodeRecords(recs []record) ([]*pb.SequencedRecord, error) {
	out := make([]*pb.SequencedRecord, len(recs))
	for i, r := range recs {
		out[i] = new(pb.SequencedRecord)
		if err := proto.Unmarshal(r.encoded, out[i]); err != nil {
			return nil, toDirectError(false, newError("storage", "%s", err))
		}
	}
	return out, nil
}
