package s2dev

import (
	"context"
	"net/http"

	pb "github.com/s2-streamstore/s2-sdk-go/generated"
	"google.golang.org/protobuf/proto"
)

type jsonAck struct {
	Start position `json:"start"`
	End   position `json:"end"`
	Tail  position `json:"tail"`
}

func (c *call) appendRecords(basin, name string) *apiError {
	if c.contentType() == mimeS2S {
		return c.appendSession(basin, name)
	}
	raw, err := c.appendInput()
	if err != nil {
		return err
	}
	ack, lost, err := c.append(c.r.Context(), basin, name, raw)
	if lost {
		cut()
	}
	if err != nil {
		return err
	}
	return c.ack(ack)
}

// append carries a unary append out; lost: its answer is to be.
func (s *Server) append(
	ctx context.Context, basin, name string, raw *pb.AppendInput,
) (ack jsonAck, lost bool, err *apiError) {
	in, err := checkInput(raw)
	if err != nil {
		return ack, false, err
	}
	st, lost, err := s.enterStream(ctx, basin, name, OpAppend, onAppend)
	if lost || err != nil {
		return ack, lost, err
	}
	p := st.begin(in, s.cfg.Now())
	tail, err := p.settle()
	if err != nil {
		return ack, false, err
	}
	s.meter.appended(st.used, len(in.records))
	return jsonAck{Start: p.start, End: p.end, Tail: tail}, s.faults.after(ctx, name, OpAppend), nil
}

// enterStream counts an operation and finds its stream, with the faults that come before it.
func (s *Server) enterStream(
	ctx context.Context, basin, name string, op Op, auto func(basinConfig) bool,
) (st *stream, lost bool, err *apiError) {
	if st, err = s.openStream(basin, name, op, auto); err != nil {
		return nil, false, err
	}
	lost, err = s.faults.before(ctx, name, op, st)
	return st, lost, err
}

// openStream counts an operation and finds the stream for records, creates it if its basin says so,
// and refuses one with a cipher: this server does not encrypt, and must not let anybody believe it
// does.
func (s *Server) openStream(
	basin, name string, op Op, auto func(basinConfig) bool,
) (*stream, *apiError) {
	st, created, err := s.store.open(basin, name, auto)
	if err != nil {
		s.meter.op(nil, op)
		return nil, err
	}
	s.meter.op(st.used, op)
	if created {
		s.meter.op(st.used, OpCreateStream)
	}
	if st.cipher != nil {
		return nil, fail("not_implemented", "encrypted streams are not implemented")
	}
	return st, nil
}

func (c *call) appendInput() (*pb.AppendInput, *apiError) {
	if c.contentType() == mimeProto {
		b, err := c.body()
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
	if err := c.decode(&body, false); err != nil {
		return nil, err
	}
	return body.protobuf(b64)
}

func (a jsonAck) wire() []byte {
	// Three positions cannot fail to marshal.
	b, _ := proto.Marshal(&pb.AppendAck{Start: a.Start.pb(), End: a.End.pb(), Tail: a.Tail.pb()})
	return b
}

func (c *call) ack(a jsonAck) *apiError {
	if !c.accepts(mimeProto) {
		return c.json(http.StatusOK, a)
	}
	c.w.Header().Set("Content-Type", mimeProto)
	_, _ = c.w.Write(a.wire())
	return nil
}

func (c *call) checkTail(basin, name string) *apiError {
	tail, lost, err := c.tail(c.r.Context(), basin, name)
	if lost {
		cut()
	}
	if err != nil {
		return err
	}
	return c.json(http.StatusOK, map[string]position{"tail": tail})
}

func (s *Server) tail(ctx context.Context, basin, name string) (tail position, lost bool, err *apiError) {
	st, lost, err := s.enterStream(ctx, basin, name, OpCheckTail, onRead)
	if lost || err != nil {
		return tail, lost, err
	}
	tail, _, gone := st.durable()
	if gone {
		return tail, false, streamDeleted()
	}
	return tail, s.faults.after(ctx, name, OpCheckTail), nil
}

// onAppend and onRead say whether a basin makes streams of itself.
func onAppend(b basinConfig) bool { return b.CreateOnAppend }
func onRead(b basinConfig) bool   { return b.CreateOnRead }
