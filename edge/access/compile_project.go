package access

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"
	"time"
)

func (c *compiler) addProject(name string, pc ProjectConfig) {
	p, errs := c.project(name, pc)
	err := checkProject(name)
	if prefix, ok := strings.CutSuffix(name, "*"); ok {
		if err = nil; !slices.ContainsFunc(slices.Collect(maps.Values(c.rules.issuers)), func(i *issuer) bool { return i.projectPrefix == prefix }) {
			err = errors.New("no issuer has this project_prefix")
		}
	}
	c.fail("project", name, errors.Join(append(errs, err)...))
	c.keepProject(p)
}

// addOtherProjects adds those that only issuers name.
func (c *compiler) addOtherProjects() {
	for _, i := range c.rules.issuers {
		names := i.projects
		if i.projectPrefix != "" {
			names = append(slices.Clone(names), i.projectPrefix+"*")
		}
		for _, name := range names {
			if c.rules.find(name) == nil {
				p, _ := c.project(name, ProjectConfig{})
				c.keepProject(p)
			}
		}
	}
}

func (c *compiler) keepProject(p *project) {
	if strings.HasSuffix(p.name, "*") {
		c.rules.prefixes = append(c.rules.prefixes, p)
	} else {
		c.rules.projects[p.name] = p
	}
}

// find returns the settings that stand under a name, which may be a prefix's.
func (r *rules) find(name string) *project {
	if at := slices.IndexFunc(r.prefixes, func(p *project) bool { return p.name == name }); at >= 0 {
		return r.prefixes[at]
	}
	return r.projects[name]
}

// project compiles the settings of one project. Its row is that of the rules before if its rights
// are the same: what is public, and the secrets.
func (c *compiler) project(name string, pc ProjectConfig) (*project, []error) {
	p := &project{name: name, hash: c.env.rows.hash(name), cookie: pc.Cookie, publicAge: maxPublicAge, use: &projectUse{}, config: pc}
	var errs []error
	fail := func(of string, err error) {
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", of, err))
		}
	}
	var err error
	p.public, err = compileGrants(pc.Public)
	fail("public", err)
	if pc.Origins != nil {
		p.origins, err = ParseOrigins(pc.Origins)
		fail("origins", err)
	}
	if pc.PublicAge != nil {
		p.publicAge, err = checkPublicAge(*pc.PublicAge)
		fail("public_age", err)
	}
	fail("cookie", checkCookieName(pc.Cookie))
	p.sign, err = c.signing(pc.Sign)
	fail("sign", err)
	p.limits, err = compileLimits(pc.Limits)
	fail("limits", err)
	if old := c.before.find(name); old != nil {
		p.use = old.use
		p.carry(old)
	}
	return p, errs
}

// carry takes over the rows of what has not changed.
func (p *project) carry(old *project) {
	same := len(p.sign) == len(old.sign)
	for n := range p.sign {
		at := slices.IndexFunc(old.sign, func(k projectSecret) bool { return k.ID == p.sign[n].ID && bytes.Equal(k.secret, p.sign[n].secret) })
		if at >= 0 {
			p.sign[n].row = old.sign[at].row
		}
		same = same && at >= 0
	}
	if same && reflect.DeepEqual(p.config.Public, old.config.Public) {
		p.row = old.row
	}
}

// signing reads a project's secrets.
func (c *compiler) signing(scs []SignConfig) (keys []projectSecret, err error) {
	for _, sc := range scs {
		if sc.Secret == "" {
			return nil, errors.New("secret is missing: a file with at least 32 bytes")
		}
		secret, err := c.files.secret(sc.Secret)
		if err != nil {
			return nil, err
		}
		k, err := NewSigningKey(sc.KID, secret)
		if err != nil {
			return nil, err
		}
		if slices.ContainsFunc(keys, func(other projectSecret) bool { return other.ID == k.ID }) {
			return nil, fmt.Errorf("the kid %.64q is there twice", k.ID)
		}
		keys = append(keys, projectSecret{SigningKey: k})
	}
	return keys, nil
}

// maxPublicAge bounds, in seconds, how long shared caches keep what is public.
const maxPublicAge = 60

func checkPublicAge(age time.Duration) (uint32, error) {
	if age < 0 || age > maxPublicAge*time.Second {
		return 0, fmt.Errorf("%v: 0s to %ds are possible", age, maxPublicAge)
	}
	return uint32(age / time.Second), nil //nolint:gosec // bounded above
}
