package edge

import (
	"math"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
)

// stay is the time for which a long-poll may wait by its right: until its lease ends, or is revoked.
type stay struct {
	server  *Server
	judged  bool // false: no file of rights governs it, and it has no end
	lease   access.Lease
	changed <-chan struct{} // closed when isOver is to be asked again
}

// beginStay counts a reader against the limits of its project, and begins to watch its lease. What
// was revoked between the decision and now ends it immediately. Call end.
func (s *Server) beginStay(r *http.Request, p permit) (*stay, *access.Denial) {
	t := &stay{server: s, judged: p.judged, lease: p.Lease}
	if !p.judged {
		return t, nil
	}
	j := s.cfg.Judge
	if denial := j.AddReader(r, p.Lease); denial != nil {
		return nil, denial
	}
	if t.changed = j.Changed(); j.Generation() != p.generation && t.isOver() {
		already := make(chan struct{})
		close(already)
		t.changed = already
	}
	return t, nil
}

// end counts the reader no longer.
func (t *stay) end() {
	if t.judged {
		t.server.cfg.Judge.RemoveReader(t.lease)
	}
}

// isOver reports whether the reader's right is over; if not, changed is that of the next change.
func (t *stay) isOver() bool {
	j := t.server.cfg.Judge
	t.changed = j.Changed()
	return !j.Stays(t.lease, t.server.leaseSecond())
}

// timeLeft returns the time until the lease ends.
func (t *stay) timeLeft() time.Duration {
	if !t.judged || t.lease.EndsAt() == 0 {
		return math.MaxInt64
	}
	return max(time.Unix(int64(t.lease.EndsAt()), 0).Sub(t.server.cfg.Now()), 0)
}
