package edge

import (
	"errors"
	"net/http"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// put creates a stream (PROTOCOL 4.1).
func (s *Server) put(w http.ResponseWriter, r *http.Request, id shard.StreamID) {
	req, err := s.request(r, id, shard.OpCreate)
	if err == nil {
		err = lifetime(r.Header, &req.Request)
	}
	if err == nil {
		err = s.fork(r, &req.Request)
	}
	if err != nil {
		fail(w, err)
		return
	}
	out, ok := s.write(w, r, req)
	if !ok {
		return
	}
	describe(w.Header(), out.Info)
	if out.Code == shard.CodeExists {
		w.WriteHeader(http.StatusOK)
		return
	}
	w.Header().Set("Location", location(r))
	w.WriteHeader(http.StatusCreated)
}

// post appends, closes, or both (PROTOCOL 5.2). The order of its checks is
// decide's; a malformed header only comes after the stream's absence.
func (s *Server) post(w http.ResponseWriter, r *http.Request, id shard.StreamID) {
	req, err := s.request(r, id, shard.OpAppend)
	if err == nil {
		req.Producer, err = producer(r.Header)
	}
	if seq := r.Header.Get(hSeq); err == nil && seq != "" {
		req.StreamSeq = []byte(seq)
	}
	if err != nil {
		if errors.Is(err, errHeader) {
			if info, serr := s.streams.Info(r.Context(), id, 0); serr == nil && info.Absent() != nil {
				err = about(id, info.Absent())
			}
		}
		fail(w, err)
		return
	}
	out, ok := s.write(w, r, req)
	if !ok {
		return
	}
	h := w.Header()
	h.Set(hNextOffset, formatOffset(out.Info.Generation, out.Info.Tail))
	if out.Info.Closed {
		h.Set(hClosed, "true")
	}
	status := http.StatusNoContent
	if p := out.Producer; p != nil {
		h.Set(hProducerEpoch, strconv.FormatUint(p.Epoch, 10))
		h.Set(hProducerSeq, strconv.FormatUint(p.Seq, 10))
		if out.Code == shard.CodeAppended && req.Messages.Len() > 0 {
			status = http.StatusOK
			h.Set("Content-Length", "0") // or net/http would send chunks when a writer is made
		}
	}
	w.WriteHeader(status)
	s.writers.take(w, r)
}

// remove deletes a stream (PROTOCOL 4.4).
func (s *Server) remove(w http.ResponseWriter, r *http.Request, id shard.StreamID) {
	req := s.incoming(r, shard.Request{Stream: id, Op: shard.OpDelete, ID: shard.NewAppendID(), MintedAt: time.Now(), MintedMillis: s.now()})
	if _, ok := s.write(w, r, req); ok {
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) now() uint64 { return uint64(max(s.cfg.Now().UnixMilli(), 0)) }

// write carries a request out and answers unless it was accepted.
func (s *Server) write(w http.ResponseWriter, r *http.Request, req *incoming) (shard.Outcome, bool) {
	defer req.release()
	if err := s.body(w, r, req); err != nil {
		if errors.Is(err, errEncoding) {
			w.Header().Set("Accept-Encoding", encodings)
		}
		fail(w, err)
		return shard.Outcome{}, false
	}
	ctx := r.Context()
	if writerOf(w) == nil && r.Method == http.MethodPost {
		c := &whole{request: ctx}
		defer c.end()
		ctx = c
	}
	start := time.Now()
	out, err := s.streams.Do(ctx, &req.Request)
	s.m.observeAck(start)
	switch {
	case err != nil:
		fail(w, err)
		return out, false
	case !out.Code.Accepted():
		refuse(w, &req.Request, out)
		return out, false
	case out.Code != shard.CodeDuplicate:
		s.m.appended.Add(float64(req.Messages.Bytes()))
	}
	return out, true
}

// request begins a Request; its body is read later.
func (s *Server) request(r *http.Request, id shard.StreamID, op shard.Op) (*incoming, error) {
	if err := checkHeaders(r); err != nil {
		return nil, err
	}
	return s.incoming(r, shard.Request{
		Stream: id, Op: op, ID: shard.NewAppendID(), MintedAt: time.Now(), MintedMillis: s.now(),
		Type: r.Header.Get("Content-Type"), Close: closes(r.Header),
	}), nil
}

// incoming is a write, and what it holds.
type incoming struct {
	shard.Request
	hold
}

func (s *Server) incoming(r *http.Request, req shard.Request) *incoming {
	in := &incoming{req, hold{in: &s.intake}}
	if wire := wireBelow(r); wire != nil {
		in.conn = &wire.held
	}
	return in
}

// body reads the request's body into req.Messages, within what writes may hold.
func (s *Server) body(w http.ResponseWriter, r *http.Request, req *incoming) error {
	if err := req.take(int64(req.Messages.Bytes())); err != nil || req.Op == shard.OpDelete || r.ContentLength == 0 {
		return err // a fork has some already
	}
	if r.ContentLength > shard.MaxBody {
		return errTooLarge
	}
	isJSON := shard.IsJSON(req.Type) || req.Type == "" && req.Source != nil && shard.IsJSON(req.Source.Type)
	data, err := s.load(w, r, &req.hold, isJSON)
	if err != nil {
		return err
	}
	size := len(data)
	if err := fill(&req.Request, data, isJSON); err != nil {
		return err
	}
	return req.take(int64(req.Cost() - size + headBytes(w, r)))
}
