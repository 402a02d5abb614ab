package access

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"go.yaml.in/yaml/v3"
)

// maxFileBytes bounds the file, and each file that it names.
const maxFileBytes = 1 << 20

// File holds issuers, projects and their grants as they are written (YAML).
type File struct {
	Issuers  []IssuerConfig           `yaml:"issuers"`
	Projects map[string]ProjectConfig `yaml:"projects"`
	// Revocations names the project that holds the stream of revocations.
	Revocations RevocationsConfig `yaml:"revocations"`
	Admin       AdminConfig       `yaml:"admin"`
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
	// Audience: a token's aud must contain one of these. The word none leaves the check out; Require
	// must be set then.
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
	JWKS         string      `yaml:"jwks"` // https:// or file://
	CA           string      `yaml:"ca"`
	TokenFile    string      `yaml:"token_file"`
	InsecureHTTP bool        `yaml:"insecure_http"`
	Secret       string      `yaml:"secret"` // a file
	Alg          string      `yaml:"alg"`
	PEMs         []PEMConfig `yaml:"-"` // the list instead of the map
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
	// Origins are those of the web pages that may read answers; absent: the edge's default.
	Origins []string `yaml:"origins"`
	// Cookie names the cookie that the application sets, instead of __Host-fantail-PROJECT.
	Cookie string `yaml:"cookie"`
	// Sign lists the secrets by which the application signs URLs.
	Sign []SignConfig `yaml:"sign"`
	// PublicAge bounds how long shared caches keep what is public (default and most: 60s).
	PublicAge *time.Duration `yaml:"public_age"`
	Limits    LimitsConfig   `yaml:"limits"`
}

// SignConfig is one secret of a project, in a file.
type SignConfig struct {
	KID    string `yaml:"kid"`
	Secret string `yaml:"secret"`
}

// LimitsConfig bounds what the clients of a project may ask for; absent: no bound.
type LimitsConfig struct {
	Requests *float64  `yaml:"requests"` // a second
	Bytes    *ByteSize `yaml:"bytes"`    // appended, a second
	Creates  *float64  `yaml:"creates"`  // streams, an hour
	Readers  *int      `yaml:"readers"`  // live, together
	Body     *ByteSize `yaml:"body"`     // of one append
	// Principal bounds each subject of a token and each signed URL, Public all clients together
	// that present no credential; each on one node.
	Principal PrincipalLimits `yaml:"principal"`
	Public    PrincipalLimits `yaml:"public"`
}

// PrincipalLimits bounds one principal on one node.
type PrincipalLimits struct {
	Requests *float64 `yaml:"requests"`
	Readers  *int     `yaml:"readers"`
}

// RevocationsConfig names the place of the stream of revocations.
type RevocationsConfig struct {
	Project string `yaml:"project"`
}

// AdminConfig lists the tokens that open the admin address.
type AdminConfig struct {
	Tokens []AdminTokenConfig `yaml:"tokens"`
}

// AdminTokenConfig names an admin token and holds its SHA-256 in hexadecimal.
type AdminTokenConfig struct {
	Name   string `yaml:"name"`
	SHA256 string `yaml:"sha256"`
}

// AudienceConfig is a list, or the word none.
type AudienceConfig struct {
	Any  []string
	None bool
}

// ConditionMap maps a claim to a list of values.
type ConditionMap map[string][]any

// ByteSize is a number of bytes, such as 65536, 64KiB or 10MiB.
type ByteSize int64

// UnmarshalYAML takes one map, or a list of PEM files.
func (k *KeysConfig) UnmarshalYAML(n *yaml.Node) error {
	type plain KeysConfig
	if n.Kind != yaml.SequenceNode {
		return together(knownKeys(n, plain{}), n.Decode((*plain)(k)))
	}
	var wrong []error
	for _, one := range n.Content {
		wrong = append(wrong, knownKeys(one, PEMConfig{}))
	}
	return together(append(wrong, n.Decode(&k.PEMs))...)
}

// together joins errors as the decoder collects them: it stops at any other kind.
func together(errs ...error) error {
	var all []string
	for _, err := range errs {
		var several *yaml.TypeError
		if errors.As(err, &several) {
			all = append(all, several.Errors...)
		} else if err != nil {
			all = append(all, err.Error())
		}
	}
	if all == nil {
		return nil
	}
	return &yaml.TypeError{Errors: all}
}

// knownKeys returns an error for the keys of a map that the fields of a struct do not have: the
// decoder looks for them only where it decodes by itself.
func knownKeys(n *yaml.Node, of any) error {
	var known, wrong []string
	for f := range reflect.TypeOf(of).Fields() {
		if name := f.Tag.Get("yaml"); name != "-" {
			known = append(known, name)
		}
	}
	for i := 0; n.Kind == yaml.MappingNode && i < len(n.Content); i += 2 {
		if key := n.Content[i]; !slices.Contains(known, key.Value) {
			wrong = append(wrong, fmt.Sprintf("line %d: key %s not found: %s are known", key.Line, key.Value, strings.Join(known, ", ")))
		}
	}
	if wrong != nil {
		return &yaml.TypeError{Errors: wrong}
	}
	return nil
}

// wrongAt returns an error in the file's own terms. The decoder collects such errors.
func wrongAt(n *yaml.Node, format string, args ...any) error {
	return &yaml.TypeError{Errors: []string{fmt.Sprintf("line %d: ", n.Line) + fmt.Sprintf(format, args...)}}
}

// UnmarshalYAML takes a list, or the word none.
func (a *AudienceConfig) UnmarshalYAML(n *yaml.Node) error {
	if n.Kind == yaml.ScalarNode {
		if n.Value != "none" {
			return wrongAt(n, "audience is a list, or the word none")
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
			return wrongAt(n, "%s has no values", claim)
		}
		for i := range nodes {
			v, err := conditionValue(&nodes[i])
			if err != nil {
				return wrongAt(&nodes[i], "a value of %s is no string, number or boolean", claim)
			}
			(*c)[claim] = append((*c)[claim], v)
		}
	}
	return nil
}

var errConditionValue = errors.New("no string, number or boolean")

func conditionValue(n *yaml.Node) (any, error) {
	switch n.Tag {
	case "!!str":
		return n.Value, nil
	case "!!int", "!!float":
		return json.Number(n.Value), nil
	case "!!bool":
		var b bool
		err := n.Decode(&b)
		return b, err
	}
	return nil, errConditionValue
}

// UnmarshalYAML takes a number of bytes, with or without a unit of 1,024.
func (b *ByteSize) UnmarshalYAML(n *yaml.Node) error {
	text, unit := n.Value, int64(1)
	for i, name := range []string{"KiB", "MiB", "GiB"} {
		if number, ok := strings.CutSuffix(text, name); ok {
			text, unit = strings.TrimSpace(number), 1<<(10*(i+1))
		}
	}
	count, err := strconv.ParseInt(text, 10, 64)
	if err != nil || count < 0 || count > 1<<62/unit {
		return wrongAt(n, "%q is no number of bytes, such as 65536, 64KiB or 10MiB", n.Value)
	}
	*b = ByteSize(count * unit)
	return nil
}

// ParseFile parses the file. Unknown keys, and settings that are there and empty, are errors.
func ParseFile(b []byte) (*File, error) {
	if len(b) > maxFileBytes {
		return nil, fmt.Errorf("the file has more than %d bytes", maxFileBytes)
	}
	var whole yaml.Node
	d := yaml.NewDecoder(bytes.NewReader(b))
	if err := d.Decode(&whole); err != nil {
		if errors.Is(err, io.EOF) {
			return nil, errors.New("the file is empty")
		}
		return nil, err
	}
	if err := d.Decode(&yaml.Node{}); !errors.Is(err, io.EOF) {
		return nil, errors.New("the file has more than one document")
	}
	f := &File{}
	d = yaml.NewDecoder(bytes.NewReader(b))
	d.KnownFields(true)
	if err := errors.Join(append(emptySettings(&whole, ""), d.Decode(f))...); err != nil {
		return nil, err
	}
	return f, nil
}

// emptySettings returns an error for each list without elements and each key without a value: they
// are settings whose value did not get there.
func emptySettings(n *yaml.Node, key string) (errs []error) {
	switch {
	case n.Kind == yaml.SequenceNode && len(n.Content) == 0, n.Kind == yaml.MappingNode && len(n.Content) == 0,
		n.Kind == yaml.ScalarNode && n.Tag == "!!null", n.Kind == yaml.ScalarNode && n.Value == "":
		return []error{fmt.Errorf("line %d: %s is empty: give it a value or remove it", n.Line, cmp.Or(key, "the file"))}
	case n.Kind == yaml.MappingNode:
		for i := 0; i+1 < len(n.Content); i += 2 {
			errs = append(errs, emptySettings(n.Content[i+1], n.Content[i].Value)...)
		}
	case n.Kind == yaml.SequenceNode, n.Kind == yaml.DocumentNode:
		for _, c := range n.Content {
			errs = append(errs, emptySettings(c, key)...)
		}
	}
	return errs
}
