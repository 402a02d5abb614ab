package s2dev

import (
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"
)

// outlet is the form of a read session's frames: S2S or server-sent events.
type outlet interface {
	batch(recs []record, tail *position) ([]byte, *apiError)
	heartbeat(tail position) []byte
	failed(*apiError) []byte
	finished() []byte
}

// readSession is one read session. It keeps no queue: it reads the store at its own position, at
// the pace its client takes.
type readSession struct {
	c   *call
	st  *stream
	rd  reading
	out outlet
	pos uint64
	// following is true between the heartbeat at the tail and the next lag of a whole page; only
	// then batches carry the tail.
	following bool
}

// ending is how a session ends.
type ending int

const (
	goOn ending = iota
	endClean
	endCut
)

func (c *call) readSession(st *stream, rd reading, s2s bool) *apiError {
	var out outlet
	b64, err := c.base64Format()
	if err != nil {
		return err
	}
	pos, err := rd.start(st)
	if err != nil {
		return err
	}
	if s2s {
		out = s2sOutlet{acceptedCompression(c.r.Header)}
		c.startSession()
	} else {
		out = &sseOutlet{b64: b64, now: c.cfg.Now}
		c.startEvents()
	}
	defer c.meter.begin(st.used, OpReadSession)()
	s := &readSession{c: c, st: st, rd: rd, out: out, pos: pos}
	if s.run() == endCut {
		cut()
	}
	return nil
}

func (s *readSession) run() ending {
	if s.rd.exhausted() {
		return s.complete()
	}
	var deadline <-chan time.Time
	for {
		p, err := s.st.read(s.pos, s.rd.room())
		if err != nil {
			return s.terminal(err)
		}
		recs, done := s.rd.admit(p.recs)
		if len(recs) > 0 {
			if how := s.batch(recs, p.tail); how != goOn {
				return how
			}
			deadline = nil
		}
		if done {
			return s.complete()
		}
		if s.pos = p.next; s.pos < p.tail.Seq {
			s.following = false
			continue
		}
		if !s.rd.follows() {
			return s.complete()
		}
		if deadline == nil && s.rd.wait != nil {
			deadline = time.After(*s.rd.wait)
		}
		if how := s.idle(p, deadline); how != goOn {
			return how
		}
	}
}

// idle waits at the tail for more, with heartbeats.
func (s *readSession) idle(p page, deadline <-chan time.Time) ending {
	if !s.following {
		s.following = true
		if how := s.send(s.out.heartbeat(p.tail)); how != goOn {
			return how
		}
	}
	beat := time.NewTimer(s.c.heartbeat())
	defer beat.Stop()
	for {
		changed := s.c.faults.watch()
		if how := s.disturbed(); how != goOn {
			return how
		}
		select {
		case <-p.changed:
			return goOn
		case <-beat.C:
			if how := s.send(s.out.heartbeat(p.tail)); how != goOn {
				return how
			}
			beat.Reset(s.c.heartbeat())
		case <-deadline:
			return s.complete()
		case <-s.c.r.Context().Done():
			return endCut
		case <-s.c.stopping.Done():
			return endCut
		case <-changed:
		}
	}
}

// randomHeartbeat is S2's: 5 to 15 s of silence.
func randomHeartbeat() time.Duration {
	return 5*time.Second + rand.N(10*time.Second)
}

func (s *readSession) batch(recs []record, tail position) ending {
	var with *position
	if s.following {
		with = &tail
	}
	f, err := s.out.batch(recs, with)
	if err != nil {
		return s.terminal(err)
	}
	if how := s.send(f); how != goOn {
		return how
	}
	s.c.meter.read(s.st.used, len(recs))
	return goOn
}

// disturbed applies the faults of a session between its frames.
func (s *readSession) disturbed() ending {
	f := s.c.faults
	if f.take(s.st.name, OpReadSession, EndSession) != nil {
		return endClean
	}
	if i := f.take(s.st.name, OpReadSession, Silence); i != nil {
		i.count(1)
		defer i.count(-1)
		select {
		case <-i.removed:
		case <-s.c.r.Context().Done():
			return endCut
		case <-s.c.stopping.Done():
			return endCut
		}
	}
	return goOn
}

func (s *readSession) send(f []byte) ending {
	if how := s.disturbed(); how != goOn {
		return how
	}
	faults := s.c.faults
	if faults.after(s.c.r.Context(), s.st.name, OpReadSession) {
		return endCut
	}
	cutFrame := faults.take(s.st.name, OpReadSession, CutFrame) != nil
	if cutFrame {
		f = f[:len(f)/2]
	}
	_, err := s.c.w.Write(f)
	if err == nil {
		err = http.NewResponseController(s.c.w).Flush()
	}
	if err != nil || cutFrame || s.c.stopping.Err() != nil {
		return endCut
	}
	return goOn
}

func (s *readSession) terminal(err *apiError) ending {
	if how := s.send(s.out.failed(err)); how != goOn {
		return how
	}
	return endClean
}

func (s *readSession) complete() ending {
	if f := s.out.finished(); f != nil {
		if how := s.send(f); how != goOn {
			return how
		}
	}
	return endClean
}

type s2sOutlet struct{ compression compression }

func (o s2sOutlet) batch(recs []record, tail *position) ([]byte, *apiError) {
	return dataFrame(o.compression, batchWire(recs, tail)), nil
}

func (o s2sOutlet) heartbeat(tail position) []byte {
	return dataFrame(o.compression, batchWire(nil, &tail))
}

func (o s2sOutlet) failed(err *apiError) []byte { return terminalFrame(err) }
func (o s2sOutlet) finished() []byte            { return nil }

func (c *call) startEvents() {
	h := c.w.Header()
	h.Set("Content-Type", mimeSSE)
	h.Set("Cache-Control", "no-cache, no-transform")
	h.Set("X-Accel-Buffering", "no")
	c.w.WriteHeader(http.StatusOK)
	_ = http.NewResponseController(c.w).Flush()
}

// sseOutlet numbers its events seq,count,bytes, of what this session sent.
type sseOutlet struct {
	b64   bool
	now   func() time.Time
	count int
	bytes int
}

func event(name, id string, data any) ([]byte, *apiError) {
	b, err := json.Marshal(data)
	if err != nil {
		return nil, fail("other", "%s", err)
	}
	out := fmt.Appendf(nil, "event: %s\n", name)
	if id != "" {
		out = fmt.Appendf(out, "id: %s\n", id)
	}
	return fmt.Appendf(out, "data: %s\n\n", b), nil
}

func (o *sseOutlet) batch(recs []record, tail *position) ([]byte, *apiError) {
	body, err := jsonBatch(recs, tail, o.b64)
	if err != nil {
		return nil, err
	}
	o.count += len(recs)
	for _, r := range recs {
		o.bytes += r.size
	}
	id := fmt.Sprintf("%d,%d,%d", recs[len(recs)-1].seq, o.count, o.bytes)
	return event("batch", id, body)
}

func (o *sseOutlet) heartbeat(tail position) []byte {
	// Numbers cannot fail to marshal.
	b, _ := event("ping", "", struct {
		Timestamp int64    `json:"timestamp"`
		Tail      position `json:"tail"`
	}{o.now().UnixMilli(), tail})
	return b
}

func (o *sseOutlet) failed(err *apiError) []byte {
	return fmt.Appendf(nil, "event: error\ndata: %s\n\n", err.json())
}

func (o *sseOutlet) finished() []byte { return []byte("data: [DONE]\n\n") }
