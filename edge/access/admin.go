package access

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/base64"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"strconv"
	"strings"
	"time"
)

const (
	adminPrefix = "fta_"
	// adminTokenBytes is the length of an admin token: the prefix, and 256 bits in base64url.
	adminTokenBytes = len(adminPrefix) + 43
	// AdminCookie is the name of the cookie of an operator's browser.
	AdminCookie = "__Host-fantail-admin"
	// adminCookieTTL is for how long it is good.
	adminCookieTTL = 12 * time.Hour
)

// adminToken is a token of the file.
type adminToken struct {
	name string
	sum  [sha256.Size]byte
}

// NewAdminToken returns a new admin token, and the SHA-256 that the file needs of it.
func NewAdminToken() (token, sum string) {
	var random [32]byte
	readRandom(random[:])
	token = adminPrefix + base64.RawURLEncoding.EncodeToString(random[:])
	hash := sha256.Sum256([]byte(token))
	return token, hex.EncodeToString(hash[:])
}

var errAdminToken = errors.New("sha256 is 64 hexadecimal digits, as fantail token admin prints them")

func (c *compiler) addAdmin(ac AdminConfig) {
	seen := map[string]bool{}
	for _, tc := range ac.Tokens {
		t := adminToken{name: tc.Name}
		b, err := hex.DecodeString(tc.SHA256)
		switch {
		case err != nil || len(b) != sha256.Size:
			err = errAdminToken
		case tc.Name == "" || len(tc.Name) > 64 || strings.ContainsFunc(tc.Name, func(r rune) bool { return !isTokenChar(r) || r == '.' }):
			err = errors.New("a token's name has 1 to 64 letters, digits, - and _")
		case seen[tc.Name]:
			err = errors.New("it is there twice")
		}
		c.fail("admin token", tc.Name, err)
		seen[tc.Name] = true
		copy(t.sum[:], b)
		c.rules.admin = append(c.rules.admin, t)
	}
}

// NeedsAdminToken reports whether the admin address is locked: the file has admin tokens, or had some
// since the Judge was opened. A file that loses the last one, by mistake or to take it from an operator,
// lets no operator in.
func (j *Judge) NeedsAdminToken() bool { return j.adminLocked.Load() }

// AdminToken returns the name of an admin token. What does not look like one is refused before
// anything is computed of it; the comparison takes the same time for every token.
func (j *Judge) AdminToken(token string) (name string, ok bool) {
	if t := j.findAdmin(token); t != nil {
		return t.name, true
	}
	return "", false
}

func (j *Judge) findAdmin(token string) (found *adminToken) {
	if len(token) != adminTokenBytes || !strings.HasPrefix(token, adminPrefix) {
		return nil
	}
	sum := sha256.Sum256([]byte(token))
	all := j.verifier.rules.Load().admin
	for n := range all {
		if subtle.ConstantTimeCompare(sum[:], all[n].sum[:]) == 1 {
			found = &all[n]
		}
	}
	return found
}

// AdminLogin returns the Set-Cookie field of an operator's browser that has sent a token by the
// login form. key authenticates cookies: nodes that share it accept each other's.
func (j *Judge) AdminLogin(token string, key []byte) (setCookie string, ok bool) {
	t := j.findAdmin(token)
	if t == nil || len(key) == 0 {
		return "", false
	}
	ends := strconv.FormatInt(j.env.now().Add(adminCookieTTL).Unix(), 10)
	return fmt.Sprintf("%s=%s.%s.%s%s%d", AdminCookie, t.name, ends, t.cookieMAC(ends, key), cookieAttributes, int(adminCookieTTL/time.Second)), true
}

// AdminLogout returns the Set-Cookie field that ends a login.
func AdminLogout() string { return AdminCookie + "=" + cookieAttributes + "0" }

// cookieMAC authenticates a cookie: it ends with its time, and with the token in the file.
func (t *adminToken) cookieMAC(ends string, key []byte) string {
	m := hmac.New(sha256.New, key)
	m.Write([]byte("fantail-admin-v1\n" + t.name + "\n" + ends + "\n"))
	m.Write(t.sum[:])
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil))
}

// Admin returns the name of the token that a request to the admin address presents, as a bearer or
// by a login. A login counts for an unsafe method only if the page is of the same origin.
func (j *Judge) Admin(r *http.Request, key []byte) (name string, d *Denial) {
	if fields, ok := r.Header["Authorization"]; ok {
		from, no := findBearer(fields)
		if no == nil {
			if name, ok := j.AdminToken(from.token); ok {
				return name, nil
			}
			no = refuse(ReasonMalformed, "the token is not one of the file's admin tokens: fantail token admin makes one")
		}
		return "", j.deny(r, no)
	}
	name, no := j.adminCookie(r, key)
	if no != nil {
		return "", j.deny(r, no)
	}
	return name, nil
}

func (j *Judge) adminCookie(r *http.Request, key []byte) (name string, no *Refusal) {
	value, n := findCookie(r.Header, &project{cookie: AdminCookie}, "")
	switch {
	case n == 0:
		return "", refuse(ReasonNoCredential, "this address needs an admin token: send it as Authorization: Bearer TOKEN, or log in")
	case n > 1:
		return "", twoCredentials(http.StatusBadRequest, "the request has the login's cookie more than once")
	}
	t := j.checkAdminCookie(value, key)
	if t == nil {
		return "", refuse(ReasonExpired, "the login is over: log in again")
	}
	site, sites := only(r.Header, "Sec-Fetch-Site")
	if safe := r.Method == http.MethodGet || r.Method == http.MethodHead; !safe && (sites != 1 || site != "same-origin") {
		return "", refuse(ReasonCrossSite, "a login counts for pages of this address alone: send the token as Authorization: Bearer TOKEN")
	}
	return t.name, nil
}

// checkAdminCookie returns the token by which a login was made, if it is good.
func (j *Judge) checkAdminCookie(value string, key []byte) *adminToken {
	name, rest, _ := strings.Cut(value, ".")
	ends, mac, _ := strings.Cut(rest, ".")
	at, err := strconv.ParseInt(ends, 10, 64)
	if err != nil || at <= j.env.now().Unix() || len(mac) != signatureLength || len(key) == 0 {
		return nil
	}
	all := j.verifier.rules.Load().admin
	for n := range all {
		if t := &all[n]; t.name == name && hmac.Equal([]byte(t.cookieMAC(ends, key)), []byte(mac)) {
			return t
		}
	}
	return nil
}
