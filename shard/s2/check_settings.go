package s2

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/fantail-dev/fantail/shard"
)

// SettingError reports a setting with an impossible value. Setting is its name as in the flag
// --s2-NAME.
type SettingError struct {
	Setting string
	Err     error
}

func (m SettingError) Error() string {
	return strings.ReplaceAll(m.Setting, "-", " ") + ": " + m.Err.Error()
}

func (m SettingError) Unwrap() error { return m.Err }

// Check returns all errors in the operator's settings, and normalizes the settings that are right:
// it removes what a Kubernetes Secret or a shell adds around them.
func (c *Config) Check() (wrong []SettingError) {
	check := func(setting string, err error) {
		if err != nil {
			wrong = append(wrong, SettingError{setting, err})
		}
	}
	var err error
	c.Endpoint, err = normalizeEndpoint(c.Endpoint)
	check("endpoint", err)
	c.Token, err = normalizeToken(c.Token)
	check("token", err)
	if c.Endpoint == "" && c.Token == "" && len(wrong) == 0 {
		check("token", errors.New("the managed S2 needs one; --s2-endpoint names another S2"))
	}
	c.Basin, c.BasinTemplate = strings.TrimSpace(c.Basin), strings.TrimSpace(c.BasinTemplate)
	switch ways := countTrue(c.Basin != "", c.BasinTemplate != "", len(c.BasinMap) > 0); {
	case ways == 0:
		check("basin", errors.New("want a basin, a template or a map of basins (--s2-basin, --s2-basin-template, --s2-basin-map)"))
	case ways > 1:
		check("basin", errors.New("want one of a basin, a template and a map, not several"))
	}
	if c.Basin != "" {
		check("basin", checkBasin(c.Basin))
	}
	if c.BasinTemplate != "" {
		check("basin-template", checkTemplate(c.BasinTemplate))
	}
	switch c.HomeBasin = strings.TrimSpace(c.HomeBasin); {
	case c.HomeBasin == "":
	case c.BasinTemplate == "":
		check("home-basin", errors.New("it is for a template (--s2-basin-template): basins that are named hold the fleet's record themselves"))
	default:
		check("home-basin", checkBasin(c.HomeBasin))
	}
	check("basin-map", checkBasinMap(c.BasinMap))
	return wrong
}

func countTrue(given ...bool) (n int) {
	for _, g := range given {
		if g {
			n++
		}
	}
	return n
}

// normalizeEndpoint returns an endpoint as scheme, host and path, without a trailing slash or API
// version.
func normalizeEndpoint(given string) (string, error) {
	given = strings.TrimSpace(given)
	if given == "" {
		return "", nil
	}
	if strings.ContainsFunc(given, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return given, fmt.Errorf("%q has blanks, control characters or other than ASCII in it", given)
	}
	scheme, _, found := strings.Cut(given, "://")
	if !found {
		return given, fmt.Errorf("%q has no scheme: write http://%s or https://%s", given, given, given)
	}
	if scheme = strings.ToLower(scheme); scheme != "http" && scheme != "https" {
		return given, fmt.Errorf("%q: the scheme is %q, want http or https", given, scheme)
	}
	u, err := url.Parse(given)
	if err != nil {
		return given, fmt.Errorf("%q is no URL: %w", given, errors.Unwrap(err))
	}
	switch port, _ := strconv.Atoi(u.Port()); {
	case u.Hostname() == "":
		return given, fmt.Errorf("%q names no host", given)
	case strings.HasSuffix(u.Host, ":"), u.Port() != "" && (port < 1 || port > 65535):
		return given, fmt.Errorf("%q: the port is not from 1 to 65535", given)
	case u.User != nil:
		return given, errors.New("a user or a password in the URL is not used: the token is a setting of its own")
	case strings.ContainsAny(given, "?#"):
		return given, fmt.Errorf("%q: want no query and no fragment", given)
	case u.RawPath != "" || strings.Contains(u.Path, "//") || slices.Contains(strings.Split(u.Path, "/"), ".."):
		return given, fmt.Errorf("%q: want a plain path, or none", given)
	}
	path := strings.TrimSuffix(strings.TrimSuffix(strings.TrimSuffix(u.Path, "/"), "/v1"), "/")
	return scheme + "://" + strings.ToLower(u.Host) + path, nil
}

// normalizeToken returns a token without the white space around it. The token goes into a header.
// No error quotes it.
func normalizeToken(given string) (string, error) {
	token := strings.TrimSpace(given)
	switch {
	case token == "" && given != "":
		return "", errors.New("it is blank")
	case strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }):
		return token, errors.New("it has blanks, control characters or other than ASCII inside")
	}
	return token, nil
}

var (
	basinPattern      = regexp.MustCompile(`^[a-z0-9][a-z0-9-]{6,46}[a-z0-9]$`)
	basinCharsPattern = regexp.MustCompile(`^[a-z0-9-]*$`)
)

const (
	projectPlaceholder = "{project}"
	maxBasinLen        = 48
)

func isValidBasin(name string) bool { return basinPattern.MatchString(name) }

func checkBasin(name string) error {
	if isValidBasin(name) {
		return nil
	}
	return fmt.Errorf("basin %q: want 8 to 48 of a-z, 0-9 and -, no - at the ends", name)
}

// checkTemplate returns an error for a template that names no valid basin, or basins of other
// owners. Clients choose the project: without a prefix of the operator's, a client could name any
// basin that the token can reach.
func checkTemplate(template string) error {
	rest := strings.ReplaceAll(template, projectPlaceholder, "")
	switch {
	case rest == template:
		return fmt.Errorf("%q has no {project}: all projects would share their streams", template)
	case strings.ContainsAny(rest, "{}"):
		return fmt.Errorf("%q: the one placeholder is {project}", template)
	case strings.HasPrefix(template, projectPlaceholder):
		return fmt.Errorf("%q: want a prefix before {project}, such as ds-{project}: clients name projects, and would name other basins of yours", template)
	case !basinCharsPattern.MatchString(rest) || strings.HasPrefix(rest, "-") || strings.HasSuffix(template, "-"):
		return fmt.Errorf("%q: a basin is of a-z, 0-9 and -, with no - at the ends", template)
	case len(rest) >= maxBasinLen:
		return fmt.Errorf("%q: a basin is of at most %d bytes", template, maxBasinLen)
	}
	return nil
}

func checkBasinMap(basins map[string]string) error {
	var errs []error
	owner := map[string]string{}
	for project, basin := range basins {
		if other, ok := owner[basin]; ok {
			errs = append(errs, fmt.Errorf("basin %q of projects %q and %q: they would share their streams", basin, min(project, other), max(project, other)))
		}
		owner[basin] = project
		if project == "" || strings.ContainsFunc(project, func(r rune) bool { return r <= ' ' || r == '/' || r == 0x7f }) {
			errs = append(errs, fmt.Errorf("project %q: want a name without blanks and slashes", project))
		}
		if err := checkBasin(basin); err != nil {
			errs = append(errs, fmt.Errorf("project %q: %w", project, err))
		}
	}
	return errors.Join(errs...)
}

// Clients choose projects, and each new project needs a basin: createBasinBurst basins are created
// without a wait, then one each createBasinEvery.
const (
	createBasinEvery = 5 * time.Second
	createBasinBurst = 20
)

// allowCreation returns an ErrLogBusy if the basins of too many new projects were created recently.
func (c *Config) allowCreation(basin string) error {
	if c.BasinTemplate == "" || c.createLimiter.Allow() {
		return nil
	}
	return fmt.Errorf("s2: make basin %s: %w: too many new projects", basin, shard.ErrLogBusy)
}
