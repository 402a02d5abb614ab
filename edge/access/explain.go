package access

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"
)

// What follows is for people: the commands that explain a token and check a file. They read the
// file once, and fetch keys once.

// Explanation says what a file makes of a token. It has no part of the signature.
type Explanation struct {
	// Algorithm, KeyID and Type are the header's, as the token says.
	Algorithm, KeyID, Type string
	// Issuer, Subject and ID are the token's claims; ID is by the issuer's id_claim.
	Issuer, Subject, ID string
	// Issued and Expires are the token's times; zero: absent.
	Issued, Expires time.Time
	// Header names the field in which the issuer's tokens are taken.
	Header string
	// Refusal says why the token is not good; nil: it is good.
	Refusal *Refusal
	// Rights list what the token grants, or would grant if it were good, by project.
	Rights []ProjectRights
	// Notes say what was not granted and why, and what is unusual about the token.
	Notes []string

	principal *Principal
	rules     *rules
}

// ProjectRights lists the rights of a token in one project, in words.
type ProjectRights struct {
	Project string
	Grants  []string
}

// warnTokenBytes is the size beyond which a token meets the limits of proxies.
const warnTokenBytes = 4 << 10

// Explain returns what the file of a path makes of a token at a time.
func Explain(ctx context.Context, path, token string, cfg Config) (*Explanation, error) {
	env := newEnvironment(cfg)
	rs, _, err := loadRules(path, env)
	if err != nil {
		return nil, err
	}
	v := newVerifier(env)
	defer v.close()
	v.rules.Store(rs)
	e := &Explanation{rules: rs}
	p, no := parseToken(token)
	if no != nil {
		e.Refusal = no
		return e, nil
	}
	e.describe(&p, len(token))
	i := rs.issuers[e.Issuer]
	if i != nil {
		e.would(i, &p)
		if i.keys.fetch != nil {
			i.keys.refresh(ctx)
		}
	}
	pr, no := v.Verify(ctx, token)
	if e.Refusal = no; no == nil {
		e.principal = pr
	}
	return e, nil
}

// loadRules reads and compiles a file once.
func loadRules(path string, env *environment) (*rules, *File, error) {
	b, err := readFile(path)
	if err != nil {
		return nil, nil, err
	}
	f, err := ParseFile(b)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	rs, err := f.compile(env, &fileReader{}, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("%s: %w", path, err)
	}
	return rs, f, nil
}

// noIssueTime says what a token without iat cannot be asked. How long such a token lives, only its issuer
// knows: a token that is refused today as too long-lived is good in the last part of its life, when a
// revocation of today is forgotten.
const noIssueTime = "the token has no iat: every revocation of its subject or id concerns it, however new it is, and none outlasts the issuer's max_ttl, however old it is; have the issuer set iat, or revoke with block_until"

// describe takes over what the token says of itself.
func (e *Explanation) describe(p *parts, size int) {
	e.Algorithm, _ = p.header["alg"].(string)
	e.KeyID, _ = p.header["kid"].(string)
	e.Type, _ = p.header["typ"].(string)
	e.Issuer, _ = p.claims.text("iss")
	e.Subject, _ = p.claims.text("sub")
	if t, no := readTimes(p.claims); no == nil {
		e.Expires = time.Unix(t.expires, 0).UTC()
		if t.issued != 0 {
			e.Issued = time.Unix(t.issued, 0).UTC()
		} else {
			e.Notes = append(e.Notes, noIssueTime)
		}
	}
	if size > warnTokenBytes {
		e.Notes = append(e.Notes, fmt.Sprintf("the token has %d bytes: proxies refuse header lines of 8 KiB, and browsers drop cookies of 4 KiB", size))
	}
	if e.Subject == "" {
		e.Notes = append(e.Notes, "the token has no sub: all such tokens of the issuer are one subject, for limits and revocations")
	}
}

// would lists what the token's claims would grant.
func (e *Explanation) would(i *issuer, p *parts) {
	e.Header = i.header
	e.ID, _ = p.claims.text(i.idClaim)
	pr, no := i.principal(p.claims, times{}, &key{})
	if no != nil {
		return // it is the refusal, too
	}
	e.Notes = append(e.Notes, pr.Notes...)
	for _, project := range pr.Projects() {
		of := ProjectRights{Project: project}
		for _, g := range pr.given {
			of.Grants = append(of.Grants, g.String())
		}
		for _, g := range pr.own[project] {
			of.Grants = append(of.Grants, g.String()+" (by the token's own word, up to the ceiling)")
		}
		e.Rights = append(e.Rights, of)
	}
	if len(e.Rights) == 0 {
		e.Notes = append(e.Notes, "the token is for no project of the file")
	}
}

// Allows returns why a good token may not do something to a stream; nil: it may.
func (e *Explanation) Allows(want Actions, project, name string) *Refusal {
	if e.Refusal != nil {
		return e.Refusal
	}
	c := caller{from: presented{kind: presentedToken}, rules: e.rules, project: e.rules.lookup(project), pr: e.principal}
	return c.need(want, project, name)
}

// ParseActions returns the actions of names such as read and write. A name that is not known is an
// error.
func ParseActions(names []string) (Actions, error) {
	for _, name := range names {
		if actionNames[name] == 0 {
			return 0, fmt.Errorf("the action %q: %s are known", name, strings.Join(slices.Sorted(maps.Keys(actionNames)), ", "))
		}
	}
	return parseActions(names), nil
}

// String returns a grant in words.
func (g Grant) String() string {
	var of []string
	for i := range g.Patterns {
		of = append(of, g.Patterns[i].String())
	}
	for _, name := range g.Names {
		of = append(of, fmt.Sprintf("the name %q", name))
	}
	return fmt.Sprintf("%s: %s", g.Actions, strings.Join(of, ", "))
}

// String returns a pattern as a file has it, with its placeholders filled.
func (p *Pattern) String() string {
	var all []string
	for _, s := range p.segments {
		switch s.kind {
		case anyOne:
			all = append(all, "*")
		case anyMany:
			all = append(all, "**")
		case template:
			all = append(all, "{claim:"+s.text+"}")
		default:
			all = append(all, s.text)
		}
	}
	return strings.Join(all, "/")
}

// Status returns the status that a refusal has for a GET.
func (r *Refusal) Status() int { return denialOf(&http.Request{Method: http.MethodGet}, r).Status }
