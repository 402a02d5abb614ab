package edge

import (
	"net/http"

	"github.com/fantail-dev/fantail/shard"
)

// route dispatches a request by method and path, once it may do what it asks for. It returns an
// event stream that remains to be served.
func (s *Server) route(w http.ResponseWriter, r *http.Request) (events *eventStream) {
	defer s.recoverRequest()
	path := r.URL.EscapedPath()
	id, err := s.roots.parseStreamPath(path)
	control, isControl := parseControlPath(path)
	s.setCommonHeaders(w, r, max(id.Project(), control.project))
	s.boundBodyTime(w, r)
	switch {
	case r.Header.Get("Service-Worker") != "":
		err = errServiceWorker
	case r.Method == http.MethodOptions:
		leaveBody(w, r)
		s.preflight(w, r)
		return nil
	case isControl && control.what == controlStreams:
		s.serveListing(w, r, control.project)
		return nil
	case isControl && s.cfg.Judge != nil:
		s.serveControl(w, r, control)
		return nil
	}
	if err != nil {
		abandonBody(w, r)
		writeError(w, err)
		return nil
	}
	p, ok := s.authorize(w, r, id)
	if !ok {
		return nil
	}
	if s.cfg.CheckStream != nil && s.cfg.CheckStream(id) != nil {
		err = errProject
	} else if !carriesMessages(r) {
		err = s.discardBody(w, r)
	}
	if err != nil {
		writeError(w, err)
		return nil
	}
	return s.serveMethod(w, r, id, p)
}

// serveMethod answers a request that may do what it asks for.
func (s *Server) serveMethod(w http.ResponseWriter, r *http.Request, id shard.StreamID, dec decision) (events *eventStream) {
	if r.Method != http.MethodPost { // doWrite does it for POST, because an append connection needs none
		var end func()
		r, end = withRequestContext(r)
		defer end()
	}
	switch r.Method {
	case http.MethodGet:
		return s.serveGet(w, r, id, dec)
	case http.MethodHead:
		s.serveHead(w, r, id, dec)
	case http.MethodPost:
		s.servePost(w, r, id, dec)
	case http.MethodPut:
		s.servePut(w, r, id, dec)
	case http.MethodDelete:
		s.serveDelete(w, r, id, dec)
	default:
		w.Header().Set("Allow", allowedMethods)
		writeError(w, errMethod)
	}
	return nil
}
