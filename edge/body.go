package edge

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/klauspost/compress/gzip"

	"github.com/fantail-dev/fantail/shard"
)

// A body has to come within bodyGrace and what it takes at bodyRate, and none of it may be waited
// for longer than Stall.
const (
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10 // bytes a second
)

const (
	// meaningless is how long the body may be of a request whose body has no meaning.
	meaningless = 64 << 10
	// firstChunk is the memory that waits for a body's first byte; it is counted once that has come.
	firstChunk = 2 << 10
	// gzipRoom is what decoding takes beside what it gives.
	gzipRoom = 64 << 10
)

// encodings are the codings that a body may have, as Accept-Encoding says them.
const encodings = "gzip, identity"

// expect bounds for how long the request's body may be waited for, and reads one that
// means nothing. net/http reads what is left of a body before it sends the first byte of an
// answer, for as long as the client likes: nothing must be held by then that others need.
func (s *Server) expect(w http.ResponseWriter, r *http.Request) error {
	if len(r.TransferEncoding) > 0 && r.ProtoMajor == 1 {
		// There may have been a Content-Length, which net/http takes away, and then somebody on the
		// way may have taken the message to end elsewhere (RFC 9112, 6.1).
		w.Header().Set("Connection", "close")
	}
	if r.ContentLength == 0 {
		return nil
	}
	if r.Method == http.MethodPost || r.Method == http.MethodPut {
		s.patience(w, s.bodyDue(time.Now(), r.ContentLength))
		return nil
	}
	in := source{server: s, w: w, r: r, began: time.Now()}
	s.patience(w, in.due())
	switch _, err := io.CopyN(io.Discard, &in, meaningless+1); {
	case err == nil:
		return errTooLarge
	case !errors.Is(err, io.EOF):
		return err
	}
	impatient(w)
	return nil
}

// impatient is for when all of the body has come.
func impatient(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// source is a body as it comes.
type source struct {
	server *Server
	w      http.ResponseWriter
	r      *http.Request
	hold   *hold // nil: nothing is kept of it
	began  time.Time
	reads  int
	got    int
	err    error // what it ended with
}

// due is when all of it has to be there.
func (b *source) due() time.Time {
	return b.server.bodyDue(b.began, max(b.r.ContentLength, int64(b.got)))
}

// bodyDue is when a body of size bytes has to be there that began to be waited for at began.
func (s *Server) bodyDue(began time.Time, size int64) time.Time {
	return began.Add(s.grace + time.Duration(min(max(size, 0), shard.MaxBody))*time.Second/bodyRate)
}

// patience gives the client time to send more, Stall at most. Unless all of it comes, that stands
// until the answer has been sent.
func (s *Server) patience(w http.ResponseWriter, until time.Time) {
	if stall := time.Now().Add(s.cfg.Stall); stall.Before(until) {
		until = stall
	}
	_ = http.NewResponseController(w).SetReadDeadline(until) // unsupported only in tests
}

// Read implements io.Reader.
func (b *source) Read(p []byte) (n int, err error) {
	if b.reads++; b.reads > 1 {
		if b.server.patience(b.w, b.due()); b.hold != nil {
			err = b.hold.await(b.w, b.began, b.got)
		}
	}
	if err == nil {
		n, err = b.r.Body.Read(p)
		b.got += n
	}
	if b.got > shard.MaxBody {
		err = errTooLarge
	}
	b.err = b.why(err)
	return n, b.err
}

// why is err as it is told: what it says of addresses is nobody's to know.
func (b *source) why(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, errTooLarge):
		return err
	case errors.Is(err, errBodyCut), b.hold != nil && b.hold.body != nil && b.hold.body.isCut.Load():
		b.hang()
		return errBodyCut
	case errors.Is(err, os.ErrDeadlineExceeded):
		reason := cutStalled
		if !time.Now().Before(b.due()) {
			reason = cutLate
		}
		b.server.m.cutBodies.WithLabelValues(string(reason)).Inc()
		b.hang()
		return errBodyLate
	default:
		return errBody
	}
}

// hang has the connection end with the answer: what the client is still to send of the body would be
// waited for.
func (b *source) hang() {
	if b.r.ProtoMajor == 1 {
		b.w.Header().Set("Connection", "close")
	}
}

// gzipped reports whether the body is coded with gzip. An error: it has a coding that is not decoded.
func gzipped(r *http.Request) (bool, error) {
	values := r.Header["Content-Encoding"]
	if len(values) == 0 || r.ContentLength == 0 {
		return false, nil
	}
	switch strings.ToLower(strings.TrimSpace(strings.Join(values, ","))) {
	case "", "identity":
		return false, nil
	case "gzip", "x-gzip":
		return true, nil
	default:
		return false, fmt.Errorf("%w: want one of %s, or none", errEncoding, encodings)
	}
}

var gunzips = sync.Pool{New: func() any { return new(gzip.Reader) }}

// gunzip is what decodes the body, once its first byte has come; it is to be given back to gunzips.
func (b *source) gunzip() (*gzip.Reader, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(b, first); err != nil {
		return nil, err
	}
	if err := b.hold.take(gzipRoom); err != nil {
		return nil, err
	}
	z := gunzips.Get().(*gzip.Reader) //nolint:errcheck // nothing else is in the pool
	return z, z.Reset(io.MultiReader(strings.NewReader(string(first)), b))
}

// load reads a body. Room is taken once something has come, and then as it comes, four times as
// much each time. An array that has too many elements is refused while it comes.
func (s *Server) load(w http.ResponseWriter, r *http.Request, h *hold, isJSON bool) (data []byte, err error) {
	coded, err := gzipped(r)
	if err != nil {
		return nil, err
	}
	if _, here := r.Body.(*body); here && !coded { // a writer's
		if err := h.take(r.ContentLength); err != nil {
			return nil, err
		}
		data = make([]byte, r.ContentLength)
		_, err = io.ReadFull(r.Body, data)
		return data, err
	}
	s.m.bodies.Inc()
	defer s.m.bodies.Dec()
	b := source{server: s, w: w, r: r, hold: h, began: time.Now()}
	most := shard.MaxBody + 1
	if r.ContentLength > 0 && !coded {
		most = int(r.ContentLength)
	}
	defer func() {
		if h.came() && err == nil {
			b.hang()
			err = errBodyCut
		}
	}()
	if !coded {
		return b.collect(&b, min(firstChunk, most), most, isJSON && (r.ContentLength < 0 || most > shard.MaxMessages))
	}
	z, err := b.gunzip()
	if z != nil {
		defer gunzips.Put(z)
	}
	if err == nil {
		data, err = b.collect(z, firstChunk, most, isJSON)
	}
	if own := b.err; err != nil && own != nil && !errors.Is(own, io.EOF) {
		err = own
	} else if err != nil && mappingOf(err) == unexpected {
		err = fmt.Errorf("%w: it is no gzip", errBody)
	}
	return data, err
}

// collect reads all that in gives, at most most bytes; room for first is there before it is counted.
func (b *source) collect(in io.Reader, first, most int, count bool) ([]byte, error) {
	var elements scan
	data := make([]byte, 0, first)
	counted := 0
	for {
		n, err := in.Read(data[len(data):cap(data)])
		news := data[len(data) : len(data)+n]
		data = data[:len(data)+n]
		if n > 0 && counted < cap(data) {
			if err := b.hold.take(int64(cap(data) - counted)); err != nil {
				return nil, err
			}
			counted = cap(data)
		}
		switch {
		case len(data) > shard.MaxBody:
			return nil, errTooLarge
		case count && elements.tooMany(news):
			return nil, errTooMany
		case errors.Is(err, io.EOF), len(data) == most:
			impatient(b.w)
			return data, nil
		case err != nil:
			return nil, err
		}
		if len(data) == cap(data) {
			size := min(4*len(data), most)
			if err := b.hold.take(int64(size - counted)); err != nil {
				return nil, err
			}
			counted = size
			data = append(make([]byte, 0, size), data...)
		}
	}
}

// headBytes is about how much memory the head of a request takes.
func headBytes(w http.ResponseWriter, r *http.Request) int {
	if fast := writerOf(w); fast != nil {
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
		req.BodyError = err.Error()
	}
	return nil
}
