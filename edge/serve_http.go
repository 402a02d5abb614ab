package edge

import (
	"errors"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// serveRecorded answers a request, counts it and logs it. An event stream is counted when it begins,
// and returned to be served.
func (s *Server) serveRecorded(w http.ResponseWriter, r *http.Request) (events *eventStream) {
	rec, _ := recorderPool.Get().(*responseRecorder)
	*rec = responseRecorder{ResponseWriter: w, mode: modeOf(r.Method)}
	var began time.Time
	if s.cfg.AccessLog != nil {
		began = time.Now()
	}
	var span *tracing.Span
	if s.cfg.Tracer != nil {
		r, span = s.beginSpan(r)
	}
	events = s.route(rec, r)
	if rec.status == 0 {
		rec.status = http.StatusOK
	}
	if rec.meansStatus == 0 {
		rec.meansStatus = rec.status
	}
	s.metrics.countRequest(r.Method, rec)
	if span != nil {
		endSpan(span, rec)
	}
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
	about := []any{
		"request", rec.Header().Get(hRequestID), "problem", rec.problemSlug, "method", methodLabel(r.Method),
		"mode", string(rec.mode), "path", clipForLog(r.URL.Path), "err", strings.ReplaceAll(rec.err.Error(), "\n", "; "),
	}
	if span := tracing.FromContext(r.Context()); span != nil {
		about = append(about, "trace", span.TraceID())
	}
	s.cfg.Logger.Log(r.Context(), level, "request failed", about...)
}

// logAccess writes the access log's line about a request.
func (s *Server) logAccess(r *http.Request, rec *responseRecorder, began time.Time) {
	project, stream := "", ""
	if id, err := s.roots.parseStreamPath(r.URL.EscapedPath()); err == nil {
		project, stream = splitStream(id)
	}
	s.cfg.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
		slog.String("method", methodLabel(r.Method)), slog.String("project", project), slog.String("stream", stream),
		slog.String("mode", string(rec.mode)), slog.Int("status", rec.status), slog.String("problem", rec.problemSlug),
		slog.Int("bytes", rec.bytes), slog.Float64("ms", float64(time.Since(began).Microseconds())/1000),
		slog.String("request_id", clipForLog(r.Header.Get("X-Request-Id"))))
}

// countRequest counts a request, by the status that its answer means.
func (m *metrics) countRequest(method string, rec *responseRecorder) {
	m.requests.WithLabelValues(methodLabel(method), string(rec.mode), statusLabels[min(max(rec.meansStatus, 0), len(statusLabels)-1)]).Inc()
}

var recorderPool = sync.Pool{New: func() any { return new(responseRecorder) }}

// ServeHTTP answers a request. Event streams run from here: running them inside route would
// keep its stack frames alive and double each goroutine's stack.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if events := s.serveRecorded(w, r); events != nil {
		events.serve(w, r)
	}
}
