package edge

import (
	"maps"
	"net/http"
	"strings"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/byteclass"
)

// The values of fields that many answers have. They are shared and must not be appended to.
var (
	anyOrigin       = []string{"*"}
	sameOrigin      = []string{"same-origin"}
	noReferrer      = []string{"no-referrer"}
	crossOrigin     = []string{"cross-origin"}
	trueValue       = []string{"true"}
	exposedValue    = []string{exposedHeaders}
	varyOrigin      = []string{"Origin"}
	varyCredentials = []string{access.VaryOrigins}
)

// originsOf returns the origins whose pages may read a project's answers: those of the file of
// rights, or else those of Config.Origins; nil: every origin.
func (s *Server) originsOf(project string) *access.Origins {
	if s.cfg.Judge != nil {
		if o := s.cfg.Judge.Origins(project); o != nil {
			return o
		}
	}
	return s.cfg.Origins
}

// setCORSHeaders sets what an answer says to a page of another origin. Every origin may read
// answers where none are configured; the browser attaches no credentials then. Pages of listed
// origins may have it attach them. An answer that depends on its caller says so to every cache.
func (s *Server) setCORSHeaders(h http.Header, r *http.Request, project string) {
	if s.cfg.NoCORS {
		if s.cfg.Judge != nil {
			h["Vary"] = varyCredentials
		}
		return
	}
	origins := s.originsOf(project)
	switch {
	case s.cfg.Judge != nil:
		h["Vary"] = varyCredentials
	case origins != nil && !origins.Any():
		h["Vary"] = varyOrigin
	}
	answer := access.CORS{Origin: "*"}
	if origins != nil {
		answer = origins.Answer(r.Header.Get("Origin"))
	}
	switch answer.Origin {
	case "":
		return
	case "*":
		h["Access-Control-Allow-Origin"] = anyOrigin
	default:
		h["Access-Control-Allow-Origin"] = []string{answer.Origin}
	}
	if answer.Credentials {
		h["Access-Control-Allow-Credentials"] = trueValue
	}
	h["Access-Control-Expose-Headers"] = exposedValue
}

// preflight answers OPTIONS, without a credential: a browser sends none. A page may send any header
// of its own; what its origin may do stands in the other fields.
func (s *Server) preflight(w http.ResponseWriter, r *http.Request) {
	if s.cfg.NoCORS {
		w.WriteHeader(http.StatusNoContent)
		return
	}
	h := w.Header()
	h.Set("Access-Control-Allow-Methods", allowedMethods)
	h.Set("Access-Control-Allow-Headers", allowedHeaders+requestedHeaders(r.Header))
	age := "86400"
	if s.cfg.Judge != nil || s.cfg.Origins != nil {
		age = access.PreflightMaxAge
	}
	h.Set("Access-Control-Max-Age", age)
	h.Add("Vary", "Access-Control-Request-Headers, Access-Control-Request-Method")
	w.WriteHeader(http.StatusNoContent)
}

// requestedHeaders returns the header names that a preflight asks for and the fixed list lacks, each
// after a comma: valid names only, and together at most as many bytes as headerTable allows.
func requestedHeaders(h http.Header) string {
	list := strings.Join(h.Values(requestHeaders), ",")
	if len(list) > headerRules[requestHeaders].maxBytes {
		return ""
	}
	var b strings.Builder
	for name := range strings.SplitSeq(list, ",") {
		if name = strings.TrimSpace(name); name != "" && byteclass.All(name, byteclass.Token) && !allowedHeaderNames[strings.ToLower(name)] {
			b.WriteString(", ")
			b.WriteString(name)
		}
	}
	return b.String()
}

const requestHeaders = "Access-Control-Request-Headers"

// allowedHeaderNames is the fixed list, in lower case.
var allowedHeaderNames = func() map[string]bool {
	m := map[string]bool{}
	for name := range strings.SplitSeq(allowedHeaders, ", ") {
		m[strings.ToLower(name)] = true
	}
	return m
}()

// commonHeaders holds the headers of every response (PROTOCOL 12, CORS), by canonical name. The
// values are shared and must not be appended to. A stream's content is a user's, and its type may
// be that of a page or a script: the policy gives it an origin of its own in a browser, where it
// may load and run nothing. With those of an event stream, or of an append's answer, they are eight at
// most: a ninth doubles the memory of the map, which every reader with a goroutine holds, and costs each
// append a hash of every name.
var commonHeaders = http.Header{
	"Content-Security-Policy":      {"sandbox; default-src 'none'"},
	"X-Content-Type-Options":       {"nosniff"},
	"Cross-Origin-Resource-Policy": {"cross-origin"},
}

// setCommonHeaders sets the headers of every answer to a request about a project; project is empty
// where the path names none.
func (s *Server) setCommonHeaders(w http.ResponseWriter, r *http.Request, project string) {
	h := w.Header()
	maps.Copy(h, commonHeaders)
	s.setCORSHeaders(h, r, project)
	if s.cfg.Judge != nil && !s.cfg.ObserveOnly {
		h["Cross-Origin-Resource-Policy"] = sameOrigin // authorize opens it for what others may embed
		if r.Method != http.MethodPost {
			h["Referrer-Policy"] = noReferrer // a URL may be signed, for reads alone
		}
	}
	if s.closesConns.Load() || s.cfg.ConnectionsFull() {
		h.Set("Connection", "close") // over HTTP/2 net/http sends GOAWAY for it
	}
}
