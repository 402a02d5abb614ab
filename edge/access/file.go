package access

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds the file.
const maxFileBytes = 1 << 20

// File holds issuers, projects and their grants as they are written (YAML).
type File struct {
	Issuers  []IssuerConfig           `yaml:"issuers"`
	Projects map[string]ProjectConfig `yaml:"projects"`
}

// IssuerConfig names an issuer and holds what its tokens must be and what they grant.
type IssuerConfig struct {
	// Issuer is the tokens' iss, exactly.
	Issuer string     `yaml:"iss"`
	Keys   KeysConfig `yaml:"keys"`
	// Algs are the algorithms that are accepted (default: all of the keys' kinds).
	Algs []string `yaml:"algs"`
	// Header names the field that holds the token, instead of Authorization.
	Header string `yaml:"header"`
	// Audience lists what the tokens' aud must have one of, or is the word none, which needs
	// Require.
	Audience AudienceConfig `yaml:"audience"`
	Require  ConditionMap   `yaml:"require"`
	Refuse   ConditionMap   `yaml:"refuse"`
	// Projects are those that the issuer speaks for. ProjectClaim names the claim that
	// chooses among them, or, behind ProjectPrefix, any project that begins so.
	Projects      []string      `yaml:"projects"`
	ProjectClaim  string        `yaml:"project_claim"`
	ProjectPrefix string        `yaml:"project_prefix"`
	Grants        []GrantConfig `yaml:"grants"`
	// Ceiling bounds what a token's own entries grant; absent: they grant nothing.
	Ceiling     []GrantConfig `yaml:"ceiling"`
	GrantsClaim string        `yaml:"grants_claim"`
	// IDClaim names the claim that revocations name a token by (default: jti).
	IDClaim string        `yaml:"id_claim"`
	MaxTTL  time.Duration `yaml:"max_ttl"`
	Stay    time.Duration `yaml:"stay"`
}

// KeysConfig names the source of an issuer's keys: one of a JWKS, PEM files and a secret.
type KeysConfig struct {
	JWKS         string `yaml:"jwks"` // https:// or file://
	CA           string `yaml:"ca"`
	TokenFile    string `yaml:"token_file"`
	InsecureHTTP bool   `yaml:"insecure_http"`
	Secret       string `yaml:"secret"` // a file
	Alg          string `yaml:"alg"`
	pems         []PEMConfig
}

// PEMConfig is a public key in a file.
type PEMConfig struct {
	PEM string `yaml:"pem"`
	Alg string `yaml:"alg"`
	KID string `yaml:"kid"`
}

// GrantConfig is a grant as it is written.
type GrantConfig struct {
	When    ConditionMap `yaml:"when"`
	Actions []string     `yaml:"actions"`
	Streams []string     `yaml:"streams"`
	Names   []string     `yaml:"names"`
}

// ProjectConfig holds the settings of one project.
type ProjectConfig struct {
	// Public is granted to every client that presents a good credential, or none.
	Public []GrantConfig `yaml:"public"`
}

// AudienceConfig is a list, or the word none.
type AudienceConfig struct {
	Any  []string
	None bool
}

// ConditionMap maps a claim to a list of values.
type ConditionMap map[string][]any

// UnmarshalYAML takes one map, or a list of PEM files.
func (k *KeysConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.SequenceNode {
		return decodeStrictly(n, &k.pems)
	}
	type plain KeysConfig
	return decodeStrictly(n, (*plain)(k))
}

// UnmarshalYAML takes a list, or the word none.
func (a *AudienceConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "none" {
			return fmt.Errorf("line %d: audience is a list, or the word none", n.Line)
		}
		a.None = true
		return nil
	}
	return n.Decode(&a.Any)
}

// UnmarshalYAML keeps numbers as they were written: claims are compared with them exactly.
func (c *ConditionMap) UnmarshalYAML(n *yaml.Node) error {
	var lists map[string][]yaml.Node
	if err := n.Decode(&lists); err != nil {
		return err
	}
	*c = ConditionMap{}
	for claim, nodes := range lists {
		if len(nodes) == 0 {
			return fmt.Errorf("line %d: %s has no values", n.Line, claim)
		}
		for _, v := range nodes {
			switch v.Tag {
			case "!!str":
				(*c)[claim] = append((*c)[claim], v.Value)
			case "!!int", "!!float":
				(*c)[claim] = append((*c)[claim], json.Number(v.Value))
			case "!!bool":
				var b bool
				if err := v.Decode(&b); err != nil {
					return err
				}
				(*c)[claim] = append((*c)[claim], b)
			default:
				return fmt.Errorf("line %d: a value of %s is no string, number or boolean", v.Line, claim)
			}
		}
	}
	return nil
}

// decodeStrictly decodes a node. Unknown keys are errors, which Node.Decode lets pass.
func decodeStrictly(n *yaml.Node, into any) error {
	b, err := yaml.Marshal(n)
	if err != nil {
		return err
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := d.Decode(into); err != nil {
		return fmt.Errorf("line %d: %w", n.Line, err)
	}
	return nil
}

// ParseFile parses the file. Unknown keys are errors.
func ParseFile(b []byte) (*File, error) {
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", maxFileBytes)
	}
	d := yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	f := &File{}
	if err := d.Decode(f); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err
	}
	if err := d.Decode(&File{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file has more than one document")
	}
	return f, nil
}

// rules are a file, compiled and checked. Immutable, but for keys.
type rules struct {
	issuers map[string]*issuer
	public  map[string]grants // by project
}

// compile checks the whole file and returns all that is wrong with it together.
func (f *File) compile(env *environment) (*rules, error) {
	r := &rules{issuers: map[string]*issuer{}, public: map[string]grants{}}
	var errs []error
	for name, p := range f.Projects {
		gs, err := compileGrants(p.Public)
		r.public[name] = gs
		for _, err := range []error{checkProject(name), err} {
			if err != nil {
				errs = append(errs, fmt.Errorf("project %q: %w", name, err))
			}
		}
	}
	for n := range f.Issuers {
		c := &f.Issuers[n]
		i, err := c.compile(env)
		if err == nil && r.issuers[c.Issuer] != nil {
			err = errors.New("it is there twice")
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("issuer %q: %w", c.Issuer, err))
			continue
		}
		r.issuers[c.Issuer] = i
	}
	errs = append(errs, f.checkPrefixes()...)
	errs = append(errs, r.checkTemplates()...)
	return r, errors.Join(errs...)
}

func (c *IssuerConfig) compile(env *environment) (*issuer, error) {
	i := &issuer{
		name: c.Issuer, header: c.Header, audience: c.Audience.Any, require: Condition(c.Require), refuse: Condition(c.Refuse),
		projects: c.Projects, projectClaim: c.ProjectClaim, projectPrefix: c.ProjectPrefix,
		believes: c.Ceiling != nil, grantsClaim: c.GrantsClaim, idClaim: c.IDClaim, maxTTL: c.MaxTTL, stay: c.Stay,
	}
	if i.idClaim == "" {
		i.idClaim = "jti"
	}
	if i.maxTTL == 0 {
		i.maxTTL = DefaultMaxTTL
	}
	errs := c.check()
	var err error
	if i.keys, i.algs, err = c.Keys.open(c.Algs, env); err != nil {
		errs = append(errs, fmt.Errorf("keys: %w", err))
	}
	if i.rules, err = compileRules(c.Grants); err != nil {
		errs = append(errs, fmt.Errorf("grants: %w", err))
	}
	if i.ceiling, err = compileGrants(c.Ceiling); err != nil {
		errs = append(errs, fmt.Errorf("ceiling: %w", err))
	}
	return i, errors.Join(errs...)
}

// check returns what is wrong with an issuer's single values.
func (c *IssuerConfig) check() (errs []error) {
	fail := func(wrong bool, format string, args ...any) {
		if wrong {
			errs = append(errs, fmt.Errorf(format, args...))
		}
	}
	fail(c.Issuer == "", "iss is missing")
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
	}
	fail(c.MaxTTL < 0 || c.Stay < 0, "max_ttl and stay must not be below 0")
	fail(c.GrantsClaim != "" && c.Ceiling == nil, "grants_claim needs a ceiling: without one a token's own grants count for nothing")
	return errs
}

// checkClaims refuses claims that the users of an identity provider can set themselves.
func checkClaims(m, require ConditionMap) (errs []error) {
	for _, claim := range slices.Sorted(maps.Keys(m)) {
		for _, own := range []string{"/user_metadata", "/unsafe_metadata"} {
			if claim == own || strings.HasPrefix(claim, own+"/") || claim == own[1:] {
				errs = append(errs, fmt.Errorf("%s is the user's own to set: nothing may depend on it", claim))
			}
		}
		if claim == "email" && !slices.Contains(require["email_verified"], any(true)) {
			errs = append(errs, errors.New("email proves nothing without email_verified: [true] in require"))
		}
	}
	return errs
}

// open returns the issuer's key set and the algorithms that are accepted.
func (k *KeysConfig) open(algs []string, env *environment) (*keySet, []string, error) {
	kinds := 0
	for _, there := range []bool{k.JWKS != "", k.Secret != "", len(k.pems) > 0} {
		if there {
			kinds++
		}
	}
	if kinds != 1 {
		return nil, nil, errors.New("one of jwks, secret, or a list of pem files is needed")
	}
	accepted := slices.Concat(rsaAlgs, ed25519Algs, slices.Sorted(maps.Values(curveAlgs)))
	if k.Secret != "" {
		accepted = hmacAlgs
	}
	for _, a := range algs {
		if !slices.Contains(accepted, a) {
			return nil, nil, fmt.Errorf("the algorithm %q does not fit: %s do", a, strings.Join(accepted, ", "))
		}
	}
	if len(algs) > 0 {
		accepted = algs
	}
	keys, err := k.load(env)
	return keys, accepted, err
}

func (k *KeysConfig) load(env *environment) (*keySet, error) {
	switch {
	case k.JWKS != "":
		fetch, every, err := source{url: k.JWKS, caFile: k.CA, tokenFile: k.TokenFile, insecure: k.InsecureHTTP}.fetcher()
		if err != nil {
			return nil, err
		}
		return newFetchedKeys(fetch, every, env.now, env.log), nil
	case k.Secret != "":
		secret, err := os.ReadFile(k.Secret)
		if err != nil {
			return nil, err
		}
		one, err := newKey("", k.Alg, bytes.TrimRight(secret, "\r\n"))
		if err != nil {
			return nil, err
		}
		return newFixedKeys(one), nil
	}
	var all []*key
	for _, c := range k.pems {
		b, err := os.ReadFile(c.PEM)
		if err != nil {
			return nil, err
		}
		public, err := parsePEM(b)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.PEM, err)
		}
		one, err := newKey(c.KID, c.Alg, public)
		if err != nil {
			return nil, fmt.Errorf("%s: %w", c.PEM, err)
		}
		all = append(all, one)
	}
	return newFixedKeys(all...), nil
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

// checkPrefixes refuses prefixes of projects that reach another issuer's, or a project that is
// listed one by one: two issuers would speak for one project by accident.
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
