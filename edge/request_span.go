package edge

import (
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/shard/tracing"
)

// beginSpan begins the span of a request, if it is traced, and returns the request for its handlers.
func (s *Server) beginSpan(r *http.Request) (*http.Request, *tracing.Span) {
	method := methodLabel(r.Method)
	span := s.cfg.Tracer.BeginRequest(method, tracing.ParseTraceparent(r.Header[hTraceparent]))
	if span == nil {
		return r, nil
	}
	span.Text(tracing.HTTPMethod, method)
	if route := s.roots.routePattern(r.URL.EscapedPath()); route != "" {
		span.Rename(method + " " + route)
		span.Text(tracing.HTTPRoute, route)
	}
	if id, err := s.roots.parseStreamPath(r.URL.EscapedPath()); err == nil {
		span.Text(tracing.Project, id.Project())
	}
	return r.WithContext(span.In(r.Context())), span
}

// endSpan ends the span of a request that is answered. That of an event stream ends when its first byte
// is about to be written: a span of hours would be sent when no operator looks for it any more, and
// metrics tell what happens to a reader later.
func endSpan(span *tracing.Span, rec *responseRecorder) {
	span.Text(tracing.Mode, string(rec.mode))
	span.Int(tracing.HTTPStatus, rec.status)
	if rec.problemSlug != "" {
		span.Text(tracing.Problem, rec.problemSlug)
	}
	if rec.meansStatus != rec.status {
		span.Int(tracing.Means, rec.meansStatus)
	}
	if rec.meansStatus >= http.StatusInternalServerError {
		span.Fail(rec.problemSlug)
	}
	span.End()
}

// routePattern returns the pattern of an escaped path, without any name that a client chose; empty: it
// has none.
func (roots streamRoots) routePattern(escaped string) string {
	for _, r := range roots {
		if strings.HasPrefix(escaped, r.Path) {
			return r.Path + "{stream}"
		}
	}
	if control, ok := parseControlPath(escaped); ok {
		return streamPathPrefix + "{project}/" + controlSegment + "/" + control.what
	}
	if strings.HasPrefix(escaped, streamPathPrefix) {
		return streamPathPrefix + "{project}/{stream}"
	}
	return ""
}
