package edge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// put creates a stream (PROTOCOL 4.1).
func (s *Server) put(w http.ResponseWriter, r *http.Request, id shard.StreamID) {
	req, err := s.request(r, id, shard.OpCreate)
	if err == nil {
		err = lifetime(r.Header, req)
	}
	if err == nil {
		err = s.fork(r, req)
	}
	if err != nil {
		fail(w, err)
		return
	}
	room, err := s.copied(req)
	defer s.bodies.Add(-room)
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
			if info, serr := s.streams.State(r.Context(), id, 0); serr == nil && info.Absent() != nil {
				err = info.Absent()
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
	h.Set(hNextOffset, formatOffset(out.Info.Life, out.Info.Tail))
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
	req := &shard.Request{Stream: id, Op: shard.OpDelete, ID: shard.NewAppendID(), Born: time.Now(), Minted: s.now()}
	if _, ok := s.write(w, r, req); ok {
		w.WriteHeader(http.StatusNoContent)
	}
}

func (s *Server) now() uint64 { return uint64(max(s.cfg.Now().UnixMilli(), 0)) }

// write carries a request out and answers unless it was accepted.
func (s *Server) write(w http.ResponseWriter, r *http.Request, req *shard.Request) (shard.Outcome, bool) {
	room, err := s.body(w, r, req)
	if err == nil {
		var more int64
		more, err = s.charge(w, r, req, room)
		room += more
	}
	defer s.bodies.Add(-room)
	if err != nil {
		fail(w, err)
		return shard.Outcome{}, false
	}
	start := time.Now()
	out, err := s.streams.Do(r.Context(), req)
	s.m.observeAck(start)
	switch {
	case err != nil:
		s.complaints.Do(func() { s.cfg.Logger.Warn("write failed", "stream", req.Stream, "err", err) })
		fail(w, err)
		return out, false
	case !out.Code.Accepted():
		refuse(w, out)
		return out, false
	}
	return out, true
}

// request begins a Request; its body is read later.
func (s *Server) request(r *http.Request, id shard.StreamID, op shard.Op) (*shard.Request, error) {
	if err := checkHeaders(r); err != nil {
		return nil, err
	}
	return &shard.Request{
		Stream: id, Op: op, ID: shard.NewAppendID(), Born: time.Now(), Minted: s.now(),
		Type: r.Header.Get("Content-Type"), Close: closes(r.Header),
	}, nil
}

// body reads the request's body into req.Messages, within the node's budget for
// bodies in flight; room is what it took of that.
func (s *Server) body(w http.ResponseWriter, r *http.Request, req *shard.Request) (room int64, err error) {
	if req.Op == shard.OpDelete || r.ContentLength == 0 {
		return 0, nil
	}
	if r.ContentLength > shard.MaxBody {
		return 0, errTooLarge
	}
	isJSON := shard.IsJSON(req.Type) || req.Type == "" && req.Source != nil && shard.IsJSON(req.Source.Type)
	data, room, err := s.take(w, r, isJSON)
	if err != nil {
		return room, err
	}
	return room, fill(req, data, isJSON)
}

// expect bounds for how long the request's body may be waited for, and reads one that
// means nothing. net/http reads what is left of a body before it sends the first byte of an
// answer, for as long as the client likes: nothing must be held by then that others need.
func (s *Server) expect(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	s.patience(w)
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		return nil
	}
	switch _, err := io.CopyN(io.Discard, r.Body, meaningless+1); {
	case err == nil:
		return errTooLarge
	case !errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", errBody, err)
	}
	impatient(w)
	return nil
}

// meaningless is how long the body may be of a request whose body has no meaning.
const meaningless = 64 << 10

// patience gives the client Stall from now on to send more of its body. Unless all of it
// comes, that stands until the answer has been sent.
func (s *Server) patience(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(s.cfg.Stall)) // unsupported only in tests
}

// impatient is for when all of the body has come.
func impatient(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// firstChunk is what a body is given room for before any of it has come.
const firstChunk = 16 << 10

// take reads a body. Room is taken as it comes, four times as much each time, and the last
// quarter of all there is goes to bodies of no more than firstChunk: a few large ones that come
// slowly do not keep the small ones out. An array that has too many elements is refused while
// it comes. A client that sends nothing for as long as Stall is given up.
func (s *Server) take(w http.ResponseWriter, r *http.Request, isJSON bool) (data []byte, room int64, err error) {
	most := shard.MaxBody + 1
	if r.ContentLength > 0 {
		most = int(r.ContentLength)
	}
	grow := func(size int) error {
		more := int64(size - cap(data))
		limit := s.cfg.MaxBodies
		if size > firstChunk {
			limit -= limit / 4
		}
		room += more
		if s.bodies.Add(more) > limit {
			return shard.ErrOverloaded
		}
		data = append(make([]byte, 0, size), data...)
		return nil
	}
	if err := grow(min(firstChunk, most)); err != nil {
		return nil, room, err
	}
	var elements scan
	isJSON = isJSON && (r.ContentLength < 0 || r.ContentLength > shard.MaxMessages)
	for {
		n, err := r.Body.Read(data[len(data):cap(data)])
		news := data[len(data) : len(data)+n]
		data = data[:len(data)+n]
		switch {
		case len(data) > shard.MaxBody:
			return nil, room, errTooLarge
		case isJSON && elements.tooMany(news):
			return nil, room, errTooMany
		case errors.Is(err, io.EOF), len(data) == most:
			impatient(w)
			return data, room, nil
		case err != nil:
			return nil, room, fmt.Errorf("%w: %w", errBody, err)
		}
		s.patience(w)
		if len(data) == cap(data) {
			if err := grow(min(4*len(data), most)); err != nil {
				return nil, room, err
			}
		}
	}
}

// charge takes room for what carrying the request out costs beside the room that its body has.
func (s *Server) charge(w http.ResponseWriter, r *http.Request, req *shard.Request, room int64) (more int64, err error) {
	cost := int64(req.Cost() + headBytes(w, r))
	limit := s.cfg.MaxBodies
	if cost > firstChunk {
		limit -= limit / 4
	}
	more = max(cost-room, 0)
	if s.bodies.Add(more) > limit {
		err = shard.ErrOverloaded
	}
	return more, err
}

// headBytes is about how much memory the head of a request takes.
func headBytes(w http.ResponseWriter, r *http.Request) int {
	if fast, ok := w.(*writer); ok {
		return fast.size
	}
	n := len(r.RequestURI)
	for name, values := range r.Header {
		n += len(name) + 64
		for _, v := range values {
			n += len(v) + 16
		}
	}
	return n
}

// fill makes messages of a body. A fork may have got one from its source.
func fill(req *shard.Request, data []byte, isJSON bool) error {
	switch {
	case len(data) == 0:
		return nil
	case req.Messages.Bytes()+len(data) > shard.MaxBody:
		return errTooLarge
	case !isJSON:
		req.Messages.Add(data)
		return nil
	}
	var err error
	req.Messages, err = splitJSON(data)
	switch {
	case errors.Is(err, errTooMany):
		return err
	case errors.Is(err, errNoneSent) && req.Op == shard.OpCreate:
	case err != nil:
		req.Bad = err.Error()
	}
	return nil
}
