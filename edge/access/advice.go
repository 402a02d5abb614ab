package access

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
)

// Report says of a file that has no error what a person should know about it.
type Report struct {
	// Facts say which issuers are believed, and up to what.
	Facts []string
	// Warnings say what is allowed, and is seldom meant.
	Warnings []string
}

func (r *Report) fact(format string, args ...any) {
	r.Facts = append(r.Facts, fmt.Sprintf(format, args...))
}

func (r *Report) warn(is bool, format string, args ...any) {
	if is {
		r.Warnings = append(r.Warnings, fmt.Sprintf(format, args...))
	}
}

// Check compiles the file of a path. The error lists all that is wrong with it. With fetch, it asks
// for each issuer's keys once.
func Check(ctx context.Context, path string, fetch bool, cfg Config) (*Report, error) {
	env := newEnvironment(cfg)
	rs, f, err := loadRules(path, env)
	if err != nil {
		return nil, err
	}
	r := &Report{}
	for n := range f.Issuers {
		f.Issuers[n].advise(r, f)
	}
	for _, name := range slices.Sorted(maps.Keys(f.Projects)) {
		p := f.Projects[name]
		p.advise(r, name)
	}
	r.warn(len(f.Issuers) == 0, "there are no issuers: only what is public, and signed URLs, can be read")
	r.warn(f.Revocations.Project == "" && len(f.Issuers) > 0, "revocations has no project: tokens cannot be revoked before they expire")
	r.warn(len(f.Admin.Tokens) == 0, "admin has no tokens: every client that reaches the admin address may use it, unless the node has --admin-token-file; fantail token admin makes one")
	if fetch {
		r.fetchKeys(ctx, rs)
	}
	return r, nil
}

// sharedAudiences are those that a provider puts into the tokens of all its clients.
var sharedAudiences = []string{"authenticated", "account", "https://kubernetes.default.svc", "https://kubernetes.default.svc.cluster.local", "api://default"}

// advise says whether an issuer is believed, and what is unusual about it.
func (c *IssuerConfig) advise(r *Report, f *File) {
	if c.Ceiling == nil {
		r.fact("issuer %q: its tokens' own words count for nothing", c.Issuer)
	} else {
		var up []string
		gs, _ := compileGrants(c.Ceiling) // without errors: it was compiled before
		for _, g := range gs {
			up = append(up, g.String())
		}
		r.fact("issuer %q: its tokens' own words are believed, up to %s", c.Issuer, strings.Join(up, "; "))
	}
	r.warn(len(c.Grants)+len(c.Ceiling) == 0, "issuer %q has neither grants nor a ceiling: its tokens allow nothing but what is public", c.Issuer)
	shared := slices.ContainsFunc(c.Audience.Any, func(a string) bool { return slices.Contains(sharedAudiences, a) })
	r.warn(len(c.Grants) > 0 && len(c.Require) == 0 && len(c.Refuse) == 0 && shared && !c.allConditional(),
		"issuer %q puts the audience %s into the tokens of all its clients: demand more of them by require", c.Issuer, strings.Join(c.Audience.Any, ", "))
	r.warn(c.Keys.InsecureHTTP, "issuer %q: its keys come over plain HTTP, and can be replaced on their way", c.Issuer)
	r.warn(c.MaxTTL > DefaultMaxTTL, "issuer %q: tokens may live for %v: they cannot be called back without revocations", c.Issuer, c.MaxTTL)
	r.warn(c.ProjectClaim != "" && c.ProjectPrefix == "" && len(c.Projects) > 1 && isSlug(c.ProjectClaim),
		"issuer %q: %s is often the users' own to choose: one of another organisation may take the name of a project", c.Issuer, c.ProjectClaim)
	for _, g := range c.Grants {
		c.adviseGrant(r, f, g)
	}
}

// allConditional reports whether each grant has a condition.
func (c *IssuerConfig) allConditional() bool {
	return !slices.ContainsFunc(c.Grants, func(g GrantConfig) bool { return len(g.When) == 0 })
}

func (c *IssuerConfig) adviseGrant(r *Report, f *File, g GrantConfig) {
	creates := parseActions(g.Actions)&Create != 0
	for _, s := range g.Streams {
		if !strings.Contains(s, "{") {
			continue
		}
		for _, project := range c.Projects {
			r.warn(creates && f.Projects[project].Limits.Creates == nil,
				"issuer %q: %s lets each subject create streams, and the project %q has no limit of creates", c.Issuer, s, project)
		}
		r.warn(isSlug(s), "issuer %q: %s has a claim that users can choose or change: sub, or an id, stays", c.Issuer, s)
	}
}

// isSlug reports whether a text names a claim that people choose.
func isSlug(s string) bool {
	return slices.ContainsFunc([]string{"slug", "slg", "username", "nickname", "email", "}name", ":name}"}, func(part string) bool { return strings.Contains(s, part) })
}

// advise says what is unusual about a project.
func (p *ProjectConfig) advise(r *Report, name string) {
	r.warn(p.Cookie != "" && !strings.HasPrefix(p.Cookie, "__Host-"), "project %q: the cookie %s can be set by other sites of the domain: __Host- at its beginning forbids it", name, p.Cookie)
	for _, g := range p.Public {
		if more := parseActions(g.Actions) &^ (Read | List); more != 0 {
			r.warn(true, "project %q: every client may %s, without any credential", name, more)
		}
	}
	r.warn(slices.Contains(p.Origins, "*"), "project %q: pages of all origins may read answers; none of them can use the cookie", name)
	for _, s := range p.Sign {
		r.fact("project %q: URLs signed by %s are believed", name, s.KID)
	}
}

// fetchKeys asks for each issuer's keys once.
func (r *Report) fetchKeys(ctx context.Context, rs *rules) {
	var wg sync.WaitGroup
	for _, i := range rs.issuers {
		if i.keys.fetch != nil {
			wg.Go(func() { i.keys.refresh(ctx) })
		}
	}
	wg.Wait()
	for _, name := range slices.Sorted(maps.Keys(rs.issuers)) {
		keys := rs.issuers[name].keys
		had, _ := keys.hadKeys()
		r.warn(!had, "issuer %q: its keys cannot be fetched from here: until they are, its tokens are answered 503", name)
		if had {
			r.fact("issuer %q: has %d keys", name, len(keys.keys))
		}
	}
}
