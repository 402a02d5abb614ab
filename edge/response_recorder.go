package edge

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"

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

var recorderPool = sync.Pool{New: func() any { return new(responseRecorder) }}

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

// Unwrap is called by http.ResponseController.
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

// serveRecorded answers a request, counts it and logs it. An event stream is counted when it begins,
// and returned to be served.
func (s *Server) serveRecorded(w http.ResponseWriter, r *http.Request) (events *eventStream) {
	rec, _ := recorderPool.Get().(*responseRecorder)
	*rec = responseRecorder{ResponseWriter: w, mode: modeOf(r.Method)}
	var began time.Time
	if s.cfg.AccessLog != nil {
		began = time.Now()
	}
	events = s.route(rec, r)
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	if rec.meansStatus == 0 {
		rec.meansStatus = rec.status
	}
	s.metrics.countRequest(r.Method, rec)
	if errors.Is(rec.err, errCatchUpFull) {
		_ = s.metrics.countRefused(errCatchUpFull)
	}
	if rec.meansStatus >= http.StatusInternalServerError {
		s.logFailure(r, rec)
	}
	if s.cfg.AccessLog != nil {
		s.logAccess(r, rec, began)
	}
	*rec = responseRecorder{}
	recorderPool.Put(rec)
	return events
}

// logFailure logs a request that failed for a reason on this side, with the id that its client got.
// One a second is logged as a warning, so that the log stays readable while storage is down. The
// others are logged at debug level.
func (s *Server) logFailure(r *http.Request, rec *responseRecorder) {
	if rec.err == nil || rec.problemSlug == "draining" {
		return
	}
	if clientContext(r).Err() != nil { // it has no reader for the answer
		s.cfg.Logger.Debug("request failed, and its client has disconnected", "problem", rec.problemSlug, "path", clipForLog(r.URL.Path), "err", rec.err)
		return
	}
	level := slog.LevelDebug
	s.warningLimiter.Do(func() {
		if level = slog.LevelWarn; rec.problemSlug == unexpectedProblem.slug {
			level = slog.LevelError
		}
	})
	s.cfg.Logger.Log(r.Context(), level, "request failed", "request", rec.Header().Get(hRequestID), "problem", rec.problemSlug, "method", methodLabel(r.Method),
		"mode", string(rec.mode), "path", clipForLog(r.URL.Path), "err", strings.ReplaceAll(rec.err.Error(), "\n", "; "))
}

// logAccess writes the access log's line about a request.
func (s *Server) logAccess(r *http.Request, rec *responseRecorder, began time.Time) {
	project, stream := "", ""
	if id, err := parseStreamPath(r.URL.EscapedPath()); err == nil {
		project, stream = splitStream(id)
	}
	s.cfg.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
		slog.String("method", methodLabel(r.Method)), slog.String("project", project), slog.String("stream", stream),
		slog.String("mode", string(rec.mode)), slog.Int("status", rec.status), slog.String("problem", rec.problemSlug),
		slog.Int("bytes", rec.bytes), slog.Float64("ms", float64(time.Since(began).Microseconds())/1000),
		slog.String("request_id", clipForLog(r.Header.Get("X-Request-Id"))))
}

// maxLogText bounds a client's text in a log line.
const maxLogText = 256

func clipForLog(s string) string { return s[:min(len(s), maxLogText)] }

// The modes of requests that are not readers.
const (
	modeAppend    requestMode = "append"
	modeCreate    requestMode = "create"
	modeDelete    requestMode = "delete"
	modeHead      requestMode = "head"
	modePreflight requestMode = "preflight"
	modeOther     requestMode = "other"
)

// modeOf returns the mode of a method; a GET may have another.
func modeOf(method string) requestMode {
	switch method {
	case http.MethodGet:
		return modeCatchUp
	case http.MethodPost:
		return modeAppend
	case http.MethodPut:
		return modeCreate
	case http.MethodDelete:
		return modeDelete
	case http.MethodHead:
		return modeHead
	case http.MethodOptions:
		return modePreflight
	}
	return modeOther
}

// methodLabel returns a method as a metric label: clients can send any method.
func methodLabel(method string) string {
	if modeOf(method) == modeOther {
		return "other"
	}
	return method
}

// statusLabels are the statuses as metric labels.
var statusLabels = func() (all [600]string) {
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}()

// countRequest counts a request, by the status that its answer means.
func (m *metrics) countRequest(method string, rec *responseRecorder) {
	m.requests.WithLabelValues(methodLabel(method), string(rec.mode), statusLabels[min(max(rec.meansStatus, 0), len(statusLabels)-1)]).Inc()
}
