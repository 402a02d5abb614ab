package edge

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
)

// servePut creates a stream (PROTOCOL 5.1).
func (s *Server) servePut(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) {
	req, err := s.newWrite(r, id, shard.OpCreate, dec)
	if err == nil {
		err = parseLifetime(r.Header, &req.Request)
	}
	if err == nil {
		err = s.parseFork(r, &req.Request)
	}
	if err != nil {
		writeError(w, err)
		return
	}
	out, ok := s.doWrite(w, r, req, dec)
	if !ok {
		return
	}
	setStreamHeaders(w.Header(), out.Info)
	if out.Code == shard.CodeExists {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.Header().Set("Location", location(r))
	w.WriteHeader(http.StatusCreated)
}

// servePost appends, closes, or both (PROTOCOL 5.2). The order of the checks is the one in
// shard's decide; a malformed header is reported only after the stream's absence.
func (s *Server) servePost(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) {
	req, err := s.newWrite(r, id, shard.OpAppend, dec)
	if err == nil {
		req.Producer, err = parseProducer(r.Header)
	}
	if seq := r.Header.Get(hSeq); err == nil && seq != "" {
		req.StreamSeq = []byte(seq)
	}
	if err == nil {
		req.IfMatch, err = parseIfMatch(r.Header)
	}
	if err != nil {
		if errors.Is(err, errHeader) {
			if info, serr := s.streams.Info(r.Context(), id, 0); serr == nil && info.Absent() != nil {
				err = withStreamName(id, info.Absent())
			}
		}
		writeError(w, err)
		return
	}
	out, ok := s.doWrite(w, r, req, dec)
	if !ok {
		return
	}
	h := w.Header()
	setTail(h, out.Info)
	if out.Info.Closed {
		h.Set(hClosed, "true")
	}
	status := http.StatusNoContent
	if last := out.Producer; last != nil {
		h.Set(hProducerEpoch, strconv.FormatUint(last.Epoch, 10))
		h.Set(hProducerSeq, strconv.FormatUint(last.Seq, 10))
		if out.Code == shard.CodeAppended && req.Messages.Len() > 0 {
			status = http.StatusOK
			h.Set("Content-Length", "0") // or net/http would send chunks when the connection is taken over
		}
	}
	w.WriteHeader(status)
	s.appendConns.TakeOver(w, r)
}

// serveDelete deletes a stream (PROTOCOL 5.4).
func (s *Server) serveDelete(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) {
	req := s.newPendingWrite(r, shard.Request{Stream: id, Op: shard.OpDelete, ID: shard.NewAppendID(), MintedAt: time.Now(), MintedMillis: s.millisOf(dec)})
	if _, ok := s.doWrite(w, r, req, dec); ok {
		w.WriteHeader(http.StatusNoContent)
	}
}

// millisOf returns the moment of a request: that of the decision about it, which has looked at the same
// clock, or now.
func (s *Server) millisOf(p decision) shard.Millis {
	if at := p.DecidedAt(); at != 0 {
		return shard.Millis(at)
	}
	return shard.MillisOf(s.cfg.Now())
}

// doWrite executes a write, and answers it unless it was accepted.
func (s *Server) doWrite(w http.ResponseWriter, r *http.Request, req *pendingWrite, dec decision) (shard.Outcome, bool) {
	defer req.release()
	if err := s.loadMessages(w, r, req, dec); err != nil {
		if errors.Is(err, errEncoding) {
			w.Header().Set("Accept-Encoding", encodings)
		}
		writeError(w, err)
		return shard.Outcome{}, false
	}
	if !s.stillAllows(w, r, dec, req.Stream) {
		return shard.Outcome{}, false
	}
	ctx := r.Context()
	if _, fast := appendRequestSize(w); !fast && r.Method == http.MethodPost {
		c := &requestContext{client: ctx}
		defer c.end()
		ctx = c
	}
	start := time.Now()
	out, err := s.streams.Do(ctx, &req.Request)
	s.metrics.observeAck(start)
	switch {
	case err != nil:
		writeError(w, err)
		return out, false
	case !out.Code.Accepted():
		writeRefusal(w, &req.Request, out)
		return out, false
	case out.Code != shard.CodeDuplicate:
		s.metrics.appended.Add(float64(req.Messages.Size()))
	}
	return out, true
}

// newWrite makes a Request of the headers; its body is read later.
func (s *Server) newWrite(r *http.Request, id shard.StreamID, op shard.Op, p decision) (*pendingWrite, error) {
	if err := checkHeaders(r); err != nil {
		return nil, err
	}
	return s.newPendingWrite(r, shard.Request{
		Stream: id, Op: op, ID: shard.NewAppendID(), MintedAt: time.Now(), MintedMillis: s.millisOf(p),
		Type: r.Header.Get("Content-Type"), Close: asksToClose(r.Header),
	}), nil
}

// pendingWrite is a write and what it is charged.
type pendingWrite struct {
	shard.Request
	bodyCharge
}

func (s *Server) newPendingWrite(r *http.Request, req shard.Request) *pendingWrite {
	in := &pendingWrite{req, bodyCharge{budget: &s.writesBudget}}
	if conn := netconn.Of(r); conn != nil {
		in.connHeld = &conn.HeldByWrites
	}
	return in
}

// loadMessages reads the request's body into req.Messages, within the budget of writes.
func (s *Server) loadMessages(w http.ResponseWriter, r *http.Request, req *pendingWrite, dec decision) error {
	if err := req.reserve(int64(req.Messages.Size())); err != nil || req.Op == shard.OpDelete || r.ContentLength == 0 {
		return err // a fork may have a message already
	}
	if r.ContentLength > shard.MaxBody {
		return errTooLarge
	}
	isJSON := shard.IsJSON(req.Type) || req.Type == "" && req.Source != nil && shard.IsJSON(req.Source.Type)
	data, err := s.readBody(w, r, &req.bodyCharge, isJSON)
	if err != nil {
		return err
	}
	size := len(data)
	if err := s.chargeUnannounced(r, dec, size); err != nil {
		return err
	}
	if err := setMessages(&req.Request, data, isJSON); err != nil {
		return err
	}
	return req.reserve(int64(req.Cost() - size + headMemory(w, r)))
}
