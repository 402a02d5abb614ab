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

	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
)

// A body must arrive within bodyGrace plus its size at bodyRate, without a pause longer than Stall.
const (
	bodyGrace = 10 * time.Second
	bodyRate  = 64 << 10 // bytes a second
)

const (
	// maxIgnoredBody bounds the body of a request with a method that has no use for one.
	maxIgnoredBody = 64 << 10
	// firstReadBytes is the buffer that waits for a body's first byte; it is charged once that has arrived.
	firstReadBytes = 2 << 10
	// gunzipMemory is the memory of a decoder, without the decoded bytes.
	gunzipMemory = 64 << 10
)

// encodings lists the codings that a body may have, as Accept-Encoding says them.
const encodings = "gzip, identity"

// boundBodyTime bounds how long the request's body may take. Before its first response byte net/http
// drains the request body, with no time limit of its own, so no shared resource may be held at that
// point.
func (s *Server) boundBodyTime(w http.ResponseWriter, r *http.Request) {
	if len(r.TransferEncoding) > 0 && r.ProtoMajor == 1 {
		// There may have been a Content-Length, too, which net/http removes. A proxy on the way may
		// then have seen the end of the message elsewhere (RFC 9112, 6.1).
		w.Header().Set("Connection", "close")
	}
	if r.ContentLength != 0 && !netconn.HasArrived(r.Body) {
		s.extendReadDeadline(w, s.bodyDeadline(time.Now(), r.ContentLength))
	}
}

// discardBody reads a body that has no use.
func (s *Server) discardBody(w http.ResponseWriter, r *http.Request) error {
	if r.ContentLength == 0 {
		return nil
	}
	in := bodyReader{server: s, w: w, r: r, began: time.Now()}
	s.extendReadDeadline(w, in.deadline())
	switch _, err := io.CopyN(io.Discard, &in, maxIgnoredBody+1); {
	case err == nil:
		return errTooLarge
	case !errors.Is(err, io.EOF):
		return err
	}
	clearReadDeadline(w)
	return nil
}

// clearReadDeadline ends the limit on reads, once the whole body has arrived.
func clearReadDeadline(w http.ResponseWriter) {
	_ = http.NewResponseController(w).SetReadDeadline(time.Time{})
}

// bodyReader reads a body as it arrives, and enforces its deadline and the budget.
type bodyReader struct {
	server    *Server
	w         http.ResponseWriter
	r         *http.Request
	charge    *bodyCharge // nil: the body is discarded
	began     time.Time
	readCalls int
	received  int
	err       error // what the body ended with
}

// deadline returns when the whole body must have arrived.
func (b *bodyReader) deadline() time.Time {
	return b.server.bodyDeadline(b.began, max(b.r.ContentLength, int64(b.received)))
}

// bodyDeadline returns when a body of size bytes must have arrived, if reading began at began.
func (s *Server) bodyDeadline(began time.Time, size int64) time.Time {
	return began.Add(s.bodyGrace + time.Duration(min(max(size, 0), shard.MaxBody))*time.Second/bodyRate)
}

// extendReadDeadline gives the client time until a moment to send more, Stall at most. Unless the
// whole body arrives, the deadline stays until the answer has been sent.
func (s *Server) extendReadDeadline(w http.ResponseWriter, until time.Time) {
	if stall := time.Now().Add(s.cfg.Stall); stall.Before(until) {
		until = stall
	}
	_ = http.NewResponseController(w).SetReadDeadline(until) // unsupported only in tests
}

// Read implements io.Reader.
func (b *bodyReader) Read(p []byte) (n int, err error) {
	if b.readCalls++; b.readCalls > 1 {
		if b.server.extendReadDeadline(b.w, b.deadline()); b.charge != nil {
			err = b.charge.noteWaiting(b.w, b.began, b.received)
		}
	}
	if err == nil {
		n, err = b.r.Body.Read(p)
		b.received += n
	}
	if b.received > shard.MaxBody {
		err = errTooLarge
	}
	b.err = b.clientError(err)
	return n, b.err
}

// clientError returns err as the client may see it, without addresses.
func (b *bodyReader) clientError(err error) error {
	switch {
	case err == nil, errors.Is(err, io.EOF), errors.Is(err, errTooLarge):
		return err
	case errors.Is(err, errBodyEvicted), b.charge != nil && b.charge.body != nil && b.charge.body.evicted.Load():
		b.closeAfterResponse()
		return errBodyEvicted
	case errors.Is(err, os.ErrDeadlineExceeded):
		reason := reasonStalled
		if !time.Now().Before(b.deadline()) {
			reason = reasonLateBody
		}
		b.server.metrics.abandonedBodies.WithLabelValues(string(reason)).Inc()
		b.closeAfterResponse()
		return errBodyLate
	default:
		return errBody
	}
}

// closeAfterResponse has the connection closed after the answer; otherwise net/http would wait for
// the rest of the body.
func (b *bodyReader) closeAfterResponse() {
	if b.r.ProtoMajor == 1 {
		b.w.Header().Set("Connection", "close")
	}
}

// hasGzipBody reports whether the body is coded with gzip. It returns an error for a coding that
// is not supported.
func hasGzipBody(r *http.Request) (bool, error) {
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

var gunzipPool = sync.Pool{New: func() any { return new(gzip.Reader) }}

// newGunzip returns a decoder of the body, once its first byte has arrived. The caller puts it
// back into gunzipPool.
func (b *bodyReader) newGunzip() (*gzip.Reader, error) {
	first := make([]byte, 1)
	if _, err := io.ReadFull(b, first); err != nil {
		return nil, err
	}
	if err := b.charge.reserve(gunzipMemory); err != nil {
		return nil, err
	}
	z := gunzipPool.Get().(*gzip.Reader) //nolint:errcheck // nothing else is in the pool
	return z, z.Reset(io.MultiReader(strings.NewReader(string(first)), b))
}

// readBody reads a body. Memory is charged once something has arrived, and then as it grows, by four
// times each time. An array with too many elements is refused while it arrives.
func (s *Server) readBody(w http.ResponseWriter, r *http.Request, c *bodyCharge, isJSON bool) (data []byte, err error) {
	coded, err := hasGzipBody(r)
	if err != nil {
		return nil, err
	}
	if netconn.HasArrived(r.Body) && !coded { // of an append connection
		if err := c.reserve(r.ContentLength); err != nil {
			return nil, err
		}
		data = make([]byte, r.ContentLength)
		_, err = io.ReadFull(r.Body, data)
		return data, err
	}
	s.metrics.bodies.Inc()
	defer s.metrics.bodies.Dec()
	b := bodyReader{server: s, w: w, r: r, charge: c, began: time.Now()}
	most := shard.MaxBody + 1
	if r.ContentLength > 0 && !coded {
		most = int(r.ContentLength)
	}
	defer func() {
		if c.finishBody() && err == nil {
			b.closeAfterResponse()
			err = errBodyEvicted
		}
	}()
	if !coded {
		return b.readAll(&b, min(firstReadBytes, most), most, isJSON && (r.ContentLength < 0 || most > shard.MaxMessages))
	}
	z, err := b.newGunzip()
	if z != nil {
		defer gunzipPool.Put(z)
	}
	if err == nil {
		data, err = b.readAll(z, firstReadBytes, most, isJSON)
	}
	if own := b.err; err != nil && own != nil && !errors.Is(own, io.EOF) {
		err = own
	} else if err != nil && problemOf(err) == unexpectedProblem {
		err = fmt.Errorf("%w: it is not gzip", errBody)
	}
	return data, err
}

// readAll reads all of in, at most most bytes. The buffer of first bytes exists before it is charged.
func (b *bodyReader) readAll(in io.Reader, first, most int, count bool) ([]byte, error) {
	var elements elementScanner
	data := make([]byte, 0, first)
	counted := 0
	for {
		n, err := in.Read(data[len(data):cap(data)])
		news := data[len(data) : len(data)+n]
		data = data[:len(data)+n]
		if n > 0 && counted < cap(data) {
			if err := b.charge.reserve(int64(cap(data) - counted)); err != nil {
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
			clearReadDeadline(b.w)
			return data, nil
		case err != nil:
			return nil, err
		}
		if len(data) == cap(data) {
			size := min(4*len(data), most)
			if err := b.charge.reserve(int64(size - counted)); err != nil {
				return nil, err
			}
			counted = size
			data = append(make([]byte, 0, size), data...)
		}
	}
}

// headMemory returns about how much memory the header of a request takes.
func headMemory(w http.ResponseWriter, r *http.Request) int {
	if size, ok := appendRequestSize(w); ok {
		return size
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

// setMessages makes messages of a body. A fork may have one from its source already.
func setMessages(req *shard.Request, data []byte, isJSON bool) error {
	switch {
	case len(data) == 0:
		return nil
	case req.Messages.Size()+len(data) > shard.MaxBody:
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
	case errors.Is(err, errEmptyArray) && req.Op == shard.OpCreate:
	case err != nil:
		req.BodyError = err.Error()
	}
	return nil
}
