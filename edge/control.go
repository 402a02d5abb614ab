package edge

import (
	"net/http"
	"net/url"
	"strings"
)

// controlPath names something of a project that is no stream: /v1/stream/{project}/__ds/{what}, or
// /v1/stream/__ds/{what} for the project "default".
type controlPath struct {
	project, what string
}

const (
	controlSegment = "__ds" // what the protocol reserves (PROTOCOL 6)
	controlSession = "session"
	controlStreams = "streams" // see serveListing
)

// parseControlPath parses an escaped URL path; false: it names nothing that this server has.
func parseControlPath(escaped string) (c controlPath, ok bool) {
	rest, ok := strings.CutPrefix(escaped, streamPathPrefix)
	if !ok || !strings.HasSuffix(rest, "/"+controlSession) && !strings.HasSuffix(rest, "/"+controlStreams) {
		return c, false
	}
	switch segments := strings.Split(rest, "/"); {
	case len(segments) == 2 && segments[0] == controlSegment:
		return controlPath{defaultProject, segments[1]}, true
	case len(segments) == 3 && segments[1] == controlSegment:
		project, err := url.PathUnescape(segments[0])
		return controlPath{project, segments[2]}, err == nil && project != "" && project != controlSegment && !strings.Contains(project, "/")
	}
	return c, false
}

const controlMethods = "POST, DELETE, OPTIONS"

// serveControl begins, renews and ends the session of a browser: its cookie is for EventSource,
// which can send no header.
func (s *Server) serveControl(w http.ResponseWriter, r *http.Request, c controlPath) {
	abandonBody(w, r) // neither has a use for a body
	h := w.Header()
	h.Set("Cache-Control", cacheNoStore)
	switch r.Method {
	case http.MethodPost:
		cookie, denial := s.cfg.Judge.StartSession(r, c.project)
		if denial != nil {
			writeDenial(w, r, denial)
			return
		}
		h.Add("Set-Cookie", cookie)
	case http.MethodDelete:
		if cookie := s.cfg.Judge.EndSession(c.project); cookie != "" {
			h.Add("Set-Cookie", cookie)
		}
	default:
		h.Set("Allow", controlMethods)
		writeError(w, errMethod)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}
