package edge

import (
	"net/http"

	"github.com/fantail-dev/fantail/edge/netconn"
)

// responseRecorder records a request's answer, for the metrics, the access log and
// the error log. It wraps net/http's ResponseWriter for the handlers.
type responseRecorder struct {
	http.ResponseWriter
	status      int         // 0: not set yet
	bytes       int         // of the body
	mode        requestMode // the kind of request
	problemSlug string      // of a refusal
	meansStatus int         // the status of a refusal, even where the answer's own status is another
	err         error       // the cause of a refusal
}

// WriteHeader implements http.ResponseWriter.
func (rec *responseRecorder) WriteHeader(status int) {
	if rec.status == 0 || rec.status < 200 {
		rec.status = status
	}
	rec.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (rec *responseRecorder) Write(b []byte) (int, error) {
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	n, err := rec.ResponseWriter.Write(b)
	rec.bytes += n
	return n, err
}

// Unwrap returns the wrapped ResponseWriter, for http.ResponseController.
func (rec *responseRecorder) Unwrap() http.ResponseWriter { return rec.ResponseWriter }

// recorderOf returns the recorder beneath a ResponseWriter; nil: there is none.
func recorderOf(w http.ResponseWriter) *responseRecorder {
	for {
		switch x := w.(type) {
		case *responseRecorder:
			return x
		case interface{ Unwrap() http.ResponseWriter }:
			w = x.Unwrap()
		default:
			return nil
		}
	}
}

// appendRequestSize returns the size of a request on an append connection, beneath the recorder;
// false: net/http has the connection.
func appendRequestSize(w http.ResponseWriter) (size int, ok bool) {
	if rec := recorderOf(w); rec != nil {
		w = rec.ResponseWriter
	}
	return netconn.AppendRequestSize(w)
}

// noteMode records what kind of request it is.
func noteMode(w http.ResponseWriter, m requestMode) {
	if rec := recorderOf(w); rec != nil {
		rec.mode = m
	}
}

// noteRefusal records a refusal and its cause, if there is one.
func noteRefusal(w http.ResponseWriter, k problemKind, err error) {
	if rec := recorderOf(w); rec != nil {
		rec.problemSlug, rec.meansStatus = k.slug, k.status
		if err != nil {
			rec.err = err
		}
	}
}
