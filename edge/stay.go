package edge

import (
	"context"
	"math"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/fantail-dev/fantail/edge/access"
	"github.com/fantail-dev/fantail/edge/sse"
)

// stay is the time for which a reader may stay by its right: until its lease ends, or is revoked. It
// is the reader's sse.Permit. Only the goroutine that serves the reader uses it.
type stay struct {
	server *Server
	lease  access.Lease
	second uint32 // in which the lease ends here (leaseEnds), since 1970; 0: it has no end
	// part is this reader's place, from 0 to 1, in the time over which readers end that lose their
	// right together.
	part   float64
	why    access.End  // that endsAt is for
	endsAt sse.Instant // what EndsAt returned last
}

// beginStay counts a reader against the limits of its project and begins its stay; nil: no file of
// rights governs it. Call end.
func (s *Server) beginStay(r *http.Request, p permit) (*stay, *access.Denial) {
	if !p.judged {
		return nil, nil //nolint:nilnil // nil is documented
	}
	if denial := s.cfg.Judge.AddReader(r, p.Lease); denial != nil {
		return nil, denial
	}
	return &stay{server: s, lease: p.Lease, second: s.leaseEnds.take(p.Lease.EndsAt(), s.Readers()), part: rand.Float64()}, nil
}

// permit returns the stay as a session asks for it.
func (s *stay) permit() sse.Permit {
	if s == nil {
		return nil
	}
	return s
}

// EndsAt implements sse.Permit. It looks at the lease again: what was revoked between the decision and
// the begin of the session ends immediately.
func (s *stay) EndsAt() sse.Instant {
	now := s.server.cfg.Now()
	why, since := s.server.cfg.Judge.Look(s.lease, secondOf(now))
	at := time.Unix(int64(since), 0).Add(time.Duration(s.part * float64(why.Spread())))
	switch {
	case why == access.EndRevoked:
		at = now.Add(time.Duration(s.part * float64(why.Spread()))) // from when this node knows it
	case why == access.EndNone && s.second == 0:
		s.why, s.endsAt = why, math.MaxInt64
		return s.endsAt
	case why == access.EndNone || why == access.EndExpired:
		why, at = access.EndExpired, time.Unix(int64(s.second), 0)
	}
	s.why, s.endsAt = why, s.server.rules.At(time.Now().Add(at.Sub(now)))
	return s.endsAt
}

// end counts the reader no longer, and says why it ended if its right was over.
func (s *stay) end() {
	if s == nil {
		return
	}
	s.server.cfg.Judge.RemoveReader(s.lease)
	s.server.leaseEnds.giveBack(s.second)
	if s.endsAt <= s.server.rules.At(time.Now()) {
		s.server.metrics.ended.WithLabelValues(s.why.String()).Inc()
	}
}

// maxClockStep bounds the jump of the clock before readers look at their leases again: they wait by
// a clock that stands still while the machine sleeps.
const maxClockStep = time.Second

// watchLeases has all readers look at their leases again when one may have ended early: after a
// revocation, a change of the file of rights, or a jump of the clock. changed is the Judge's channel
// from before the first reader: no change between is missed. It ends with ctx.
func (s *Server) watchLeases(ctx context.Context, changed <-chan struct{}) {
	tick := time.NewTicker(time.Second)
	defer tick.Stop()
	offset := func() time.Duration { return s.cfg.Now().Sub(time.Unix(0, 0)) - time.Duration(s.rules.At(time.Now())) }
	last := offset()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
			if now := offset(); (now - last).Abs() < maxClockStep {
				continue
			}
		case <-changed:
			changed = s.cfg.Judge.Changed() // before readers look
		}
		last = offset()
		s.rules.LookAgain()
		s.reactor.LookAgain()
	}
}
