package access

import (
	"errors"
	"fmt"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strings"
)

// rules are a file, compiled and checked. Immutable, but for keys, and the counts of limits.
type rules struct {
	hash        string // of the file, for gossip
	issuers     map[string]*issuer
	projects    map[string]*project
	prefixes    []*project // those that stand for every project that begins so
	headers     []string   // the fields that tokens come in, beside Authorization
	admin       []adminToken
	revocations string // the project of the stream of revocations; empty: there is none
}

// project holds the settings of one project, or of all behind an issuer's prefix. Immutable, but
// for the counts.
type project struct {
	name      string // of a prefix: with * at its end
	row       *row
	hash      uint64
	public    grants
	origins   *Origins // nil: the file does not say
	cookie    string   // the application's; empty: __Host-fantail-{project}
	sign      []projectSecret
	publicAge uint32
	limits    *limits // nil: none
	use       *projectUse
	config    ProjectConfig
}

// projectSecret is a secret of a project, with its row.
type projectSecret struct {
	SigningKey
	row *row
}

// lookup returns the settings of a project; nil if the file does not speak of it.
func (r *rules) lookup(name string) *project {
	if p := r.projects[name]; p != nil {
		return p
	}
	for _, p := range r.prefixes {
		if prefix := p.name[:len(p.name)-1]; len(name) > len(prefix) && strings.HasPrefix(name, prefix) && checkProject(name) == nil {
			return p
		}
	}
	return nil
}

// compiler compiles one file. What has not changed since the rules before it is carried over:
// issuers with their keys, the rows of projects, and the counts of limits.
type compiler struct {
	env    *environment
	files  *fileReader
	before *rules // may have none of all
	rules  *rules
	errs   []error
}

func (c *compiler) fail(of, name string, err error) {
	if err != nil {
		c.errs = append(c.errs, fmt.Errorf("%s %q: %w", of, name, err))
	}
}

// compile checks the whole file and returns all that is wrong with it together.
func (f *File) compile(env *environment, files *fileReader, before *rules) (*rules, error) {
	if before == nil {
		before = &rules{}
	}
	c := &compiler{env: env, files: files, before: before, rules: &rules{
		issuers: map[string]*issuer{}, projects: map[string]*project{}, revocations: f.Revocations.Project,
	}}
	for n := range f.Issuers {
		c.addIssuer(&f.Issuers[n])
	}
	for _, name := range slices.Sorted(maps.Keys(f.Projects)) {
		c.addProject(name, f.Projects[name])
	}
	c.addOtherProjects()
	c.addAdmin(f.Admin)
	if f.Revocations.Project != "" {
		c.fail("revocations: project", f.Revocations.Project, checkProject(f.Revocations.Project))
	}
	c.errs = append(c.errs, f.checkPrefixes()...)
	c.errs = append(c.errs, c.rules.checkTemplates()...)
	if c.errs != nil {
		return nil, errors.Join(c.errs...)
	}
	return c.rules, c.number()
}

// number gives rows to what is new. It comes last: a file with an error takes none.
func (c *compiler) number() error {
	now := c.env.second()
	var errs []error
	row := func(t *table, name string, hash uint64) *row {
		r, err := t.add(name, hash, now)
		errs = append(errs, err)
		return r
	}
	for name, i := range c.rules.issuers {
		if i.row == nil {
			i.row = row(&c.env.rows.issuers, name, i.hash)
		}
		errs = append(errs, i.keys.number(c.env))
	}
	for _, p := range c.rules.allProjects() {
		if p.row == nil {
			p.row = row(&c.env.rows.projects, p.name, p.hash)
		}
		for n := range p.sign {
			if k := &p.sign[n]; k.row == nil {
				k.row = row(&c.env.rows.keys, k.ID, signingHash(c.env, p.name, k.ID))
			}
		}
	}
	return errors.Join(errs...)
}

// signingHash names a project's secret among all keys.
func signingHash(env *environment, project, kid string) uint64 {
	return mix(env.rows.hash(project), env.rows.hash(kid))
}

func (r *rules) allProjects() []*project {
	return slices.AppendSeq(slices.Clone(r.prefixes), maps.Values(r.projects))
}

func (c *compiler) addIssuer(ic *IssuerConfig) {
	i, err := ic.compile(c)
	if err == nil && c.rules.issuers[ic.Issuer] != nil {
		err = errors.New("it is there twice")
	}
	if err != nil {
		c.fail("issuer", ic.Issuer, err)
		return
	}
	if i.header != "" && !slices.Contains(c.rules.headers, i.header) {
		c.rules.headers = append(c.rules.headers, i.header)
	}
	c.rules.issuers[ic.Issuer] = i
}

// compile returns the issuer: the one of the rules before, if nothing of it has changed.
func (ic *IssuerConfig) compile(c *compiler) (*issuer, error) {
	errs := ic.check()
	old := c.before.issuers[ic.Issuer]
	i := &issuer{
		name: ic.Issuer, hash: c.env.rows.hash(ic.Issuer), header: http.CanonicalHeaderKey(ic.Header), audience: ic.Audience.Any,
		require: Condition(ic.Require), refuse: Condition(ic.Refuse),
		projects: slices.Sorted(slices.Values(ic.Projects)), projectClaim: ic.ProjectClaim, projectPrefix: ic.ProjectPrefix,
		believes: ic.Ceiling != nil, grantsClaim: ic.GrantsClaim, idClaim: ic.IDClaim, maxTTL: ic.MaxTTL, stay: ic.Stay, config: *ic,
	}
	if i.idClaim == "" {
		i.idClaim = "jti"
	}
	if i.maxTTL == 0 {
		i.maxTTL = DefaultMaxTTL
	}
	var err error
	if i.algs, err = ic.Keys.algs(ic.Algs); err == nil {
		i.keys, err = ic.Keys.load(c, ic.Issuer, old)
	}
	if err != nil {
		errs = append(errs, fmt.Errorf("keys: %w", err))
	}
	if i.rules, err = compileRules(ic.Grants); err != nil {
		errs = append(errs, fmt.Errorf("grants: %w", err))
	}
	if i.ceiling, err = compileGrants(ic.Ceiling); err != nil {
		errs = append(errs, fmt.Errorf("ceiling: %w", err))
	}
	if errs == nil && old != nil && i.keys == old.keys && reflect.DeepEqual(*ic, old.config) {
		return old, nil
	}
	return i, errors.Join(errs...)
}

func compileRules(cs []GrantConfig) (rs []grantRule, err error) {
	for n := range cs {
		r, err := cs[n].compile(true)
		if err != nil {
			return nil, fmt.Errorf("grant %d: %w", n+1, err)
		}
		rs = append(rs, r)
	}
	return rs, nil
}

// compileGrants compiles grants that hold for every token: without conditions and templates.
func compileGrants(cs []GrantConfig) (gs grants, err error) {
	for n := range cs {
		r, err := cs[n].compile(false)
		if err == nil && len(r.when) > 0 {
			err = errors.New("when has no meaning here")
		}
		if err != nil {
			return nil, fmt.Errorf("grant %d: %w", n+1, err)
		}
		gs = append(gs, Grant{Actions: r.actions, Patterns: r.patterns, Names: r.names})
	}
	return gs, nil
}

func (c *GrantConfig) compile(templates bool) (r grantRule, err error) {
	r = grantRule{when: Condition(c.When), actions: parseActions(c.Actions), names: c.Names}
	for _, name := range c.Actions {
		if actionNames[name] == 0 {
			return r, fmt.Errorf("the action %q: %s are known", name, strings.Join(slices.Sorted(maps.Keys(actionNames)), ", "))
		}
	}
	if r.actions == 0 || len(c.Streams)+len(c.Names) == 0 {
		return r, errors.New("actions, and streams or names, are needed")
	}
	for _, name := range c.Names {
		if err := checkName(name); err != nil {
			return r, fmt.Errorf("the name %q: %w", name, err)
		}
	}
	for _, s := range c.Streams {
		p, err := ParsePattern(s, templates)
		if err != nil {
			return r, fmt.Errorf("the pattern %q: %w", s, err)
		}
		r.patterns = append(r.patterns, p)
	}
	return r, nil
}
