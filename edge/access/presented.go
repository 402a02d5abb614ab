package access

import (
	"net/http"
	"net/url"
	"strings"
)

// presentedKind is the kind of a credential.
type presentedKind uint8

const (
	presentedNothing presentedKind = iota
	presentedToken
	presentedCookie
	presentedURL
)

// presented is the credential of one request, as it came.
type presented struct {
	kind   presentedKind
	token  string
	header string // the issuer's field that it came in; empty: Authorization, or a cookie
	signed Signature
}

// find returns the credential that a request presents. Explicit ones exclude each other, and beat
// the project's cookie, which counts for reads alone.
func find(r *http.Request, rs *rules, p *project, projectName string) (presented, *Refusal) {
	from, no := findExplicit(r, rs)
	if no != nil || from.kind != presentedNothing || p == nil || r.Method != http.MethodGet && r.Method != http.MethodHead {
		return from, no
	}
	value, n := findCookie(r.Header, p, projectName)
	switch {
	case n == 0:
		return presented{}, nil
	case n > 1:
		return presented{}, twoCredentials(http.StatusBadRequest, "the request has the project's cookie more than once: another site of the domain has set one")
	}
	return presented{kind: presentedCookie, token: value}, checkCookieSite(r.Header, p.origins)
}

// findExplicit returns the credential of a request, cookies aside.
func findExplicit(r *http.Request, rs *rules) (from presented, no *Refusal) {
	if fields, ok := r.Header["Authorization"]; ok {
		if from, no = findBearer(fields); no != nil {
			return from, no
		}
	}
	for _, name := range rs.headers {
		fields, ok := r.Header[name]
		switch {
		case !ok:
			continue
		case len(fields) > 1 || strings.Contains(fields[0], ","):
			return from, twoCredentials(http.StatusUnauthorized, "the field "+name+" has two credentials; a proxy in between added its own")
		case from.kind != presentedNothing:
			return from, errTwoCredentials
		}
		from = presented{kind: presentedToken, token: fields[0], header: name}
	}
	signed, has := findSignature(r.URL.RawQuery)
	if !has {
		return from, nil
	}
	if from.kind != presentedNothing {
		return from, errTwoCredentials
	}
	return presented{kind: presentedURL, signed: signed}, nil
}

var errTwoCredentials = twoCredentials(http.StatusBadRequest, "the request has two credentials: send one of a token and a signed URL")

func twoCredentials(status int, detail string) *Refusal {
	return &Refusal{Reason: ReasonTwoCredentials, Detail: detail, status: status}
}

// findBearer returns the token of the Authorization field. Another scheme, and a header without a
// scheme, is a credential that fails.
func findBearer(fields []string) (presented, *Refusal) {
	if len(fields) == 0 {
		return presented{}, nil
	}
	if len(fields) > 1 || strings.Contains(fields[0], ",") {
		return presented{}, twoCredentials(http.StatusUnauthorized, "the Authorization field has two credentials; a proxy in between added its own")
	}
	const scheme = "Bearer "
	field := strings.Trim(fields[0], " \t")
	if len(field) < len(scheme) || !strings.EqualFold(field[:len(scheme)], scheme) {
		return presented{}, refuse(ReasonMalformed, "the Authorization field is no bearer token: it has the form Authorization: Bearer TOKEN")
	}
	return presented{kind: presentedToken, token: strings.TrimLeft(field[len(scheme):], " ")}, nil
}

// findSignature returns the parameters of a signed URL, if the query has any of them. A parameter
// that is there twice is malformed: no value of it is kept.
func findSignature(query string) (s Signature, has bool) {
	var seen [3]bool
	for rest := query; rest != ""; {
		var part string
		part, rest, _ = strings.Cut(rest, "&")
		name, value, _ := strings.Cut(part, "=")
		at := signatureParameter(name)
		if at < 0 {
			continue
		}
		value, err := url.QueryUnescape(value)
		if has = true; err != nil || seen[at] {
			value = ""
			seen = [3]bool{true, true, true} // whatever follows, it is malformed
		}
		seen[at] = true
		*[...]*string{&s.Expires, &s.KeyID, &s.Sum}[at] = value
	}
	return s, has
}

// signatureParameter returns the place of a query's parameter in a signature; -1: it is another.
func signatureParameter(name string) int {
	if name == "" || name[0] != 'x' && name[0] != '%' {
		return -1
	}
	if strings.Contains(name, "%") {
		if plain, err := url.QueryUnescape(name); err == nil {
			name = plain
		}
	}
	switch name {
	case "x-exp":
		return 0
	case "x-kid":
		return 1
	case "x-sig":
		return 2
	}
	return -1
}
