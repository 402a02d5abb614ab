package access

import (
	"slices"
	"sync/atomic"
	"time"
)

// Principal holds what a verified token says: its subject, until when it is good, and what it
// grants. Immutable.
type Principal struct {
	Issuer  string
	Subject string
	// ID is the token's own, by the claim that its issuer names (jti, sid); empty: none.
	ID string
	// Key is the name of the key that signed it.
	Key string
	// Issued and Expires are seconds since 1970; Issued is 0 where the token does not say.
	Issued, Expires int64
	// Stay is the time for which an admitted reader may stay whatever Expires says; 0: none.
	Stay time.Duration
	// Notes say, for people, which grants the token was not given and why.
	Notes []string

	projects []string          // those that the token is for
	given    grants            // by the issuer's rules, in each of them
	own      map[string]grants // by the token's entries: up to the ceiling, by project
	ceiling  grants
	size     int // bytes that it holds, about

	issuer      *issuer
	key         *key
	subject, id uint64        // seeded hashes
	checked     atomic.Uint32 // the count of changes (and 1) up to which no revocation is about it
}

// Allows reports whether the principal has all of the wanted actions on a stream, which is
// named within its project.
func (p *Principal) Allows(want Actions, project, name string) bool {
	return p.allow(want, project, name) == want
}

// allow returns those of the wanted actions that the principal has on a stream.
func (p *Principal) allow(want Actions, project, name string) (allowed Actions) {
	if !p.knows(project) {
		return 0
	}
	allowed = p.given.allow(want, name)
	if left := want &^ allowed; left != 0 && len(p.own) > 0 {
		allowed |= p.own[project].allow(left, name) & p.ceiling.allow(left, name)
	}
	return allowed
}

// knows reports whether a token is for a project.
func (p *Principal) knows(project string) bool {
	if len(p.projects) > 8 { // all of the issuer's: they are sorted
		_, ok := slices.BinarySearch(p.projects, project)
		return ok
	}
	return slices.Contains(p.projects, project)
}

// Projects lists the projects in which the principal has rights.
func (p *Principal) Projects() []string {
	return slices.Sorted(slices.Values(p.projects))
}

// Expired reports whether the token is good no longer.
func (p *Principal) Expired(now time.Time) bool {
	return now.Unix() >= p.Expires+int64(Leeway/time.Second)
}

// principal compiles what a verified token grants.
func (i *issuer) principal(claims Claims, t times, k *key) (*Principal, *Refusal) {
	pr := &Principal{
		Issuer: i.name, Key: k.name, issuer: i, key: k, Issued: t.issued, Expires: t.expires, Stay: i.stay,
		ceiling: i.ceiling,
	}
	pr.Subject, _ = claims.text("sub")
	pr.ID, _ = claims.text(i.idClaim)
	pr.projects = i.projectsOf(claims)
	pr.given = i.givenTo(claims, pr)
	if i.believes {
		if no := i.addOwn(pr, claims, pr.projects); no != nil {
			return nil, no
		}
	}
	pr.size = pr.weigh()
	return pr, nil
}

// projectsOf returns the projects that a token is for.
func (i *issuer) projectsOf(claims Claims) []string {
	if i.projectClaim == "" {
		return i.projects
	}
	name, ok := claims.text(i.projectClaim)
	if !ok {
		return nil
	}
	if slices.Contains(i.projects, name) {
		return []string{name}
	}
	if i.projectPrefix != "" && checkProject(i.projectPrefix+name) == nil {
		return []string{i.projectPrefix + name}
	}
	return nil
}

// givenTo returns what the issuer's rules grant a token with these claims. What cannot be
// filled is noted in the principal.
func (i *issuer) givenTo(claims Claims, pr *Principal) (given grants) {
	for _, rule := range i.rules {
		if rule.when.missing(claims) != "" {
			continue
		}
		g := Grant{Actions: rule.actions, Names: rule.names}
		for n := range rule.patterns {
			filled, why := rule.patterns[n].fill(claims)
			if why != "" {
				pr.Notes = append(pr.Notes, why)
			}
			g.Patterns = append(g.Patterns, filled...)
		}
		if len(g.Patterns)+len(g.Names) > 0 {
			given = append(given, g)
		}
	}
	return given
}

// weigh estimates the bytes that the principal holds.
func (p *Principal) weigh() int {
	const each = 64 // of a slice, a string or a map entry, about
	n := 4*each + len(p.Subject) + len(p.ID)
	for _, note := range p.Notes {
		n += each + len(note)
	}
	n += p.given.weigh()
	for project, gs := range p.own {
		n += 2*each + len(project) + gs.weigh()
	}
	return n
}

// weigh estimates the bytes that grants hold.
func (gs grants) weigh() (n int) {
	for _, g := range gs {
		n += 64
		for _, name := range g.Names {
			n += 16 + len(name)
		}
		for _, pattern := range g.Patterns {
			n += 32
			for _, s := range pattern.segments {
				n += 32 + len(s.text)
			}
		}
	}
	return n
}
