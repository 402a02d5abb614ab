package access

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
)

// The cookie of a project is for native EventSource, which can send no header: it gives the right
// to read, and nothing else.

const (
	// hostCookie begins the name of a project's own cookie. __Host- keeps sister domains from
	// setting it.
	hostCookie = "__Host-fantail-"
	// cookieAttributes follow the value, before Max-Age.
	cookieAttributes = "; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age="
	// maxSessionToken bounds the token in a cookie: browsers drop cookies of more than 4,096 bytes.
	maxSessionToken = 3800
)

var errCookieName = errors.New("a cookie's name is a token: letters, digits and !#$%&'*+-.^_`|~")

func checkCookieName(name string) error {
	if strings.ContainsFunc(name, func(c rune) bool { return !isTokenChar(c) }) {
		return errCookieName
	}
	return nil
}

// isCookie reports whether a cookie's name is that of a project.
func isCookie(name string, p *project, projectName string) bool {
	if p.cookie != "" {
		return name == p.cookie
	}
	return len(name) == len(hostCookie)+len(projectName) && name[:len(hostCookie)] == hostCookie && name[len(hostCookie):] == projectName
}

// findCookie returns the value of the project's cookie, and how often it is there.
func findCookie(h http.Header, p *project, projectName string) (value string, found int) {
	for _, field := range h["Cookie"] {
		for rest := field; rest != ""; {
			var pair string
			pair, rest, _ = strings.Cut(rest, ";")
			name, v, _ := strings.Cut(strings.Trim(pair, " \t"), "=")
			if isCookie(strings.Trim(name, " \t"), p, projectName) {
				value = strings.Trim(v, " \t")
				found++
			}
		}
	}
	return value, found
}

// checkCookieSite refuses a cookie that a page of another site has the browser send, unless the
// project lists the page's origin, and a cookie that is sent for a navigation, an image or a
// script.
func checkCookieSite(h http.Header, o *Origins) *Refusal {
	if dest, n := only(h, "Sec-Fetch-Dest"); n > 1 || n == 1 && dest != "empty" {
		return refuse(ReasonCrossSite, "the cookie counts for fetch and EventSource alone, and not for navigations, images or scripts")
	}
	site, sites := only(h, "Sec-Fetch-Site")
	origin, origins := only(h, "Origin")
	listed := origins == 1 && o.lists(origin)
	switch {
	case sites == 1 && site == "same-origin",
		sites == 1 && (site == "same-site" || site == "cross-site") && listed,
		sites == 0 && (origins == 0 || listed):
		return nil
	}
	return refuse(ReasonCrossSite, "the page's origin %.128q is not one that the project lists: add it to origins, or send a token", origin)
}

// only returns a field's value, and how many there are.
func only(h http.Header, name string) (value string, n int) {
	fields := h[name]
	if len(fields) == 0 {
		return "", 0
	}
	return fields[0], len(fields)
}

// StartSession answers POST …/__ds/session: it returns the Set-Cookie field by which a browser
// sends the request's token with each read, for the rest of the token's life.
func (j *Judge) StartSession(r *http.Request, projectName string) (setCookie string, d *Denial) {
	setCookie, no := j.startSession(r, projectName)
	if no != nil {
		return "", j.deny(r, no)
	}
	return setCookie, nil
}

func (j *Judge) startSession(r *http.Request, projectName string) (setCookie string, no *Refusal) {
	rs := j.verifier.rules.Load()
	p := rs.lookup(projectName)
	if no := checkSessionOrigin(r.Header, p); no != nil {
		return "", no
	}
	from, no := findExplicit(r, rs)
	switch {
	case no != nil:
		return "", no
	case from.kind == presentedNothing:
		return "", refuse(ReasonNoCredential, "a session begins with a token: send it as Authorization: Bearer TOKEN")
	case from.kind != presentedToken:
		return "", refuse(ReasonNotGranted, "a session begins with a token, and not with a signed URL")
	case from.header != "":
		return "", refuse(ReasonNoSession, "the field %s is set by a gateway on every request: there is no need of a cookie", from.header)
	case p != nil && p.cookie != "":
		return "", refuse(ReasonNoSession, "the application sets the cookie of the project %q by itself", projectName)
	case len(from.token) > maxSessionToken:
		return "", refuse(ReasonTooLongForCookie, "the token has %d bytes: browsers keep cookies of %d at most", len(from.token), maxSessionToken)
	}
	pr, no := j.principal(r.Context(), from, projectName, j.env.now())
	if no == nil && p == nil {
		no = wrongProject(projectName, "")
	}
	if no == nil {
		no = pr.hasRights(projectName)
	}
	if no != nil {
		return "", no
	}
	rest := max(0, pr.Expires-j.env.now().Unix())
	return fmt.Sprintf("%s%s=%s%s%d", hostCookie, projectName, from.token, cookieAttributes, rest), nil
}

// checkSessionOrigin demands that a page that asks for a session is of this origin, or listed.
func checkSessionOrigin(h http.Header, p *project) *Refusal {
	origin, origins := only(h, "Origin")
	if site, n := only(h, "Sec-Fetch-Site"); origins == 0 || n == 1 && site == "same-origin" {
		return nil
	}
	if origins == 1 && p != nil && p.origins.lists(origin) {
		return nil
	}
	return refuse(ReasonOriginNotListed, "the page's origin %.128q is not one that the project lists: add it to origins", origin)
}

// EndSession answers DELETE …/__ds/session: it returns the Set-Cookie field that deletes the
// project's cookie; empty: no project has such a name. It needs no credential.
func (j *Judge) EndSession(projectName string) (setCookie string) {
	if checkProject(projectName) != nil {
		return ""
	}
	return deletedCookie(projectName)
}

func deletedCookie(projectName string) string {
	return hostCookie + projectName + "=" + cookieAttributes + "0"
}

// hasRights refuses a principal without any right in a project.
func (p *Principal) hasRights(projectName string) *Refusal {
	switch {
	case !p.knows(projectName):
		return wrongProject(projectName, "")
	case len(p.given)+len(p.own[projectName]) == 0:
		return refuse(ReasonNotGranted, "the token grants nothing in the project %q", projectName)
	}
	return nil
}
