package access

import (
	"net/http"
	"strings"
	"testing"
	"time"
)

// A session is the token in a cookie, for the rest of its life, and reads with it.
func TestSession(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	now := time.Now().Unix()
	token := appToken(t, map[string]any{"exp": now + 600})
	bearer := "Authorization: Bearer " + token
	set, d := j.StartSession(ask("POST", "/", bearer, "Origin: https://app.example", "Sec-Fetch-Site: cross-site"), "acme")
	if d != nil {
		t.Fatal(d)
	}
	c, err := http.ParseSetCookie(set)
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "__Host-fantail-acme" || c.Value != token || c.Path != "/" || c.Domain != "" || !c.Secure || !c.HttpOnly ||
		c.SameSite != http.SameSiteStrictMode || c.MaxAge < 595 || c.MaxAge > 600 {
		t.Errorf("%+v", c)
	}
	if _, d := j.Decide(ask("GET", "/", "Cookie: "+c.Name+"="+c.Value), "acme", "rooms/1", Read); d != nil {
		t.Errorf("the cookie does not read: %v", d)
	}
	end, err := http.ParseSetCookie(j.EndSession("acme"))
	if err != nil || end.Name != c.Name || end.Value != "" || end.MaxAge != -1 || end.Path != "/" || !end.Secure {
		t.Errorf("%+v %v", end, err)
	}
	for _, name := range []string{"", "a;b", "a b", "a\r\nX: y", strings.Repeat("a", 65), "__ds", "a/b"} {
		if s := j.EndSession(name); s != "" {
			t.Errorf("a cookie of the project %q: %q", name, s)
		}
	}
}

func TestSessionIsRefused(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	bearer := "Authorization: Bearer " + appToken(t, nil)
	for name, row := range map[string]struct {
		project string
		query   string
		fields  []string
		status  int
		reason  Reason
	}{
		"good":                       {fields: []string{bearer}},
		"of this page":               {fields: []string{bearer, "Origin: https://streams.example", "Sec-Fetch-Site: same-origin"}},
		"of another page":            {fields: []string{bearer, "Origin: https://evil.test", "Sec-Fetch-Site: cross-site"}, status: 403, reason: ReasonOriginNotListed},
		"of no page":                 {fields: []string{bearer, "Origin: null"}, status: 403, reason: ReasonOriginNotListed},
		"of two pages":               {fields: []string{bearer, "Origin: https://app.example", "Origin: https://evil.test"}, status: 403, reason: ReasonOriginNotListed},
		"without a token":            {status: 401, reason: ReasonNoCredential},
		"with a cookie alone":        {fields: []string{"Cookie: __Host-fantail-acme=" + appToken(t, nil)}, status: 401, reason: ReasonNoCredential},
		"with a token that fails":    {fields: []string{bearer + "x"}, status: 401, reason: ReasonBadSignature},
		"with a signed URL":          {query: signedQuery("k1", "acme/rooms/1", time.Now().Unix()+60), status: 403, reason: ReasonNotGranted},
		"of another project":         {project: "gamma", fields: []string{bearer}, status: 403, reason: ReasonWrongProject},
		"the application's":          {project: "beta", fields: []string{bearer}, status: 400, reason: ReasonNoSession},
		"a token that is long":       {fields: []string{"Authorization: Bearer " + appToken(t, map[string]any{"pad": strings.Repeat("a", 3000)})}, status: 400, reason: ReasonTooLongForCookie},
		"a gateway's assertion":      {fields: []string{"X-Gateway-Assertion: x"}, status: 400, reason: ReasonNoSession},
		"two credentials":            {fields: []string{bearer, "X-Gateway-Assertion: x"}, status: 400, reason: ReasonTwoCredentials},
		"a producer hears no 403":    {project: "gamma", fields: []string{bearer, "Producer-Id: p"}, status: 401, reason: ReasonWrongProject},
		"a token that grants little": {fields: []string{"Authorization: Bearer " + appToken(t, map[string]any{"sub": "*", "iss": "app"})}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if row.project == "" {
				row.project = "acme"
			}
			_, d := j.StartSession(ask("POST", "/"+row.query, row.fields...), row.project)
			if reasonOf(d) != row.reason || d != nil && d.Status != row.status {
				t.Errorf("%v, want %d %s", d, row.status, row.reason)
			}
		})
	}
}

func TestOrigins(t *testing.T) {
	t.Parallel()
	o, err := ParseOrigins([]string{"https://app.example", "HTTPS://Upper.Example:443", "http://localhost:3000", "https://*.wild.example", "http://[::1]:8080"})
	if err != nil {
		t.Fatal(err)
	}
	for origin, want := range map[string]bool{
		"https://app.example":              true,
		"https://app.example:443":          true,
		"HTTPS://APP.EXAMPLE":              true,
		"https://upper.example":            true,
		"http://localhost:3000":            true,
		"http://[::1]:8080":                true,
		"https://a.wild.example":           true,
		"https://a.b.wild.example":         true,
		"http://app.example":               false,
		"https://app.example:8443":         false,
		"https://app.example.evil.test":    false,
		"https://evilapp.example":          false,
		"http://localhost":                 false,
		"https://wild.example":             false,
		"https://.wild.example":            false,
		"https://evilwild.example":         false,
		"https://a.wild.example:8443":      false,
		"http://a.wild.example":            false,
		"https://*.wild.example":           false,
		"https://a.wild.example.evil.test": false,
		"https://evil.test/.wild.example":  false,
		"https://evil.test#.wild.example":  false,
		"https://evil.test?.wild.example":  false,
		"https://u@a.wild.example":         false,
		"https://evil.test\\.wild.example": false,
		"https://evil.test,.wild.example":  false,
		"null":                             false,
		"":                                 false,
		"*":                                false,
	} {
		if got := o.Allows(origin); got != want {
			t.Errorf("%s: %v", origin, got)
		}
		cors := CORS{}
		if want {
			cors = CORS{Origin: origin, Credentials: true}
		}
		if got := o.Answer(origin); got != cors {
			t.Errorf("%s: %+v", origin, got)
		}
	}
	for _, bad := range [][]string{
		{"*", "https://a.example"},
		{"null"},
		{"app.example"},
		{"ftp://app.example"},
		{"https://app.example/"},
		{"https://app.example/path"},
		{"https://"},
		{"https://*"},
		{"https://*."},
		{"https://*app.example"},
		{"https://a.*.example"},
		{"https://*.*.example"},
		{"https://*.app.example:8443"},
		{"https://user@app.example"},
		{"https://app.example?x"},
		{"https://app.example:"},
		{"https://app.example:99999999"},
		{"https://a b"},
		{""},
	} {
		if _, err := ParseOrigins(bad); err == nil {
			t.Errorf("%q is taken", bad)
		}
	}
	if _, err := ParseOrigins([]string{"null", "https://a.example/x"}); err == nil || !strings.Contains(err.Error(), "null") || !strings.Contains(err.Error(), "https://a.example/x") {
		t.Errorf("not all that is wrong is told: %v", err)
	}
}

// All origins may read, and none of them with credentials; a cookie counts for none of them.
func TestAnyOrigin(t *testing.T) {
	t.Parallel()
	o, err := ParseOrigins([]string{"*"})
	if err != nil {
		t.Fatal(err)
	}
	if o.Answer("https://a.example") != (CORS{Origin: "*"}) || o.Answer("") != (CORS{Origin: "*"}) || !o.Any() || !o.Allows("null") {
		t.Error("not all are allowed, or with credentials")
	}
	file := strings.Replace(shopFile(t), `["https://app.example", "https://*.trusted.example"]`, `["*"]`, 1)
	j := judgeOf(t, file, Config{})
	r := ask("GET", "/", "Cookie: __Host-fantail-acme="+appToken(t, nil), "Sec-Fetch-Site: cross-site", "Origin: https://evil.test")
	if _, d := j.Decide(r, "acme", "rooms/1", Read); reasonOf(d) != ReasonCrossSite {
		t.Errorf("a page of any site reads by the cookie: %v", d)
	}
	if _, d := j.StartSession(ask("POST", "/", "Authorization: Bearer "+appToken(t, nil), "Origin: https://evil.test"), "acme"); reasonOf(d) != ReasonOriginNotListed {
		t.Error(d)
	}
	var none *Origins
	if none.Allows("https://a.example") || none.Any() || none.Answer("https://a.example") != (CORS{}) {
		t.Error("no list lists something")
	}
	if j.Origins("acme").Any() != true || j.Origins("beta") != nil || j.Origins("gamma") != nil {
		t.Error("the origins of projects")
	}
}
