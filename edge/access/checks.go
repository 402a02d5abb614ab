package access

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
)

// check returns what is wrong with an issuer's single values.
func (c *IssuerConfig) check() (errs []error) {
	fail := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fail(c.Issuer == "", "iss is missing")
	fail(c.Header != "" && !canHoldToken(c.Header), "header %q: the name of a field that a gateway adds, and that nothing else uses, is needed", c.Header)
	fail(len(c.Audience.Any) == 0 && !c.Audience.None, "audience is missing: a list of what a token's aud must have one of, or none together with require")
	fail(slices.Contains(c.Audience.Any, ""), "audience has an empty value")
	fail(c.Audience.None && len(c.Require) == 0, "audience: none accepts whatever this issuer signs for others: it needs require")
	fail(len(c.Projects) == 0 && c.ProjectPrefix == "", "projects is missing: the projects that this issuer speaks for")
	for _, p := range c.Projects {
		if err := checkProject(p); err != nil {
			fail(true, "project %q: %w", p, err)
		}
	}
	fail(c.ProjectPrefix != "" && (len(c.ProjectPrefix) < 3 || strings.HasPrefix("default", c.ProjectPrefix) || strings.HasPrefix(c.ProjectPrefix, "__")),
		"project_prefix needs three characters at least, and must not reach default or names that begin with __")
	fail(c.ProjectPrefix != "" && c.ProjectClaim == "", "project_prefix needs project_claim")
	for _, claims := range []ConditionMap{c.Require, c.Refuse} {
		errs = append(errs, checkClaims(claims, c.Require)...)
	}
	for _, g := range c.Grants {
		errs = append(errs, checkClaims(g.When, c.Require)...)
		errs = append(errs, c.checkTemplates(g)...)
	}
	for _, claim := range []string{c.ProjectClaim, c.GrantsClaim} {
		errs = append(errs, checkClaims(ConditionMap{claim: nil}, c.Require)...)
	}
	fail(c.MaxTTL < 0 || c.Stay < 0, "max_ttl and stay must not be below 0")
	fail(c.GrantsClaim != "" && c.Ceiling == nil, "grants_claim needs a ceiling: without one a token's own grants count for nothing")
	return errs
}

// canHoldToken reports whether a field may hold an issuer's tokens: not a field that means
// something else already.
func canHoldToken(name string) bool {
	switch http.CanonicalHeaderKey(name) {
	case "Authorization", "Proxy-Authorization", "Cookie", "Host", "Origin", "Referer", "Content-Type", "Content-Length", "Connection", "Accept",
		"Transfer-Encoding", "Te", "Trailer", "Upgrade", "Expect", "User-Agent", "If-None-Match", "Forwarded", "X-Forwarded-For", "X-Forwarded-Host", "X-Forwarded-Proto":
		return false
	}
	return !strings.HasPrefix(http.CanonicalHeaderKey(name), "Sec-") && !strings.ContainsFunc(name, func(c rune) bool { return !isTokenChar(c) })
}

// checkTemplates refuses placeholders of claims that users can set themselves.
func (c *IssuerConfig) checkTemplates(g GrantConfig) (errs []error) {
	for _, s := range g.Streams {
		p, _ := ParsePattern(s, true) // its errors are told elsewhere
		for _, segment := range p.segments {
			if segment.kind == template {
				errs = append(errs, checkClaims(ConditionMap{segment.text: nil}, c.Require)...)
			}
		}
	}
	return errs
}

// checkClaims refuses claims that the users of an identity provider can set themselves.
func checkClaims(m, require ConditionMap) (errs []error) {
	for _, claim := range slices.Sorted(maps.Keys(m)) {
		for _, own := range []string{"/user_metadata", "/unsafe_metadata", "/unsafeMetadata"} {
			if claim == own || strings.HasPrefix(claim, own+"/") || claim == own[1:] {
				errs = append(errs, fmt.Errorf("%s is the user's own to set: nothing may depend on it", claim))
			}
		}
		if (claim == "email" || claim == "/email") && !slices.Contains(require["email_verified"], any(true)) {
			errs = append(errs, errors.New("email proves nothing without email_verified: [true] in require"))
		}
	}
	return errs
}

// checkPrefixes refuses a prefix that covers projects of another issuer, or a project that is
// listed by its name: two issuers would speak for one project by accident.
func (f *File) checkPrefixes() (errs []error) {
	for a := range f.Issuers {
		prefix := f.Issuers[a].ProjectPrefix
		if prefix == "" {
			continue
		}
		for b := range f.Issuers {
			if other := f.Issuers[b].ProjectPrefix; a != b && other != "" && strings.HasPrefix(other, prefix) {
				errs = append(errs, fmt.Errorf("the project_prefix %q of issuer %q reaches that of issuer %q", prefix, f.Issuers[a].Issuer, f.Issuers[b].Issuer))
			}
			for _, p := range f.Issuers[b].Projects {
				if strings.HasPrefix(p, prefix) {
					errs = append(errs, fmt.Errorf("the project_prefix %q of issuer %q reaches the project %q", prefix, f.Issuers[a].Issuer, p))
				}
			}
		}
	}
	return errs
}

// checkTemplates demands that the templates of two issuers of one project begin with different
// literal segments: the same subject at two issuers is two people.
func (r *rules) checkTemplates() (errs []error) {
	type claim struct{ project, first string }
	owners := map[claim]string{}
	for _, name := range slices.Sorted(maps.Keys(r.issuers)) {
		i := r.issuers[name]
		for _, project := range i.projects {
			for _, first := range i.templateRoots() {
				c := claim{project, first}
				// One that begins with a placeholder or a star shares every root.
				for other, owner := range owners {
					if other.project == project && owner != name && (other.first == first || other.first == "" || first == "") {
						errs = append(errs, fmt.Errorf("issuers %q and %q fill patterns of the project %q with their own subjects: let their patterns begin with different segments", owner, name, project))
					}
				}
				owners[c] = name
			}
		}
	}
	return errs
}

// templateRoots lists the literal first segments of the issuer's templates; "" stands for one
// that begins with something else.
func (i *issuer) templateRoots() (roots []string) {
	for _, rule := range i.rules {
		for n := range rule.patterns {
			if p := &rule.patterns[n]; p.isTemplate() {
				first := ""
				if p.segments[0].kind == literal {
					first = p.segments[0].text
				}
				roots = append(roots, first)
			}
		}
	}
	return roots
}

var errProjectName = errors.New("a project is named by 1 to 64 of A–Z, a–z, 0–9, . _ -, and does not begin with __")

// checkProject checks a project's name: it becomes part of cookies, basins and metrics.
func checkProject(name string) error {
	if name == "" || len(name) > 64 || strings.HasPrefix(name, "__") || name == "." || name == ".." {
		return errProjectName
	}
	for _, c := range []byte(name) {
		switch {
		case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9', c == '.', c == '_', c == '-':
		default:
			return errProjectName
		}
	}
	return nil
}

// checkName checks a stream's name within its project, as a grant names it.
func checkName(name string) error {
	switch {
	case name == "" || len(name) > maxPatternBytes:
		return fmt.Errorf("a name has 1 to %d bytes", maxPatternBytes)
	case strings.HasPrefix(name, "/") || strings.HasSuffix(name, "/") || strings.Contains(name, "//"):
		return errPatternEmpty
	case isReserved(name):
		return errors.New("names that begin with __ds are the server's own")
	}
	return nil
}
