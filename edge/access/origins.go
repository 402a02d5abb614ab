package access

import (
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// Origins lists the origins of web pages that may read answers. It knows nothing of projects: the
// edge uses it without a file, too. The nil Origins lists none.
type Origins struct {
	any       bool
	exact     []string // scheme://host, with a port that is not the scheme's own
	wildcards []wildcardOrigin
}

// wildcardOrigin matches one or more labels before a suffix, without a port.
type wildcardOrigin struct{ scheme, suffix string }

var (
	errOriginStar   = errors.New("* stands for all origins: it cannot be listed with others")
	errOriginNull   = errors.New("null is the origin of every sandboxed page and file: it says nothing")
	errOriginScheme = errors.New("an origin begins with http:// or https://")
	errOriginRest   = errors.New("an origin is a scheme, a host and a port alone: no path, query or user")
	errOriginHost   = errors.New("an origin's host is a name or an address; * stands only for whole labels at its beginning, as in https://*.app.example, without a port")
)

// ParseOrigins parses a list of origins: scheme://host[:port], https://*.host for one or more
// labels before it, or * alone. The error lists all that is wrong.
func ParseOrigins(list []string) (*Origins, error) {
	o := &Origins{}
	var errs []error
	for _, s := range list {
		if err := o.add(s, len(list)); err != nil {
			errs = append(errs, fmt.Errorf("%q: %w", s, err))
		}
	}
	if err := errors.Join(errs...); err != nil {
		return nil, err
	}
	return o, nil
}

func (o *Origins) add(s string, of int) error {
	switch {
	case s == "*" && of > 1:
		return errOriginStar
	case s == "*":
		o.any = true
		return nil
	case s == "null":
		return errOriginNull
	}
	scheme, host, err := splitOrigin(s)
	if err != nil {
		return err
	}
	if suffix, ok := strings.CutPrefix(host, "*"); ok {
		if !strings.HasPrefix(suffix, ".") || len(suffix) < 2 || strings.ContainsAny(suffix, "*:") {
			return errOriginHost
		}
		o.wildcards = append(o.wildcards, wildcardOrigin{scheme, suffix})
		return nil
	}
	if strings.Contains(host, "*") {
		return errOriginHost
	}
	o.exact = append(o.exact, scheme+"://"+host)
	return nil
}

// splitOrigin returns an origin's scheme, and its host with a port that is not the scheme's own, in
// lower case.
func splitOrigin(s string) (scheme, host string, err error) {
	scheme, rest, ok := strings.Cut(strings.ToLower(s), "://")
	if !ok || scheme != "http" && scheme != "https" {
		return "", "", errOriginScheme
	}
	if strings.ContainsAny(rest, "/?#@\\") {
		return "", "", errOriginRest
	}
	u, err := url.Parse(scheme + "://" + strings.Replace(rest, "*", "x", 1))
	if err != nil || u.Hostname() == "" || strings.ContainsAny(rest, " ,;\"%") || strings.HasSuffix(rest, ":") {
		return "", "", errOriginHost
	}
	port := u.Port()
	if _, err := strconv.ParseUint(port, 10, 16); port != "" && err != nil {
		return "", "", errOriginHost
	}
	if port == "80" && scheme == "http" || port == "443" && scheme == "https" {
		rest = strings.TrimSuffix(rest, ":"+port)
	}
	return scheme, rest, nil
}

// lists reports whether an origin of a request is listed by itself or by a wildcard: * lists none,
// because no page of another site may use the cookies of this one.
func (o *Origins) lists(origin string) bool {
	if o == nil || origin == "" || len(o.exact)+len(o.wildcards) == 0 {
		return false
	}
	if slices.Contains(o.exact, origin) { // as browsers write it
		return true
	}
	scheme, host, err := splitOrigin(origin)
	if err != nil || strings.Contains(host, "*") {
		return false
	}
	if slices.Contains(o.exact, scheme+"://"+host) {
		return true
	}
	return slices.ContainsFunc(o.wildcards, func(w wildcardOrigin) bool {
		label, ok := strings.CutSuffix(host, w.suffix)
		return ok && scheme == w.scheme && label != "" && label[0] != '.'
	})
}

// Allows reports whether pages of an origin may read answers.
func (o *Origins) Allows(origin string) bool {
	return o != nil && origin != "" && (o.any || o.lists(origin))
}

// Any reports whether all origins are allowed: answers may then say * to each, and credentials are
// allowed to none.
func (o *Origins) Any() bool { return o != nil && o.any }

// CORS holds what an answer says to a page of another origin.
type CORS struct {
	// Origin is Access-Control-Allow-Origin; empty: no such field, and none of the others.
	Origin string
	// Credentials: the answer has Access-Control-Allow-Credentials: true.
	Credentials bool
}

// Answer returns what an answer says to a request with an Origin field, or without one.
func (o *Origins) Answer(origin string) CORS {
	switch {
	case o.Any():
		return CORS{Origin: "*"}
	case o.lists(origin):
		return CORS{Origin: origin, Credentials: true}
	}
	return CORS{}
}

const (
	// PreflightMaxAge is the Access-Control-Max-Age of every answer to a preflight.
	PreflightMaxAge = "600"
	// VaryOrigins is the Vary of every answer where a file decides: caches must not mix what
	// different callers may see.
	VaryOrigins = "Origin, Authorization, Cookie"
)

// isTokenChar reports whether a character may stand in a token (RFC 9110, section 5.6.2).
func isTokenChar(c rune) bool {
	switch {
	case c >= 'a' && c <= 'z', c >= 'A' && c <= 'Z', c >= '0' && c <= '9':
		return true
	}
	return strings.ContainsRune("!#$%&'*+-.^_`|~", c)
}
