package edge

import (
	"errors"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/netconn"
)

// writeReaderError does what writeEventsError does, for an error that may be the Judge's.
func writeReaderError(w http.ResponseWriter, r *http.Request, err error) {
	var denial *access.Denial
	if errors.As(err, &denial) {
		writeDenial(w, r, denial)
		return
	}
	writeEventsError(w, r, err)
}

// denialProblems are the problems of the Judge's refusals, by their slugs. A refusal may have another
// status (access.Reason).
var denialProblems = map[string]problemKind{
	"unauthorized":     {401, "unauthorized", "The credential is missing or not good", retryRange{}},
	"forbidden":        {403, "forbidden", "The credential does not allow this", retryRange{}},
	"limited":          {429, "limited", "Over a limit of the project or of the caller", retryRange{1, 10}},
	"credentials-busy": {503, "credentials-busy", "The credential cannot be judged now", retryRange{1, 60}},
}

// writeDenial answers a request that the Judge refuses. What is left of its body is not waited for.
func writeDenial(w http.ResponseWriter, r *http.Request, d *access.Denial) {
	abandonBody(w, r)
	h := w.Header()
	if d.Challenge != "" {
		h.Set("WWW-Authenticate", d.Challenge)
	}
	if d.SetCookie != "" {
		h.Add("Set-Cookie", d.SetCookie)
	}
	k := denialProblems[d.Slug]
	k.status, k.retry = d.Status, retryRange{}
	if d.RetryAfter > 0 {
		seconds := int((d.RetryAfter + time.Second - 1) / time.Second)
		k.retry = retryRange{seconds, seconds}
	}
	noteRefusal(w, k, d)
	if k.retry.max > 0 && r.Method == http.MethodGet && acceptsEvents(r) && r.URL.Query().Get(paramLive) == "sse" {
		writeRetryEvents(w, k)
		return
	}
	writeProblemDocument(w, k, problem{Detail: d.Detail, Reason: string(d.Reason)})
}

// abandonedBodyTime bounds the wait for a small body that no handler reads.
const abandonedBodyTime = time.Second

// leaveBody has the answer sent without a wait for a body that is of no use. Behind such a body the
// connection is closed (HTTP/1.1), unless it has arrived.
func leaveBody(w http.ResponseWriter, r *http.Request) {
	if r.ProtoMajor == 1 && r.ContentLength != 0 && !netconn.HasArrived(r.Body) {
		w.Header().Set("Connection", "close")
	}
}

// abandonBody bounds the cost of a refusal before the body was read. net/http reads up to 256 KiB
// of it before it sends the answer. A small body gets a second to come. Behind a larger body, or
// a body of unknown size, the connection is closed. HTTP/2 ends the stream alone, and never
// waits: the connection may be a proxy's, and carry many clients.
func abandonBody(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.ProtoMajor > 1:
	case r.ContentLength == 0 || netconn.HasArrived(r.Body): // as that of an append connection
	case r.ContentLength > 0 && r.ContentLength <= maxIgnoredBody:
		_ = http.NewResponseController(w).SetReadDeadline(time.Now().Add(abandonedBodyTime))
	default:
		w.Header().Set("Connection", "close")
	}
}
