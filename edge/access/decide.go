package access

import (
	"fmt"
	"math/rand/v2"
	"net/http"
	"strings"
	"time"
)

// Verdict says under what an allowed request is served.
type Verdict struct {
	// Lease is for how long, and as whose, a reader may stay.
	Lease Lease
	// Public: a public grant allows the request, and it presents no credential.
	Public bool
	// Cookie: the credential is the project's cookie.
	Cookie bool
	// Signed: the credential is a signed URL.
	Signed bool

	at     int64 // when the request was looked at, in milliseconds since 1970
	maxAge uint8 // seconds that an answer may be kept without asking again; see CacheControl
}

// DecidedAt returns the moment of the decision on the Judge's clock, in milliseconds since 1970; 0:
// there was none.
func (v Verdict) DecidedAt() int64 { return v.at }

// caller holds what is known of the client of one request.
type caller struct {
	from    presented
	rules   *rules
	now     time.Time // when the request was looked at
	project *project  // nil: the file does not speak of it
	pr      *Principal
	url     int64 // of a signed URL: until when it is good
	signer  *row  // of a signed URL: its secret
}

// Decide returns a Verdict if a request may do all of the wanted actions to a stream, and
// otherwise the reason. The stream is named by its project and its name within it. It asks nothing
// of what is behind. It costs a lookup where the token was seen before, and no memory.
func (j *Judge) Decide(r *http.Request, project, name string, want Actions) (Verdict, *Denial) {
	var c caller
	no := j.identify(&c, r, project, name)
	if no == nil {
		no = c.need(want, project, name)
	}
	if no != nil {
		return Verdict{}, j.denyCaller(r, &c, project, no)
	}
	return j.verdict(&c, project, name), nil
}

// DecideFork does what Decide does, for PUT with Stream-Forked-From: it needs Create on the target,
// and Read and Fork on the source, each time, whether or not the fork is there.
func (j *Judge) DecideFork(r *http.Request, project, name, sourceProject, source string) (Verdict, *Denial) {
	var c caller
	no := j.identify(&c, r, project, name)
	if no == nil {
		no = c.need(Create, project, name)
	}
	if no == nil && project != sourceProject {
		no = refuse(ReasonCrossProjectFork, "the source is in the project %.64q and the fork in %.64q: a fork and its source are in one project", sourceProject, project)
	}
	if no == nil {
		no = c.need(Read|Fork, sourceProject, source)
	}
	if no != nil {
		return Verdict{}, j.denyCaller(r, &c, project, no)
	}
	return j.verdict(&c, project, name), nil
}

// Listing says what a caller may see of a listing.
type Listing struct {
	Verdict
	caller  caller
	project string
}

// MayRead reports whether the caller may read one of the listed streams, so that its details may be
// shown.
func (l *Listing) MayRead(name string) bool { return l.caller.allow(Read, l.project, name) == Read }

// DecideList does what Decide does, for a listing of the streams that begin with a prefix: it
// needs a grant of List whose pattern is ** or P/**, P being literal, and a prefix that begins
// with P/.
func (j *Judge) DecideList(r *http.Request, project, prefix string) (*Listing, *Denial) {
	l := &Listing{project: project}
	no := j.identify(&l.caller, r, project, "")
	if no == nil && !l.caller.mayList(project, prefix) {
		no = l.caller.refuse(List, project, "")
		if no.Reason == ReasonNotGranted {
			no = refuse(ReasonNotGranted, "a listing with the prefix %.128q of the project %.64q needs a grant of list with the pattern ** or PREFIX/**: ask for a longer prefix, or for such a grant", prefix, project)
		}
	}
	if no != nil {
		return nil, j.denyCaller(r, &l.caller, project, no)
	}
	l.Verdict = j.verdict(&l.caller, project, "")
	return l, nil
}

// identify finds what a request presents, and verifies it.
func (j *Judge) identify(c *caller, r *http.Request, project, name string) (no *Refusal) {
	c.rules, c.now = j.verifier.rules.Load(), j.env.now()
	c.project = c.rules.lookup(project)
	if c.from, no = find(r, c.rules, c.project, project); no != nil {
		return no
	}
	switch c.from.kind {
	case presentedToken, presentedCookie:
		c.pr, no = j.principal(r.Context(), c.from, project, c.now)
	case presentedURL:
		no = j.checkURL(c, project, name)
	}
	return no
}

// checkURL verifies a signed URL.
func (j *Judge) checkURL(c *caller, project, name string) *Refusal {
	var secrets []projectSecret
	if c.project != nil {
		secrets = c.project.sign
	}
	expires, at, no := c.from.signed.check(secrets, project+"/"+name, j.env.now())
	if no != nil {
		return no
	}
	c.url, c.signer = expires, secrets[at].row
	if j.revocations.matchURL(c.signer, uint32(j.env.now().Unix())) { //nolint:gosec // until 2106
		return refuse(ReasonRevoked, "the URL's key %.64q has been revoked: sign another URL with another key", c.from.signed.KeyID)
	}
	return nil
}

// allow returns those of the wanted actions that the caller has on a stream.
func (c *caller) allow(want Actions, project, name string) (allowed Actions) {
	switch c.from.kind {
	case presentedToken:
		allowed = c.pr.allow(want, project, name)
	case presentedCookie:
		allowed = c.pr.allow(want&Read, project, name)
	case presentedURL:
		allowed = want & Read
	}
	if left := want &^ allowed; left != 0 && c.project != nil {
		allowed |= c.project.public.allow(left, name)
	}
	if isReserved(name) {
		return 0
	}
	return allowed
}

// need refuses a caller that does not have all of the wanted actions on a stream.
func (c *caller) need(want Actions, project, name string) *Refusal {
	if want != 0 && c.allow(want, project, name) == want {
		return nil
	}
	return c.refuse(want, project, name)
}

// refuse says why a caller may not.
func (c *caller) refuse(want Actions, project, name string) *Refusal {
	missing := want &^ c.allow(want, project, name)
	switch {
	case c.from.kind == presentedNothing:
		return refuse(ReasonNoCredential, "%s of this stream needs a credential: send a token as Authorization: Bearer TOKEN, or use a signed URL", missing)
	case isReserved(name):
		return refuse(ReasonNotGranted, "names that begin with __ds are the server's own: no grant reaches them")
	case c.from.kind == presentedURL:
		return refuse(ReasonNotGranted, "a signed URL allows reads of its stream alone: %s needs a token", missing)
	case c.pr.knows(project):
		return refuse(ReasonNotGranted, "the token does not grant %s on %.128q in the project %.64q: its issuer's grants decide, see fantail token explain", missing, name, project)
	}
	return wrongProject(project, name)
}

// wrongProject says how the path of a request was read.
func wrongProject(project, name string) *Refusal {
	if name == "" || project == "default" {
		return refuse(ReasonWrongProject, "the token is not for the project %.64q", project)
	}
	return refuse(ReasonWrongProject, "the token is not for the project %.64q: the path was read as the stream %.128q of that project; of the project default it is /v1/stream/default/%.64s/%.128s", project, name, project, name)
}

// mayList reports whether a caller may list the streams that begin with a prefix.
func (c *caller) mayList(project, prefix string) bool {
	if c.project != nil && c.project.public.mayList(prefix) {
		return true
	}
	if c.from.kind != presentedToken {
		return false
	}
	return c.pr.knows(project) && (c.pr.given.mayList(prefix) || c.pr.own[project].mayList(prefix) && c.pr.ceiling.mayList(prefix))
}

// mayList reports whether a grant of List reaches every stream that begins with a prefix.
func (gs grants) mayList(prefix string) bool {
	for i := range gs {
		for n := range gs[i].Patterns {
			if root, ok := gs[i].Patterns[n].root(); ok && gs[i].Actions&List != 0 && strings.HasPrefix(prefix, root) {
				return true
			}
		}
	}
	return false
}

// root returns P/ of a pattern P/** with a literal P, and the empty text for **.
func (p *Pattern) root() (root string, ok bool) {
	last := len(p.segments) - 1
	for i, s := range p.segments {
		switch {
		case i == last && s.kind == anyMany:
			return root, true
		case s.kind != literal:
			return "", false
		}
		root += s.text + "/"
	}
	return "", false
}

// verdict returns under what an allowed request is served.
func (j *Judge) verdict(c *caller, project, name string) Verdict {
	now := c.now
	v := Verdict{at: now.UnixMilli(), Public: c.from.kind == presentedNothing, Cookie: c.from.kind == presentedCookie, Signed: c.from.kind == presentedURL}
	l := &v.Lease
	if c.project != nil {
		l.project = c.project.row.number
	}
	who := mix(j.env.rows.hash("public"), 0)
	switch c.from.kind {
	case presentedToken, presentedCookie:
		l.issuer, l.key = c.pr.issuer.row.number, c.pr.key.row.number
		l.issued, l.subject, l.id = clampSecond(c.pr.Issued), c.pr.subject, c.pr.id
		l.until = leaseEnd(max(c.pr.Expires+leewaySeconds, now.Add(c.pr.Stay).Unix()))
		who = mix(c.pr.issuer.hash, c.pr.subject)
	case presentedURL:
		l.key, l.until = c.signer.number, leaseEnd(c.url+leewaySeconds)
		v.maxAge = uint8(max(0, min(maxPublicAge, c.url-now.Unix()))) //nolint:gosec // bounded
		who = mix(c.signer.hash, j.env.rows.hash(name))
	case presentedNothing:
		v.maxAge = uint8(c.project.publicAge) //nolint:gosec // bounded: something public allows it, so there is a project
	}
	l.slot = uint16(mix(who, j.env.rows.hash(project))) //nolint:gosec // some bits of it
	return v
}

const leewaySeconds = int64(Leeway / time.Second)

// leaseEnd adds the random part to a lease's end.
func leaseEnd(at int64) uint32 { return clampSecond(at + rand.Int64N(leaseSpread)) }

func clampSecond(at int64) uint32 { return uint32(max(0, min(at, 1<<32-1))) } //nolint:gosec // bounded

// deny returns the answer to a refusal, and counts it.
func (j *Judge) deny(r *http.Request, no *Refusal) *Denial {
	if j.cfg.ClockDoubt != nil && j.cfg.ClockDoubt() {
		switch no.Reason {
		case ReasonExpired, ReasonNotYet, ReasonTooLongLived:
			no = &Refusal{
				Reason: ReasonClock, Detail: fmt.Sprintf("this node's clock is wrong, so it cannot say whether the credential is %s: send the request again", no.Reason),
				RetryAfter: time.Second,
			}
		}
	}
	j.env.observer.Denied(no.Reason)
	return denialOf(r, no)
}

// denyCaller does what deny does, and deletes a cookie of ours that fails, so that the next request
// is anonymous.
func (j *Judge) denyCaller(r *http.Request, c *caller, project string, no *Refusal) *Denial {
	d := j.deny(r, no)
	if c.from.kind == presentedCookie && d.Status == http.StatusUnauthorized && c.project.cookie == "" {
		d.SetCookie = deletedCookie(project)
	}
	return d
}
