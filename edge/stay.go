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
	// observed: the reader is counted, and may stay.
	observed bool
}

// beginStay counts a reader against the limits of its project and begins its stay; nil: no file of
// rights governs it. Call finish.
func (s *Server) beginStay(r *http.Request, dec decision) (*stay, *access.Denial) {
	if !dec.judged && !dec.observed {
		return nil, nil //nolint:nilnil // nil is documented
	}
	denial := s.cfg.Judge.AddReader(r, dec.Lease)
	switch {
	case denial != nil && dec.observed:
		s.logObserved(r, denial)
		return nil, nil //nolint:nilnil // it would be refused, and is not counted
	case denial != nil:
		return nil, denial
	case dec.observed:
		return &stay{server: s, lease: dec.Lease, observed: true}, nil
	}
	return &stay{server: s, lease: dec.Lease, second: s.leaseEnds.reserveSecond(dec.Lease.EndsAt(), s.Readers()), part: rand.Float64()}, nil
}

// permit returns the stay as a session asks for it.
func (s *stay) permit() sse.Permit {
	if s == nil || s.observed {
		return nil
	}
	return s
}

// EndsAt implements sse.Permit. It looks at the lease again: what was revoked between the decision and
// the begin of the session ends immediately.
func (s *stay) EndsAt() sse.Instant {
	now := s.server.cfg.Now()
	why, at := s.findEnd(now)
	switch {
	case why == access.EndNone:
		s.endsAt = math.MaxInt64
	case why == access.EndRevoked && s.why == why: // however many revocations follow
	default:
		s.endsAt = s.server.rules.At(time.Now().Add(at.Sub(now)))
	}
	s.why = why
	return s.endsAt
}

// findEnd returns why the stay ends, and when. A revocation counts from when this node knows it. Any
// goroutine may call it.
func (s *stay) findEnd(now time.Time) (why access.End, at time.Time) {
	why, since := s.server.cfg.Judge.CheckLease(s.lease, secondOf(now))
	spread := time.Duration(s.part * float64(why.Spread()))
	switch {
	case why == access.EndRevoked:
		return why, now.Add(spread)
	case why == access.EndChanged:
		return why, time.Unix(int64(since), 0).Add(spread)
	case s.second == 0:
		return access.EndNone, at
	}
	return access.EndExpired, time.Unix(int64(s.second), 0)
}

// finish counts the reader no longer, and says why it ended if its right was over.
func (s *stay) finish() {
	if s == nil {
		return
	}
	s.server.cfg.Judge.RemoveReader(s.lease)
	if s.observed {
		return
	}
	s.server.leaseEnds.giveBack(s.second)
	if s.endsAt <= s.server.rules.At(time.Now()) {
		s.server.metrics.ended.WithLabelValues(s.why.String()).Inc()
	}
}

// maxClockStep bounds the jump of the clock before readers look at their leases again: they wait by
// a clock that stands still while the machine sleeps.
const maxClockStep = time.Second

// watchLeases has all readers check their leases again when a lease may have ended early: after a
// revocation, a change of the file of rights, or a jump of the clock. The Judge's channel changed
// was taken before the first reader came, so no change is missed. watchLeases ends with ctx.
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
			s.overstays.cutOverstayed(s.cfg.Now())
			if now := offset(); (now - last).Abs() < maxClockStep {
				continue
			}
		case <-changed:
			changed = s.cfg.Judge.Changed() // before readers look
		}
		last = offset()
		s.rules.RecheckPermits()
		s.reactor.RecheckSessions()
	}
}
