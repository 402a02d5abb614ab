package s2dev

import (
	"context"
	"net/http"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/proto"
)

type appendAck struct {
	Start position `json:"start"`
	End   position `json:"end"`
	Tail  position `json:"tail"`
}

func (c *apiCall) appendRecords(basin, name string) *apiError {
	if c.contentType() == mimeS2S {
		return c.serveAppendSession(basin, name)
	}
	raw, err := c.readAppendInput()
	if err != nil {
		return err
	}
	ack, lost, err := c.appendBatch(c.r.Context(), basin, name, raw)
	if lost {
		abortConnection()
	}
	if err != nil {
		return err
	}
	return c.replyAck(ack)
}

// appendBatch carries out a unary append. lost: a fault loses the answer.
func (s *Server) appendBatch(
	ctx context.Context, basin, name string, raw *pb.AppendInput,
) (ack appendAck, lost bool, err *apiError) {
	in, err := checkAppend(raw)
	if err != nil {
		return ack, false, err
	}
	st, lost, err := s.enterStream(ctx, basin, name, OpAppend, createsOnAppend)
	if lost || err != nil {
		return ack, lost, err
	}
	p := st.startAppend(in, s.cfg.Now())
	tail, err := p.complete()
	if err != nil {
		return ack, false, err
	}
	s.meter.countAppended(st.usage, len(in.records))
	return appendAck{Start: p.start, End: p.end, Tail: tail}, s.faults.applyAfter(ctx, name, OpAppend), nil
}

// enterStream counts an operation, finds its stream and applies the faults that come before it.
func (s *Server) enterStream(
	ctx context.Context, basin, name string, op Op, mayCreate func(basinConfig) bool,
) (st *stream, lost bool, err *apiError) {
	if st, err = s.openStream(basin, name, op, mayCreate); err != nil {
		return nil, false, err
	}
	lost, err = s.faults.applyBefore(ctx, name, op, st)
	return st, lost, err
}

// openStream counts an operation and finds the stream for records. It creates the stream if the
// basin's configuration says so. It refuses a stream with a cipher: this server does not encrypt,
// and must not pretend to.
func (s *Server) openStream(
	basin, name string, op Op, mayCreate func(basinConfig) bool,
) (*stream, *apiError) {
	st, created, err := s.catalogue.openOrCreate(basin, name, mayCreate)
	if err != nil {
		s.meter.countOp(nil, op)
		return nil, err
	}
	s.meter.countOp(st.usage, op)
	if created {
		s.meter.countOp(st.usage, OpCreateStream)
	}
	if st.cipher != nil {
		return nil, newError("not_implemented", "encrypted streams are not implemented")
	}
	return st, nil
}

func (c *apiCall) readAppendInput() (*pb.AppendInput, *apiError) {
	if c.contentType() == mimeProto {
		b, err := c.readBody()
		if err != nil {
			return nil, err
		}
		return decodeAppendInput(b, "bad_proto")
	}
	b64, err := c.base64Format()
	if err != nil {
		return nil, err
	}
	var body jsonAppend
	if err := c.decodeBody(&body, false); err != nil {
		return nil, err
	}
	return body.protobuf(b64)
}

func (a appendAck) encode() []byte {
	// Marshalling three positions cannot fail.
	b, _ := proto.Marshal(&pb.AppendAck{Start: a.Start.pb(), End: a.End.pb(), Tail: a.Tail.pb()})
	return b
}

func (c *apiCall) replyAck(a appendAck) *apiError {
	if !c.accepts(mimeProto) {
		return c.replyJSON(http.StatusOK, a)
	}
	c.w.Header().Set("Content-Type", mimeProto)
	_, _ = c.w.Write(a.encode())
	return nil
}

func (c *apiCall) checkTail(basin, name string) *apiError {
	tail, lost, err := c.durableTail(c.r.Context(), basin, name)
	if lost {
		abortConnection()
	}
	if err != nil {
		return err
	}
	return c.replyJSON(http.StatusOK, map[string]position{"tail": tail})
}

func (s *Server) durableTail(ctx context.Context, basin, name string) (tail position, lost bool, err *apiError) {
	st, lost, err := s.enterStream(ctx, basin, name, OpCheckTail, createsOnRead)
	if lost || err != nil {
		return tail, lost, err
	}
	tail, _, gone := st.durableState()
	if gone {
		return tail, false, streamDeleted()
	}
	return tail, s.faults.applyAfter(ctx, name, OpCheckTail), nil
}

// createsOnAppend and createsOnRead report whether a basin creates missing streams on an append or
// read.
func createsOnAppend(b basinConfig) bool { return b.CreateOnAppend }
func createsOnRead(b basinConfig) bool   { return b.CreateOnRead }
