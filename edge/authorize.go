package edge

import (
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/netconn"
	"github.com/fantail-dev/fantail/shard"
)

// decision holds under what a request is served. The zero value is for a Server that no file of
// rights governs: everything is open.
type decision struct {
	access.Verdict
	// judged: a file decides, so its rules of caching hold, and a reader's time may be bounded.
	judged bool
	// observed: a file allows it, and its limits count what they would refuse.
	observed bool
	// changeCount is the Judge's ChangeCount from before the decision.
	changeCount uint32
}

// authorize decides what a request may do to a stream, before anything about the stream is asked
// and before a body is read. It answers a request that is refused, and returns false. On every path
// to a stream it is the only place that decides: net/http, append connections, HTTP/2, long-polls
// and event streams come through route. An append within its limits waits here for its turn.
func (s *Server) authorize(w http.ResponseWriter, r *http.Request, id shard.StreamID) (decision, bool) {
	j := s.cfg.Judge
	if j == nil {
		return decision{}, true
	}
	dec := decision{judged: true, changeCount: j.ChangeCount()}
	project, name := splitStream(id)
	var denial *access.Denial
	if dec.Verdict, denial = s.decide(r, project, name); denial != nil {
		return s.denyUnlessObserving(w, r, denial)
	}
	use := access.Use{Create: r.Method == http.MethodPut}
	if carriesMessages(r) {
		use.Bytes = max(r.ContentLength, 0)
	}
	if s.cfg.ObserveOnly {
		if denial = j.WouldAdmit(r, dec.Lease, use); denial != nil {
			s.logObserved(r, denial)
		}
		return decision{Verdict: dec.Verdict, observed: true}, true
	}
	if denial = j.Admit(r, dec.Lease, use); denial != nil {
		writeDenial(w, r, denial)
		return decision{}, false
	}
	if dec.ResourcePolicy() == crossOrigin[0] {
		w.Header()["Cross-Origin-Resource-Policy"] = crossOrigin
	}
	return dec, true
}

// decide asks the Judge for the actions that a request needs.
func (s *Server) decide(r *http.Request, project, name string) (access.Verdict, *access.Denial) {
	j := s.cfg.Judge
	switch r.Method {
	case http.MethodPost:
		return j.Decide(r, project, name, appendActions(r))
	case http.MethodDelete:
		return j.Decide(r, project, name, access.Delete)
	case http.MethodPut:
		// A source that does not parse is refused later, as a malformed header.
		if source, err := s.roots.parseStreamPath(r.Header.Get(hForkedFrom)); err == nil && hasHeader(r.Header, hForkedFrom) {
			sourceProject, sourceName := splitStream(source)
			return j.DecideFork(r, project, name, sourceProject, sourceName)
		}
		return j.Decide(r, project, name, access.Create)
	default:
		return j.Decide(r, project, name, access.Read)
	}
}

// appendActions returns what a POST needs: closing is a right of its own, because it is for good.
func appendActions(r *http.Request) access.Actions {
	switch {
	case !asksToClose(r.Header):
		return access.Append
	case r.ContentLength == 0:
		return access.Close
	default:
		return access.Append | access.Close
	}
}

// carriesMessages reports whether a request's body is what a stream shall hold.
func carriesMessages(r *http.Request) bool {
	return r.Method == http.MethodPost || r.Method == http.MethodPut
}

// denyUnlessObserving answers a request that may not; while the Judge only observes, it logs it and
// has it served.
func (s *Server) denyUnlessObserving(w http.ResponseWriter, r *http.Request, d *access.Denial) (decision, bool) {
	if !s.cfg.ObserveOnly {
		writeDenial(w, r, d)
		return decision{}, false
	}
	s.logObserved(r, d)
	return decision{}, true
}

// logObserved logs a request that is served only because the Judge observes, one a second.
func (s *Server) logObserved(r *http.Request, d *access.Denial) {
	s.observeLimiter.Do(func() {
		s.cfg.Logger.Warn("would be refused", "reason", string(d.Reason), "status", d.Status, "method", methodLabel(r.Method), "path", clipForLog(r.URL.Path), "detail", d.Detail)
	})
}

// stillAllows reports whether the right of an append still holds when it is to be handed on: its
// body may have taken minutes. It answers a request whose right is over. A body that was there with the
// request took no time: then only what the Judge has changed since the decision counts.
func (s *Server) stillAllows(w http.ResponseWriter, r *http.Request, dec decision, id shard.StreamID) bool {
	j := s.cfg.Judge
	switch {
	case !dec.judged, netconn.HasArrived(r.Body) && dec.changeCount == j.ChangeCount(), j.Stays(dec.Lease, secondOf(s.cfg.Now())):
		return true
	}
	project, name := splitStream(id)
	if _, denial := s.decide(r, project, name); denial != nil {
		writeDenial(w, r, denial)
		return false
	}
	return true // by the rights of now
}

// secondOf returns a moment as leases count it: seconds since 1970.
func secondOf(t time.Time) uint32 { return uint32(max(t.Unix(), 0)) } //nolint:gosec // until 2106

// chargeUnannounced charges a body whose size came without announcement, and refuses a body that
// is longer than the project allows.
func (s *Server) chargeUnannounced(r *http.Request, dec decision, size int) error {
	if !dec.judged && !dec.observed || r.ContentLength >= 0 {
		return nil
	}
	denial := s.cfg.Judge.Charge(r, dec.Lease, int64(size))
	switch {
	case denial == nil:
		return nil
	case dec.observed:
		s.logObserved(r, denial)
		return nil
	}
	return denial
}
