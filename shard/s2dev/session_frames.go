package s2dev

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

// frameEncoder encodes the frames of a read session, as S2S or as server-sent events.
type frameEncoder interface {
	encodeBatch(recs []record, tail *position) ([]byte, *apiError)
	encodeHeartbeat(tail position) []byte
	encodeError(*apiError) []byte
	encodeEnd() []byte
}

// frameSink sends a read session over a connection, in frames.
type frameSink struct {
	c       *apiCall
	session *readSession
	encoder frameEncoder
}

func (c *apiCall) serveReadSession(st *stream, rd readBounds, s2s bool) *apiError {
	var out frameEncoder
	b64, err := c.base64Format()
	if err != nil {
		return err
	}
	pos, err := rd.resolveStart(st)
	if err != nil {
		return err
	}
	if s2s {
		out = s2sEncoder{acceptedCompression(c.r.Header)}
		c.startS2S()
	} else {
		out = &sseEncoder{b64: b64, now: c.cfg.Now}
		c.startSSE()
	}
	sink := &frameSink{c: c, encoder: out}
	sink.session = &readSession{server: c.Server, ctx: c.r.Context(), st: st, bounds: rd, sink: sink, pos: pos}
	if err := sink.serve(); err != nil && !errors.Is(err, errSessionEnded) {
		abortConnection()
	}
	return nil
}

// serve runs the session and sends how it ended. Its errors are those that end it without a word.
func (s *frameSink) serve() error {
	err := s.session.run()
	if bad, ok := errors.AsType[*apiError](err); ok {
		return s.sendFrame(s.encoder.encodeError(bad))
	}
	if err != nil {
		return err
	}
	if f := s.encoder.encodeEnd(); f != nil {
		return s.sendFrame(f)
	}
	return nil
}

// sendRecords implements recordSink. A batch carries the tail only while the session follows.
func (s *frameSink) sendRecords(recs []record, tail position, following bool) error {
	var with *position
	if following {
		with = &tail
	}
	f, bad := s.encoder.encodeBatch(recs, with)
	if bad != nil {
		return bad
	}
	return s.sendFrame(f)
}

// sendTail implements recordSink.
func (s *frameSink) sendTail(tail position) error {
	return s.sendFrame(s.encoder.encodeHeartbeat(tail))
}

func (s *frameSink) sendFrame(f []byte) error {
	if err := s.session.applyFaults(); err != nil {
		return err
	}
	faults, name := s.c.faults, s.session.st.name
	if faults.applyAfter(s.c.r.Context(), name, OpReadSession) {
		return errSessionLost
	}
	cutFrame := faults.hit(name, OpReadSession, CutFrame) != nil
	if cutFrame {
		f = f[:len(f)/2]
	}
	_, err := s.c.w.Write(f)
	if err == nil {
		err = http.NewResponseController(s.c.w).Flush()
	}
	if err != nil || cutFrame || s.c.stopping.Err() != nil {
		return errSessionLost
	}
	return nil
}

type s2sEncoder struct{ compression compression }

func (o s2sEncoder) encodeBatch(recs []record, tail *position) ([]byte, *apiError) {
	return dataFrame(o.compression, encodeBatch(recs, tail)), nil
}

func (o s2sEncoder) encodeHeartbeat(tail position) []byte {
	return dataFrame(o.compression, encodeBatch(nil, &tail))
}

func (o s2sEncoder) encodeError(err *apiError) []byte { return terminalFrame(err) }
func (o s2sEncoder) encodeEnd() []byte                { return nil }

func (c *apiCall) startSSE() {
	h := c.w.Header()
	h.Set("Content-Type", mimeSSE)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	c.w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(c.w).Flush()
}

// sseEncoder numbers its events by seq,count,bytes: the last sequence number, and what this session
// has sent.
type sseEncoder struct {
	b64     bool
	now     func() time.Time
	records int
	bytes   int
}

func sseEvent(name, id string, data any) ([]byte, *apiError) {
	b, err := json.Marshal(data)
	if err != nil {
		return nil, newError("other", "%s", err)
	}
	out := fmt.Appendf(nil, "event: %s\n", name)
	if id != "" {
		out = fmt.Appendf(out, "id: %s\n", id)
	}
	return fmt.Appendf(out, "data: %s\n\n", b), nil
}

func (o *sseEncoder) encodeBatch(recs []record, tail *position) ([]byte, *apiError) {
	body, err := jsonBatch(recs, tail, o.b64)
	if err != nil {
		return nil, err
	}
	o.records += len(recs)
	for _, r := range recs {
		o.bytes += r.size
	}
	id := fmt.Sprintf("%d,%d,%d", recs[len(recs)-1].seq, o.records, o.bytes)
	return sseEvent("batch", id, body)
}

func (o *sseEncoder) encodeHeartbeat(tail position) []byte {
	// Marshalling numbers cannot fail.
	b, _ := sseEvent("ping", "", struct {
		Timestamp int64    `json:"timestamp"`
		Tail      position `json:"tail"`
	}{o.now().UnixMilli(), tail})
	return b
}

func (o *sseEncoder) encodeError(err *apiError) []byte {
	return fmt.Appendf(nil, "event: error\ndata: %s\n\n", err.json())
}

func (o *sseEncoder) encodeEnd() []byte { return []byte("data: [DONE]\n\n") }
