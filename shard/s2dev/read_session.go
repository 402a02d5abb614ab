package s2dev

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
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

// readSession is one read session. It has no queue: it reads the stream at its own position, as
// fast as its client takes the frames.
type readSession struct {
	c       *apiCall
	st      *stream
	bounds  readBounds
	encoder frameEncoder
	pos     uint64
	// following is true from a heartbeat at the tail until the session lags a whole page behind.
	// Batches carry the tail only while it is true.
	following bool
}

// sessionState says whether a session goes on, or how it ends.
type sessionState int

const (
	sessionOpen sessionState = iota
	sessionEnds
	sessionDisconnects
)

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
	defer c.meter.openSession(st.usage, OpReadSession)()
	s := &readSession{c: c, st: st, bounds: rd, encoder: out, pos: pos}
	if s.run() == sessionDisconnects {
		abortConnection()
	}
	return nil
}

func (s *readSession) run() sessionState {
	if s.bounds.isExhausted() {
		return s.sendEnd()
	}
	var deadline <-chan time.Time
	for {
		p, err := s.st.read(s.pos, s.bounds.maxRecords())
		if err != nil {
			return s.sendError(err)
		}
		recs, done := s.bounds.limitRecords(p.recs)
		if len(recs) > 0 {
			if how := s.sendBatch(recs, p.tail); how != sessionOpen {
				return how
			}
			deadline = nil
		}
		if done {
			return s.sendEnd()
		}
		if s.pos = p.next; s.pos < p.tail.Seq {
			s.following = false
			continue
		}
		if !s.bounds.isFollowing() {
			return s.sendEnd()
		}
		if deadline == nil && s.bounds.wait != nil {
			deadline = time.After(*s.bounds.wait)
		}
		if how := s.waitAtTail(p, deadline); how != sessionOpen {
			return how
		}
	}
}

// waitAtTail waits at the tail for more records, and sends heartbeats.
func (s *readSession) waitAtTail(p page, deadline <-chan time.Time) sessionState {
	if !s.following {
		s.following = true
		if how := s.sendFrame(s.encoder.encodeHeartbeat(p.tail)); how != sessionOpen {
			return how
		}
	}
	beat := time.NewTimer(s.c.heartbeat())
	defer beat.Stop()
	for {
		changed := s.c.faults.changes()
		if how := s.applyFaults(); how != sessionOpen {
			return how
		}
		select {
		case <-p.changed:
			return sessionOpen
		case <-beat.C:
			if how := s.sendFrame(s.encoder.encodeHeartbeat(p.tail)); how != sessionOpen {
				return how
			}
			beat.Reset(s.c.heartbeat())
		case <-deadline:
			return s.sendEnd()
		case <-s.c.r.Context().Done():
			return sessionDisconnects
		case <-s.c.stopping.Done():
			return sessionDisconnects
		case <-changed:
		}
	}
}

// randomHeartbeat returns S2's interval: 5 to 15 s of silence.
func randomHeartbeat() time.Duration {
	return 5*time.Second + rand.N(10*time.Second)
}

func (s *readSession) sendBatch(recs []record, tail position) sessionState {
	var with *position
	if s.following {
		with = &tail
	}
	f, err := s.encoder.encodeBatch(recs, with)
	if err != nil {
		return s.sendError(err)
	}
	if how := s.sendFrame(f); how != sessionOpen {
		return how
	}
	s.c.meter.countRead(s.st.usage, len(recs))
	return sessionOpen
}

// applyFaults applies the faults that hit a session between its frames.
func (s *readSession) applyFaults() sessionState {
	f := s.c.faults
	if f.hit(s.st.name, OpReadSession, EndSession) != nil {
		return sessionEnds
	}
	if i := f.hit(s.st.name, OpReadSession, Silence); i != nil {
		i.addHeld(1)
		defer i.addHeld(-1)
		select {
		case <-i.removed:
		case <-s.c.r.Context().Done():
			return sessionDisconnects
		case <-s.c.stopping.Done():
			return sessionDisconnects
		}
	}
	return sessionOpen
}

func (s *readSession) sendFrame(f []byte) sessionState {
	if how := s.applyFaults(); how != sessionOpen {
		return how
	}
	faults := s.c.faults
	if faults.applyAfter(s.c.r.Context(), s.st.name, OpReadSession) {
		return sessionDisconnects
	}
	cutFrame := faults.hit(s.st.name, OpReadSession, CutFrame) != nil
	if cutFrame {
		f = f[:len(f)/2]
	}
	_, err := s.c.w.Write(f)
	if err == nil {
		err = http.NewResponseController(s.c.w).Flush()
	}
	if err != nil || cutFrame || s.c.stopping.Err() != nil {
		return sessionDisconnects
	}
	return sessionOpen
}

func (s *readSession) sendError(err *apiError) sessionState {
	if how := s.sendFrame(s.encoder.encodeError(err)); how != sessionOpen {
		return how
	}
	return sessionEnds
}

func (s *readSession) sendEnd() sessionState {
	if f := s.encoder.encodeEnd(); f != nil {
		if how := s.sendFrame(f); how != sessionOpen {
			return how
		}
	}
	return sessionEnds
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
