package access

import (
	"encoding/base64"
	"fmt"
	"maps"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// shopFile is a file with two issuers of two projects, one of which has all that a project can.
func shopFile(t testing.TB) string {
	secret := writeFile(t, "secret", []byte(testSecret))
	urls := writeFile(t, "urls", []byte(signingSecret+"\n"))
	return fmt.Sprintf(`
issuers:
  - iss: app
    keys: { secret: %[1]s }
    audience: [fantail]
    projects: [acme]
    grants:
      - { actions: [read, append], streams: ["rooms/**", "users/{sub}/**"] }
      - { when: { role: [admin] }, actions: ["*"], streams: ["**"] }
      - { when: { role: [lister] }, actions: [list], streams: ["users/4/**"] }
      - { when: { role: [lister] }, actions: [read], names: ["users/4/a"] }
      - { when: { role: [forker] }, actions: [create], names: [fork] }
  - iss: gateway
    keys: { secret: %[1]s }
    header: x-gateway-assertion
    audience: [fantail]
    projects: [acme, beta]
    grants: [ { actions: [read], streams: ["gate/**"] } ]
projects:
  acme:
    public: [ { actions: [read], streams: ["lobby/**"] } ]
    origins: ["https://app.example", "https://*.trusted.example"]
    public_age: 20s
    sign: [ { kid: k1, secret: %[2]s } ]
  beta: { cookie: __session }
`, secret, urls)
}

func appToken(t testing.TB, more map[string]any) string {
	t.Helper()
	c := about("app", "ada", map[string]any{"aud": "fantail"})
	maps.Copy(c, more)
	maps.DeleteFunc(c, func(_ string, v any) bool { return v == nil })
	return signToken(t, map[string]any{"alg": "HS256"}, c, testSecret)
}

// ask is a request with fields, each as "Name: value".
func ask(method, path string, fields ...string) *http.Request {
	r := httptest.NewRequest(method, "https://streams.example"+path, nil)
	for _, f := range fields {
		name, value, _ := strings.Cut(f, ":")
		name = http.CanonicalHeaderKey(name)
		r.Header[name] = append(r.Header[name], strings.TrimPrefix(value, " "))
	}
	return r
}

func signedQuery(kid, stream string, exp int64) string {
	k, err := NewSigningKey(kid, []byte(signingSecret))
	if err != nil {
		panic(err)
	}
	return fmt.Sprintf("?x-exp=%d&x-kid=%s&x-sig=%s", exp, kid, k.Sign(stream, exp))
}

// The table of statuses and reasons: what is presented, for what, and the answer.
func TestDecide(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	now := time.Now().Unix()
	token := appToken(t, nil)
	bearer := "Authorization: Bearer " + token
	gate := signToken(t, map[string]any{"alg": "HS256"}, about("gateway", "g", map[string]any{"aud": "fantail"}), testSecret)
	expired := appToken(t, map[string]any{"iat": now - 100, "exp": now - 40})
	cookie := "Cookie: a=b; __Host-fantail-acme=" + token + "; c=d"
	signed := signedQuery("k1", "acme/private/x", now+60)
	for name, row := range map[string]struct {
		method  string // GET
		query   string
		fields  []string
		project string // acme
		stream  string // rooms/1
		want    Actions
		status  int // 0: it is allowed
		reason  Reason
	}{
		"a good token":                    {fields: []string{bearer}},
		"in small letters":                {fields: []string{"Authorization: bearer " + token}},
		"an append":                       {method: "POST", want: Append, fields: []string{bearer}},
		"the subject's own":               {stream: "users/ada/x", fields: []string{bearer}},
		"another's":                       {stream: "users/bob/x", fields: []string{bearer}, status: 403, reason: ReasonNotGranted},
		"closing":                         {method: "POST", want: Close, fields: []string{bearer}, status: 403, reason: ReasonNotGranted},
		"closing with a producer":         {method: "POST", want: Close, fields: []string{bearer, "Producer-Id: p"}, status: 401, reason: ReasonNotGranted},
		"another project's, a producer":   {method: "POST", want: Append, project: "beta", fields: []string{bearer, "Producer-Epoch:"}, status: 401, reason: ReasonWrongProject},
		"append and close":                {method: "POST", want: Append | Close, fields: []string{bearer}, status: 403, reason: ReasonNotGranted},
		"another project":                 {project: "beta", fields: []string{bearer}, status: 403, reason: ReasonWrongProject},
		"a project that is nowhere":       {project: "gamma", fields: []string{bearer}, status: 403, reason: ReasonWrongProject},
		"default is no exception":         {project: "default", fields: []string{bearer}, status: 403, reason: ReasonWrongProject},
		"nothing":                         {status: 401, reason: ReasonNoCredential},
		"nothing, of a project nowhere":   {project: "gamma", status: 401, reason: ReasonNoCredential},
		"nothing, public":                 {stream: "lobby/a"},
		"nothing, public, an append":      {method: "POST", want: Append, stream: "lobby/a", status: 401, reason: ReasonNoCredential},
		"public for those with a token":   {stream: "lobby/a", fields: []string{bearer}},
		"public, a token that fails":      {stream: "lobby/a", fields: []string{bearer + "x"}, status: 401, reason: ReasonBadSignature},
		"the server's own":                {stream: "__ds/revocations", fields: []string{"Authorization: Bearer " + appToken(t, map[string]any{"role": "admin"})}, status: 403, reason: ReasonNotGranted},
		"expired":                         {fields: []string{"Authorization: Bearer " + expired}, status: 401, reason: ReasonExpired},
		"another scheme":                  {fields: []string{"Authorization: Basic YTpi"}, status: 401, reason: ReasonMalformed},
		"another scheme, public":          {stream: "lobby/a", fields: []string{"Authorization: Basic YTpi"}, status: 401, reason: ReasonMalformed},
		"an empty field":                  {stream: "lobby/a", fields: []string{"Authorization:"}, status: 401, reason: ReasonMalformed},
		"a scheme alone":                  {fields: []string{"Authorization: Bearer "}, status: 401, reason: ReasonMalformed},
		"no scheme":                       {fields: []string{"Authorization: " + token}, status: 401, reason: ReasonMalformed},
		"two fields":                      {fields: []string{bearer, bearer}, status: 401, reason: ReasonTwoCredentials},
		"two fields, one empty":           {fields: []string{bearer, "Authorization:"}, status: 401, reason: ReasonTwoCredentials},
		"two in one field":                {fields: []string{bearer + ", Bearer " + token}, status: 401, reason: ReasonTwoCredentials},
		"a token and a signed URL":        {query: signed, stream: "private/x", fields: []string{bearer}, status: 400, reason: ReasonTwoCredentials},
		"a token and an empty x-sig":      {query: "?x-sig=", fields: []string{bearer}, status: 400, reason: ReasonTwoCredentials},
		"a token and an assertion":        {fields: []string{bearer, "X-Gateway-Assertion: " + gate}, status: 400, reason: ReasonTwoCredentials},
		"an assertion":                    {stream: "gate/1", fields: []string{"X-Gateway-Assertion: " + gate}},
		"an empty assertion, public":      {stream: "lobby/a", fields: []string{"X-Gateway-Assertion:"}, status: 401, reason: ReasonMalformed},
		"two assertions":                  {stream: "gate/1", fields: []string{"X-Gateway-Assertion: " + gate, "X-Gateway-Assertion: " + gate}, status: 401, reason: ReasonTwoCredentials},
		"an assertion as a bearer":        {stream: "gate/1", fields: []string{"Authorization: Bearer " + gate}, status: 401, reason: ReasonUnknownIssuer},
		"a token as an assertion":         {fields: []string{"X-Gateway-Assertion: " + token}, status: 401, reason: ReasonUnknownIssuer},
		"an assertion as a cookie":        {stream: "gate/1", fields: []string{"Cookie: __Host-fantail-acme=" + gate}, status: 401, reason: ReasonUnknownIssuer},
		"a header that no issuer has":     {fields: []string{"X-User: ada"}, status: 401, reason: ReasonNoCredential},
		"a signed URL":                    {query: signed, stream: "private/x"},
		"HEAD of a signed URL":            {method: "HEAD", query: signed, stream: "private/x"},
		"with other parameters":           {query: signed + "&offset=-1&live=sse", stream: "private/x"},
		"in escapes":                      {query: strings.ReplaceAll(signed, "x-", "%78%2D"), stream: "private/x"},
		"a signed URL, another stream":    {query: signed, stream: "private/y", status: 401, reason: ReasonBadSignature},
		"a signed URL, another project":   {query: signed, project: "beta", stream: "private/x", status: 401, reason: ReasonUnknownKey},
		"a signed URL, an append":         {method: "POST", want: Append, query: signed, stream: "private/x", status: 403, reason: ReasonNotGranted},
		"a signed URL of the server's":    {query: signedQuery("k1", "acme/__ds/x", now+60), stream: "__ds/x", status: 403, reason: ReasonNotGranted},
		"signed, expired":                 {query: signedQuery("k1", "acme/private/x", now-40), stream: "private/x", status: 401, reason: ReasonExpired},
		"signed, expired, public":         {query: signedQuery("k1", "acme/lobby/x", now-40), stream: "lobby/x", status: 401, reason: ReasonExpired},
		"signed, a parameter twice":       {query: signed + "&x-exp=" + strconv.FormatInt(now+60, 10), stream: "private/x", status: 401, reason: ReasonURLMalformed},
		"signed, one twice and empty":     {query: "?x-kid=" + "&" + signed[1:], stream: "private/x", status: 401, reason: ReasonURLMalformed},
		"signed, a bad escape":            {query: signed + "&x-kid=%zz", stream: "private/x", status: 401, reason: ReasonURLMalformed},
		"signed, one parameter":           {query: "?x-kid=k1", stream: "lobby/x", status: 401, reason: ReasonURLMalformed},
		"signed, an empty one":            {query: "?x-exp", stream: "lobby/x", status: 401, reason: ReasonURLMalformed},
		"almost signed":                   {query: "?x-expire=1&xx-sig=2", stream: "lobby/x"},
		"a cookie":                        {fields: []string{cookie}},
		"a cookie of this page":           {fields: []string{cookie, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Dest: empty", "Origin: https://streams.example"}},
		"a cookie of a listed page":       {fields: []string{cookie, "Sec-Fetch-Site: cross-site", "Origin: https://app.example"}},
		"of a page that a wildcard lists": {fields: []string{cookie, "Sec-Fetch-Site: same-site", "Origin: https://a.b.trusted.example"}},
		"a cookie of another page":        {fields: []string{cookie, "Sec-Fetch-Site: cross-site", "Origin: https://evil.test"}, status: 403, reason: ReasonCrossSite},
		"of another page, public":         {stream: "lobby/a", fields: []string{cookie, "Sec-Fetch-Site: cross-site", "Origin: https://evil.test"}, status: 403, reason: ReasonCrossSite},
		"a cookie of a sister":            {fields: []string{cookie, "Sec-Fetch-Site: same-site"}, status: 403, reason: ReasonCrossSite},
		"a cookie of an old browser":      {fields: []string{cookie, "Origin: https://app.example"}},
		"of an old browser elsewhere":     {fields: []string{cookie, "Origin: https://evil.test"}, status: 403, reason: ReasonCrossSite},
		"a cookie by navigation":          {fields: []string{cookie, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Dest: document"}, status: 403, reason: ReasonCrossSite},
		"a cookie by a script":            {fields: []string{cookie, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Dest: script"}, status: 403, reason: ReasonCrossSite},
		"a cookie by address":             {fields: []string{cookie, "Sec-Fetch-Site: none"}, status: 403, reason: ReasonCrossSite},
		"two of Sec-Fetch-Site":           {fields: []string{cookie, "Sec-Fetch-Site: same-origin", "Sec-Fetch-Site: same-origin"}, status: 403, reason: ReasonCrossSite},
		"a cookie for a write":            {method: "POST", want: Append, fields: []string{cookie}, status: 401, reason: ReasonNoCredential},
		"a cookie for another right":      {want: List, fields: []string{cookie}, status: 403, reason: ReasonNotGranted},
		"an admin's cookie, for a list":   {want: List, fields: []string{"Cookie: __Host-fantail-acme=" + appToken(t, map[string]any{"role": "admin"})}, status: 403, reason: ReasonNotGranted},
		"two cookies":                     {fields: []string{cookie + "; __Host-fantail-acme=x"}, status: 400, reason: ReasonTwoCredentials},
		"two cookies in two fields":       {fields: []string{cookie, cookie}, status: 400, reason: ReasonTwoCredentials},
		"two cookies and a token":         {fields: []string{cookie, cookie, bearer}},
		"a token and a bad cookie":        {fields: []string{"Cookie: __Host-fantail-acme=x", bearer}},
		"a bad token and a good cookie":   {fields: []string{cookie, bearer + "x"}, status: 401, reason: ReasonBadSignature},
		"an empty cookie, public":         {stream: "lobby/a", fields: []string{"Cookie: __Host-fantail-acme="}, status: 401, reason: ReasonMalformed},
		"another project's cookie":        {stream: "lobby/a", fields: []string{"Cookie: __Host-fantail-beta=x"}},
		"the application's cookie":        {project: "beta", stream: "x", fields: []string{"Cookie: __session=" + token}, status: 403, reason: ReasonWrongProject},
		"not the application's cookie":    {project: "beta", stream: "x", fields: []string{"Cookie: __Host-fantail-beta=" + token}, status: 401, reason: ReasonNoCredential},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			if row.method == "" {
				row.method = "GET"
			}
			if row.project == "" {
				row.project = "acme"
			}
			if row.stream == "" {
				row.stream = "rooms/1"
			}
			if row.want == 0 {
				row.want = Read
			}
			_, d := j.Decide(ask(row.method, "/v1/stream/x"+row.query, row.fields...), row.project, row.stream, row.want)
			switch {
			case d == nil && row.status != 0:
				t.Errorf("it is allowed, want %d %s", row.status, row.reason)
			case d != nil && (d.Status != row.status || d.Reason != row.reason):
				t.Errorf("%v, want %d %s", d, row.status, row.reason)
			case d != nil && (d.Detail == "" || d.Slug == "" || strings.Contains(d.Detail, token[len(token)-43:])):
				t.Errorf("%+v", d)
			case d != nil && d.Status == http.StatusUnauthorized && !strings.HasPrefix(d.Challenge, "Bearer"):
				t.Errorf("no challenge: %+v", d)
			case d != nil && d.Status == http.StatusForbidden && row.method == "POST" && row.fields != nil && strings.Contains(row.fields[len(row.fields)-1], "Producer"):
				t.Errorf("a producer hears %d", d.Status)
			}
		})
	}
	if _, d := j.Decide(ask("GET", "/", bearer), "acme", "rooms/1", 0); d == nil {
		t.Error("a request that needs nothing is allowed without being asked what it does")
	}
}

// What the edge puts into a refusal, and into an answer.
func TestAnswers(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	now := time.Now().Unix()
	bad := "Cookie: __Host-fantail-acme=x"
	for _, row := range []struct {
		r                    *http.Request
		challenge, setCookie string
	}{
		{ask("GET", "/"), "Bearer", ""},
		{ask("GET", "/", "Authorization: Bearer x"), `Bearer error="invalid_token", error_description="malformed"`, ""},
		{ask("GET", "/", "Authorization: Bearer "+appToken(t, nil)), `Bearer error="insufficient_scope", error_description="not_granted"`, ""},
		{ask("GET", "/", bad), `Bearer error="invalid_token", error_description="malformed"`, "__Host-fantail-acme=; Path=/; Secure; HttpOnly; SameSite=Strict; Max-Age=0"},
		{ask("GET", "/", bad, "Sec-Fetch-Site: cross-site"), `Bearer error="insufficient_scope", error_description="cross_site"`, ""},
	} {
		_, d := j.Decide(row.r, "acme", "other", Read)
		if d == nil || d.Challenge != row.challenge || d.SetCookie != row.setCookie {
			t.Errorf("%v: %+v", row.r.Header, d)
		}
	}
	bearer := "Authorization: Bearer " + appToken(t, nil)
	for _, row := range []struct {
		r             *http.Request
		stream        string
		cache, policy string
	}{
		{ask("GET", "/"), "lobby/a", "public, max-age=20, " + NeverStale, "cross-origin"},
		{ask("GET", "/", bearer), "lobby/a", "private, no-cache", "same-origin"},
		{ask("GET", "/", bearer), "rooms/a", "private, no-cache", "same-origin"},
		{ask("GET", "/"+signedQuery("k1", "acme/p", now+3600)), "p", "private, max-age=60", "cross-origin"},
		{ask("GET", "/"+signedQuery("k1", "acme/p", now-10)), "p", "private, no-cache", "cross-origin"},
	} {
		v, d := j.Decide(row.r, "acme", row.stream, Read)
		if d != nil || v.CacheControl() != row.cache || v.ResourcePolicy() != row.policy {
			t.Errorf("%s: %v %q %q", row.stream, d, v.CacheControl(), v.ResourcePolicy())
		}
	}
}

// A fork is judged whole, on both streams, in one project.
func TestDecideFork(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	admin, forker := appToken(t, map[string]any{"role": "admin"}), appToken(t, map[string]any{"role": "forker"})
	for _, row := range []struct {
		token, name, project, source string
		reason                       Reason
	}{
		{admin, "fork", "acme", "any", ""},
		{admin, "fork", "acme", "__ds/x", ReasonNotGranted},
		{admin, "__ds/x", "acme", "any", ReasonNotGranted},
		{admin, "fork", "beta", "any", ReasonCrossProjectFork},
		{forker, "fork", "acme", "rooms/1", ReasonNotGranted}, // may read it, but not fork it
		{forker, "other", "beta", "x", ReasonNotGranted},      // the target first
	} {
		_, d := j.DecideFork(ask("PUT", "/", "Authorization: Bearer "+row.token), "acme", row.name, row.project, row.source)
		if got := reasonOf(d); got != row.reason {
			t.Errorf("%s of %s/%s: %v, want %q", row.name, row.project, row.source, d, row.reason)
		}
	}
}

func reasonOf(d *Denial) Reason {
	if d == nil {
		return ""
	}
	return d.Reason
}

// A listing needs a grant that reaches all that it can list.
func TestDecideList(t *testing.T) {
	t.Parallel()
	j := judgeOf(t, shopFile(t), Config{})
	admin, lister := appToken(t, map[string]any{"role": "admin"}), appToken(t, map[string]any{"role": "lister"})
	for _, row := range []struct {
		token, prefix string
		reason        Reason
	}{
		{admin, "", ""},
		{admin, "x", ""},
		{lister, "users/4/", ""},
		{lister, "users/4/a", ""},
		{lister, "users/4", ReasonNotGranted},
		{lister, "users/42", ReasonNotGranted},
		{lister, "", ReasonNotGranted},
		{appToken(t, nil), "rooms/", ReasonNotGranted},
		{"", "lobby/", ReasonNoCredential},
	} {
		r := ask("GET", "/")
		if row.token != "" {
			r = ask("GET", "/", "Authorization: Bearer "+row.token)
		}
		l, d := j.DecideList(r, "acme", row.prefix)
		if got := reasonOf(d); got != row.reason {
			t.Errorf("%q: %v, want %q", row.prefix, d, row.reason)
		}
		if row.token == lister && d == nil && (!l.MayRead("users/4/a") || l.MayRead("users/4/b")) {
			t.Error("details of what the caller may not read, or none of what it may")
		}
	}
	if _, d := j.DecideList(ask("GET", "/", "Authorization: Bearer "+lister), "beta", "users/4/"); reasonOf(d) != ReasonWrongProject {
		t.Error(d)
	}
}

// A node whose clock is wrong does not say of a credential that its time is.
func TestClockInDoubt(t *testing.T) {
	t.Parallel()
	var doubt atomic.Bool
	j := judgeOf(t, shopFile(t), Config{ClockDoubt: doubt.Load})
	now := time.Now().Unix()
	for claim, c := range map[string]map[string]any{
		"expired":        {"iat": now - 100, "exp": now - 40},
		"not_yet":        {"nbf": now + 100},
		"too_long_lived": {"exp": now + 25*3600},
	} {
		r := ask("GET", "/", "Authorization: Bearer "+appToken(t, c))
		doubt.Store(false)
		if _, d := j.Decide(r, "acme", "rooms/1", Read); d == nil || string(d.Reason) != claim || d.Status != 401 {
			t.Errorf("%s: %v", claim, d)
		}
		doubt.Store(true)
		if _, d := j.Decide(r, "acme", "rooms/1", Read); d == nil || d.Reason != ReasonClock || d.Status != 503 || d.RetryAfter == 0 {
			t.Errorf("%s: %v", claim, d)
		}
	}
	if _, d := j.Decide(ask("GET", "/", "Authorization: Bearer "+appToken(t, nil)), "acme", "rooms/1", Read); d != nil {
		t.Errorf("a good token: %v", d)
	}
}

// A lease ends after the leeway, and not much later; with stay, after that; of public grants never.
func TestLeasesEnd(t *testing.T) {
	t.Parallel()
	file := strings.Replace(shopFile(t), "iss: app\n", "iss: app\n    stay: 10m\n", 1)
	plain, stays := judgeOf(t, shopFile(t), Config{}), judgeOf(t, file, Config{})
	now := time.Now().Unix()
	bearer := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"exp": now + 60}))
	for name, row := range map[string]struct {
		j        *Judge
		r        *http.Request
		stream   string
		from, to int64
	}{
		"a token":      {plain, bearer, "rooms/1", now + 90, now + 95},
		"that stays":   {stays, bearer, "rooms/1", now + 600, now + 606},
		"a signed URL": {plain, ask("GET", "/"+signedQuery("k1", "acme/p", now+60)), "p", now + 90, now + 95},
		"public":       {plain, ask("GET", "/"), "lobby/1", 0, 0},
	} {
		v, d := row.j.Decide(row.r, "acme", row.stream, Read)
		if d != nil {
			t.Fatal(name, d)
		}
		end := v.Lease.EndsAt()
		if int64(end) < row.from || int64(end) > row.to {
			t.Errorf("%s: ends %d after now", name, int64(end)-now)
		}
		if end == 0 {
			end = 1<<32 - 1
		}
		if !row.j.Stays(v.Lease, end-1) || row.to > 0 && row.j.Stays(v.Lease, end) {
			t.Errorf("%s: it does not end when it ends", name)
		}
		if row.to > 0 {
			if _, d := row.j.Decide(row.r, "acme", row.stream, Read); d != nil {
				t.Errorf("%s: %v", name, d)
			}
		}
	}
}

// A client that is cut for its token is not admitted with it again, whenever it was admitted.
func TestCutReadersAreNotAdmittedAgain(t *testing.T) {
	t.Parallel()
	var clock atomic.Int64
	start := time.Now().Unix()
	clock.Store(start)
	j := judgeOf(t, shopFile(t), Config{Now: func() time.Time { return time.Unix(clock.Load(), 0) }})
	r := ask("GET", "/", "Authorization: Bearer "+appToken(t, map[string]any{"iat": start, "exp": start + 60}))
	for ; clock.Load() < start+120; clock.Add(1) {
		v, d := j.Decide(r, "acme", "rooms/1", Read)
		if d != nil {
			if clock.Load() != start+90 {
				t.Errorf("refused after %d s: %v", clock.Load()-start, d)
			}
			return
		}
		if int64(v.Lease.EndsAt()) < start+90 {
			t.Fatalf("a reader is cut after %d s", int64(v.Lease.EndsAt())-start)
		}
	}
	t.Error("it is never refused")
}

// The hot request: the same bearer again costs no memory.
func TestDecideDoesNotAllocate(t *testing.T) {
	j := judgeOf(t, shopFile(t), Config{})
	r := ask("POST", "/v1/stream/acme/rooms/1?a=b", "Authorization: Bearer "+appToken(t, nil))
	if n := testing.AllocsPerRun(100, func() {
		if _, d := j.Decide(r, "acme", "rooms/1", Append); d != nil {
			t.Fatal(d)
		}
	}); n != 0 {
		t.Errorf("%v allocations", n)
	}
}

func BenchmarkDecide(b *testing.B) {
	j := judgeOf(b, shopFile(b), Config{})
	for name, row := range map[string]struct {
		r      *http.Request
		stream string
	}{
		"bearer": {ask("GET", "/?offset=-1&live=sse", "Authorization: Bearer "+appToken(b, map[string]any{"pad": base64.RawURLEncoding.EncodeToString(make([]byte, 600))})), "rooms/1"},
		"cookie": {ask("GET", "/", "Cookie: __Host-fantail-acme="+appToken(b, nil)), "rooms/1"},
		"signed": {ask("GET", "/"+signedQuery("k1", "acme/p", time.Now().Unix()+60)), "p"},
		"public": {ask("GET", "/"), "lobby/1"},
	} {
		b.Run(name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				if _, d := j.Decide(row.r, "acme", row.stream, Read); d != nil {
					b.Fatal(d)
				}
			}
		})
	}
}
