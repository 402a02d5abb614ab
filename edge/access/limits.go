package access

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"
)

const (
	// limitWait bounds the time for which an append waits for its turn.
	limitWait = 2 * time.Second
	// maxWaitingEach and maxWaiting bound the appends that wait, of a principal and of a node.
	maxWaitingEach = 64
	maxWaiting     = 1000
	// limitSlots is the number of slots for principals. Principals that share a slot share its
	// limits.
	limitSlots = 1 << 16
)

// limits are a project's, compiled. A value of 0 is no limit.
type limits struct {
	requests, bytes, creates bucketRate
	readers                  int64
	body                     int64
	principal, public        principalLimits
}

type principalLimits struct {
	requests bucketRate
	readers  int64
}

// projectUse counts what the clients of a project use on this node. Reloads carry it over.
type projectUse struct {
	requests, bytes, creates bucket
	readers                  atomic.Int64
}

// slot counts what one principal uses on this node.
type slot struct {
	requests bucket
	readers  atomic.Int32
	waiting  atomic.Int32
}

// limiter applies the limits of all projects.
type limiter struct {
	env          *environment
	nodes        func() int
	otherReaders func(project string) int
	began        time.Time
	projects     atomic.Pointer[[]*project] // by the numbers of their rows
	slots        [limitSlots]slot
	waiting      atomic.Int32
}

func newLimiter(cfg Config, env *environment) *limiter {
	l := &limiter{env: env, nodes: cfg.Nodes, otherReaders: cfg.OtherReaders, began: time.Now()}
	if l.nodes == nil {
		l.nodes = func() int { return 1 }
	}
	if l.otherReaders == nil {
		l.otherReaders = func(string) int { return 0 }
	}
	return l
}

// adopt takes the limits of new rules.
func (l *limiter) adopt(r *rules) {
	var by []*project
	if old := l.projects.Load(); old != nil { // leases of older rows are still counted
		by = append(by, *old...)
	}
	for _, p := range r.allProjects() {
		for len(by) <= int(p.row.number) {
			by = append(by, nil)
		}
		by[p.row.number] = p
	}
	l.projects.Store(&by)
}

// of returns the project of a lease; nil: it has none.
func (l *limiter) of(lease Lease) *project {
	by := l.projects.Load()
	if by == nil || int(lease.project) >= len(*by) {
		return nil
	}
	return (*by)[lease.project]
}

// slotOf returns the place of a lease's principal, and its limits.
func (l *limiter) slotOf(lease Lease, p *project) (s *slot, own principalLimits) {
	switch s = &l.slots[lease.slot]; {
	case p.limits == nil:
		return s, own
	case lease.issuer == 0 && lease.key == 0:
		return s, p.limits.public
	}
	return s, p.limits.principal
}

// Use holds what a request asks for.
type Use struct {
	// Bytes are appended by the request, as announced; what was not announced is charged later.
	Bytes int64
	// Create: the request creates a stream.
	Create bool
}

// charge is one bucket that a request has to pass.
type charge struct {
	bucket *bucket
	rate   bucketRate
	n      int64
	limit  Reason
}

// Admit charges a request to the limits of its project and its principal. It comes after the
// decision, and before the body is read. A POST waits for its turn for two seconds at most; others
// do not wait. Reads of live readers are counted by AddReader besides.
func (j *Judge) Admit(r *http.Request, lease Lease, u Use) *Denial { return j.admit(r, lease, u, true) }

// WouldAdmit does what Admit does, where rights are only observed: it charges and counts the same, and
// does not wait.
func (j *Judge) WouldAdmit(r *http.Request, lease Lease, u Use) *Denial {
	return j.admit(r, lease, u, false)
}

func (j *Judge) admit(r *http.Request, lease Lease, u Use, waits bool) *Denial {
	p := j.limiter.of(lease)
	if p == nil || p.limits == nil {
		return nil
	}
	if denial := j.denyBody(r, p, u.Bytes); denial != nil {
		return denial
	}
	var charges [4]charge
	s, own := j.limiter.slotOf(lease, p)
	n := j.limiter.charges(&charges, p, s, own, u)
	wait, over := takeAll(charges[:n], j.limiter.now(), most(r))
	if over != "" {
		return j.denyLimit(r, p, over, wait, "")
	}
	if wait == 0 || !waits {
		return nil
	}
	if reason := j.limiter.await(r.Context(), s, wait); reason != "" {
		for _, c := range charges[:n] {
			c.bucket.giveBack(c.rate, c.n)
		}
		return j.denyLimit(r, p, reason, wait, "")
	}
	return nil
}

// denyBody refuses a body that is longer than the project allows.
func (j *Judge) denyBody(r *http.Request, p *project, bytes int64) *Denial {
	if p.limits.body == 0 || bytes <= p.limits.body {
		return nil
	}
	return j.denyLimit(r, p, ReasonLimitBody, 0, fmt.Sprintf("the body has %d bytes, and an append of this project %d at most: send it in parts", bytes, p.limits.body))
}

// most returns how long a request may wait.
func most(r *http.Request) time.Duration {
	if r.Method == http.MethodPost {
		return limitWait
	}
	return 0
}

// now returns the time of the buckets: this process's own, which never jumps.
func (l *limiter) now() int64 { return int64(time.Since(l.began)) }

// charges lists what a request has to pass.
func (l *limiter) charges(into *[4]charge, p *project, s *slot, own principalLimits, u Use) (n int) {
	nodes := l.nodes()
	add := func(b *bucket, r bucketRate, units int64, limit Reason) {
		if r.each > 0 && units > 0 {
			into[n] = charge{b, r, units, limit}
			n++
		}
	}
	add(&s.requests, own.requests, 1, ReasonLimitPrincipalRequests)
	add(&p.use.requests, p.limits.requests.shareAmong(nodes, time.Second), 1, ReasonLimitRequests)
	add(&p.use.bytes, p.limits.bytes.shareAmong(nodes, time.Second), u.Bytes, ReasonLimitBytes)
	if u.Create {
		add(&p.use.creates, p.limits.creates.shareAmong(nodes, time.Hour), 1, ReasonLimitCreates)
	}
	return n
}

// takeAll takes from all the buckets, or from none.
func takeAll(charges []charge, now int64, most time.Duration) (wait time.Duration, over Reason) {
	for i, c := range charges {
		w, ok := c.bucket.reserve(c.rate, c.n, now, most)
		if !ok {
			for _, taken := range charges[:i] {
				taken.bucket.giveBack(taken.rate, taken.n)
			}
			return w, c.limit
		}
		wait = max(wait, w)
	}
	return wait, ""
}

// await waits for a request's turn. Those that would be too many are refused.
func (l *limiter) await(ctx context.Context, s *slot, wait time.Duration) (over Reason) {
	defer l.waiting.Add(-1)
	if l.waiting.Add(1) > maxWaiting {
		return ReasonLimitWaiting
	}
	defer s.waiting.Add(-1)
	if s.waiting.Add(1) > maxWaitingEach {
		return ReasonLimitWaiting
	}
	t := time.NewTimer(wait)
	defer t.Stop()
	select {
	case <-t.C:
		return ""
	case <-ctx.Done():
		return ReasonLimitWaiting
	}
}

// Charge charges bytes that a request did not announce, after they have come. It refuses a body that is
// longer than the project allows.
func (j *Judge) Charge(r *http.Request, lease Lease, bytes int64) *Denial {
	p := j.limiter.of(lease)
	if p == nil || p.limits == nil {
		return nil
	}
	if denial := j.denyBody(r, p, bytes); denial != nil {
		return denial
	}
	p.use.bytes.reserve(p.limits.bytes.shareAmong(j.limiter.nodes(), time.Second), bytes, j.limiter.now(), maxCost)
	return nil
}

// AddReader counts a live reader, or refuses it. RemoveReader ends what it has begun.
func (j *Judge) AddReader(r *http.Request, lease Lease) *Denial {
	p := j.limiter.of(lease)
	if p == nil {
		return nil
	}
	// The principal's limit comes first: a principal that is over its own limit uses up nothing of
	// the project's, not even for a moment.
	s, own := j.limiter.slotOf(lease, p)
	if n := int64(s.readers.Add(1)); own.readers > 0 && n > own.readers {
		s.readers.Add(-1)
		return j.denyLimit(r, p, ReasonLimitPrincipalReaders, 0, "")
	}
	all := p.use.readers.Add(1)
	if p.limits != nil && p.limits.readers > 0 && all+int64(j.limiter.otherReaders(p.name)) > p.limits.readers {
		j.RemoveReader(lease)
		return j.denyLimit(r, p, ReasonLimitReaders, 0, "")
	}
	return nil
}

// RemoveReader counts a live reader no longer.
func (j *Judge) RemoveReader(lease Lease) {
	p := j.limiter.of(lease)
	if p == nil {
		return
	}
	p.use.readers.Add(-1)
	j.limiter.slots[lease.slot].readers.Add(-1)
}

// Readers returns how many live readers each project of the file has on this node, for the other
// nodes.
func (j *Judge) Readers() map[string]int {
	all := map[string]int{}
	for _, p := range j.verifier.rules.Load().allProjects() {
		if n := p.use.readers.Load(); n > 0 {
			all[p.name] = int(n)
		}
	}
	return all
}

// denyLimit returns the answer to a request that is over a limit, and counts it. The pause before
// the next try is random, so that those that were refused together do not come back together.
func (j *Judge) denyLimit(r *http.Request, p *project, limit Reason, wait time.Duration, detail string) *Denial {
	j.env.observer.Limited(p.name, limit)
	no := &Refusal{Reason: limit, Detail: detail}
	if detail == "" {
		no.Detail = fmt.Sprintf("the project %.64q is over its limit (%s): send the request again after Retry-After", p.name, limit)
	}
	if limit != ReasonLimitBody {
		no.RetryAfter = max(wait, time.Second).Truncate(time.Second) + time.Duration(1+rand.IntN(5))*time.Second
	}
	j.env.observer.Denied(limit)
	return denialOf(r, no)
}

// compileLimits returns a project's limits; nil: it has none.
func compileLimits(c LimitsConfig) (*limits, error) {
	var errs []error
	l := &limits{
		requests: perSecond(number(&errs, "requests", c.Requests)), bytes: perSecond(number(&errs, "bytes", c.Bytes)),
		creates: perHour(number(&errs, "creates", c.Creates)),
		readers: int64(number(&errs, "readers", c.Readers)), body: int64(number(&errs, "body", c.Body)),
		principal: compilePrincipal(&errs, "principal: ", c.Principal), public: compilePrincipal(&errs, "public: ", c.Public),
	}
	if c == (LimitsConfig{}) {
		return nil, nil //nolint:nilnil // nil is documented
	}
	return l, errors.Join(errs...)
}

func compilePrincipal(errs *[]error, of string, c PrincipalLimits) principalLimits {
	return principalLimits{
		requests: perSecond(number(errs, of+"requests", c.Requests)),
		readers:  int64(number(errs, of+"readers", c.Readers)),
	}
}

// number returns the value of a limit; 0: it is absent. A limit of nothing is an error: it would
// mean either none, or that nothing is allowed.
func number[T float64 | int | ByteSize](errs *[]error, name string, v *T) float64 {
	if v == nil {
		return 0
	}
	if n := float64(*v); n > 0 && n < 1e15 { // not so of NaN
		return n
	}
	*errs = append(*errs, fmt.Errorf("%s: more than 0 is needed; without the line there is no limit", name))
	return 0
}
