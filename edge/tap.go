package edge

import (
	"errors"
	"log/slog"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"time"
)

// tap is what is known of a request's answer once that is made: for the metrics, the access log and
// the complaints. It is between the handlers and net/http.
type tap struct {
	http.ResponseWriter
	status  int    // 0: nothing was said
	bytes   int    // of the body
	mode    mode   // what kind of request it is
	problem string // the slug of a refusal
	means   int    // the status that a refusal stands for, also where the answer is another
	err     error  // why
}

var taps = sync.Pool{New: func() any { return new(tap) }}

// WriteHeader implements http.ResponseWriter.
func (t *tap) WriteHeader(status int) {
	if t.status == 0 || t.status < 200 {
		t.status = status
	}
	t.ResponseWriter.WriteHeader(status)
}

// Write implements http.ResponseWriter.
func (t *tap) Write(b []byte) (int, error) {
	if t.status == 0 {
		t.status = http.StatusOK
	}
	n, err := t.ResponseWriter.Write(b)
	t.bytes += n
	return n, err
}

// Unwrap is for http.ResponseController.
func (t *tap) Unwrap() http.ResponseWriter { return t.ResponseWriter }

// tapOf is the tap beneath a ResponseWriter; nil: there is none.
func tapOf(w http.ResponseWriter) *tap {
	for {
		switch x := w.(type) {
		case *tap:
			return x
		case interface{ Unwrap() http.ResponseWriter }:
			w = x.Unwrap()
		default:
			return nil
		}
	}
}

// writerOf is the writer beneath a ResponseWriter; nil: net/http has the connection.
func writerOf(w http.ResponseWriter) *writer {
	if t := tapOf(w); t != nil {
		w = t.ResponseWriter
	}
	fast, _ := w.(*writer)
	return fast
}

// noteMode takes note of what kind of request it is.
func noteMode(w http.ResponseWriter, m mode) {
	if t := tapOf(w); t != nil {
		t.mode = m
	}
}

// noteRefusal takes note of a refusal and of its cause, if there is one.
func noteRefusal(w http.ResponseWriter, m mapping, err error) {
	if t := tapOf(w); t != nil {
		t.problem, t.means = m.slug, m.status
		if err != nil {
			t.err = err
		}
	}
}

// observed answers a request and tells of it. An event stream is told of when it begins, and returned
// to be served.
func (s *Server) observed(w http.ResponseWriter, r *http.Request) (events *driver) {
	t, _ := taps.Get().(*tap)
	*t = tap{ResponseWriter: w, mode: modeOf(r.Method)}
	var began time.Time
	if s.cfg.AccessLog != nil {
		began = time.Now()
	}
	events = s.route(t, r)
	if t.status == 0 {
		t.status = http.StatusOK
	}
	if t.means == 0 {
		t.means = t.status
	}
	s.m.countRequest(r.Method, t)
	if errors.Is(t.err, errCrowd) {
		_ = s.m.refuse(errCrowd)
	}
	if t.means >= http.StatusInternalServerError {
		s.complain(r, t)
	}
	if s.cfg.AccessLog != nil {
		s.logAccess(r, t, began)
	}
	*t = tap{}
	taps.Put(t)
	return events
}

// complain leaves a line about a request that failed behind us, with the id that its client has.
// One a second is a warning: while storage is down the log stays readable. The others are debug.
func (s *Server) complain(r *http.Request, t *tap) {
	if t.err == nil || t.problem == "draining" {
		return
	}
	if clientOf(r).Err() != nil { // nobody needs to know
		s.cfg.Logger.Debug("request failed, and its client is gone", "problem", t.problem, "path", clip(r.URL.Path), "err", t.err)
		return
	}
	level := slog.LevelDebug
	s.complaints.Do(func() {
		if level = slog.LevelWarn; t.problem == unexpected.slug {
			level = slog.LevelError
		}
	})
	s.cfg.Logger.Log(r.Context(), level, "request failed", "request", t.Header().Get(hRequestID), "problem", t.problem, "method", methodOf(r.Method),
		"mode", string(t.mode), "path", clip(r.URL.Path), "err", strings.ReplaceAll(t.err.Error(), "\n", "; "))
}

// logAccess writes the access log's line about a request.
func (s *Server) logAccess(r *http.Request, t *tap, began time.Time) {
	project, stream := "", ""
	if id, err := parseName(r.URL.EscapedPath()); err == nil {
		project, stream, _ = strings.Cut(string(id), "/")
	}
	s.cfg.AccessLog.LogAttrs(r.Context(), slog.LevelInfo, "request",
		slog.String("method", methodOf(r.Method)), slog.String("project", project), slog.String("stream", stream),
		slog.String("mode", string(t.mode)), slog.Int("status", t.status), slog.String("problem", t.problem),
		slog.Int("bytes", t.bytes), slog.Float64("ms", float64(time.Since(began).Microseconds())/1000),
		slog.String("request_id", clip(r.Header.Get("X-Request-Id"))))
}

// clipped is how much of a client's text a line of the log may hold.
const clipped = 256

func clip(s string) string { return s[:min(len(s), clipped)] }

// The modes of requests that are no readers.
const (
	modeAppend    mode = "append"
	modeCreate    mode = "create"
	modeDelete    mode = "delete"
	modeHead      mode = "head"
	modePreflight mode = "preflight"
	modeOther     mode = "other"
)

// modeOf is the mode of a method; of a GET it may be another.
func modeOf(method string) mode {
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

// methodOf is a method as a label: clients choose theirs.
func methodOf(method string) string {
	if modeOf(method) == modeOther {
		return "other"
	}
	return method
}

// codeLabels are the statuses as labels.
var codeLabels = func() (all [600]string) {
	for i := range all {
		all[i] = strconv.Itoa(i)
	}
	return all
}()

// countRequest counts a request, as what its answer means.
func (m *metrics) countRequest(method string, t *tap) {
	m.requests.WithLabelValues(methodOf(method), string(t.mode), codeLabels[min(max(t.means, 0), len(codeLabels)-1)]).Inc()
}
